//! One exchange over a connection that stands: request, answer, end.

use super::super::batch::{Plan, Shared};
use super::super::call::{Call, Identity, Route, Target};
use super::super::close::{fault_of, is_sent};
use super::super::error::Fault;
use super::super::pacing::Leave;
use super::super::pool::Kept;
use super::state::{Flight, Worker};
use crate::store::files::registry::Registry;
use crate::store::files::revoked;
use ctrl_exec_protocol::json::{Bounds, Raw};
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::wire::messages::error_of;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_reactor::http::Response;
use ctrl_exec_reactor::{CloseReason, ConnId};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an agent of 0.12.3 has after the handshake to refuse us: as long as reaching it took,
/// within these bounds.
const HEAR_OUT: Duration = Duration::from_millis(25);
const HEAR_OUT_MOST: Duration = Duration::from_millis(250);
/// How long it has on a connection that is made for nothing else.
const HEAR_WHY: Duration = Duration::from_secs(2);
/// Longest reason of an agent that is told.
const MAX_REASON: usize = 200;

/// Longest name of a certificate that is shown.
const MAX_NAME: usize = 253;

impl Worker {
    /// A connection stands: asks, at once or after the agent had the time to refuse us.
    pub(super) fn handshaken(&mut self, conn: ConnId) {
        if let Some(flight) = self
            .conns
            .get_mut(&conn)
            .and_then(|conn| conn.flight.as_mut())
        {
            flight.heard = true;
            if std::mem::take(&mut flight.silent) {
                if let Some(part) = self.parts.get_mut(&flight.which.0) {
                    part.silent -= 1;
                    part.running += 1;
                }
            }
        }
        let flight = self.conns.get(&conn).and_then(|conn| conn.flight.as_ref());
        let known = flight.and_then(|flight| {
            let shared = self.shared_of(flight)?;
            Some((shared, flight.which.1, flight.begun, flight.listening))
        });
        let Some((shared, index, begun, listening)) = known else {
            return;
        };
        if listening {
            // An end of any kind is an event.
            self.reactor.await_response(conn, HEAR_WHY);
        } else if shared.calls[index].target.perl {
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
        // Also where the connection is of no more use: agents of 0.12.3 are known by not keeping it.
        let keep = !call.target.perl || self.pacing.is_awaited(&call.target.route);
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
        if flight.listening {
            self.reactor.close(conn);
            let reason = reason_of(&response);
            self.end(flight, Err(Fault::PerlClosed(Some(reason))));
            return;
        }
        let call = &shared.calls[flight.which.1];
        if !flight.other && call.identity.other.is_some() && refuses_serial(&response) {
            self.reactor.close(conn);
            let leave = self
                .pacing
                .connect(&route, call.target.rate, Instant::now());
            if leave == Leave::Now {
                let again = Flight {
                    other: true,
                    reused: false,
                    sent: false,
                    ..flight
                };
                self.dial(again, &shared);
                return;
            }
            self.end(flight, Ok(response));
            return;
        }
        let wanted = self.keep.is_some() || self.pacing.is_awaited(&route);
        if response.keep_alive && wanted {
            let kept = Kept {
                conn,
                identity: Identity::new(Arc::clone(flight.config(call))),
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

    /// Whether the agent of a connection that is gone takes another one for the same call.
    fn may_dial_again(&mut self, route: &Route, call: &Call) -> bool {
        self.pacing.closed(route);
        let leave = self.pacing.connect(route, call.target.rate, Instant::now());
        if leave != Leave::Now {
            // It is still counted, for the end of the call.
            self.pacing.reopen(route);
        }
        leave == Leave::Now
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
        if flight.listening {
            self.freed(&route);
            self.end(flight, Err(Fault::PerlClosed(None)));
            return;
        }
        let fault = fault_of(reason, step, call);
        flight.sent &= is_sent(reason);
        // It had closed before it read: its reason was lost with the connection, and is given again
        // to who asks nothing.
        if matches!(fault, Fault::PerlClosed(_)) && self.may_dial_again(&route, call) {
            flight.listening = true;
            self.dial(flight, &shared);
            return;
        }
        // The agent gave the kept connection up while the request was on its way.
        let stale = flight.reused && matches!(fault, Fault::NoAnswer | Fault::BadAnswer(_));
        if stale && (call.repeatable || !flight.sent) && self.may_dial_again(&route, call) {
            flight.reused = false;
            flight.sent = false;
            self.dial(flight, &shared);
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

/// Whether an agent says that it does not know our certificate: nothing was done.
fn refuses_serial(response: &Response) -> bool {
    response.status == 403
        && Raw::parse(&response.body, &Bounds::ANSWER)
            .ok()
            .and_then(|body| body.get("error")?.string())
            .is_some_and(|error| error == "serial mismatch")
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

/// What an agent says to who is refused: its own words where it has some.
fn reason_of(response: &Response) -> String {
    let status = format!("{} {}", response.status, response.reason);
    let text = error_of(&response.body).unwrap_or(status);
    Untrusted::new(&text).at_most(MAX_REASON).to_string()
}

fn is_revoked(der: &[u8], revoked: &HashSet<String>) -> bool {
    cert::facts(der).map_or(true, |facts| {
        revoked.contains(&revoked::normal(&facts.serial_hex))
    })
}
