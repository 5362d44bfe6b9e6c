//! One loop: its share of the calls, each a small state machine over one connection.

use super::feed::Next;
use super::{Answer, Call, Fault, MAX_PENDING, PERL_REQUEST, Report, SMALL_ANSWER, Shared};
use super::{SLOWEST, tls_fault};
use crate::store::files::revoked;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_reactor::http::{HttpError, Response, render_request};
use ctrl_exec_reactor::{
    ClientLimits, CloseReason, Config, ConnId, Event, Phase, QueryId, Reactor,
};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How long the loop sleeps at most before it looks whether it was told to stop.
const LOOK: Duration = Duration::from_millis(100);

/// One loop and what it has under way.
pub(super) struct Worker<'a> {
    shared: &'a Shared<'a>,
    share: usize,
    reactor: Reactor,
    limits: Arc<ClientLimits>,
    small_limits: Arc<ClientLimits>,
    resolving: HashMap<QueryId, Flight>,
    talking: HashMap<ConnId, Flight>,
    /// When names were last looked through.
    looked: Instant,
}

/// A call under way.
struct Flight {
    index: usize,
    begun: Instant,
    /// Addresses not yet tried.
    addresses: Vec<IpAddr>,
    certificate: Option<Vec<u8>>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, share: usize, threads: usize) -> io::Result<Self> {
        // A connection that has answered is closed at once, but its slot comes free one event
        // later; hence some room beyond the share.
        let reactor = Reactor::new(Config {
            max_conns: share + 64,
            max_buffered: MAX_PENDING / threads.max(1),
            ..Config::default()
        })?;
        Ok(Self {
            shared,
            share,
            reactor,
            limits: limits(shared.engine.step, shared.engine.max_answer),
            small_limits: limits(shared.engine.step, SMALL_ANSWER),
            resolving: HashMap::new(),
            talking: HashMap::new(),
            looked: Instant::now(),
        })
    }

    /// Runs until nothing is left to do. An error of the loop itself fails what it had under way.
    pub(super) fn run(mut self, reports: &Sender<Report>) -> io::Result<()> {
        let result = self.drive(reports);
        let fault = match &result {
            Ok(()) if self.is_out_of_time() => Fault::OutOfTime,
            Ok(()) => Fault::Interrupted,
            Err(error) => Fault::Local(error.to_string()),
        };
        let left = self.resolving.drain().map(|(_, flight)| flight);
        for flight in left.chain(self.talking.drain().map(|(_, flight)| flight)) {
            let answer =
                self.shared.calls[flight.index].failed(fault.clone(), flight.begun.elapsed());
            let _ = reports.send(Report::Ended(flight.index, answer));
        }
        result
    }

    fn drive(&mut self, reports: &Sender<Report>) -> io::Result<()> {
        loop {
            if self.shared.abort.load(Ordering::Relaxed) || self.is_out_of_time() {
                return Ok(());
            }
            let wait = match self.begin_calls(reports) {
                // While others work, calls to an agent of theirs may come free for us.
                Next::Call(_) | Next::Nothing if self.idle() => return Ok(()),
                Next::Call(_) | Next::Nothing => LOOK,
                Next::Later(due) => LOOK.min(due.saturating_duration_since(Instant::now())),
            };
            self.expire_names(reports);
            let Some(event) = self.reactor.next(Some(wait))? else {
                continue;
            };
            self.handle(event, reports);
        }
    }

    fn is_out_of_time(&self) -> bool {
        let deadline = self.shared.engine.deadline;
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The resolver has limits of its own, and they may be long: a name gets one step like the
    /// rest. An answer that comes later is not waited for.
    fn expire_names(&mut self, reports: &Sender<Report>) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let step = self.shared.engine.step;
        let late: Vec<QueryId> = self
            .resolving
            .iter()
            .filter(|(_, flight)| flight.begun.elapsed() > step)
            .map(|(query, _)| *query)
            .collect();
        for query in late {
            if let Some(flight) = self.resolving.remove(&query) {
                self.end(flight, Err(Fault::Unresolved), reports);
            }
        }
    }

    fn idle(&self) -> bool {
        self.resolving.is_empty() && self.talking.is_empty()
    }

    /// Begins calls while there is room; says what is next when there is none left to begin.
    fn begin_calls(&mut self, reports: &Sender<Report>) -> Next {
        while self.resolving.len() + self.talking.len() < self.share {
            if self.shared.finish.load(Ordering::Relaxed) {
                return Next::Nothing;
            }
            let next = self.shared.feed().next(Instant::now());
            let Next::Call(index) = next else { return next };
            let _ = reports.send(Report::Begun(index));
            self.begin(index, reports);
        }
        Next::Call(0)
    }

    fn begin(&mut self, index: usize, reports: &Sender<Report>) {
        let target = &self.shared.calls[index].target;
        let flight = Flight {
            index,
            begun: Instant::now(),
            addresses: Vec::new(),
            certificate: None,
        };
        if target.perl {
            let size = request_bytes(&self.shared.calls[index], false).len();
            if size > PERL_REQUEST {
                self.end(flight, Err(Fault::PerlLimit(size)), reports);
                return;
            }
        }
        if let Ok(address) = target.address.parse::<IpAddr>() {
            self.connect(flight, address);
            return;
        }
        if target.address.is_empty() || target.address.len() > 253 {
            self.end(flight, Err(Fault::Unresolved), reports);
            return;
        }
        match self.reactor.resolve(&target.address) {
            Ok(query) => {
                self.resolving.insert(query, flight);
            }
            Err(error) => self.end(flight, Err(Fault::Local(error.to_string())), reports),
        }
    }

    fn connect(&mut self, flight: Flight, address: IpAddr) {
        let call = &self.shared.calls[flight.index];
        let identities = &self.shared.engine.identities;
        let identity = identities.get(call.identity).unwrap_or(&identities[0]);
        let conn = self.reactor.connect(
            SocketAddr::new(address, call.target.port),
            identity,
            tls::server_name(&call.target.address),
            if call.small_answer {
                &self.small_limits
            } else {
                &self.limits
            },
        );
        // A refusal, even at once, comes as an event.
        self.talking.insert(conn, flight);
    }

    fn handle(&mut self, event: Event, reports: &Sender<Report>) {
        match event {
            Event::Resolved { query, result } => {
                let Some(mut flight) = self.resolving.remove(&query) else {
                    return;
                };
                let mut addresses = result.unwrap_or_default();
                addresses.reverse();
                match addresses.pop() {
                    Some(first) => {
                        flight.addresses = addresses;
                        self.connect(flight, first);
                    }
                    None => self.end(flight, Err(Fault::Unresolved), reports),
                }
            }
            Event::Handshaken { conn } => self.handshaken(conn, reports),
            Event::Response { conn, response } => self.answered(conn, response, reports),
            Event::Closed { conn, reason } => {
                let Some(mut flight) = self.talking.remove(&conn) else {
                    return;
                };
                let step = self.shared.engine.step;
                let fault = fault_of(&reason, step, &self.shared.calls[flight.index]);
                // Nothing was sent yet: the next address of the name may do better. However many
                // there are, they have two steps together.
                let retry = matches!(
                    fault,
                    Fault::Refused | Fault::Unreachable | Fault::ConnectTimeout | Fault::Local(_)
                ) && flight.begun.elapsed() < step * 2;
                match flight.addresses.pop() {
                    Some(next) if retry => self.connect(flight, next),
                    _ => self.end(flight, Err(fault), reports),
                }
            }
            _ => {}
        }
    }

    fn handshaken(&mut self, conn: ConnId, reports: &Sender<Report>) {
        let Some(flight) = self.talking.get_mut(&conn) else {
            return;
        };
        let call = &self.shared.calls[flight.index];
        let revoked = &self.shared.engine.revoked;
        let certificate = self.reactor.peer_certificate(conn);
        if !revoked.is_empty() && certificate.is_none_or(|der| is_revoked(der, revoked)) {
            if let Some(flight) = self.talking.remove(&conn) {
                self.reactor.close(conn);
                self.end(flight, Err(Fault::Revoked), reports);
            }
            return;
        }
        if call.want_certificate {
            flight.certificate = certificate.map(<[u8]>::to_vec);
        }
        let keep = self.shared.feed().more_for(flight.index);
        self.reactor.request(conn, request_bytes(call, keep));
    }

    fn answered(&mut self, conn: ConnId, response: Response, reports: &Sender<Report>) {
        let Some(flight) = self.talking.remove(&conn) else {
            return;
        };
        let stopped = self.shared.finish.load(Ordering::Relaxed);
        let next = if response.keep_alive && !stopped {
            self.shared.feed().ended(flight.index, true)
        } else {
            None
        };
        let certificate = flight.certificate.clone();
        let kept = next.is_some();
        self.end_with(flight, Ok(response), kept, reports);
        let Some(index) = next else {
            self.reactor.close(conn);
            return;
        };
        let _ = reports.send(Report::Begun(index));
        let keep = self.shared.feed().more_for(index);
        let call = &self.shared.calls[index];
        let flight = Flight {
            index,
            begun: Instant::now(),
            addresses: Vec::new(),
            certificate,
        };
        if self.reactor.request(conn, request_bytes(call, keep)) {
            self.talking.insert(conn, flight);
        } else {
            self.begin(index, reports);
        }
    }

    fn end(&mut self, flight: Flight, result: Result<Response, Fault>, reports: &Sender<Report>) {
        self.end_with(flight, result, false, reports);
    }

    fn end_with(
        &mut self,
        flight: Flight,
        result: Result<Response, Fault>,
        kept: bool,
        reports: &Sender<Report>,
    ) {
        if !kept {
            self.shared.feed().ended(flight.index, false);
        }
        let rtt = flight.begun.elapsed();
        let result = result.and_then(|response| {
            let size = response.body.len();
            let pending = &self.shared.pending;
            if pending.fetch_add(size, Ordering::Relaxed) + size > MAX_PENDING {
                pending.fetch_sub(size, Ordering::Relaxed);
                return Err(Fault::NoRoom);
            }
            Ok(response)
        });
        let answer = match result {
            Ok(response) => Answer {
                rtt,
                result: Ok(response),
                certificate: flight.certificate,
            },
            Err(fault) => self.shared.calls[flight.index].failed(fault, rtt),
        };
        let _ = reports.send(Report::Ended(flight.index, answer));
    }
}

fn request_bytes(call: &Call, keep_alive: bool) -> Vec<u8> {
    let address = &call.target.address;
    let host = if address.contains(':') {
        format!("[{address}]:{}", call.target.port)
    } else {
        format!("{address}:{}", call.target.port)
    };
    render_request(
        call.method,
        &call.path,
        &host,
        call.body.as_deref(),
        keep_alive,
    )
}

fn is_revoked(der: &[u8], revoked: &HashSet<String>) -> bool {
    cert::facts(der).map_or(true, |facts| {
        revoked.contains(&revoked::normal(&facts.serial_hex))
    })
}

/// What bounds one call, in every phase and altogether. Connecting and the handshake have a step
/// each; the first byte of the answer has another; from there it comes at the least speed or is
/// given up.
fn limits(step: Duration, max_answer: usize) -> Arc<ClientLimits> {
    let mut limits = ClientLimits::each_step(step);
    limits.http.max_body = max_answer;
    let slowest = Duration::from_secs((max_answer as u64).div_ceil(u64::from(SLOWEST)));
    limits.total = Some(step * 3 + slowest);
    Arc::new(limits)
}

/// Classifies the end of a connection that should have brought an answer.
fn fault_of(reason: &CloseReason, step: Duration, call: &Call) -> Fault {
    match reason {
        CloseReason::Refused => Fault::Refused,
        CloseReason::Unreachable => Fault::Unreachable,
        CloseReason::Timeout(Phase::Connect) => Fault::ConnectTimeout,
        CloseReason::Timeout(Phase::Handshake) => Fault::TlsTimeout,
        CloseReason::Timeout(_) => Fault::ReadTimeout(step),
        CloseReason::TooSlow { bytes, .. } => Fault::TooSlow(*bytes),
        CloseReason::Tls { text, .. } => tls_fault::explain(text, &call.target.name),
        CloseReason::Eof {
            phase: Phase::Handshake,
            ..
        }
        | CloseReason::Reset {
            phase: Phase::Handshake,
        } => Fault::Tls(
            "the agent closed the connection (not an agent, or its rate limit, address list or \
             connection limit)"
                .to_owned(),
        ),
        CloseReason::Eof { partial: true, .. } | CloseReason::Http(HttpError::Truncated) => {
            Fault::Truncated
        }
        CloseReason::Eof { .. }
        | CloseReason::PeerClosed
        | CloseReason::Done
        | CloseReason::Http(HttpError::Empty) => Fault::NoAnswer,
        CloseReason::Http(HttpError::BodyTooLarge) | CloseReason::TooLarge => Fault::TooLarge,
        CloseReason::Http(HttpError::Overloaded) => Fault::NoRoom,
        CloseReason::Http(error) => Fault::BadAnswer(error.to_string()),
        CloseReason::Reset {
            phase: Phase::Connect,
        } => Fault::Refused,
        CloseReason::Io {
            phase: Phase::Connect,
            ..
        }
        | CloseReason::Full
        | CloseReason::Local => Fault::Local(reason.to_string()),
        CloseReason::Reset { .. } | CloseReason::Io { .. } => Fault::BadAnswer(reason.to_string()),
    }
}
