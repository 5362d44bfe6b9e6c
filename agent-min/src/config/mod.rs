//! Everything a reload replaces: configuration, allowlist, sidecars, trust, revocation and the
//! TLS identity. It is read as a whole and swapped as one value, or not at all.

pub mod paths;
pub mod schema;

use crate::executable::is_executable;
use crate::identity::clock::{DeviceClock, Source};
use crate::identity::files::Files;
use crate::identity::install;
use crate::trust::{Revoked, TrustMap, read_bounded};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::config::{
    self, AgentConf, ConfigError, ScriptsConf, Subject, Warning, decision,
};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::crl::Crl;
use ctrl_exec_protocol::x509::handover;
use ctrl_exec_protocol::x509::verify::ChainVerifier;
use paths::Paths;
use rustls::ServerConfig;
use schema::Schema;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most that `max_children` sets: tables have room for so many connections and runs.
pub const MAX_CHILDREN: u32 = 512;

/// The configuration as loaded.
pub struct Loaded {
    /// agent.conf.
    pub conf: AgentConf,
    /// Port to listen on.
    pub port: u16,
    /// scripts.conf.
    pub scripts: ScriptsConf,
    /// Usable sidecars in the order of script names.
    pub schemas: Vec<(String, Schema)>,
    /// Who is trusted.
    pub trusted: TrustMap,
    /// Who is not, whatever the map says.
    pub revoked: Revoked,
    /// Who this agent is, and by whom it is vouched for.
    pub identity: Served,
    /// Where a renewed certificate waits.
    pub staged: PathBuf,
    files: Files,
}

/// The identity as it is served.
pub struct Served {
    /// TLS for the listener.
    pub tls: Arc<ServerConfig>,
    /// The CA, to check certificates of resumed sessions again.
    pub chain: Arc<ChainVerifier>,
    /// Digest of the CA certificates.
    pub ca: String,
    /// This device's best knowledge of the time.
    pub clock: DeviceClock,
    /// Live serial of the own certificate.
    pub serial: String,
    cn: Option<String>,
    /// End of the certificate that is served, Unix seconds and in OpenSSL's form.
    expires: (i64, String),
}

impl Served {
    fn load(files: &Files, map: &Path) -> Result<Served, LoadError> {
        let unpaired = |path: &Path| LoadError::Unpaired(vec![path.to_owned()]);
        let text = |path: &Path| {
            read_bounded(path)
                .map_err(|e| named(path, &e))?
                .ok_or_else(|| unpaired(path))
        };
        let own =
            Identity::agent_from_pem(&text(&files.cert)?, &text(&files.key)?).map_err(|error| {
                let (cert, key) = (files.cert.display(), files.key.display());
                LoadError::Config(format!("{cert}, {key}: {error}"))
            })?;
        let ca = files.ca_text().map_err(|e| named(&files.ca, &e))?;
        let ca = ca.ok_or_else(|| unpaired(&files.ca))?;
        let chain = ChainVerifier::from_pem(&ca).map_err(|e| named(&files.ca, &e))?;
        let clock = DeviceClock::new(own.facts().not_before, &[&files.cert, &files.ca, map]);
        let chain = Arc::new(chain.beginning_by(clock.latest()));
        let tls = tls::agent_server_config(&own, Arc::clone(&chain), &clock.judge())
            .map_err(|e| named(&files.cert, &e))?;
        Ok(Served {
            tls,
            chain,
            ca: handover::fingerprint(&ca),
            clock,
            serial: own.facts().serial_hex.clone(),
            cn: own.facts().subject_cn.clone(),
            expires: (own.facts().not_after, Utc(own.facts().not_after).openssl()),
        })
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> LoadError {
    LoadError::Config(format!("{}: {error}", path.display()))
}

/// Why nothing could be loaded.
#[derive(Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A fault in a file; the text names it.
    Config(String),
    /// Files of the identity that do not exist.
    Unpaired(Vec<PathBuf>),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoadError::Config(fault) => f.write_str(fault),
            LoadError::Unpaired(missing) => {
                f.write_str("not paired:")?;
                for path in missing {
                    write!(f, " {} is missing", path.display())?;
                }
                Ok(())
            }
        }
    }
}

/// What loading had to say: lines for the log, and text for standard error.
#[derive(Debug, Default)]
pub struct Notes {
    /// For the system log.
    pub lines: Vec<(Level, Line)>,
    /// For standard error.
    pub stderr: Vec<String>,
}

/// The two configuration files, checked against each other.
pub struct Configuration {
    /// agent.conf.
    pub conf: AgentConf,
    /// scripts.conf.
    pub scripts: ScriptsConf,
    /// Port to listen on.
    pub port: u16,
    /// Identity files as configured.
    pub files: Files,
}

impl Configuration {
    /// Reads both files (agent.md §7). Undefined profiles are not checked here.
    ///
    /// # Errors
    /// The first fault.
    pub fn load(paths: &Paths, notes: &mut Notes) -> Result<Configuration, ConfigError> {
        let (conf, port, files) = load_conf(paths, notes)?;
        let name = paths.allowlist.display().to_string();
        let (scripts, warnings) = ScriptsConf::parse(&read(&paths.allowlist)?, &name)?;
        notes
            .stderr
            .extend(warnings.iter().map(|warning| format!("{name}: {warning}")));
        Ok(Configuration {
            conf,
            scripts,
            port,
            files,
        })
    }
}

/// Reads agent.conf alone.
///
/// # Errors
/// The first fault.
pub fn load_conf(paths: &Paths, notes: &mut Notes) -> Result<(AgentConf, u16, Files), ConfigError> {
    let name = paths.config.display().to_string();
    let (mut conf, warnings) = AgentConf::parse(&read(&paths.config)?, &name)?;
    note(notes, &name, warnings);
    if let Some(path) = conf.overrides.clone() {
        // Not there: nothing is overridden.
        if let Some(text) = read_optional(Path::new(&path))? {
            let overridden = conf.overridden(&text, &path)?;
            conf = overridden.0;
            note(notes, &path, overridden.1);
        }
    }
    if conf.max_children > MAX_CHILDREN {
        let message = format!("{} acts as {MAX_CHILDREN}", conf.max_children);
        notes
            .stderr
            .push(format!("{name}: max_children: {message}"));
        let line = Line::new("config-warn").field("KEY", "max_children");
        notes
            .lines
            .push((Level::Warning, line.field("MSG", message)));
        conf.max_children = MAX_CHILDREN;
    }
    let listener = conf.listener(&name)?;
    let ca = install::effective(paths, Path::new(listener.ca));
    let files = Files {
        cert: install::effective(paths, Path::new(listener.cert)),
        key: install::effective(paths, Path::new(listener.key)),
        handed: (ca == Path::new(listener.ca)).then(|| paths.handed_ca()),
        ca,
    };
    let port = listener.port;
    Ok((conf, port, files))
}

fn note(notes: &mut Notes, name: &str, warnings: Vec<Warning>) {
    for warning in warnings {
        notes.stderr.push(format!("{name}: {warning}"));
        let line = Line::new("config-warn");
        let line = match &warning.subject {
            Subject::Entry(entry) => line.field("ENTRY", entry),
            Subject::Key(key) => line.field("KEY", key),
            Subject::Line => line,
        };
        notes
            .lines
            .push((Level::Warning, line.field("MSG", &warning.message)));
    }
}

impl Loaded {
    /// Reads everything.
    ///
    /// # Errors
    /// The first fault; nothing has been changed then.
    pub fn load(paths: &Paths, notes: &mut Notes) -> Result<Loaded, LoadError> {
        let fault = |error: ConfigError| LoadError::Config(error.to_string());
        let Configuration {
            conf,
            scripts,
            port,
            files,
        } = Configuration::load(paths, notes).map_err(fault)?;
        check_hook(&conf, paths)?;
        check_profiles(&conf, &scripts, paths)?;
        let missing = files.missing();
        if !missing.is_empty() {
            return Err(LoadError::Unpaired(missing));
        }
        let map_path = paths.map(&conf);
        let mut trusted = TrustMap::load(&map_path).map_err(|e| named(&map_path, &e))?;
        install::add_pending_trust(paths, &mut trusted);
        let revoked_path = paths.revoked(&conf);
        let mut revoked = Revoked::load(&revoked_path).map_err(|e| named(&revoked_path, &e))?;
        note_trust(&trusted, &revoked, notes);
        for id in trusted.ids() {
            let path = paths.crl(id);
            let text = read_bounded(&path).map_err(|e| named(&path, &e))?;
            if let Some(text) = text {
                let list = Crl::from_pem(&text).map_err(|e| named(&path, &e))?;
                revoked.take_list(id, list);
            }
        }
        let identity = Served::load(&files, &map_path)?;
        note_clock(&identity.clock, notes);
        let schemas = load_schemas(&scripts, notes);
        Ok(Loaded {
            staged: paths.staged(&conf),
            port,
            schemas,
            trusted,
            revoked,
            identity,
            files,
            conf,
            scripts,
        })
    }

    /// Takes the CA certificates that the files hold now, and nothing else of them.
    ///
    /// # Errors
    /// The first fault; nothing has been changed then.
    pub fn take_ca(&mut self, paths: &Paths) -> Result<(), LoadError> {
        self.identity = Served::load(&self.files, &paths.map(&self.conf))?;
        Ok(())
    }

    /// The sidecar of a script.
    pub fn schema(&self, script: &str) -> Option<&Schema> {
        let at = self
            .schemas
            .binary_search_by(|(name, _)| name.as_str().cmp(script))
            .ok()?;
        Some(&self.schemas[at].1)
    }

    /// The identity's files.
    pub fn files(&self) -> Files {
        self.files.clone()
    }

    /// The common name of this agent's certificate, if it has one.
    pub fn common_name(&self) -> Option<&str> {
        self.identity.cn.as_deref()
    }

    /// The best known time, Unix seconds.
    pub fn now(&self) -> i64 {
        self.identity.clock.now()
    }

    /// End of the certificate that is served, in OpenSSL's form. One that was put in place since
    /// is served from the next reload on.
    pub fn expiry(&self) -> &str {
        &self.identity.expires.1
    }

    /// Whether the certificate that is served has ended, as far as this device knows.
    pub fn has_expired(&self) -> bool {
        self.now() > self.identity.expires.0
    }
}

/// The name this host goes by: the configured one, else its own (agent.md §9.6).
pub fn host_name(conf: &AgentConf) -> String {
    conf.hostname
        .clone()
        .unwrap_or_else(ctrl_exec_host::hostname::fqdn)
}

/// Scripts whose profile has no section, as a fault.
///
/// # Errors
/// Lists every such script.
pub fn check_profiles(
    conf: &AgentConf,
    scripts: &ScriptsConf,
    paths: &Paths,
) -> Result<(), LoadError> {
    let undefined = decision::undefined_profiles(conf, scripts);
    if undefined.is_empty() {
        return Ok(());
    }
    let mut text = format!("{}: undefined profile:", paths.allowlist.display());
    for (script, profile) in undefined {
        text.push_str(&format!("\n    {script} -> {profile}"));
    }
    Err(LoadError::Config(text))
}

fn check_hook(conf: &AgentConf, paths: &Paths) -> Result<(), LoadError> {
    match &conf.auth_hook {
        Some(hook) if !is_executable(hook) => Err(LoadError::Config(format!(
            "{}: auth_hook '{hook}' does not exist or is not executable",
            paths.config.display()
        ))),
        _ => Ok(()),
    }
}

fn note_clock(clock: &DeviceClock, notes: &mut Notes) {
    let source = clock.source();
    let line = Line::new("clock")
        .field("SOURCE", source.word())
        .field("TIME", Utc(clock.now()).iso());
    let level = match source {
        Source::System => Level::Info,
        Source::Certificate => Level::Warning,
    };
    notes.lines.push((level, line));
    if let Some(path) = clock.ahead() {
        let line = Line::new("clock-warn")
            .field("PATH", path.display())
            .field("MSG", "the file's time lies in the future and is ignored");
        notes.lines.push((Level::Warning, line));
    }
}

fn note_trust(trusted: &TrustMap, revoked: &Revoked, notes: &mut Notes) {
    let mut warn = |entry: &str, message: &str| {
        notes.stderr.push(format!("{entry}: {message}"));
        let line = Line::new("config-warn")
            .field("ENTRY", entry)
            .field("MSG", message);
        notes.lines.push((Level::Warning, line));
    };
    for serial in trusted.ambiguous() {
        warn(
            serial,
            "serial claimed by two dispatchers; trusted for neither",
        );
    }
    for serial in trusted.unclear() {
        warn(
            serial,
            "a serial of digits only trusts nobody; write its hexadecimal form as 0x... or with colons",
        );
    }
    for line in revoked.bad_lines() {
        warn(line, "not a serial; revokes nothing");
    }
}

fn load_schemas(scripts: &ScriptsConf, notes: &mut Notes) -> Vec<(String, Schema)> {
    let mut schemas = Vec::new();
    for (name, script) in &scripts.scripts {
        let warning = |action, reason: &str| {
            let line = Line::new(action)
                .field("SCRIPT", name)
                .field("REASON", reason);
            (Level::Warning, line)
        };
        match schema::load(&script.path) {
            Ok(None) => {}
            Ok(Some(schema)) => {
                if schema.derived_over_bad {
                    notes
                        .lines
                        .push(warning("schema-version-derive", schema::DERIVE_REASON));
                }
                schemas.push((name.clone(), schema));
            }
            Err(reason) => notes.lines.push(warning("schema-skip", &reason)),
        }
    }
    schemas
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let name = path.display().to_string();
    // One byte more than is allowed, so that the fault is told in the configuration's words.
    let bytes = Bounded::new(config::MAX_FILE_BYTES as u64 + 1)
        .read(path)
        .map_err(|error| ConfigError::whole(&name, format!("cannot open: {error}")))?;
    config::decode(&bytes, &name)
}

/// A file of overrides; `None` when there is none.
fn read_optional(path: &Path) -> Result<Option<String>, ConfigError> {
    let name = path.display().to_string();
    let most = config::MAX_FILE_BYTES as u64;
    Bounded::new(most)
        .no_follow()
        .optional(path)
        .map_err(|error| ConfigError::whole(&name, format!("cannot read: {error}")))?
        .map(|bytes| config::decode(&bytes, &name))
        .transpose()
}
