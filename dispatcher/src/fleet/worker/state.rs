//! What a loop has under way, and how a call ends.

use super::super::SMALL_ANSWER;
use super::super::batch::Shared;
use super::super::call::{Answer, Call, Route};
use super::super::error::Fault;
use super::super::options::EngineOptions;
use super::super::pacing::Pacing;
use super::super::pool::Pool;
use super::incoming::Incoming;
use super::part::Part;
use ctrl_exec_reactor::http::Response;
use ctrl_exec_reactor::{ClientLimits, Config, ConnId, QueryId, Reactor, SLOWEST, Waker};
use rustls::ClientConfig;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// The longest wait for a TCP connection: the system has asked four times by then.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of answers that may be under way or wait to be looked at, all agents together. What would
/// pass it fails alone.
const MAX_PENDING: usize = 256 << 20;
/// Idle connections kept, at most, in one loop.
const KEPT: usize = 16_384;

/// A call: which part's, and its number there.
pub(super) type Which = (u64, usize);

/// A call under way.
pub(super) struct Flight {
    pub(super) which: Which,
    pub(super) begun: Instant,
    /// Addresses not yet tried.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) sent: bool,
    /// The connection had served another call before.
    pub(super) reused: bool,
    /// An agent of 0.12.3 hung up on the request: this connection only hears why.
    pub(super) listening: bool,
    /// What has come of an answer in pieces.
    pub(super) incoming: Option<Box<Incoming>>,
    /// The handshake is done.
    pub(super) heard: bool,
    /// It gave its place to another call, as its agent was not heard of.
    pub(super) silent: bool,
    /// The agent refused our serial, and is shown our other certificate.
    pub(super) other: bool,
}

impl Flight {
    /// What is shown to the agent.
    pub(super) fn config<'a>(&self, call: &'a Call) -> &'a Arc<ClientConfig> {
        match &call.identity.other {
            Some(other) if self.other => other,
            _ => &call.identity.config,
        }
    }
}

/// A connection, from its making to its end.
pub(super) struct Conn {
    pub(super) route: Route,
    /// Nothing, while it is kept or closing.
    pub(super) flight: Option<Flight>,
}

/// One loop and what it has under way.
pub struct Worker {
    pub(super) inbox: Receiver<Part>,
    pub(super) reactor: Reactor,
    pub(super) most: usize,
    pub(super) keep: Option<Duration>,
    pub(super) parts: BTreeMap<u64, Part>,
    pub(super) parts_made: u64,
    /// The part that last began a call.
    pub(super) served: u64,
    pub(super) conns: HashMap<ConnId, Conn>,
    pub(super) resolving: HashMap<QueryId, Flight>,
    pub(super) pacing: Pacing<Which>,
    /// Calls whose agent takes no connection before a certain time.
    pub(super) delayed: BTreeMap<(Instant, u64), Which>,
    pub(super) delays: u64,
    /// Connections to agents that may have something to say first, and until when.
    pub(super) hearing: BTreeMap<(Instant, u64), ConnId>,
    /// When connections that were begun are looked at again.
    pub(super) unheard: BTreeMap<(Instant, u64), ConnId>,
    pub(super) pool: Pool,
    /// By step and largest answer.
    pub(super) limits: HashMap<(Duration, usize), Arc<ClientLimits>>,
    /// Output kept of answers in pieces, and how much may be.
    pub(super) kept_output: usize,
    pub(super) keep_output: usize,
    /// Calls under way.
    pub(super) active: usize,
    /// Something has ended or come free, so that a call may be begun.
    pub(super) may_begin: bool,
    /// When names were last looked through.
    pub(super) looked: Instant,
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
            unheard: BTreeMap::new(),
            pool: Pool::new(KEPT.min(most)),
            limits: HashMap::new(),
            kept_output: 0,
            keep_output: MAX_PENDING / 4 / options.loops.max(1),
            active: 0,
            may_begin: false,
            looked: Instant::now(),
        })
    }

    pub fn waker(&mut self) -> io::Result<Waker> {
        self.reactor.waker()
    }

    /// What bounds one call, in every phase and altogether. Connecting and the handshake have a
    /// step each; the first byte of the answer has another; from there it comes at the least
    /// speed or is given up.
    pub(super) fn limits(&mut self, shared: &Shared, call: &Call) -> Arc<ClientLimits> {
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

    pub(super) fn shared_of(&self, flight: &Flight) -> Option<Arc<Shared>> {
        let part = self.parts.get(&flight.which.0)?;
        Some(Arc::clone(&part.shared))
    }

    pub(super) fn make_ready(&mut self, part: u64, index: usize) {
        if let Some(part) = self.parts.get_mut(&part) {
            part.ready.push_front(index);
            self.may_begin = true;
        }
    }

    /// An agent takes one more connection.
    pub(super) fn freed(&mut self, route: &Route) {
        self.pacing.closed(route);
        if let Some((part, index)) = self.pacing.waiting(route) {
            self.make_ready(part, index);
        }
    }

    pub(super) fn end(&mut self, mut flight: Flight, result: Result<Response, Fault>) {
        let (id, index) = flight.which;
        let (result, output) = self.gather(&mut flight, result);
        let Some(part) = self.parts.get_mut(&id) else {
            return;
        };
        let rtt = flight.begun.elapsed();
        let call = &part.shared.calls[index];
        let mut answer = match result {
            Ok(response) => Answer {
                rtt,
                result: Ok(response),
                certificate: flight.certificate,
                output,
            },
            Err(fault) => Answer {
                certificate: flight.certificate,
                output,
                ..call.failed(fault, flight.sent, rtt)
            },
        };
        let (size, pending) = (answer.size(), &part.shared.pending);
        if pending.fetch_add(size, Ordering::Relaxed) + size > MAX_PENDING {
            pending.fetch_sub(size, Ordering::Relaxed);
            answer = call.failed(Fault::NoRoom, flight.sent, rtt);
        }
        if flight.silent {
            part.silent -= 1;
        } else {
            part.running -= 1;
        }
        part.left -= 1;
        self.active -= 1;
        self.may_begin = true;
        part.shared.ended(index, answer);
        if part.left == 0 {
            self.parts.remove(&id);
        }
    }
}
