//! `maintain`: what has to be done every few hours. Each phase is on its own: what fails is logged
//! and reported, and the next one is done.

use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Task};
use super::{backup, handover, ping, replace_ca, revocation, rotate};
use crate::backup::Places;
use crate::fleet::address;
use crate::model::{AgentRecord, AppError, Outcome, Phase};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::Json;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

/// What maintenance came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Registered agents.
    pub agents: usize,
    /// Agents that answered as they should.
    pub pinged: usize,
    /// What could not be done.
    pub failed: Vec<Failure>,
    /// Why a backup is due, if one is.
    pub backup: Option<String>,
}

/// Something that could not be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The phase: `registry`, `revocation`, `ping`, `trust`, `renew`, `rotate`, `broadcast`, `expire`, `retire` or `purge`.
    pub phase: &'static str,
    /// The agent it concerns, or empty.
    pub host: String,
    /// Why, in words; they may be the agent's.
    pub error: String,
}

/// Does all of it, but with `quick` does not ask agents that were silent the last times. `tell` hears of each failure as it happens.
pub fn maintain(
    dispatcher: &Dispatcher,
    port: Option<u16>,
    quick: bool,
    tell: &mut dyn FnMut(&Failure),
) -> Report {
    let mut work = Work {
        dispatcher,
        tell,
        quick,
        silent: HashSet::new(),
        report: Report {
            agents: dispatcher.agents().names().map_or(0, |names| names.len()),
            ..Report::default()
        },
    };
    work.phase("revocation", |_| {
        revocation::refresh(dispatcher, Utc::now()).map(|_| ())
    });
    work.report.pinged = work.phase("ping", |work| work.ping(port)).unwrap_or(0);
    work.phase("rotate", Work::rotate);
    work.phase("broadcast", |work| {
        let told = rotate::broadcast_but(dispatcher, &work.silent)?;
        work.hosts("broadcast", told.failed);
        Ok(())
    });
    work.phase("expire", |_| {
        rotate::rotator(dispatcher)?.expire_stale(&dispatcher.log.handle(), Utc::now())?;
        Ok(())
    });
    work.phase("retire", |work| {
        // Agents that wait for the new CA are reached with the certificate before.
        if replace_ca::is_under_way(dispatcher) {
            return Ok(());
        }
        for retired in rotate::retire_but(dispatcher, &work.silent)? {
            work.hosts("retire", retired.failed);
        }
        Ok(())
    });
    work.phase("purge", |_| {
        dispatcher.issued().prune(Utc::now())?;
        let keep = dispatcher.config.run_retention()?;
        dispatcher.runs().purge(SystemTime::now(), &keep)?;
        Ok(())
    });
    let mut report = work.report;
    report.backup = backup_due(dispatcher);
    let line = Line::new("maintain")
        .field("AGENTS", report.agents)
        .field("PINGED", report.pinged)
        .field("FAILED", report.failed.len());
    dispatcher.log.log(Level::Info, &line);
    report
}

/// Looks whether a backup is due, and logs it.
fn backup_due(dispatcher: &Dispatcher) -> Option<String> {
    let records = dispatcher.agents().list().ok()?.records;
    let due = backup::reminder(&Places::of(dispatcher.config.clone()), &records)?;
    let line = Line::new("backup-due").field("REASON", &due);
    dispatcher.log.log(Level::Warning, &line);
    Some(due)
}

/// Field of a record: how many times in a row maintenance did not reach the agent. Ours only.
const SILENT: &str = "silent";
/// So many times, and `--quick` does not try.
const OFTEN: u64 = 3;

fn times_silent(record: &AgentRecord) -> u64 {
    let times = record.more.text(SILENT);
    times.and_then(|times| times.parse().ok()).unwrap_or(0)
}

struct Work<'a> {
    dispatcher: &'a Dispatcher,
    tell: &'a mut dyn FnMut(&Failure),
    quick: bool,
    /// Agents that did not answer, and are not asked a second time.
    silent: HashSet<String>,
    report: Report,
}

impl Work<'_> {
    fn phase<T>(
        &mut self,
        phase: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T, AppError>,
    ) -> Option<T> {
        match work(self) {
            Ok(done) => Some(done),
            Err(error) => {
                let line = Line::new("maintain")
                    .field("PHASE", phase)
                    .field("ERROR", &error);
                self.dispatcher.log.log(Level::Err, &line);
                self.fail(phase, String::new(), error.message);
                None
            }
        }
    }

    /// Notes agents for which a phase failed; the phase has logged them.
    fn hosts(&mut self, phase: &'static str, failed: Vec<(String, String)>) {
        for (host, error) in failed {
            self.fail(phase, host, error);
        }
    }

    fn fail(&mut self, phase: &'static str, host: String, error: String) {
        let failure = Failure { phase, host, error };
        (self.tell)(&failure);
        self.report.failed.push(failure);
    }

    /// Pings all agents and renews what is due; returns how many answered as they should.
    fn ping(&mut self, port: Option<u16>) -> Result<usize, AppError> {
        let listing = self.dispatcher.agents().list()?;
        let damaged = listing.damaged.iter();
        let damaged = damaged.map(|damaged| (damaged.name.clone(), damaged.to_string()));
        self.hosts("registry", damaged.collect());
        let targets: Vec<_> = listing
            .records
            .iter()
            .filter(|record| record.revoked().is_none())
            .filter(|record| {
                let skipped = self.quick && times_silent(record) >= OFTEN;
                if skipped {
                    self.silent.insert(record.name().to_owned());
                }
                !skipped
            })
            .map(|record| address::target(record, None, port))
            .collect();
        let before: HashMap<&str, u64> = listing
            .records
            .iter()
            .map(|record| (record.name(), times_silent(record)))
            .filter(|(_, times)| *times > 0)
            .collect();
        let mut heard = Vec::new();
        let mut unheard = Vec::new();
        if targets.is_empty() {
            return Ok(0);
        }
        let mut task = ping::of_targets(self.dispatcher, targets, Limits::default())?;
        let mut answered = 0;
        while task.left() > 0 {
            let Some(Event::Ended(result)) = task.next(Duration::from_secs(3600)) else {
                continue;
            };
            match result.outcome {
                Outcome::Ok => {
                    answered += 1;
                    if before.contains_key(&*result.host) {
                        heard.push(result.host.clone());
                    }
                }
                _ => {
                    let phase = result.problem.as_ref().and_then(|problem| problem.phase);
                    if matches!(phase, Some(Phase::Name | Phase::Connect)) {
                        self.silent.insert(result.host.clone());
                        unheard.push(result.host.clone());
                    }
                    let error = result.error().unwrap_or("the agent reports a fault");
                    self.fail("ping", result.host.clone(), error.to_owned());
                }
            }
        }
        let registry = self.dispatcher.agents();
        registry.update_many(&unheard, |record| {
            let times = times_silent(record).saturating_add(1);
            record.more.set(SILENT, Json::text(times.to_string()));
            true
        })?;
        registry.update_many(&heard, |record| {
            record.more.remove(SILENT);
            true
        })?;
        let followed = handover::after_ping(self.dispatcher, task)?;
        let failed = followed.handed.into_iter().filter_map(|handed| {
            let error = handed.result.err()?;
            Some((handed.name, error))
        });
        self.hosts("trust", failed.collect());
        let failed = followed.renewed.into_iter().filter_map(|renewed| {
            let error = renewed.result.err()?;
            Some((renewed.name, error))
        });
        self.hosts("renew", failed.collect());
        Ok(answered)
    }

    fn rotate(&mut self) -> Result<(), AppError> {
        let dispatcher = self.dispatcher;
        let check = rotate::rotator(dispatcher)?.check(&dispatcher.log.handle(), Utc::now())?;
        if !check.is_due() {
            return Ok(());
        }
        let line = Line::new("cert-renewal-start").field("DAYS_LEFT", check.days_left);
        dispatcher.log.log(Level::Info, &line);
        rotate::rotate(dispatcher, false)?;
        Ok(())
    }
}
