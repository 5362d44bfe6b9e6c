//! Batches that are stopped or out of time.

use super::super::error::Fault;
use super::part::Part;
use super::state::{Flight, Which, Worker};
use ctrl_exec_reactor::ConnId;
use std::collections::HashSet;
use std::time::Instant;

impl Worker {
    /// Ends what belongs to batches whose time is over.
    pub(super) fn end_overdue(&mut self) {
        let now = Instant::now();
        let overdue: Vec<u64> = self
            .parts
            .iter()
            .filter(|(_, part)| part.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            if let Some(part) = self.parts.get_mut(&id) {
                part.cancelled = true;
                part.shared.finish();
            }
            self.interrupt(id, &Fault::OutOfTime);
        }
    }

    /// Ends what belongs to batches that were stopped.
    pub(super) fn drop_stopped(&mut self) {
        let finishing = |part: &Part| part.shared.is_finishing();
        if !self.parts.values().any(finishing) {
            return;
        }
        let stopped: HashSet<u64> = self
            .parts
            .iter()
            .filter(|(_, part)| finishing(part))
            .map(|(id, _)| *id)
            .collect();
        // Only what has not begun can be waiting for an agent.
        let waiting = |part: &Part| part.ready.len() + part.running + part.silent < part.left;
        if self
            .parts
            .values()
            .any(|part| finishing(part) && waiting(part))
        {
            self.take_back(|(part, _)| stopped.contains(part));
        }
        for id in stopped {
            let Some(part) = self.parts.get_mut(&id) else {
                continue;
            };
            part.fail_ready(&Fault::NotStarted);
            if part.shared.is_cancelled() && !std::mem::replace(&mut part.cancelled, true) {
                self.interrupt(id, &Fault::Interrupted);
            }
            if self.parts.get(&id).is_some_and(|part| part.left == 0) {
                self.parts.remove(&id);
            }
        }
    }

    fn interrupt(&mut self, id: u64, fault: &Fault) {
        let of_part = |flight: &Flight| flight.which.0 == id;
        let talking: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.flight.as_ref().is_some_and(of_part))
            .map(|(conn, _)| *conn)
            .collect();
        let mut flights = self.take_resolving(of_part);
        for conn in talking {
            flights.extend(
                self.conns
                    .get_mut(&conn)
                    .and_then(|conn| conn.flight.take()),
            );
            self.reactor.close(conn);
        }
        for flight in flights {
            self.end(flight, Err(fault.clone()));
        }
    }

    /// Puts calls that wait for their agent back among those not begun.
    pub(super) fn take_back(&mut self, gone: impl Fn(&Which) -> bool) {
        let mut taken = self.pacing.take_waiting(&gone);
        self.delayed.retain(|_, which| {
            let goes = gone(which);
            if goes {
                taken.push(*which);
            }
            !goes
        });
        taken.sort_unstable();
        for (part, index) in taken.into_iter().rev() {
            if let Some(part) = self.parts.get_mut(&part) {
                part.ready.push_front(index);
            }
        }
    }
}
