//! The operator's desk: approve, deny, list (pki-and-pairing.md §7.5).

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::names::AGENT_PORT;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Approval, LookupBy, Outcome};

use super::{Queue, QueueError, Queued};
use crate::ca::request;
use crate::ca::{self, Authority, CaDir, CaError, DAYS_DEFAULT};
use crate::model::{AgentRecord, SOME_PERL_VERSION, SerialStatus};
use crate::store::files::issued::{Issued, IssuedCert, IssuedError};
use crate::store::files::registry::{Registry, RegistryError};
use crate::store::files::revoked;
use crate::tasks::revoke::{Barring, RevokeError};
use ctrl_exec_protocol::json::Members;

/// Everything a decision needs.
#[derive(Debug)]
pub struct Desk {
    /// The queue.
    pub queue: Queue,
    /// The registry that approved agents go into.
    pub registry: Registry,
    /// Every certificate that was given away.
    pub issued: Issued,
    /// Where the revocation list is: an agent that is replaced gets onto it.
    pub root: Root,
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
    /// `--code`: the code that was compared; the request that is signed must have it.
    pub code: Option<String>,
    /// `--replace`: take the name from the agent that has it.
    pub replace: bool,
}

/// An agent that has the name a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The name.
    pub name: String,
    /// Since when, or empty.
    pub since: String,
    /// Its address, or empty.
    pub ip: String,
    /// Its certificates, as far as they are known.
    pub certs: Vec<IssuedCert>,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &str| match text {
            "" => "unknown".to_owned(),
            text => Untrusted::new(text).at_most(64).to_string(),
        };
        write!(
            f,
            "'{}' is paired already (since {}, address {}, ",
            self.name,
            or_unknown(&self.since),
            or_unknown(&self.ip)
        )?;
        match self.certs.iter().max_by_key(|cert| cert.until.0) {
            Some(cert) => write!(f, "certificate {})", cert.serial),
            None => f.write_str("certificate unknown)"),
        }
    }
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
    /// The list of issued certificates.
    Issued(IssuedError),
    /// Barring the agent that is replaced.
    Revoke(RevokeError),
    /// Another agent has the name, and `replace` was not asked for.
    Taken(Taken),
    /// The request is not the one whose code was compared.
    Code {
        /// What was compared.
        compared: String,
        /// The code of the request as it is now.
        found: String,
    },
}

impl fmt::Display for DeskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Ca(error) => error.fmt(f),
            Self::Registry(error) => error.fmt(f),
            Self::Issued(error) => error.fmt(f),
            Self::Revoke(error) => error.fmt(f),
            Self::Taken(taken) => write!(
                f,
                "{taken}. If this is another device, or the same one set up anew, --replace takes \
                 the name from it and bars its certificates"
            ),
            Self::Code { compared, found } => write!(
                f,
                "the request's code is {found}, not {}: it is not the request that you compared; \
                 nothing was signed",
                Untrusted::new(compared).at_most(32)
            ),
        }
    }
}

impl std::error::Error for DeskError {}

impl From<IssuedError> for DeskError {
    fn from(error: IssuedError) -> Self {
        Self::Issued(error)
    }
}

impl From<RevokeError> for DeskError {
    fn from(error: RevokeError) -> Self {
        Self::Revoke(error)
    }
}

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
    /// The request is read once: what is compared with the code is what is signed, whoever writes
    /// into the queue meanwhile.
    ///
    /// The registry is written before the certificate is released (the reference does it the other
    /// way round): an agent that holds a certificate is one that can be listed and unpaired.
    ///
    /// # Errors
    /// Unknown or decided request, another code than the one compared, a name that is taken, a CSR
    /// that cannot be signed, CA or registry trouble.
    pub fn approve(
        &self,
        id: &str,
        overrides: &Overrides,
        log: &Syslog,
        now: Utc,
    ) -> Result<Approved, DeskError> {
        let queued = self.queue.undecided(id)?;
        if let Some(compared) = &overrides.code {
            if *compared != queued.code {
                return Err(DeskError::Code {
                    compared: compared.clone(),
                    found: queued.code,
                });
            }
        }
        let taken = self.taken(&queued, now)?;
        if let (Some(taken), false) = (&taken, overrides.replace) {
            return Err(DeskError::Taken(taken.clone()));
        }
        let authority = Authority::load(&self.ca)?;
        let issued = authority.sign_csr(&queued.csr, None, None, DAYS_DEFAULT, now)?;

        let mut warnings = differing_name(&queued);
        if let Some(taken) = &taken {
            // Barred before the new certificate is noted, which must not be barred with them.
            let why = format!("{} replaced {}", taken.name, now.iso());
            self.barring().bar(&taken.certs, &why)?;
            warnings.push(if taken.certs.is_empty() {
                format!(
                    "{taken} was replaced, but its certificate is not known here and so is not \
                     barred: ced revoke --serial SERIAL"
                )
            } else {
                format!("{taken} was replaced; its certificates are refused from now on")
            });
        }
        self.issued
            .add(&[IssuedCert::new(&issued.facts, &queued.hostname)])?;
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
            port: overrides.port.or(queued.port).unwrap_or(AGENT_PORT),
            warnings: Vec::new(),
            queued,
        };
        let cn = issued.facts.subject_cn.clone().unwrap_or_default();
        let mut record = approved.record(&issued.expiry(), &serial, &cn, now);
        record.cert_serial = Some(revoked::normal(&issued.facts.serial_hex));
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

    /// The agent that has the name which a request asks for. A record that this very request made,
    /// before a crash, is nobody's else.
    ///
    /// # Errors
    /// Registry or list of issued certificates.
    pub fn taken(&self, queued: &Queued, now: Utc) -> Result<Option<Taken>, DeskError> {
        let name = &queued.hostname;
        let (since, ip) = match self.registry.load(name) {
            Ok(None) => return Ok(None),
            Ok(Some(old)) if old.reqid.as_ref() == Some(&queued.id) => return Ok(None),
            Ok(Some(old)) => (old.paired().to_owned(), old.ip().to_owned()),
            Err(RegistryError::Damaged(_)) => (String::new(), String::new()),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Taken {
            name: name.clone(),
            since,
            ip,
            certs: self.barring().known(name, now)?,
        }))
    }

    /// What the operator should know about a request before deciding.
    pub fn warnings(&self, queued: &Queued) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.taken(queued, Utc::now()) {
            Ok(Some(taken)) => warnings.push(format!(
                "{taken}: approving needs --replace, which bars that one's certificates"
            )),
            Ok(None) => {}
            Err(error) => warnings.push(error.to_string()),
        }
        warnings.extend(differing_name(queued));
        warnings
    }

    fn barring(&self) -> Barring<'_> {
        Barring {
            root: &self.root,
            registry: &self.registry,
            issued: &self.issued,
        }
    }
}

/// A request that cannot be signed, or is for another name than the agent's.
fn differing_name(queued: &Queued) -> Vec<String> {
    match request::check(&queued.csr) {
        Err(error) => vec![format!("cannot be signed: {error}")],
        Ok(facts) if facts.cn != queued.hostname => vec![format!(
            "the request is for a certificate of '{}', not '{}'",
            Untrusted::new(&facts.cn),
            queued.hostname
        )],
        Ok(_) => Vec::new(),
    }
}

impl Approved {
    fn record(&self, expiry: &str, serial: &str, cn: &str, now: Utc) -> AgentRecord {
        let trusts = !serial.is_empty();
        AgentRecord {
            hostname: Some(self.queued.hostname.clone()),
            ip: Some(self.ip.clone()),
            port: Some(self.port),
            lookup_by: Some(self.lookup_by),
            paired: Some(now.iso()),
            expiry: Some(expiry.to_owned()),
            reqid: Some(self.queued.id.clone()),
            dispatcher_serial: Some(serial.to_owned()),
            serial_broadcast: Some(String::new()),
            serial_confirmed: Some(if trusts { now.iso() } else { String::new() }),
            serial_status: Some(if trusts {
                SerialStatus::Current
            } else {
                SerialStatus::Unknown
            }),
            paired_cn: Some(cn.to_owned()),
            tags: Some(Members::new()),
            agent_version: self.queued.perl.then(|| SOME_PERL_VERSION.to_owned()),
            ..AgentRecord::new(&self.queued.hostname)
        }
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
        let found = &self.queued.reverse_dns;
        let other = names::is_agent_name(found) && !found.eq_ignore_ascii_case(name);
        if self.queued.reverse_confirmed && other {
            let _ = writeln!(
                out,
                "    ctrl-exec-dispatcher edit-agent {name} --rename {found}"
            );
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "  Warning: {warning}");
        }
        out
    }
}

/// What `list-requests` prints.
pub fn list_text(pending: &[Queued], desk: &Desk) -> String {
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
        for warning in desk.warnings(queued) {
            let _ = writeln!(out, "  {warning}");
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

/// Text of a queue file for a terminal.
pub(super) fn printable(text: &str) -> Untrusted<'_> {
    Untrusted::new(text).at_most(253)
}
