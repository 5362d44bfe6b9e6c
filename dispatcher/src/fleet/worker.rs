//! One loop: its share of the calls, each a small state machine over one connection.

use super::SMALL_ANSWER;
use super::batch::Shared;
use super::call::{Answer, Call, Route};
use super::close::{fault_of, is_sent};
use super::error::{Fault, PERL_REQUEST};
use super::options::EngineOptions;
use super::pacing::{Leave, Pacing};
use super::pool::{Kept, Pool};
use crate::store::files::revoked;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_reactor::http::Response;
use ctrl_exec_reactor::{
    ClientLimits, CloseReason, Config, ConnId, Event, QueryId, Reactor, SLOWEST, Waker,
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// How often names that are being looked up are looked through.
const LOOK: Duration = Duration::from_millis(100);
/// The longest wait for a TCP connection: the system has asked four times by then.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of answers that may be under way or wait to be looked at, all agents together. What would
/// pass it fails alone.
const MAX_PENDING: usize = 256 << 20;
/// How long an agent of 0.12.3 has after the handshake to refuse us: as long as reaching it took,
/// within these bounds.
const HEAR_OUT: Duration = Duration::from_millis(25);
const HEAR_OUT_MOST: Duration = Duration::from_millis(250);
/// Idle connections kept, at most, in one loop.
const KEPT: usize = 16_384;

/// The calls of one batch that one loop makes.
pub(super) struct Part {
    shared: Arc<Shared>,
    /// Not begun, in order.
    ready: VecDeque<usize>,
    share: usize,
    running: usize,
    /// Not ended.
    left: usize,
    /// What was under way was given up already.
    cancelled: bool,
}

impl Part {
    pub fn new(shared: Arc<Shared>, indices: Vec<usize>, share: usize) -> Self {
        Self {
            shared,
            left: indices.len(),
            ready: indices.into(),
            share,
            running: 0,
            cancelled: false,
        }
    }

    pub fn wakes(&self, waker: Waker) {
        self.shared.wakes(waker);
    }

    /// When it has to be over, if it is not stopped yet.
    fn deadline(&self) -> Option<Instant> {
        self.shared.plan.deadline.filter(|_| !self.cancelled)
    }

    /// Ends all calls that have not begun.
    pub fn fail(mut self, fault: &Fault) {
        self.fail_ready(fault);
    }

    fn fail_ready(&mut self, fault: &Fault) {
        for index in std::mem::take(&mut self.ready) {
            self.left -= 1;
            let answer = self.shared.calls[index].failed(fault.clone(), false, Duration::ZERO);
            self.shared.ended(index, answer);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.fail_ready(&Fault::NotStarted);
    }
}

/// A call: which part's, and its number there.
type Which = (u64, usize);

/// A call under way.
struct Flight {
    which: Which,
    begun: Instant,
    /// Addresses not yet tried.
    addresses: Vec<IpAddr>,
    certificate: Option<Vec<u8>>,
    sent: bool,
    /// The connection had served another call before.
    reused: bool,
}

/// A connection, from its making to its end.
struct Conn {
    route: Route,
    /// Nothing, while it is kept or closing.
    flight: Option<Flight>,
}

/// One loop and what it has under way.
pub(super) struct Worker {
    inbox: Receiver<Part>,
    reactor: Reactor,
    most: usize,
    keep: Option<Duration>,
    parts: BTreeMap<u64, Part>,
    parts_made: u64,
    /// The part that last began a call.
    served: u64,
    conns: HashMap<ConnId, Conn>,
    resolving: HashMap<QueryId, Flight>,
    pacing: Pacing<Which>,
    /// Calls whose agent takes no connection before a certain time.
    delayed: BTreeMap<(Instant, u64), Which>,
    delays: u64,
    /// Connections to agents that may have something to say first, and until when.
    hearing: BTreeMap<(Instant, u64), ConnId>,
    pool: Pool,
    /// By step and largest answer.
    limits: HashMap<(Duration, usize), Arc<ClientLimits>>,
    /// Calls under way.
    active: usize,
    /// Something has ended or come free, so that a call may be begun.
    may_begin: bool,
    /// When names were last looked through.
    looked: Instant,
}

impl Worker {
    pub fn new(inbox: Receiver<Part>, most: usize, options: &EngineOptions) -> io::Result<Self> {
        // A connection that has answered is closed at once, but its slot comes free one event
        // later; hence some room beyond.
        let reactor = Reactor::new(Config {
            max_conns: most + 64,
            max_buffered: MAX_PENDING / options.loops.max(1),
            ..Config::default()
        })?;
        Ok(Self {
            inbox,
            reactor,
            most,
            keep: options.keep,
            parts: BTreeMap::new(),
            parts_made: 0,
            served: 0,
            conns: HashMap::new(),
            resolving: HashMap::new(),
            pacing: Pacing::default(),
            delayed: BTreeMap::new(),
            delays: 0,
            hearing: BTreeMap::new(),
            pool: Pool::new(KEPT.min(most)),
            limits: HashMap::new(),
            active: 0,
            may_begin: false,
            looked: Instant::now(),
        })
    }

    pub fn waker(&mut self) -> io::Result<Waker> {
        self.reactor.waker()
    }

    /// Runs until the engine is gone, or until an error of the loop itself, which fails what it
    /// has under way.
    pub fn run(mut self) {
        let fault = match self.drive() {
            Ok(()) => Fault::Interrupted,
            Err(error) => Fault::Local(error.to_string()),
        };
        let talking = self.conns.drain().filter_map(|(_, conn)| conn.flight);
        let left: Vec<Flight> = talking
            .chain(self.resolving.drain().map(|(_, flight)| flight))
            .collect();
        for flight in left {
            self.end(flight, Err(fault.clone()));
        }
        let stopped = match fault {
            Fault::Interrupted => Fault::NotStarted,
            other => other,
        };
        self.take_back(|_| true);
        for (_, part) in std::mem::take(&mut self.parts) {
            part.fail(&stopped);
        }
        while let Ok(part) = self.inbox.try_recv() {
            part.fail(&stopped);
        }
    }

    fn drive(&mut self) -> io::Result<()> {
        loop {
            loop {
                match self.inbox.try_recv() {
                    Ok(part) => self.take(part),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.end_overdue();
            self.drop_stopped();
            self.release_delayed();
            self.ask_heard();
            if std::mem::take(&mut self.may_begin) {
                self.begin_calls();
            }
            self.expire_names();
            let wait = self.wait();
            if let Some(event) = self.reactor.next(wait)? {
                self.handle(event);
            }
        }
    }

    /// How long nothing has to be done but for events.
    fn wait(&self) -> Option<Duration> {
        let delayed = self.delayed.first_key_value().map(|((due, _), _)| *due);
        let heard = self.hearing.first_key_value().map(|((due, _), _)| *due);
        let deadlines = self.parts.values().filter_map(Part::deadline);
        let due = deadlines
            .chain(delayed)
            .chain(heard)
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()));
        match (self.resolving.is_empty(), due) {
            (true, due) => due,
            (false, due) => Some(due.unwrap_or(LOOK).min(LOOK)),
        }
    }

    fn take(&mut self, part: Part) {
        self.parts_made += 1;
        self.parts.insert(self.parts_made, part);
        self.may_begin = true;
    }

    /// Ends what belongs to batches whose time is over.
    fn end_overdue(&mut self) {
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
    fn drop_stopped(&mut self) {
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
        let waiting = |part: &Part| part.ready.len() + part.running < part.left;
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
    fn take_back(&mut self, gone: impl Fn(&Which) -> bool) {
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

    fn release_delayed(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (part, index) = entry.remove();
            self.make_ready(part, index);
        }
    }

    /// Asks agents that have had the time to refuse us.
    fn ask_heard(&mut self) {
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

    fn make_ready(&mut self, part: u64, index: usize) {
        if let Some(part) = self.parts.get_mut(&part) {
            part.ready.push_front(index);
            self.may_begin = true;
        }
    }

    /// Begins calls while there is room, of each batch in turn.
    fn begin_calls(&mut self) {
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
        let kept = self.pool.take(route, &call.identity, &limits);
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
    fn dial(&mut self, flight: Flight, shared: &Shared) {
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

    /// What bounds one call, in every phase and altogether. Connecting and the handshake have a
    /// step each; the first byte of the answer has another; from there it comes at the least
    /// speed or is given up.
    fn limits(&mut self, shared: &Shared, call: &Call) -> Arc<ClientLimits> {
        let (step, keep) = (shared.plan.step, self.keep);
        let max_answer = if call.small_answer {
            SMALL_ANSWER
        } else {
            shared.plan.max_answer
        };
        let made = self.limits.entry((step, max_answer)).or_insert_with(|| {
            let slowest = Duration::from_secs((max_answer as u64).div_ceil(u64::from(SLOWEST)));
            let mut limits = ClientLimits {
                connect: step.min(CONNECT),
                idle: keep.unwrap_or(step),
                total: Some(step * 3 + slowest),
                ..ClientLimits::each_step(step)
            };
            limits.http.max_body = max_answer;
            Arc::new(limits)
        });
        Arc::clone(made)
    }

    fn connect(&mut self, flight: Flight, shared: &Shared, address: IpAddr) {
        let call = &shared.calls[flight.which.1];
        let limits = self.limits(shared, call);
        let conn = self.reactor.connect(
            SocketAddr::new(address, call.target.port()),
            &call.identity.0,
            tls::server_name(call.target.address()),
            &limits,
        );
        // A refusal, even at once, comes as an event.
        let entry = Conn {
            route: call.target.route.clone(),
            flight: Some(flight),
        };
        self.conns.insert(conn, entry);
    }

    fn shared_of(&self, flight: &Flight) -> Option<Arc<Shared>> {
        let part = self.parts.get(&flight.which.0)?;
        Some(Arc::clone(&part.shared))
    }

    /// The names whose time is over. The resolver has limits of its own, and they may be long: a
    /// name gets one step like the rest, and an answer that comes later is not waited for.
    fn expire_names(&mut self) {
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
    fn take_resolving(&mut self, which: impl Fn(&Flight) -> bool) -> Vec<Flight> {
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

    /// An agent takes one more connection.
    fn freed(&mut self, route: &Route) {
        self.pacing.closed(route);
        if let Some((part, index)) = self.pacing.waiting(route) {
            self.make_ready(part, index);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Resolved { query, result } => self.resolved(query, result),
            Event::Handshaken { conn } => {
                let flight = self.conns.get(&conn).and_then(|conn| conn.flight.as_ref());
                let known = flight.and_then(|flight| {
                    let shared = self.shared_of(flight)?;
                    Some((shared, flight.which.1, flight.begun))
                });
                if let Some((shared, index, begun)) = known {
                    if shared.calls[index].target.perl {
                        // It may refuse us unasked, and would lose its words if our request
                        // came in between.
                        let pause = begun.elapsed().clamp(HEAR_OUT, HEAR_OUT_MOST);
                        self.delays += 1;
                        self.hearing
                            .insert((Instant::now() + pause, self.delays), conn);
                    } else {
                        self.ask(conn, &shared);
                    }
                }
            }
            Event::Response { conn, response } => self.answered(conn, response),
            Event::Closed { conn, reason } => self.closed(conn, &reason),
            _ => {}
        }
    }

    fn resolved(&mut self, query: QueryId, result: Result<Vec<IpAddr>, String>) {
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

    /// Sends the request of a connection that stands.
    fn ask(&mut self, conn: ConnId, shared: &Shared) {
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
        let keep = (self.keep.is_some() && !call.target.perl)
            || self.pacing.is_awaited(&call.target.route);
        // Where it is refused, the connection is about to end, and its event says how.
        flight.sent = self.reactor.request(conn, call.bytes(keep));
    }

    fn answered(&mut self, conn: ConnId, response: Response) {
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

    fn closed(&mut self, conn: ConnId, reason: &CloseReason) {
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

    fn end(&mut self, flight: Flight, result: Result<Response, Fault>) {
        let (id, index) = flight.which;
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        let rtt = flight.begun.elapsed();
        let result = result.and_then(|response| {
            let size = response.body.len();
            let pending = &part.shared.pending;
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
            Err(fault) => part.shared.calls[index].failed(fault, flight.sent, rtt),
        };
        part.running -= 1;
        part.left -= 1;
        self.active -= 1;
        self.may_begin = true;
        part.shared.ended(index, answer);
        if part.left == 0 {
            self.parts.remove(&id);
        }
    }
}

fn is_revoked(der: &[u8], revoked: &HashSet<String>) -> bool {
    cert::facts(der).map_or(true, |facts| {
        revoked.contains(&revoked::normal(&facts.serial_hex))
    })
}
