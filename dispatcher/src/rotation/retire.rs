//! Taking old serials back (pki-and-pairing.md §9.4, §9.6): carried out, repeated for agents that
//! were away, and finished only then — or given up, with a word, after a second overlap.

use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::{DAY, Utc};

use super::{Action, Agents, Pair, RotateCall, RotationError, RotationState, Rotator};
use crate::model::{AgentRecord, SerialStatus};
use crate::store::files::rotation;

/// What became of one old serial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The serial.
    pub serial: String,
    /// How many agents have forgotten it now.
    pub told: usize,
    /// Agents that could not be told, and why; they are tried again.
    pub failed: Vec<(String, String)>,
    /// Nothing is left to do about it.
    pub finished: bool,
}

impl Rotator {
    /// Takes back the previous serial once the overlap is over, and any older one at once. With
    /// the previous serial goes the previous pair.
    ///
    /// # Errors
    /// State, registry or files.
    pub fn retire(
        &self,
        agents: &mut dyn Agents,
        log: &Syslog,
        now: Utc,
    ) -> Result<Vec<Retired>, RotationError> {
        self.reconcile(log, now)?;
        let Some(state) = self.status(log)? else {
            return Ok(Vec::new());
        };
        let over = state.overlap_expires().is_some_and(|end| now > end);
        let mut serials = state.unretired().to_vec();
        if over && !state.previous_serial().is_empty() {
            serials.push(state.previous_serial().to_owned());
        }
        let mut report = Vec::new();
        for serial in serials {
            if serial == state.current_serial() {
                self.drop_serial(&serial, log, now)?;
                continue;
            }
            report.push(self.retire_one(agents, &state, &serial, log, now)?);
        }
        Ok(report)
    }

    fn retire_one(
        &self,
        agents: &mut dyn Agents,
        state: &RotationState,
        serial: &str,
        log: &Syslog,
        now: Utc,
    ) -> Result<Retired, RotationError> {
        let listing = self.registry.list()?;
        let unreadable: Vec<(String, String)> = listing
            .damaged
            .iter()
            .map(|damaged| (damaged.name.clone(), damaged.to_string()))
            .collect();
        let calls: Vec<RotateCall> = listing
            .records
            .into_iter()
            .filter(|record| has_to_forget(record, serial, state))
            .map(|agent| RotateCall {
                agent,
                serial: serial.to_owned(),
                action: Action::Remove,
                with: Pair::Current,
            })
            .collect();
        let line = Line::new("serial-retire")
            .field("HOSTS", calls.len())
            .field("SERIAL", serial);
        log.log(Level::Info, &line);
        let results = if calls.is_empty() {
            Vec::new()
        } else {
            agents.rotate_serial(&calls)
        };
        let mut done = Vec::new();
        let mut failed = unreadable;
        for (call, result) in calls.iter().zip(results) {
            match result {
                Ok(()) => done.push(call.agent.name().to_owned()),
                Err(failure) => failed.push((call.agent.name().to_owned(), failure.text)),
            }
        }
        self.registry.update_many(&done, |record| {
            record.retired_serial = Some(serial.to_owned());
            true
        })?;
        for (name, error) in &failed {
            let line = Line::new("serial-retire-error")
                .field("AGENT", name)
                .field("ERROR", error);
            log.log(Level::Warning, &line);
        }
        let given_up = state
            .overlap_expires()
            .is_none_or(|end| now.0 > end.0 + state.overlap_days().clamp(1, 3650) * DAY);
        let finished = failed.is_empty() || given_up;
        if finished {
            agents.retired(serial).map_err(|error| self.io(error))?;
            self.drop_serial(serial, log, now)?;
        }
        Ok(Retired {
            serial: serial.to_owned(),
            told: done.len(),
            failed,
            finished,
        })
    }

    fn drop_serial(&self, serial: &str, log: &Syslog, now: Utc) -> Result<(), RotationError> {
        let _lock = self.lock()?;
        let Some(mut state) = self.status(log)? else {
            return Ok(());
        };
        let was_previous = state.previous_serial() == serial;
        state.retired(serial, now);
        // The pair goes first: a crash in between leaves a serial to retire again, not a key that
        // nobody knows of.
        if was_previous {
            self.previous().remove()?;
        }
        rotation::store(&state, &self.state).map_err(|error| self.io(error))
    }
}

/// Agents that trust the present serial and may still trust `serial`. One that was paired after
/// the last rotation never knew it.
fn has_to_forget(record: &AgentRecord, serial: &str, state: &RotationState) -> bool {
    state.standing(record) == SerialStatus::Current
        && record.revoked().is_none()
        && record.retired_serial.as_deref() != Some(serial)
        && (record.paired().is_empty() || record.paired() <= state.rotated_at())
}
