//! Names of agents that are being looked up.

use super::super::error::Fault;
use super::state::{Flight, Worker};
use ctrl_exec_reactor::QueryId;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often names that are being looked up are looked through.
pub(super) const LOOK: Duration = Duration::from_millis(100);

impl Worker {
    /// The names whose time is over. The resolver has limits of its own, and they may be long: a
    /// name gets one step like the rest, and an answer that comes later is not waited for.
    pub(super) fn expire_names(&mut self) {
        if self.resolving.is_empty() || self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let steps: HashMap<u64, Duration> = self
            .parts
            .iter()
            .map(|(id, part)| (*id, part.shared.plan.step))
            .collect();
        let is_late = |flight: &Flight| {
            let step = steps.get(&flight.which.0);
            step.is_none_or(|step| flight.begun.elapsed() > *step)
        };
        for flight in self.take_resolving(is_late) {
            self.never_connected(flight, Fault::Unresolved);
        }
    }

    /// Gives up on the names of these calls.
    pub(super) fn take_resolving(&mut self, which: impl Fn(&Flight) -> bool) -> Vec<Flight> {
        let queries: Vec<QueryId> = self
            .resolving
            .iter()
            .filter(|(_, flight)| which(flight))
            .map(|(query, _)| *query)
            .collect();
        queries
            .iter()
            .filter_map(|query| self.resolving.remove(query))
            .collect()
    }

    /// A call for which a connection was allowed and not made.
    fn never_connected(&mut self, flight: Flight, fault: Fault) {
        if let Some(shared) = self.shared_of(&flight) {
            self.freed(&shared.calls[flight.which.1].target.route);
        }
        self.end(flight, Err(fault));
    }

    pub(super) fn resolved(&mut self, query: QueryId, result: Result<Vec<IpAddr>, String>) {
        let Some(mut flight) = self.resolving.remove(&query) else {
            return;
        };
        let mut addresses = result.unwrap_or_default();
        addresses.reverse();
        match (addresses.pop(), self.shared_of(&flight)) {
            (Some(first), Some(shared)) => {
                flight.addresses = addresses;
                self.connect(flight, &shared, first);
            }
            _ => self.never_connected(flight, Fault::Unresolved),
        }
    }
}
