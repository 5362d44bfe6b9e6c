//! The operator's desk: approve, deny, list (pki-and-pairing.md §7.5).

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Approval, LookupBy, Outcome};

use super::{Queue, QueueError, Queued};
use crate::ca::request;
use crate::ca::{self, Authority, CaDir, CaError, DAYS_DEFAULT};
use crate::jval::Object;
use crate::store::files::registry::{DEFAULT_PORT, Record, Registry, RegistryError, SerialStatus};

/// Everything a decision needs.
#[derive(Debug)]
pub struct Desk {
    /// The queue.
    pub queue: Queue,
    /// The registry that approved agents go into.
    pub registry: Registry,
    /// The CA that signs.
    pub ca: CaDir,
    /// The dispatcher's certificate, whose serial agents are told to trust.
    pub cert: PathBuf,
    /// Stable id of this dispatcher.
    pub dispatcher_id: String,
}

/// What the operator wants otherwise than the agent asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--lookup-by`.
    pub lookup_by: Option<LookupBy>,
    /// `--ip`.
    pub ip: Option<IpAddr>,
    /// `--agent-port`.
    pub port: Option<u16>,
}

/// An approval that was carried out.
#[derive(Clone, Debug)]
pub struct Approved {
    /// The request.
    pub queued: Queued,
    /// How the agent is registered.
    pub lookup_by: LookupBy,
    /// Registered address, or empty.
    pub ip: String,
    /// Registered port.
    pub port: u16,
    /// Things the operator should know.
    pub warnings: Vec<String>,
}

/// Why a decision was not carried out. The request stays pending.
#[derive(Debug)]
pub enum DeskError {
    /// The queue.
    Queue(QueueError),
    /// Signing.
    Ca(CaError),
    /// The registry.
    Registry(RegistryError),
}

impl fmt::Display for DeskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Ca(error) => error.fmt(f),
            Self::Registry(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DeskError {}

impl From<QueueError> for DeskError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<CaError> for DeskError {
    fn from(error: CaError) -> Self {
        Self::Ca(error)
    }
}

impl From<RegistryError> for DeskError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl Desk {
    /// Signs a request, registers the agent and leaves the answer for the listener.
    ///
    /// The registry is written before the certificate is released (the reference does it the other
    /// way round): an agent that holds a certificate is one that can be listed and unpaired.
    ///
    /// # Errors
    /// Unknown or decided request, a CSR that cannot be signed, CA or registry trouble.
    pub fn approve(
        &self,
        id: &str,
        overrides: &Overrides,
        log: &Syslog,
        now: Utc,
    ) -> Result<Approved, DeskError> {
        let queued = self.queue.undecided(id)?;
        let authority = Authority::load(&self.ca)?;
        let issued = authority.sign_csr(&queued.csr, None, None, DAYS_DEFAULT, now)?;

        let mut warnings = self.warnings(&queued);
        let serial = ca::trust_serial(&self.cert).unwrap_or_else(|error| {
            warnings.push(format!(
                "the agent will not trust this dispatcher yet: {error}"
            ));
            String::new()
        });
        let mut approved = Approved {
            lookup_by: overrides.lookup_by.or(queued.lookup_by).unwrap_or_default(),
            ip: overrides
                .ip
                .map(|ip| ip.to_string())
                .or_else(|| queued.ip.parse::<IpAddr>().ok().map(|ip| ip.to_string()))
                .unwrap_or_default(),
            port: overrides.port.or(queued.port).unwrap_or(DEFAULT_PORT),
            warnings: Vec::new(),
            queued,
        };
        let cn = issued.facts.subject_cn.clone().unwrap_or_default();
        let record = approved.record(&issued.expiry(), &serial, &cn, now);
        self.registry.register(&record)?;
        let outcome = Outcome::Approved(Approval {
            cert: issued.pem,
            ca: authority.pem().to_owned(),
            nonce: approved.queued.nonce.clone(),
            dispatcher_serial: serial,
            dispatcher_id: self.dispatcher_id.clone(),
        });
        self.queue.decide(id, &outcome)?;
        let line = Line::new("pair-approve")
            .field("AGENT", &approved.queued.hostname)
            .field("REQID", id);
        log.log(Level::Info, &line);
        approved.warnings = warnings;
        Ok(approved)
    }

    /// Turns a request down.
    ///
    /// # Errors
    /// Unknown or decided request.
    pub fn deny(&self, id: &str, log: &Syslog) -> Result<Queued, DeskError> {
        let queued = self.queue.undecided(id)?;
        self.queue.decide(
            id,
            &Outcome::Denied {
                reason: "rejected by operator".to_owned(),
            },
        )?;
        let line = Line::new("pair-deny")
            .field("AGENT", &queued.hostname)
            .field("REQID", id);
        log.log(Level::Info, &line);
        Ok(queued)
    }

    /// What the operator should know about a request before deciding, and after.
    pub fn warnings(&self, queued: &Queued) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.registry.load(&queued.hostname) {
            Ok(Some(old)) => warnings.push(format!(
                "'{}' is paired already (address {}, since {}); approving replaces that agent",
                queued.hostname,
                if old.ip().is_empty() {
                    "unknown"
                } else {
                    old.ip()
                },
                old.raw().get("paired").and_then(text).unwrap_or("unknown")
            )),
            Ok(None) => {}
            Err(error) => warnings.push(error.to_string()),
        }
        match request::check(&queued.csr) {
            Err(error) => warnings.push(format!("cannot be signed: {error}")),
            Ok(facts) if facts.cn != queued.hostname => warnings.push(format!(
                "the request is for a certificate of '{}', not '{}'",
                facts.cn.escape_debug(),
                queued.hostname
            )),
            Ok(_) => {}
        }
        warnings
    }
}

fn text(value: &crate::jval::Value) -> Option<&str> {
    match value {
        crate::jval::Value::String(text) => Some(text),
        _ => None,
    }
}

impl Approved {
    fn record(&self, expiry: &str, serial: &str, cn: &str, now: Utc) -> Record {
        let mut record = Record::new(&self.queued.hostname);
        record
            .set("hostname", self.queued.hostname.as_str())
            .set("ip", self.ip.as_str())
            .set_port(self.port)
            .set("lookup_by", self.lookup_by.word())
            .set("paired", now.iso())
            .set("expiry", expiry)
            .set("reqid", self.queued.id.as_str())
            .set("dispatcher_serial", serial)
            .set("serial_broadcast", "")
            .set(
                "serial_confirmed",
                if serial.is_empty() {
                    String::new()
                } else {
                    now.iso()
                },
            )
            .set_serial_status(if serial.is_empty() {
                SerialStatus::Unknown
            } else {
                SerialStatus::Current
            })
            .set("paired_cn", cn)
            .set_tags(Object::new());
        record
    }

    /// What `approve` prints.
    pub fn text(&self) -> String {
        let name = &self.queued.hostname;
        let host = match self.lookup_by {
            LookupBy::Ip => &self.ip,
            LookupBy::Hostname => name,
        };
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let mut out = format!(
            "Approved '{name}' ({}). Cert delivered on next poll.\n  Registered:  {name}   \
             lookup_by={}   addr={host}:{}\n",
            self.queued.id,
            self.lookup_by.word(),
            self.port
        );
        out.push_str("  If this dispatcher cannot reach it by that, fix without re-pairing:\n");
        if self.queued.source_ip.parse::<IpAddr>().is_ok() {
            let _ = writeln!(
                out,
                "    ctrl-exec-dispatcher edit-agent {name} --lookup-by ip --ip {}",
                self.queued.source_ip
            );
        }
        if self.queued.reverse_confirmed && !self.queued.reverse_dns.eq_ignore_ascii_case(name) {
            let _ = writeln!(
                out,
                "    ctrl-exec-dispatcher edit-agent {name} --rename {}",
                self.queued.reverse_dns
            );
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "  Warning: {warning}");
        }
        out
    }
}

/// What `list-requests` prints.
pub fn list_text(pending: &[Queued]) -> String {
    if pending.is_empty() {
        return "No pending pairing requests.\n".to_owned();
    }
    let mut out = format!(
        "{:<18}{:<26}{:<18}{:<30}{}\n{}\n",
        "ID",
        "HOSTNAME",
        "SOURCE IP",
        "REVERSE DNS",
        "CODE",
        "-".repeat(98)
    );
    for queued in pending {
        let _ = writeln!(
            out,
            "{:<18}{:<26}{:<18}{:<30}{}",
            queued.id,
            printable(&queued.hostname),
            printable(&queued.source_ip),
            reverse_text(queued),
            printable(&queued.code)
        );
        if let Err(error) = request::check(&queued.csr) {
            let _ = writeln!(out, "  cannot be signed: {error}");
        }
    }
    out.push_str(
        "\nCompare CODE with the code the agent shows before approving. REVERSE DNS is (ok) when \
         the name\nresolves back to the source address, (?) when it does not.\n",
    );
    out
}

pub(super) fn reverse_text(queued: &Queued) -> String {
    match (queued.reverse_dns.as_str(), queued.reverse_confirmed) {
        ("", _) => "-".to_owned(),
        (name, true) => format!("{} (ok)", printable(name)),
        (name, false) => format!("{} (?)", printable(name)),
    }
}

/// Text of a queue file for a terminal: control characters shown, not obeyed.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
