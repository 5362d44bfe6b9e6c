//! A CA that changed: who has it, and what is still to be done.

use super::super::handover::Standing;
use super::super::renew_ca::{Has, has};
use super::report::{Grade, Report};
use crate::ca::CaDir;
use crate::config::Config;
use crate::model::AgentRecord;
use crate::store::files::registry::Registry;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::time::Utc;

/// Most names shown in one finding.
const SHOWN: usize = 10;

pub(super) fn handover(report: &mut Report, root: &Root, config: &Config, registry: &Registry) {
    let ca = CaDir::new(config.ca_dir());
    if ca.next().dir().exists() {
        report.add(
            "ca",
            Grade::Warning,
            "the CA is being replaced: 'ced replace-ca' says what is left to do".to_owned(),
        );
    }
    let standing = match Standing::of(root, config) {
        Ok(standing) => standing,
        Err(error) => return report.add("ca", Grade::Fault, error.message),
    };
    if !standing.matters() {
        return;
    }
    let records = registry.list().unwrap_or_default().records;
    let mut lacking = Vec::new();
    let mut never = Vec::new();
    for record in records.iter().filter(|record| record.revoked().is_none()) {
        match has(&standing, record) {
            Has::Yes => {}
            Has::No(_) | Has::Unknown => lacking.push(record.name()),
            Has::Never => never.push(record.name()),
        }
    }
    if lacking.is_empty() && never.is_empty() {
        report.add(
            "ca",
            Grade::Ok,
            "every agent has the CA certificate that was made last",
        );
    }
    if !lacking.is_empty() {
        report.add(
            "ca",
            Grade::Warning,
            format!(
                "{} agent(s) lack the CA certificate that was made last: {}. They are handed it with \
                 the next 'maintain' that reaches them",
                lacking.len(),
                names(&lacking)
            ),
        );
    }
    if !never.is_empty() {
        report.add(
            "ca",
            Grade::Warning,
            format!(
                "{} agent(s) of release 0.12.3 are not handed CA certificates: {}. Copy ca.crt to \
                 them, or pair them again",
                never.len(),
                names(&never)
            ),
        );
    }
}

fn names(all: &[&str]) -> String {
    let shown: Vec<&str> = all.iter().take(SHOWN).copied().collect();
    let more = if all.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Until when everything goes on without the CA's key: the first end of a certificate, and the last.
pub(super) fn until(config: &Config, registry: &Registry) -> String {
    let records = registry.list().unwrap_or_default().records;
    let named = records.iter().filter(|record| record.revoked().is_none());
    let ends = named.filter_map(|record: &AgentRecord| {
        let end = Utc::parse_openssl(record.expiry())?;
        Some((end.0, record.name().to_owned()))
    });
    let own = crate::trust::identity_files(config).load();
    let own = own.map(|own| (own.facts().not_after, "this dispatcher".to_owned()));
    let mut all: Vec<(i64, String)> = ends.chain(own).collect();
    all.sort();
    match (all.first(), all.last()) {
        (Some(first), Some(last)) => format!(
            "the first certificate to end is that of {}, on {}; the last ends on {}",
            first.1,
            Utc(first.0).openssl(),
            Utc(last.0).openssl()
        ),
        _ => "no certificate is known".to_owned(),
    }
}
