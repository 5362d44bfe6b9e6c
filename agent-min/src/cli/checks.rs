//! `pairing-status`, `paired`, `self-check`, `self-ping` (agent.md §12).

use crate::client::Client;
use crate::config::paths::Paths;
use crate::config::{self, Configuration, Loaded, Notes};
use crate::executable::{self, is_executable};
use crate::identity::files::{self, Files};
use crate::identity::install::{self, Owner};
use crate::restrict::{self, Extent};
use crate::trust::{TrustMap, read_bounded};
use ctrl_exec_host::{stderr, users};
use ctrl_exec_protocol::config::decision;
use ctrl_exec_protocol::http::render_request;
use ctrl_exec_protocol::json;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::wire::messages::{self, PingReply};
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::verify::ChainVerifier;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes shown of an answer that was not expected.
const MAX_SHOWN: usize = 512;
/// Patience of a self-ping.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says whether this host is paired, and until when.
pub(super) fn pairing_status(paths: &Paths) -> u8 {
    let _ = install::finish(paths, Owner::of_agent());
    let files = files(paths);
    let reason = match files.missing().first() {
        Some(path) => format!("{} is missing", path.display()),
        None => match check_identity(&files) {
            Ok(()) => {
                super::print(&format!(
                    "Paired. Certificate expires: {}\n",
                    files::expiry_of(&files.cert)
                ));
                return 0;
            }
            Err(fault) => fault,
        },
    };
    super::print(&format!("Not paired. Reason: {reason}\n"));
    1
}

/// 0 when the configuration loads and its certificate, key and CA exist.
pub(super) fn paired(paths: &Paths) -> u8 {
    // The service's start script calls this as root before anything else.
    let _ = install::finish(paths, Owner::of_agent());
    match config::load_conf(paths, &mut Notes::default()) {
        Ok((_, _, files)) => u8::from(!files.missing().is_empty()),
        Err(_) => 1,
    }
}

/// Prints the state of configuration, certificate and scripts.
pub(super) fn self_check(paths: &Paths) -> u8 {
    let mut notes = Notes::default();
    let loaded = match Configuration::load(paths, &mut notes) {
        Ok(loaded) => loaded,
        Err(error) => {
            super::complain(&format!("configuration error\n  {error}"));
            return 1;
        }
    };
    let mut out = format!("ctrl-exec-agent {}\n", crate::VERSION);
    out.push_str(&format!("Port:        {}\n", loaded.port));
    if let Some(path) = &loaded.conf.overrides {
        let state = if Path::new(path).exists() {
            "in force"
        } else {
            "not there"
        };
        out.push_str(&format!("Overrides:   {path} ({state})\n"));
    }
    out.push_str(&format!("Scripts:     {}\n", loaded.scripts.scripts.len()));
    let certificate = match loaded.files.missing().first() {
        Some(path) => format!("not paired ({} is missing)", path.display()),
        None => match check_identity(&loaded.files) {
            Ok(()) => format!("expires {}", files::expiry_of(&loaded.files.cert)),
            Err(fault) => format!("UNUSABLE: {fault}"),
        },
    };
    out.push_str(&format!("Certificate: {certificate}\n"));
    out.push_str(&format!(
        "Clock:       {}\n",
        loaded.files.clock().describe()
    ));
    match TrustMap::load_no_follow(&paths.map(&loaded.conf)) {
        Ok(map) => {
            for line in map.render().lines().filter(|line| !line.starts_with('#')) {
                let (serial, id) = line.split_once(' ').unwrap_or((line, "?"));
                let (serial, id) = (Untrusted::new(serial), Untrusted::new(id));
                out.push_str(&format!("Dispatcher:  {id} (serial {serial})\n"));
            }
        }
        Err(error) => out.push_str(&format!("Dispatcher:  UNREADABLE: {error}\n")),
    }
    for warning in &notes.stderr {
        out.push_str(&format!("Warning:     {warning}\n"));
    }
    for (name, script) in &loaded.scripts.scripts {
        let state = script_state(&loaded, script);
        out.push_str(&format!(
            "  {name} = {} profile={} [{state}]\n",
            script.path, script.profile
        ));
    }
    for (script, profile) in decision::undefined_profiles(&loaded.conf, &loaded.scripts) {
        out.push_str(&format!(
            "Undefined profile: {script} -> {profile} (serve will not start)\n"
        ));
    }
    // All that a start would read, by the very code of it.
    let fault = Loaded::load(paths, &mut Notes::default()).err();
    // Nothing that follows needs what is given up here, so the very thing is tried.
    let restrictions = restrict::apply(Extent::of(&loaded.conf));
    out.push_str(&format!("Given up:    {restrictions}\n"));
    if let Some(fault) = &fault {
        out.push_str(&format!("Verdict:     serve will not start: {fault}\n"));
    }
    super::print(&out);
    u8::from(fault.is_some())
}

/// What a start of the script would meet: the file, its first line, and the user of its profile.
fn script_state(loaded: &Configuration, script: &ctrl_exec_protocol::config::Script) -> String {
    let path = Path::new(&script.path);
    if let Some(fault) = executable::fault(path) {
        return format!("CANNOT RUN: {fault}");
    }
    if loaded.conf.executor_socket.is_none() {
        // It runs as whoever serves, which is best asked of that user.
        return match is_executable(&script.path) {
            true => "ok".to_owned(),
            false => "NOT EXECUTABLE".to_owned(),
        };
    }
    let profile = loaded.conf.profiles.get(&script.profile);
    let Some(run_as) = profile.and_then(|profile| profile.run_as.as_ref()) else {
        return "NO run_as IN ITS PROFILE: the executor refuses it".to_owned();
    };
    let numeric = run_as.text.bytes().all(|b| b.is_ascii_digit());
    let user = match users::user(Path::new(users::PASSWD), &run_as.text) {
        Ok(Some(user)) => user,
        Ok(None) if numeric => return "ok (user not checked)".to_owned(),
        Ok(None) => return format!("NO SUCH USER: {}", run_as.text),
        Err(error) => return format!("USER {}: {error}", run_as.text),
    };
    match closed_to(path, user) {
        None => "ok".to_owned(),
        Some(place) => format!("CLOSED to user {}: {}", run_as.text, place.display()),
    }
}

/// The first directory on the way that a user may not enter, or the file itself if that user may
/// not run it. Supplementary groups are not looked at: an executor gives none.
fn closed_to(path: &Path, user: users::User) -> Option<PathBuf> {
    let mut places: Vec<&Path> = path.ancestors().collect();
    places.reverse();
    let open = |place: &Path| {
        let Ok(meta) = std::fs::metadata(place) else {
            return false;
        };
        let shift = if meta.uid() == user.uid {
            6
        } else if meta.gid() == user.gid {
            3
        } else {
            0
        };
        // A script is read by its interpreter, which is the same user.
        let wanted = if meta.is_dir() { 0o1 } else { 0o5 };
        let any = meta.is_dir() || meta.mode() & 0o111 != 0;
        (user.uid == 0 && any) || meta.mode() >> shift & wanted == wanted
    };
    places
        .into_iter()
        .find(|place| !open(place))
        .map(Path::to_owned)
}

/// Asks the agent on this host for a ping, with the agent's own certificate. Its answer that this
/// certificate is no dispatcher's proves that it is alive, too.
pub(super) fn self_ping(paths: &Paths, port: Option<u16>) -> u8 {
    match ping(paths, port) {
        Ok(text) => {
            super::print(&format!("{text}\n"));
            0
        }
        Err(fault) => {
            stderr::write(format!("self-ping failed: {fault}\n").as_bytes());
            1
        }
    }
}

fn ping(paths: &Paths, port: Option<u16>) -> Result<String, String> {
    let (conf, configured, files) =
        config::load_conf(paths, &mut Notes::default()).map_err(|error| error.to_string())?;
    let own = identity_of(&files)?;
    let ca = files.ca_text().map_err(|error| error.to_string())?;
    let ca = ca.ok_or_else(|| format!("{} is missing", files.ca.display()))?;
    let chain = ChainVerifier::from_pem(&ca).map_err(|error| error.to_string())?;
    let clock = files.clock();
    let chain = chain.beginning_by(clock.latest());
    let config = tls::dispatcher_client_config(&own, Arc::new(chain), &clock.judge(), false)
        .map_err(|error| error.to_string())?;
    let host = conf
        .bind
        .filter(|ip| !ip.is_unspecified())
        .unwrap_or(Ipv4Addr::LOCALHOST.into());
    let host = host.to_string();
    let mut client = Client::connect(&host, port.unwrap_or(configured), config, PATIENCE)
        .map_err(|error| error.to_string())?;
    let id = ctrl_exec_host::random::hex_id().map_err(|error| error.to_string())?;
    let body = messages::reqid_body(&id[..8]);
    client.send(render_request("POST", "/ping", &host, Some(&body), false));
    let answer = client
        .response(Instant::now() + PATIENCE)
        .map_err(|error| error.to_string())?;
    let body = json::lossy(&answer.body);
    if matches!(PingReply::parse(&answer.body), Ok(Some(_))) {
        Ok(format!("ok: {}", Untrusted::new(&body)))
    } else if messages::error_of(&answer.body).is_some_and(|error| error == "serial mismatch") {
        Ok(
            "ok: the agent answers (it does not take its own certificate for a dispatcher's)"
                .into(),
        )
    } else {
        let body = Untrusted::new(&body).at_most(MAX_SHOWN);
        Err(format!("unexpected answer {}: {body}", answer.status))
    }
}

/// The identity's files by the configuration, or the default ones if that cannot be read.
fn files(paths: &Paths) -> Files {
    match config::load_conf(paths, &mut Notes::default()) {
        Ok((_, _, files)) => files,
        Err(_) => Files {
            cert: paths.etc().join("agent.crt"),
            key: paths.etc().join("agent.key"),
            ca: paths.etc().join("ca.crt"),
            handed: Some(paths.handed_ca()),
        },
    }
}

fn check_identity(files: &Files) -> Result<(), String> {
    cert::facts_from_pem(&text(&files.cert)?)
        .map_err(|error| format!("{}: {error}", files.cert.display()))?;
    // Only root and the agent's group may read the key; others still learn the rest.
    match read_bounded(&files.key) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        _ => identity_of(files).map(|_| ()),
    }
}

fn identity_of(files: &Files) -> Result<Identity, String> {
    Identity::agent_from_pem(&text(&files.cert)?, &text(&files.key)?)
        .map_err(|error| format!("{}, {}: {error}", files.cert.display(), files.key.display()))
}

fn text(path: &Path) -> Result<String, String> {
    match read_bounded(path) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(format!("{} is missing", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
