//! Telling agents the new serial (pki-and-pairing.md §9.4).

use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;

use super::{Action, Agents, CallFailure, Pair, RotateCall, RotationError, Rotator};
use crate::ca;
use crate::model::{AgentRecord, SerialStatus};
use std::collections::HashSet;

/// What a broadcast came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broadcast {
    /// The serial that was announced.
    pub serial: String,
    /// Agents that confirmed.
    pub updated: Vec<String>,
    /// Agents that did not, and why.
    pub failed: Vec<(String, String)>,
}

impl Rotator {
    /// Tells every agent that is pending or unknown the serial of the present certificate.
    ///
    /// The call is made with the pair the agent is believed to trust; where it says no to that one,
    /// with the other: the registry may not have noted what an agent learnt before a crash.
    ///
    /// # Errors
    /// Certificate or registry; agents that fail are in the report.
    pub fn broadcast(
        &self,
        agents: &mut dyn Agents,
        dispatcher_id: &str,
        log: &Syslog,
        now: Utc,
    ) -> Result<Broadcast, RotationError> {
        self.reconcile(log, now)?;
        let mut report = Broadcast {
            serial: ca::trust_serial(&self.files.cert)?,
            ..Broadcast::default()
        };
        let state = self.status(log)?.unwrap_or_default();
        let wanted = |record: &AgentRecord| {
            matches!(
                state.standing(record),
                SerialStatus::Pending | SerialStatus::Unknown
            ) && record.revoked().is_none()
                && self
                    .only_with_ca
                    .as_ref()
                    .is_none_or(|good| good.iter().any(|good| good == record.ca_digest()))
        };
        let listing = self.registry.list()?;
        let targets: Vec<AgentRecord> = listing.records.into_iter().filter(wanted).collect();
        for damaged in &listing.damaged {
            report
                .failed
                .push((damaged.name.clone(), damaged.to_string()));
        }
        if targets.is_empty() {
            return Ok(report);
        }
        let line = Line::new("serial-broadcast")
            .field("HOSTS", targets.len())
            .field("SERIAL", &report.serial)
            .field("DISPATCHER", dispatcher_id);
        log.log(Level::Info, &line);

        let has_previous = self.previous().exist();
        let mut calls: Vec<RotateCall> = targets
            .into_iter()
            .map(|agent| {
                let with = if has_previous && agent.dispatcher_serial() != report.serial {
                    Pair::Previous
                } else {
                    Pair::Current
                };
                RotateCall {
                    agent,
                    serial: report.serial.clone(),
                    action: Action::Add,
                    with,
                }
            })
            .collect();
        let mut results = agents.rotate_serial(&calls);
        if has_previous {
            self.try_the_other(agents, &mut calls, &mut results);
        }
        for (call, result) in calls.iter().zip(results) {
            let name = call.agent.name().to_owned();
            match result {
                Ok(()) => report.updated.push(name),
                Err(failure) => report.failed.push((name, failure.text)),
            }
        }
        self.note(&report, log, now)?;
        Ok(report)
    }

    fn try_the_other(
        &self,
        agents: &mut dyn Agents,
        calls: &mut [RotateCall],
        results: &mut [Result<(), CallFailure>],
    ) {
        let mut again = Vec::new();
        let mut places = Vec::new();
        for (place, (call, result)) in calls.iter_mut().zip(results.iter()).enumerate() {
            if result.as_ref().is_err_and(|failure| failure.refused) {
                call.with = match call.with {
                    Pair::Current => Pair::Previous,
                    Pair::Previous => Pair::Current,
                };
                again.push(call.clone());
                places.push(place);
            }
        }
        if again.is_empty() {
            return;
        }
        for (place, result) in places.into_iter().zip(agents.rotate_serial(&again)) {
            if let Some(slot) = results.get_mut(place) {
                *slot = result;
            }
        }
    }

    fn note(&self, report: &Broadcast, log: &Syslog, now: Utc) -> Result<(), RotationError> {
        // Another rotation may have happened meanwhile: then this serial is old news.
        if ca::trust_serial(&self.files.cert)? == report.serial {
            let updated: HashSet<&str> = report.updated.iter().map(String::as_str).collect();
            let failed = report.failed.iter().map(|(name, _)| name);
            let names: Vec<&String> = report.updated.iter().chain(failed).collect();
            let broadcast = now.iso();
            self.registry.update_many(&names, |record| {
                if updated.contains(record.name()) {
                    record.confirm_serial(&report.serial, now);
                    return true;
                }
                // For whoever reads records by themselves, such as release 0.12.3.
                let marks = record.serial_status() == SerialStatus::Current
                    && record.dispatcher_serial() != report.serial;
                if marks {
                    record.serial_status = Some(SerialStatus::Pending);
                    record.serial_broadcast = Some(broadcast.clone());
                }
                marks
            })?;
        }
        for name in &report.updated {
            log.log(
                Level::Info,
                &Line::new("serial-confirmed").field("AGENT", name),
            );
        }
        for (name, error) in &report.failed {
            let line = Line::new("serial-broadcast-fail")
                .field("AGENT", name)
                .field("ERROR", error);
            log.log(Level::Warning, &line);
        }
        Ok(())
    }
}
