//! The dispatcher's own certificate and its CA's.

use super::handover::until;
use super::places::secret;
use super::report::{Grade, Report};
use crate::ca::{Authority, CaDir};
use crate::config::Config;
use crate::store::files::registry::Registry;
use crate::trust;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::tls::Identity;
use ctrl_exec_protocol::x509::cert::CertFacts;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role, VerifyError};
use std::fs;

pub(super) fn certificates(report: &mut Report, config: &Config, now: Utc) {
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

pub(super) fn authority(report: &mut Report, config: &Config, registry: &Registry, now: Utc) {
    let dir = CaDir::new(config.ca_dir());
    if !dir.key().exists() {
        report.add(
            "ca",
            Grade::Warning,
            format!(
                "no CA key in {}: this dispatcher can neither pair nor renew nor rotate. Agents work \
                 until certificates end: {}. Restore the key from a backup, and do not set up a new CA, \
                 which would cut all of them off",
                config.ca_dir().display(),
                until(config, registry)
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
                "agents obey until then; 'ced renew-ca' makes it anew and hands it to the agents, \
                 without pairing anything",
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
