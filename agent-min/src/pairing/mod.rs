//! `request-pairing`: how this host becomes an agent of a dispatcher (agent.md §9).

mod messages;
mod options;

pub use options::Options;

use crate::client::{Client, ClientError};
use crate::config::paths::{Paths, USER};
use crate::config::{self, Notes};
use crate::identity::files::{self, Files};
use crate::identity::install::{self, NewIdentity, Owner};
use crate::runs::supervisor::own_program;
use crate::serve::command_log;
use crate::trust::TrustMap;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_host::{hostname, random};
use ctrl_exec_protocol::http::render_request;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Ack, Approval, LookupBy, Outcome, PairRequest, code};
use ctrl_exec_protocol::x509::cert::{self, KeyKind};
use ctrl_exec_protocol::x509::keys::{self, KeyError, KeyType, PrivateKey};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role, VerifyError};
use ctrl_exec_protocol::x509::{csr, verify};
use ctrl_exec_protocol::{names, serial, tls};
use ctrl_exec_spawn::{self as spawn, Exit, Stdio, Strings};
use messages::{Messages, eprint_line};
use options::{Request, check};
use rustix::fs::{Access, access};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First argument of the process that waits in the background.
pub const WAIT: &str = "__pair-wait";

const CONNECT: Duration = Duration::from_secs(10);
const ACKNOWLEDGE: Duration = Duration::from_secs(60);

/// Bytes shown of a reason.
const MAX_REASON: usize = 512;

/// Why pairing ended without an identity.
#[derive(Debug)]
enum Failure {
    /// Before or during the first phase, or storing failed.
    Fatal(String),
    /// The operator or the dispatcher refused.
    Denied(String),
    /// Nobody decided in time.
    TimedOut,
}

/// Pairs, interactively or in the background; the result is the exit code. `arguments` are those
/// this process was started with after the mode.
pub fn run(paths: &Paths, options: &Options, arguments: &[OsString]) -> u8 {
    match check(options, options.background) {
        Err(fault) => {
            eprint_line(&format!("ctrl-exec-agent: {fault}"));
            3
        }
        Ok(_) if options.background => in_background(arguments),
        Ok(request) => finish(paths, &request, Messages::Terminal),
    }
}

/// The background process itself.
pub fn wait(paths: &Paths, options: &Options) -> u8 {
    // Leave the terminal, so that closing it does not end the wait.
    let _ = rustix::process::setsid();
    match check(options, true) {
        Ok(request) => finish(paths, &request, Messages::Parent),
        Err(_) => 3,
    }
}

/// Starts the background process and passes on what it says until the request is queued.
fn in_background(arguments: &[OsString]) -> u8 {
    let mut strings = Strings::new(own_program().as_os_str());
    strings.arg(WAIT.as_ref());
    arguments.iter().for_each(|word| strings.arg(word));
    let started = match spawn::start(&strings, [Stdio::Null, Stdio::Pipe, Stdio::Null], false) {
        Ok(started) => started,
        Err(error) => {
            eprint_line(&format!(
                "ctrl-exec-agent: cannot start in the background: {}",
                error.into_io()
            ));
            return 3;
        }
    };
    if let [_, Some(pipe), _] = started.pipes {
        for line in BufReader::new(File::from(pipe))
            .lines()
            .map_while(Result::ok)
        {
            match line.split_at_checked(1) {
                Some(("R", reqid)) => {
                    let mut out = io::stdout();
                    let _ = writeln!(out, "{reqid}").and_then(|()| out.flush());
                    return 0;
                }
                Some((_, text)) => eprint_line(text),
                None => {}
            }
        }
    }
    let code = match spawn::wait(started.pid, true) {
        Ok(Some(Exit::Code(code))) => u8::try_from(code).ok(),
        _ => None,
    };
    match code {
        Some(code) if code != 0 => code,
        _ => 3,
    }
}

/// Pairs and reports; the result is the exit code.
fn finish(paths: &Paths, request: &Request, messages: Messages) -> u8 {
    let mut reqid = String::from("(none)");
    let result = pair(paths, request, messages, &mut reqid);
    let log = command_log(&paths.root);
    let line = |action, reason: &str| {
        Line::new(action)
            .field("REQID", &reqid)
            .field("REASON", reason)
    };
    match result {
        Ok(approval) => {
            log.log(
                Level::Info,
                &Line::new("pair-complete")
                    .field("STATUS", "approved")
                    .field("DISPATCHER", dispatcher_id(&approval))
                    .field("DISPATCHER_HOST", &request.dispatcher),
            );
            messages.say(&format!(
                "Paired with '{}'. Certificate valid until {}.\n{}",
                dispatcher_id(&approval),
                files::expiry_of(&paths.etc().join("agent.crt")),
                restart_hint()
            ));
            0
        }
        Err(Failure::TimedOut) => {
            if messages == Messages::Parent {
                log.log(
                    Level::Warning,
                    &Line::new("pair-timeout").field("REQID", &reqid),
                );
            }
            messages.warn("Pairing failed: nobody approved the request in time");
            2
        }
        Err(Failure::Denied(reason)) | Err(Failure::Fatal(reason)) => {
            if messages == Messages::Parent {
                log.log(Level::Warning, &line("pair-denied", &reason));
            }
            // Some of it may be the words of whoever answered.
            let reason = Untrusted::new(&reason).at_most(MAX_REASON);
            messages.warn(&format!("Pairing failed: {reason}"));
            3
        }
    }
}

fn pair(
    paths: &Paths,
    request: &Request,
    messages: Messages,
    reqid: &mut String,
) -> Result<Approval, Failure> {
    writable(&paths.etc())?;
    let known = config::load_conf(paths, &mut Notes::default()).ok();
    let host = known
        .as_ref()
        .map_or_else(hostname::fqdn, |(conf, _, _)| config::host_name(conf));
    let port = known
        .as_ref()
        .map_or(names::AGENT_PORT, |(_, port, _)| *port);
    if let Some((_, _, files)) = &known {
        warn_of_other_paths(paths, files, messages);
    }
    let standing = if request.replace_ca {
        None
    } else {
        StandingCa::of(paths)
    };
    let (key_pem, connection) = make_key(request, &host, standing.as_ref(), messages)?;
    let key = PrivateKey::agent_from_pem(&key_pem).map_err(fatal)?;
    let csr = csr::create(&key, &host).map_err(fatal)?;
    messages.say(&format!(
        "Pairing code: {}\n  Verify this code matches the ctrl-exec display before approving.\n",
        code(&csr)
    ));
    if !host.contains('.') && request.lookup_by != Some(LookupBy::Ip) {
        messages.warn(&format!(
            "Warning: could not determine a fully-qualified domain name for this host;\n\
             registering the short name '{host}'. If the dispatcher cannot resolve it, configure\n\
             a domain on this host or pair with --lookup-by ip."
        ));
    }
    messages.say(&format!(
        "Connecting to ctrl-exec at {} for pairing...",
        request.dispatcher
    ));

    let nonce = random::nonce().map_err(fatal)?;
    let (mut client, held) = match connection {
        Connection::Ready(client) => (client, None),
        Connection::Held(probe) => (connect(request)?, Some(probe)),
        Connection::None => (connect(request)?, None),
    };
    if let Some(standing) = &standing {
        standing.admits_dispatcher(&client)?;
    }
    let message = PairRequest {
        hostname: host,
        csr,
        nonce: nonce.clone(),
        lookup_by: request.lookup_by,
        port: Some(port),
        ip: client.local_ip(),
    };
    let bytes = render_request(
        "POST",
        "/pair",
        &request.dispatcher,
        Some(&message.render()),
        false,
    );
    client.send(bytes);
    let ack = client
        .response(Instant::now() + ACKNOWLEDGE)
        .map_err(|error| phase(error, "no response from ctrl-exec"))?;
    if let Some(probe) = held {
        probe.close();
    }
    match Ack::parse(&ack.body)
        .map_err(|error| Failure::Fatal(format!("acknowledgement: {error}")))?
    {
        Ack::Pending { reqid: id } => *reqid = id,
        Ack::Error { reason } => return Err(Failure::Denied(named(reason))),
    }
    messages.queued(reqid);
    let answer = match client.response(Instant::now() + request.timeout) {
        Ok(answer) => answer,
        Err(ClientError::Timeout) => return Err(Failure::TimedOut),
        Err(error) => {
            return Err(phase(
                error,
                "the dispatcher ended the connection undecided",
            ));
        }
    };
    let shown = client.peer_certificate().map(<[u8]>::to_vec);
    client.close();
    let approval = match Outcome::parse(&answer.body) {
        Ok(Outcome::Approved(approval)) => approval,
        Ok(Outcome::Denied { reason }) => return Err(Failure::Denied(named(reason))),
        Err(error) => return Err(Failure::Fatal(format!("result: {error}"))),
    };
    if approval.nonce != nonce {
        return Err(Failure::Fatal("nonce mismatch in pairing result".into()));
    }
    let identity = accept(&approval, shown.as_deref(), &key, key_pem)?;
    if let Some(standing) = &standing {
        standing.admits(&identity.ca)?;
    }
    let owner = Owner::of_agent();
    if rustix::process::geteuid().is_root() && owner.gid.is_none() {
        messages.warn(&format!(
            "Warning: there is no group '{USER}'; the files belong to root alone."
        ));
    }
    install::install(paths, &identity, owner)
        .map_err(|error| Failure::Fatal(format!("storing the identity: {error}")))?;
    Ok(approval)
}

/// Checks the answer before anything is stored: certificates against key and CA, the rest against
/// what the trust map can hold.
fn accept(
    approval: &Approval,
    shown: Option<&[u8]>,
    key: &PrivateKey,
    key_pem: String,
) -> Result<NewIdentity, Failure> {
    let bad = |what: &str| Failure::Fatal(format!("the dispatcher's answer is unusable: {what}"));
    let leaf =
        cert::from_pem(&approval.cert).map_err(|error| bad(&format!("certificate: {error}")))?;
    let facts = cert::facts(&leaf).map_err(|error| bad(&format!("certificate: {error}")))?;
    if facts.spki_der != key.spki_der() {
        return Err(bad("the certificate is not for our key"));
    }
    // A router that has just booted may believe it is 1970.
    let now = Utc::now().0.max(facts.not_before);
    verify::verify_leaf(&approval.ca, &leaf, now).map_err(|error| bad(&error))?;
    let trust = (!approval.dispatcher_serial.is_empty()).then(|| {
        (
            serial_to_trust(approval, shown, now),
            dispatcher_id(approval),
        )
    });
    if let Some((serial, id)) = &trust {
        TrustMap::default()
            .add(serial, id)
            .map_err(|error| bad(&error.to_string()))?;
    }
    Ok(NewIdentity {
        cert: approval.cert.clone(),
        key: key_pem,
        ca: approval.ca.clone(),
        trust,
    })
}

/// The CA that this host has. A pairing that would silently put another in its place cuts off every
/// dispatcher of the present one.
struct StandingCa {
    path: PathBuf,
    verifier: ChainVerifier,
}

impl StandingCa {
    /// None where there is no CA file, or none that could be used.
    fn of(paths: &Paths) -> Option<StandingCa> {
        let ca = paths.etc().join("ca.crt");
        let path = install::effective(paths, &ca);
        // What a dispatcher handed over counts, if the file vouches for it.
        let files = Files {
            cert: PathBuf::new(),
            key: PathBuf::new(),
            handed: (path == ca).then(|| paths.handed_ca()),
            ca: path.clone(),
        };
        let verifier = ChainVerifier::from_pem(&files.ca_text().ok()??).ok()?;
        Some(StandingCa { path, verifier })
    }

    /// The dispatcher's certificate must be of this CA, whatever its dates.
    fn admits_dispatcher(&self, client: &Client) -> Result<(), Failure> {
        let Some(leaf) = client.peer_certificate() else {
            return Ok(());
        };
        match self.verifier.verify(leaf, Role::Server, Utc::now().0) {
            Err(VerifyError::UnknownIssuer | VerifyError::BadSignature) => Err(self.refusal()),
            _ => Ok(()),
        }
    }

    /// The CA to be installed must have a key that this host trusts; a re-issued certificate has.
    fn admits(&self, ca: &str) -> Result<(), Failure> {
        let same = cert::facts_from_pem(ca).is_ok_and(|new| {
            let mut own = self.verifier.authorities();
            own.any(|own| own.spki_der == new.spki_der)
        });
        if same { Ok(()) } else { Err(self.refusal()) }
    }

    fn refusal(&self) -> Failure {
        Failure::Fatal(format!(
            "this host has the CA of another dispatcher ({}); nothing was changed. To leave that \
             dispatcher for this one, use --replace-ca",
            self.path.display()
        ))
    }
}

/// The connection that showed what kind of key the dispatcher has.
enum Connection {
    /// Fresh: the request goes on it.
    Ready(Client),
    /// Stays open until another one has been answered. The listener of 0.12.3 writes session
    /// tickets after the handshake and dies of SIGPIPE when nobody is there to take them.
    Held(Client),
    /// There was nothing to look at.
    None,
}

/// A key of the kind asked for, or of the kind the dispatcher can be expected to sign: the
/// reference signs RSA only, and its own key is RSA.
fn make_key(
    request: &Request,
    host: &str,
    standing: Option<&StandingCa>,
    messages: Messages,
) -> Result<(String, Connection), Failure> {
    if let Some(chosen @ KeyType::Rsa2048) = request.key_type {
        // It takes minutes on a router: too long for a connection to wait.
        return Ok((generate(chosen, host, messages)?, Connection::None));
    }
    let probe = connect(request)?;
    if let Some(standing) = standing {
        // Before minutes go into a key.
        standing.admits_dispatcher(&probe)?;
    }
    let kind = probe
        .peer_certificate()
        .and_then(|der| cert::facts(der).ok())
        .map(|facts| facts.key);
    let chosen = request.key_type.unwrap_or(match kind {
        Some(KeyKind::Rsa { .. }) => KeyType::Rsa2048,
        _ => KeyType::EcdsaP256,
    });
    let key = generate(chosen, host, messages)?;
    Ok(match chosen {
        KeyType::Rsa2048 => (key, Connection::Held(probe)),
        _ => (key, Connection::Ready(probe)),
    })
}

fn generate(chosen: KeyType, host: &str, messages: Messages) -> Result<String, Failure> {
    messages.say(&format!("Generating key and CSR for '{host}'..."));
    match chosen {
        KeyType::Rsa2048 => {}
        KeyType::EcdsaP384 => return keys::generate_p384().map_err(fatal),
        KeyType::EcdsaP256 => return keys::generate_p256().map_err(fatal),
        KeyType::Ed25519 => return Err(fatal(KeyError::UnsupportedByAgents)),
    }
    let dots = messages == Messages::Terminal && io::stderr().is_terminal();
    let mut count = 0u32;
    let key = keys::generate_rsa_2048(&mut || {
        count = count.wrapping_add(1);
        if dots && count % 16 == 0 {
            let _ = write!(io::stderr(), ".");
        }
    });
    if dots {
        eprint_line("");
    }
    key.map_err(fatal)
}

fn connect(request: &Request) -> Result<Client, Failure> {
    let (host, port) = (&request.dispatcher, request.port);
    let clock = verify::system_clock();
    let config = match &request.ca {
        None => tls::pairing_client_config(&clock),
        Some(ca) => tls::pairing_client_config_with_ca(Arc::clone(ca), &clock),
    }
    .map_err(fatal)?;
    Client::connect(host, port, config, CONNECT).map_err(|error| {
        Failure::Fatal(match error {
            ClientError::Resolve(error) => format!("cannot resolve '{host}': {error}"),
            ClientError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                format!(
                    "{host} refuses connections on port {port}: is the dispatcher in pairing mode \
                     ('ctrl-exec-dispatcher pairing-mode')?"
                )
            }
            ClientError::Timeout => format!("{host} port {port} does not answer"),
            error => format!("{host} port {port}: {error}"),
        })
    })
}

fn writable(etc: &Path) -> Result<(), Failure> {
    let place = etc.display();
    if !etc.is_dir() {
        return Err(Failure::Fatal(format!(
            "'{place}' does not exist; is the package installed?"
        )));
    }
    access(etc, Access::WRITE_OK).map_err(|_| {
        Failure::Fatal(format!(
            "'{place}' is not writable; pairing is done as root"
        ))
    })
}

fn warn_of_other_paths(paths: &Paths, files: &Files, messages: Messages) {
    for (configured, name) in [
        (&files.cert, "agent.crt"),
        (&files.key, "agent.key"),
        (&files.ca, "ca.crt"),
    ] {
        let written = paths.etc().join(name);
        if *configured != written {
            messages.warn(&format!(
                "Warning: {} names '{}', but pairing writes '{}'.",
                paths.config.display(),
                configured.display(),
                written.display()
            ));
        }
    }
}

/// The serial to trust. What a dispatcher sends may mean either of two certificates
/// ([`serial::of_wire`]); the one that it showed on this connection tells which.
fn serial_to_trust(approval: &Approval, shown: Option<&[u8]>, now: i64) -> String {
    let sent = &approval.dispatcher_serial;
    let Ok(chain) = verify::ChainVerifier::from_pem(&approval.ca) else {
        return sent.clone();
    };
    let facts = shown.and_then(|der| chain.verify(der, verify::Role::Server, now).ok());
    match facts {
        Some(facts) if serial::canonical(&facts.serial_hex) == *sent => {
            serial::for_file(serial::exact(&facts.serial_hex))
        }
        _ => sent.clone(),
    }
}

fn dispatcher_id(approval: &Approval) -> String {
    if approval.dispatcher_id.is_empty() {
        names::sanitize_dispatcher_id(&approval.dispatcher_serial)
    } else if names::is_dispatcher_id(&approval.dispatcher_id) {
        approval.dispatcher_id.clone()
    } else {
        names::sanitize_dispatcher_id(&approval.dispatcher_id)
    }
}

fn restart_hint() -> &'static str {
    if Path::new("/run/systemd/system").is_dir() {
        "Restart the agent to use it:  systemctl restart ctrl-exec-agent"
    } else if Path::new("/etc/openwrt_release").is_file() {
        "Restart the agent to use it:  /etc/init.d/ctrl-exec-agent restart"
    } else {
        "Restart the agent to use it:  ctrl-exec-agent serve"
    }
}

fn phase(error: ClientError, closed: &str) -> Failure {
    Failure::Fatal(match error {
        ClientError::Closed => closed.to_owned(),
        error => error.to_string(),
    })
}

fn named(reason: String) -> String {
    if reason.is_empty() {
        "denied".into()
    } else {
        reason
    }
}

fn fatal(error: impl std::fmt::Display) -> Failure {
    Failure::Fatal(error.to_string())
}
