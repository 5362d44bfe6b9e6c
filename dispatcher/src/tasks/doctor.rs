//! Checks of a dispatcher's files, certificates and clock. Each finding says what is wrong and what
//! to do; nothing is changed.

use super::dispatcher::{Dispatcher, Limits, new_reqid};
use super::ping::{ping_call, ping_result};
use crate::ca::{Authority, CaDir};
use crate::config::Config;
use crate::fleet::Call;
use crate::fleet::address;
use crate::model::AppError;
use crate::store::files::issued::Issued;
use crate::store::files::registry::{Registry, SerialStatus};
use crate::store::files::revoked;
use crate::trust;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::tls::Identity;
use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role, VerifyError};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, but not for ever, or not for all.
    Warning,
    /// Does not work.
    Fault,
}

impl Grade {
    /// The word shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub grade: Grade,
    /// In words, with the remedy.
    pub message: String,
}

/// Findings in the order they were made.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

impl Report {
    /// All findings.
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    /// The gravest grade.
    pub fn worst(&self) -> Grade {
        self.0
            .iter()
            .map(|finding| finding.grade)
            .max()
            .unwrap_or(Grade::Ok)
    }

    /// Adds a finding.
    pub fn add(&mut self, check: &'static str, grade: Grade, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            grade,
            message: message.into(),
        });
    }
}

/// Looks at everything that does not need an agent.
pub fn examine(root: &Root, config: &Config, registry: &Registry, now: Utc) -> Report {
    let mut report = Report::default();
    let path = config.path().display();
    report.add(
        "config",
        Grade::Ok,
        if config.path().exists() {
            path.to_string()
        } else {
            format!("{path} is not there: defaults")
        },
    );
    for warning in &config.settings().warnings {
        report.add(
            "config",
            Grade::Warning,
            format!("{}: {warning}", config.path().display()),
        );
    }
    for error in [
        config.read_timeout().err(),
        config.auth_hook_timeout().err(),
        config.cert_days().err(),
        config.max_answer().err(),
    ]
    .into_iter()
    .flatten()
    {
        report.add("config", Grade::Fault, error.to_string());
    }
    certificates(&mut report, config, now);
    authority(&mut report, config, now);
    hook(&mut report, config);
    for dir in [
        crate::store::files::registry::DIR,
        crate::store::files::runs::DIR,
        crate::store::files::locks::DIR,
    ] {
        directory(&mut report, &root.path(dir));
    }
    agents(&mut report, registry, now);
    twins(&mut report, config, root, registry, now);
    if let Err(error) = revoked::load(root) {
        report.add(
            "revoked",
            Grade::Fault,
            format!("{}: {error}", revoked::path(root).display()),
        );
    }
    report
}

fn certificates(report: &mut Report, config: &Config, now: Utc) {
    let files = trust::identity_files(config);
    let identity = match files.load() {
        Ok(identity) => identity,
        Err(error) => {
            report.add("certificate", Grade::Fault, error.to_string());
            return;
        }
    };
    let facts = identity.facts();
    report.add(
        "certificate",
        Grade::Ok,
        format!("serial {}", facts.serial_hex),
    );
    validity(
        report,
        "certificate",
        facts,
        now,
        90,
        "'rotate-cert' replaces it",
    );
    if !ctrl_exec_protocol::serial::is_stable(&facts.serial_hex) {
        report.add(
            "certificate",
            Grade::Warning,
            "the serial holds no letter, so Perl agents may never recognise it; 'rotate-cert' \
             makes a better one",
        );
    }
    secret(report, &files.key);
    chain(report, config, &identity, now);
}

/// Whether the CA that agents are checked against made our certificate, and is within its dates.
/// A CA certificate that was re-issued with the same key begins later than what it made before:
/// both are looked at when both are valid.
fn chain(report: &mut Report, config: &Config, identity: &Identity, now: Utc) {
    let path = config.ca();
    let shown = path.display();
    let verifier = fs::read_to_string(&path)
        .map_err(|error| error.to_string())
        .and_then(|pem| ChainVerifier::from_pem(&pem).map_err(|error| error.to_string()));
    let verifier = match verifier {
        Ok(verifier) => verifier,
        Err(error) => {
            report.add("chain", Grade::Fault, format!("{shown}: {error}"));
            return;
        }
    };
    let leaf = identity.facts();
    let made = |ca: &CertFacts| {
        let both = leaf.not_before.max(ca.not_before);
        // A leaf that ended before the CA was re-issued is judged by its dates elsewhere.
        let both = both.min(leaf.not_after).min(ca.not_after);
        match verifier.verify(identity.leaf_der(), Role::Client, both) {
            Ok(_) | Err(VerifyError::CaOutOfDate) => ca.subject_der == leaf.issuer_der,
            Err(_) => false,
        }
    };
    let Some(ca) = verifier.authorities().find(|ca| made(ca)) else {
        report.add(
            "chain",
            Grade::Fault,
            format!(
                "{} was made by another CA than the one in {shown}: agents of that CA refuse it. Put \
                 the right file there, or, if the CA was changed, set up this dispatcher and pair \
                 the agents anew",
                trust::identity_files(config).cert.display()
            ),
        );
        return;
    };
    if now.0 > ca.not_after {
        report.add(
            "chain",
            Grade::Fault,
            format!(
                "the CA certificate in {shown} ended on {}: no agent is accepted any more",
                Utc(ca.not_after).openssl()
            ),
        );
        return;
    }
    let reissued = if ca.not_before > leaf.not_before {
        format!(", re-issued on {}", Utc(ca.not_before).openssl())
    } else {
        String::new()
    };
    report.add(
        "chain",
        Grade::Ok,
        format!("issued by the CA in {shown}{reissued}"),
    );
    let signing = CaDir::new(config.ca_dir());
    if let Ok(authority) = Authority::load(&signing) {
        if verifier
            .authorities()
            .all(|ca| ca.spki_der != authority.facts().spki_der)
        {
            report.add(
                "chain",
                Grade::Fault,
                format!(
                    "{} is another CA than the one in {shown}: agents that are paired or renewed now \
                     would be refused",
                    signing.cert().display()
                ),
            );
        }
    }
}

/// Serials that agents take for one another: one of digits only, read as hex, is another read as
/// decimal. New certificates never have such serials; those of the reference's counter do.
fn twins(report: &mut Report, config: &Config, root: &Root, registry: &Registry, now: Utc) {
    let files = trust::identity_files(config);
    let mut serials: Vec<(String, String)> = Vec::new();
    for (files, whose) in [
        (files.clone(), "this dispatcher"),
        (
            files.suffixed(".prev"),
            "this dispatcher, before the rotation",
        ),
    ] {
        if let Ok(serial) = crate::ca::live_serial(&files.cert) {
            serials.push((serial, whose.to_owned()));
        }
    }
    let issued = Issued::at(root).all(now).unwrap_or_default();
    serials.extend(
        issued
            .into_iter()
            .map(|cert| (cert.serial, format!("'{}'", cert.name))),
    );
    let records = registry.list().unwrap_or_default().records;
    serials.extend(
        records
            .iter()
            .filter(|record| !record.cert_serial().is_empty())
            .map(|record| {
                (
                    record.cert_serial().to_owned(),
                    format!("'{}'", record.name()),
                )
            }),
    );
    let mut by_key: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (serial, whose) in serials {
        // As it is shown in a handshake: an even number of digits.
        let normal = revoked::normal(&serial);
        let live = if normal.len() % 2 == 0 {
            normal.clone()
        } else {
            format!("0{normal}")
        };
        let key = ctrl_exec_protocol::serial::canonical(&live);
        by_key
            .entry(key)
            .or_default()
            .entry(normal)
            .or_insert(whose);
    }
    for twins in by_key.values().filter(|serials| serials.len() > 1) {
        let all: Vec<String> = twins
            .iter()
            .map(|(serial, whose)| format!("0x{serial} of {whose}"))
            .collect();
        report.add(
            "serials",
            Grade::Fault,
            format!(
                "agents of the Perl release cannot tell these serials apart: {}. Replace them: \
                 'rotate-cert' for the dispatcher, 'renew' for an agent",
                all.join(", ")
            ),
        );
    }
}

fn authority(report: &mut Report, config: &Config, now: Utc) {
    let dir = CaDir::new(config.ca_dir());
    if !dir.key().exists() {
        report.add(
            "ca",
            Grade::Warning,
            format!(
                "no CA key in {}: this dispatcher can neither pair nor renew. Agents work until their \
                 certificates end; restore the key from a backup, and do not set up a new CA, which \
                 would cut all of them off",
                config.ca_dir().display()
            ),
        );
        return;
    }
    match Authority::load(&dir) {
        Ok(authority) => {
            report.add("ca", Grade::Ok, dir.cert().display().to_string());
            validity(
                report,
                "ca",
                authority.facts(),
                now,
                400,
                "agents obey until then; a CA certificate re-issued with the same key and name \
                      replaces it on dispatcher and agents without pairing anything",
            );
            secret(report, &dir.key());
        }
        Err(error) => report.add("ca", Grade::Warning, error.to_string()),
    }
}

fn validity(
    report: &mut Report,
    check: &'static str,
    facts: &CertFacts,
    now: Utc,
    soon: i64,
    remedy: &str,
) {
    let end = Utc(facts.not_after).openssl();
    if now.0 < facts.not_before {
        report.add(
            "clock",
            Grade::Fault,
            format!(
                "the system clock says {}, before the {check} began ({}): set the clock",
                now.iso(),
                Utc(facts.not_before).iso()
            ),
        );
    } else if now.0 > facts.not_after {
        report.add(check, Grade::Fault, format!("expired on {end}; {remedy}"));
    } else if facts.not_after - now.0 < soon * DAY {
        let days = (facts.not_after - now.0) / DAY;
        report.add(
            check,
            Grade::Warning,
            format!("ends in {days} days, on {end}; {remedy}"),
        );
    } else {
        report.add(check, Grade::Ok, format!("valid until {end}"));
    }
}

fn secret(report: &mut Report, path: &Path) {
    let Ok(meta) = fs::metadata(path) else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        report.add(
            "permissions",
            Grade::Ok,
            format!("{} has mode {mode:04o}", path.display()),
        );
    } else {
        report.add(
            "permissions",
            Grade::Fault,
            format!(
                "{} has mode {mode:04o}: others can read the key; chmod 0600",
                path.display()
            ),
        );
    }
}

fn hook(report: &mut Report, config: &Config) {
    let Some(hook) = config.auth_hook() else {
        report.add(
            "auth-hook",
            Grade::Ok,
            "none configured: the command line asks nobody",
        );
        return;
    };
    match fs::metadata(hook) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
            report.add("auth-hook", Grade::Ok, hook.display().to_string());
        }
        _ => report.add(
            "auth-hook",
            Grade::Fault,
            format!(
                "{} is no executable file: everything is denied",
                hook.display()
            ),
        ),
    }
}

fn directory(report: &mut Report, dir: &Path) {
    let text = dir.display();
    if !dir.exists() {
        report.add(
            "directories",
            Grade::Ok,
            format!("{text} is made when needed"),
        );
    } else if !dir.is_dir() {
        report.add(
            "directories",
            Grade::Fault,
            format!("{text} is no directory"),
        );
    } else if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        report.add(
            "directories",
            Grade::Warning,
            format!("{text} is not writable for you: join the group that owns it, or use sudo"),
        );
    } else {
        report.add("directories", Grade::Ok, text.to_string());
    }
}

fn agents(report: &mut Report, registry: &Registry, now: Utc) {
    let listing = match registry.list() {
        Ok(listing) => listing,
        Err(error) => {
            report.add("registry", Grade::Fault, error.to_string());
            return;
        }
    };
    let records = listing.records;
    report.add("registry", Grade::Ok, format!("{} agent(s)", records.len()));
    for damaged in &listing.damaged {
        report.add("registry", Grade::Fault, damaged.to_string());
    }
    for record in &records {
        let name = record.name();
        if let Some(since) = record.revoked() {
            report.add(
                "agents",
                Grade::Ok,
                format!("'{name}' is revoked since {since} and not called"),
            );
            continue;
        }
        match Utc::parse_openssl(record.expiry()) {
            Some(end) if end.0 < now.0 => report.add(
                "agents",
                Grade::Fault,
                format!(
                    "the certificate of '{name}' ended on {}: 'renew --allow-expired {name}', or \
                     pair it again",
                    record.expiry()
                ),
            ),
            Some(end) if end.0 - now.0 < 30 * DAY => report.add(
                "agents",
                Grade::Warning,
                format!(
                    "the certificate of '{name}' ends on {}: 'renew {name}', and restart the agent",
                    record.expiry()
                ),
            ),
            _ => {}
        }
        match record.serial_status() {
            SerialStatus::Stale => report.add(
                "agents",
                Grade::Fault,
                format!("'{name}' missed the last rotation: pair it again"),
            ),
            SerialStatus::Pending => report.add(
                "agents",
                Grade::Warning,
                format!("'{name}' has not confirmed the new certificate yet; 'maintain' retries"),
            ),
            SerialStatus::Current | SerialStatus::Unknown => {}
        }
    }
}

/// The difference of the clocks, as far as a certificate shows one: an agent whose certificate
/// begins in our future was paired by a dispatcher with another clock.
pub fn clock_of(der: &[u8], now: Utc) -> Option<String> {
    let facts = cert::facts(der).ok()?;
    (facts.not_before > now.0).then(|| {
        format!(
            "its certificate begins in the future ({})",
            Utc(facts.not_before).iso()
        )
    })
}

/// Pings every agent; renews nothing.
///
/// # Errors
/// Certificates or settings; agents that do not answer are findings.
pub fn reach(dispatcher: &Dispatcher, report: &mut Report) -> Result<(), AppError> {
    // Damaged records are told of by the checks of files.
    let mut records = dispatcher.agents().list()?.records;
    records.retain(|record| record.revoked().is_none());
    let identities = dispatcher.identities(false)?;
    let plan = dispatcher.plan(&Limits::default(), records.len())?;
    let reqid = new_reqid()?;
    let calls: Vec<Call> = records
        .iter()
        .map(|record| {
            let target = address::target(record, None, None);
            let identity = identities.of(&target);
            ping_call(target, identity, &reqid)
        })
        .collect();
    let total = calls.len();
    let mut reached = 0;
    let answers = dispatcher.engine().all(calls.clone(), plan);
    for (call, answer) in calls.iter().zip(answers) {
        let certificate = answer.certificate.clone();
        let result = ping_result(call, answer);
        let name = &result.host;
        if let Some(skew) = certificate.and_then(|der| clock_of(&der, Utc::now())) {
            report.add("clock", Grade::Warning, format!("'{name}': {skew}"));
        }
        match result.error() {
            None => reached += 1,
            Some(error) => {
                report.add("reachability", Grade::Fault, format!("'{name}': {error}"));
            }
        }
    }
    report.add(
        "reachability",
        Grade::Ok,
        format!("{reached} of {total} agent(s) answer"),
    );
    Ok(())
}
