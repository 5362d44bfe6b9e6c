//! One exchange over a connection that stands: request, answer, end.

use super::super::batch::{Plan, Shared};
use super::super::call::{Call, Target};
use super::super::close::{fault_of, is_sent};
use super::super::error::Fault;
use super::super::pacing::Leave;
use super::super::pool::Kept;
use super::state::Worker;
use crate::store::files::registry::Registry;
use crate::store::files::revoked;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_reactor::http::Response;
use ctrl_exec_reactor::{CloseReason, ConnId};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long an agent of 0.12.3 has after the handshake to refuse us: as long as reaching it took,
/// within these bounds.
const HEAR_OUT: Duration = Duration::from_millis(25);
const HEAR_OUT_MOST: Duration = Duration::from_millis(250);

/// Longest name of a certificate that is shown.
const MAX_NAME: usize = 253;

impl Worker {
    /// A connection stands: asks, at once or after the agent had the time to refuse us.
    pub(super) fn handshaken(&mut self, conn: ConnId) {
        let flight = self.conns.get(&conn).and_then(|conn| conn.flight.as_ref());
        let known = flight.and_then(|flight| {
            let shared = self.shared_of(flight)?;
            Some((shared, flight.which.1, flight.begun))
        });
        let Some((shared, index, begun)) = known else {
            return;
        };
        if shared.calls[index].target.perl {
            // It may refuse us unasked, and would lose its words if our request came in between.
            let pause = begun.elapsed().clamp(HEAR_OUT, HEAR_OUT_MOST);
            self.delays += 1;
            self.hearing
                .insert((Instant::now() + pause, self.delays), conn);
        } else {
            self.ask(conn, &shared);
        }
    }

    /// Asks agents that have had the time to refuse us.
    pub(super) fn ask_heard(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.hearing.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let conn = entry.remove();
            let flight = self.conns.get(&conn).and_then(|conn| conn.flight.as_ref());
            if let Some(shared) = flight.and_then(|flight| self.shared_of(flight)) {
                self.ask(conn, &shared);
            }
        }
    }

    /// Sends the request of a connection that stands.
    pub(super) fn ask(&mut self, conn: ConnId, shared: &Shared) {
        let Some(entry) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(flight) = &mut entry.flight else {
            return;
        };
        let call = &shared.calls[flight.which.1];
        let certificate = self.reactor.peer_certificate(conn);
        let revoked = &shared.plan.revoked;
        if !revoked.is_empty() && certificate.is_none_or(|der| is_revoked(der, revoked)) {
            let flight = entry.flight.take();
            self.reactor.close(conn);
            if let Some(flight) = flight {
                self.end(flight, Err(Fault::Revoked));
            }
            return;
        }
        if call.want_certificate {
            flight.certificate = certificate.map(<[u8]>::to_vec);
        }
        if let Some(fault) = wrong_name(call, &shared.plan, certificate) {
            let flight = entry.flight.take();
            self.reactor.close(conn);
            if let Some(flight) = flight {
                self.end(flight, Err(fault));
            }
            return;
        }
        let keep = (self.keep.is_some() && !call.target.perl)
            || self.pacing.is_awaited(&call.target.route);
        // Where it is refused, the connection is about to end, and its event says how.
        let bytes = call.bytes(keep);
        flight.sent = if call.stream {
            self.reactor.request_stream(conn, bytes)
        } else {
            self.reactor.request(conn, bytes)
        };
    }

    pub(super) fn answered(&mut self, conn: ConnId, response: Response) {
        let Some((flight, route)) = self.conns.get_mut(&conn).and_then(|entry| {
            let flight = entry.flight.take()?;
            Some((flight, entry.route.clone()))
        }) else {
            return;
        };
        let Some(shared) = self.shared_of(&flight) else {
            return;
        };
        let wanted = self.keep.is_some() || self.pacing.is_awaited(&route);
        if response.keep_alive && wanted {
            let call = &shared.calls[flight.which.1];
            let kept = Kept {
                conn,
                identity: call.identity.clone(),
                limits: self.limits(&shared, call),
            };
            if let Some(surplus) = self.pool.keep(&route, kept) {
                self.reactor.close(surplus);
            }
            if let Some((part, index)) = self.pacing.waiting(&route) {
                self.make_ready(part, index);
            }
        } else {
            self.reactor.close(conn);
        }
        self.end(flight, Ok(response));
    }

    pub(super) fn closed(&mut self, conn: ConnId, reason: &CloseReason) {
        let Some(entry) = self.conns.remove(&conn) else {
            return;
        };
        self.pool.remove(conn);
        let route = entry.route;
        let Some(mut flight) = entry.flight else {
            self.freed(&route);
            return;
        };
        let Some(shared) = self.shared_of(&flight) else {
            self.freed(&route);
            return;
        };
        let step = shared.plan.step;
        let call = &shared.calls[flight.which.1];
        let fault = fault_of(reason, step, call);
        flight.sent &= is_sent(reason);
        // The agent gave the kept connection up while the request was on its way.
        let stale = flight.reused && matches!(fault, Fault::NoAnswer | Fault::BadAnswer(_));
        if stale && (call.repeatable || !flight.sent) {
            self.pacing.closed(&route);
            if self
                .pacing
                .connect(&route, call.target.rate, Instant::now())
                == Leave::Now
            {
                flight.reused = false;
                flight.sent = false;
                self.dial(flight, &shared);
                return;
            }
            self.end(flight, Err(fault));
            return;
        }
        // Nothing was sent yet: the next address of the name may do better. However many there
        // are, they have two steps together.
        let retry = matches!(
            fault,
            Fault::Refused | Fault::Unreachable | Fault::ConnectTimeout | Fault::Local(_)
        ) && flight.begun.elapsed() < step * 2;
        match flight.addresses.pop() {
            Some(next) if retry => self.connect(flight, &shared, next),
            _ => {
                self.freed(&route);
                self.end(flight, Err(fault));
            }
        }
    }
}

/// Whether the certificate carries another name than the one paired.
///
/// Records that release 0.12.3 made do not say which that was, and it may be another than the
/// agent's registry name. There a name is another's only when an agent of that name is registered.
fn wrong_name(call: &Call, plan: &Plan, certificate: Option<&[u8]>) -> Option<Fault> {
    if plan.any_name {
        return None;
    }
    let facts = certificate.and_then(|der| cert::facts(der).ok());
    let shown = facts.and_then(|facts| facts.subject_cn).unwrap_or_default();
    let Target { name, paired, .. } = &call.target;
    let differs = match paired {
        Some(paired) => *paired != shown,
        None => {
            let others = |agents: &Registry| matches!(agents.load(&shown), Ok(Some(_)));
            shown != *name && plan.agents.as_ref().is_some_and(others)
        }
    };
    differs.then(|| Fault::WrongName {
        shown: Untrusted::new(&shown).at_most(MAX_NAME).to_string(),
        paired: paired.as_ref().unwrap_or(name).clone(),
        name: name.clone(),
    })
}

fn is_revoked(der: &[u8], revoked: &HashSet<String>) -> bool {
    cert::facts(der).map_or(true, |facts| {
        revoked.contains(&revoked::normal(&facts.serial_hex))
    })
}
