//! Beginning calls: over a kept connection, or a new one when the agent takes one.

use super::super::batch::Shared;
use super::super::error::{Fault, PERL_REQUEST};
use super::super::pacing::Leave;
use super::state::{Conn, Flight, Which, Worker};
use ctrl_exec_protocol::tls;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Agents answer within this, as a rule; those that do not must not keep others waiting.
const SOON: Duration = Duration::from_secs(1);
/// Most calls of one batch whose agents are silent, in one loop.
const MAX_SILENT: usize = 2_048;

impl Worker {
    /// Calls whose agents are silent give their places to others, within bounds. They go on, and
    /// count again once something is heard.
    pub(super) fn set_silent_aside(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.unheard.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let conn = entry.remove();
            let flight = self
                .conns
                .get_mut(&conn)
                .and_then(|conn| conn.flight.as_mut());
            let Some(flight) = flight.filter(|flight| !flight.heard && !flight.silent) else {
                continue;
            };
            let Some(part) = self.parts.get_mut(&flight.which.0) else {
                continue;
            };
            if part.silent < MAX_SILENT {
                flight.silent = true;
                part.silent += 1;
                part.running -= 1;
                self.may_begin = true;
            }
        }
    }

    pub(super) fn release_delayed(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (part, index) = entry.remove();
            self.make_ready(part, index);
        }
    }

    /// Begins calls while there is room, of each batch in turn.
    pub(super) fn begin_calls(&mut self) {
        let mut ids: Vec<u64> = self.parts.keys().copied().collect();
        let after = ids.partition_point(|id| *id <= self.served);
        ids.rotate_left(after);
        loop {
            let mut begun = false;
            for id in &ids {
                if self.active >= self.most {
                    return;
                }
                let Some(part) = self.parts.get_mut(id) else {
                    continue;
                };
                if part.running >= part.share || part.shared.is_finishing() {
                    continue;
                }
                if let Some(index) = part.ready.pop_front() {
                    self.served = *id;
                    begun = true;
                    self.offer((*id, index));
                }
            }
            if !begun {
                return;
            }
        }
    }

    /// Begins a call over a kept connection or a new one, or lets it wait for its agent.
    fn offer(&mut self, which: Which) {
        let Some(shared) = self
            .parts
            .get(&which.0)
            .map(|part| Arc::clone(&part.shared))
        else {
            return;
        };
        let call = &shared.calls[which.1];
        let route = &call.target.route;
        let limits = self.limits(&shared, call);
        // One that must not be called is not, over whichever connection; `dial` says why.
        let kept = match call.target.obstacle {
            None => self.pool.take(route, &call.identity, &limits),
            Some(_) => None,
        };
        if kept.is_none() {
            match self.pacing.connect(route, call.target.rate, Instant::now()) {
                Leave::Now => {}
                Leave::Later(due) => {
                    shared.paced(which.1, due);
                    self.delays += 1;
                    self.delayed.insert((due, self.delays), which);
                    return;
                }
                Leave::Busy => {
                    // An idle connection that does not fit gives way.
                    if let Some(conn) = self.pool.take_any(route) {
                        self.reactor.close(conn);
                    }
                    self.pacing.wait(route, which);
                    return;
                }
            }
        }
        if let Some(part) = self.parts.get_mut(&which.0) {
            part.running += 1;
        }
        self.active += 1;
        shared.sink.begun(which.1);
        let flight = Flight {
            which,
            begun: Instant::now(),
            addresses: Vec::new(),
            certificate: None,
            sent: false,
            reused: kept.is_some(),
            listening: false,
            incoming: None,
            other: false,
            heard: kept.is_some(),
            silent: false,
        };
        match kept {
            Some(conn) => {
                if let Some(entry) = self.conns.get_mut(&conn) {
                    entry.flight = Some(flight);
                }
                self.ask(conn, &shared);
            }
            None => self.dial(flight, &shared),
        }
    }

    /// Makes a connection, which [`Pacing`] has allowed.
    pub(super) fn dial(&mut self, flight: Flight, shared: &Shared) {
        let call = &shared.calls[flight.which.1];
        let refused = |worker: &mut Self, flight, fault| {
            worker.pacing.closed(&call.target.route);
            worker.end(flight, Err(fault));
        };
        if let Some(fault) = &call.target.obstacle {
            refused(self, flight, fault.clone());
            return;
        }
        if call.target.perl {
            let size = call.bytes(false).len();
            if size > PERL_REQUEST {
                refused(self, flight, Fault::PerlLimit(size));
                return;
            }
        }
        if self.active + self.pool.len() > self.most {
            if let Some(conn) = self.pool.oldest() {
                self.reactor.close(conn);
            }
        }
        let name = call.target.address();
        if let Ok(address) = name.parse::<IpAddr>() {
            self.connect(flight, shared, address);
            return;
        }
        if name.is_empty() || name.len() > 253 {
            refused(self, flight, Fault::Unresolved);
            return;
        }
        match self.reactor.resolve(name) {
            Ok(query) => {
                self.resolving.insert(query, flight);
            }
            Err(error) => refused(self, flight, Fault::Local(error.to_string())),
        }
    }

    pub(super) fn connect(&mut self, flight: Flight, shared: &Shared, address: IpAddr) {
        let call = &shared.calls[flight.which.1];
        let limits = self.limits(shared, call);
        let conn = self.reactor.connect(
            SocketAddr::new(address, call.target.port()),
            flight.config(call),
            tls::server_name(call.target.address()),
            &limits,
        );
        if !flight.silent && !shared.plan.rolling {
            self.delays += 1;
            self.unheard
                .insert((Instant::now() + SOON, self.delays), conn);
        }
        // A refusal, even at once, comes as an event.
        let entry = Conn {
            route: call.target.route.clone(),
            flight: Some(flight),
        };
        self.conns.insert(conn, entry);
    }
}
