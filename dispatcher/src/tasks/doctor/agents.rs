//! The agents: what is recorded of them, and whether they answer.

use super::super::dispatcher::{Dispatcher, Limits, new_reqid};
use super::super::ping::{ping_call, ping_result};
use super::report::{Grade, Report};
use crate::fleet::Call;
use crate::fleet::address;
use crate::model::AppError;
use crate::model::{AgentRecord, SerialStatus};
use crate::store::files::registry::Registry;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::x509::cert;
use std::collections::HashMap;

pub(super) fn agents(report: &mut Report, registry: &Registry, now: Utc) {
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
    clones(report, &records);
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

/// One certificate that agents at different addresses have shown.
fn clones(report: &mut Report, records: &[AgentRecord]) {
    let mut by_serial: HashMap<&str, &AgentRecord> = HashMap::new();
    for record in records {
        let serial = record.cert_serial();
        if serial.is_empty() || record.revoked().is_some() {
            continue;
        }
        let place = |record: &AgentRecord| {
            let target = address::target(record, None, None);
            (target.address().to_owned(), target.port())
        };
        match by_serial.get(serial) {
            Some(first) if place(first) != place(record) => report.add(
                "agents",
                Grade::Warning,
                format!(
                    "'{}' and '{}' show one certificate, with serial {serial}: a router that was \
                     copied has to be paired again",
                    first.name(),
                    record.name()
                ),
            ),
            Some(_) => {}
            None => {
                by_serial.insert(serial, record);
            }
        }
    }
}
