//! The agents: what is recorded of them, and whether they answer.

use super::super::dispatcher::{Dispatcher, Limits, new_reqid};
use super::super::ping::{ping_call, ping_result};
use super::groups::Groups;
use super::report::{Grade, Report};
use crate::fleet::Call;
use crate::fleet::address;
use crate::model::AppError;
use crate::model::{AgentRecord, RotationState, SerialStatus};
use crate::store::files::registry::Registry;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::x509::cert;
use std::collections::HashMap;

pub(super) fn agents(
    report: &mut Report,
    registry: &Registry,
    state: Option<&RotationState>,
    now: Utc,
) {
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
    let mut groups = Groups::default();
    for record in &records {
        let name = record.name();
        if let Some(since) = record.revoked() {
            groups.add(
                "agents",
                Grade::Ok,
                name,
                format!("'{name}' is revoked since {since} and not called"),
                "are revoked and not called",
            );
            continue;
        }
        let end = record.expiry();
        match Utc::parse_openssl(end) {
            Some(date) if date.0 < now.0 => groups.add(
                "agents",
                Grade::Fault,
                name,
                format!(
                    "the certificate of '{name}' ended on {end}: 'renew --allow-expired {name}', or \
                     pair it again"
                ),
                "have certificates that ended ('renew --allow-expired', or pair them again)",
            ),
            Some(date) if date.0 - now.0 < 30 * DAY => groups.add(
                "agents",
                Grade::Warning,
                name,
                format!(
                    "the certificate of '{name}' ends on {end}: 'renew {name}', and restart the agent"
                ),
                "have certificates that end within 30 days ('renew', and restart the agents)",
            ),
            _ => {}
        }
        let standing = state.map_or_else(|| record.serial_status(), |state| state.standing(record));
        match standing {
            SerialStatus::Stale => groups.add(
                "agents",
                Grade::Fault,
                name,
                format!("'{name}' missed the last rotation: pair it again"),
                "missed the last rotation (pair them again)",
            ),
            SerialStatus::Pending => groups.add(
                "agents",
                Grade::Warning,
                name,
                format!("'{name}' has not confirmed the new certificate yet; 'maintain' retries"),
                "have not confirmed the new certificate yet ('maintain' retries)",
            ),
            SerialStatus::Current | SerialStatus::Unknown => {}
        }
    }
    groups.tell(report);
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
    let mut groups = Groups::default();
    let answers = dispatcher.engine().all(calls.clone(), plan);
    for (call, answer) in calls.iter().zip(answers) {
        let certificate = answer.certificate.clone();
        let result = ping_result(call, answer);
        let name = &result.host;
        if let Some(skew) = certificate.and_then(|der| clock_of(&der, Utc::now())) {
            let one = format!("'{name}': {skew}");
            let of_all = "have certificates that begin in the future";
            groups.add("clock", Grade::Warning, name, one, of_all);
        }
        match result.error() {
            None => reached += 1,
            Some(error) => {
                let one = format!("'{name}': {error}");
                // The same but for the address.
                let target = &call.target;
                let place = format!("{}:{}", target.address(), target.port());
                let of_all = format!("do not answer ({})", error.replace(&place, "HOST:PORT"));
                groups.add("reachability", Grade::Fault, name, one, &of_all);
            }
        }
    }
    groups.tell(report);
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
