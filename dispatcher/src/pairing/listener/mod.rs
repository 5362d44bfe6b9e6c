//! The pairing listener on 7444 (pki-and-pairing.md §7): one loop, everything bounded.
//!
//! A connection costs its own slot and deadlines only: the handshake and the request have time
//! limits, reverse DNS runs elsewhere, and waiting for the operator costs a map entry. The two
//! answers go over one connection; decisions arrive as files in the queue, whoever writes them.

mod options;
mod shares;

pub use options::{Ended, ListenerError, ListenerOptions, Operator};

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::http::{HttpError, Limits, render_response};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::wire::pairing::{Ack, Outcome, PairRequest, Refusal};
use ctrl_exec_protocol::x509::verify::system_clock;
use ctrl_exec_reactor::{
    Config, ConnId, Event, ListenerId, Reactor, ServerLimits, Signal, Then, TimerId, Waker,
};
use rustls::ServerConfig;

use self::shares::{Codes, Held, Peer};
use super::identity::identify;
use super::{Decision, Identified, Queue, Queued, RateTable, Verdict};

/// The pairing port.
pub const DEFAULT_PORT: u16 = 7444;

/// Timer tokens; questions to DNS use the numbers from `FIRST_QUESTION` on.
const SESSION: u64 = 0;
const POLL: u64 = 1;
const GRACE: u64 = 2;
const FIRST_QUESTION: u64 = 16;

/// Codes that one address, and all together, may show the operator in a session, as multiples of
/// the length of the queue. Each is a chance that a wrong one is taken for the right one.
const CODES_EACH: usize = 2;
const CODES: usize = 20;

/// Questions to DNS at a time, abandoned ones included; beyond it none is asked.
const MAX_QUESTIONS: usize = 8;

/// How long answers may take to leave after a stop.
const GRACE_TIME: Duration = Duration::from_secs(3);

/// What DNS said, with the number of the question.
type Named = (u64, Identified);

/// A listener that is bound and can run.
pub struct Listener {
    reactor: Reactor,
    listener: ListenerId,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    limits: Arc<ServerLimits>,
    options: ListenerOptions,
    queue: Queue,
    rate: RateTable,
    /// Connections that have not asked yet.
    idle: Held<ConnId>,
    /// Requests that wait for the operator.
    queued: Held<ConnId>,
    codes: Codes,
    waker: Waker,
    /// Questions to DNS that are under way, abandoned ones included.
    questions: usize,
    next_question: u64,
    asking: HashMap<u64, Asking>,
    waiting: HashMap<ConnId, Waiting>,
    poll: Option<TimerId>,
    draining: bool,
    stopping: bool,
}

/// A request whose sender is being looked up.
struct Asking {
    conn: ConnId,
    source: Option<IpAddr>,
    request: PairRequest,
    perl: bool,
    timer: TimerId,
}

/// A request that waits for the operator.
struct Waiting {
    queued: Queued,
    until: Duration,
}

impl Listener {
    /// Binds the port and prepares everything; nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// The port is taken or forbidden, or the system has no descriptors left.
    pub fn bind(
        options: ListenerOptions,
        identity: &Identity,
        queue: Queue,
    ) -> Result<Self, ListenerError> {
        let config =
            tls::pairing_server_config(identity, &system_clock()).map_err(ListenerError::Tls)?;
        let mut reactor = Reactor::new(Config {
            // One more for each request that waits: those have a limit of their own. And one in
            // which a newcomer is looked at before somebody gives way.
            max_conns: options.max_conns + options.max_queue + 1,
            ..Config::default()
        })
        .map_err(ListenerError::Loop)?;
        let bind = options.bind;
        let listener = reactor
            .listen(bind, 64)
            .map_err(|error| ListenerError::Bind(bind, error))?;
        let address = reactor.listener_addr(listener).unwrap_or(bind);
        let waker = reactor.waker().map_err(ListenerError::Loop)?;
        let limits = Arc::new(ServerLimits {
            handshake: options.handshake,
            request: options.request,
            http: Limits::PAIRING_REQUEST,
            ..ServerLimits::default()
        });
        Ok(Self {
            reactor,
            listener,
            address,
            config,
            limits,
            rate: RateTable::new(options.rate),
            idle: Held::default(),
            queued: Held::default(),
            codes: Codes::default(),
            options,
            queue,
            waker,
            questions: 0,
            next_question: FIRST_QUESTION,
            asking: HashMap::new(),
            waiting: HashMap::new(),
            poll: None,
            draining: false,
            stopping: false,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wakes the loop, which then asks [`Operator::input`].
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Serves until the session's time is over and nobody waits, or until it is stopped.
    ///
    /// When the time is over, the port is closed and connections that wait for a decision keep
    /// waiting, each up to its own limit. A stop tells them so at once.
    ///
    /// # Errors
    /// The event loop's.
    pub fn run(
        mut self,
        operator: &mut dyn Operator,
        log: &Syslog,
    ) -> Result<Ended, ListenerError> {
        self.reactor
            .watch_signals(&[Signal::Int, Signal::Term])
            .map_err(ListenerError::Loop)?;
        let _ = self.queue.expire();
        self.reactor.set_timer(self.options.session, SESSION);
        let port = self.address.port();
        log.log(
            Level::Info,
            &Line::new("pairing-mode-start").field("PORT", port),
        );
        loop {
            let Some(event) = self.reactor.next(None).map_err(ListenerError::Loop)? else {
                continue;
            };
            if self.handle(event, operator, log) || self.is_over() {
                break;
            }
        }
        let action = if self.stopping {
            "pairing-mode-stop"
        } else {
            "pairing-mode-timeout"
        };
        log.log(Level::Info, &Line::new(action).field("PORT", port));
        Ok(if self.stopping {
            Ended::Stopped
        } else {
            Ended::Timeout
        })
    }

    fn is_over(&self) -> bool {
        (self.draining || self.stopping) && self.reactor.live_conns() == 0
    }

    /// Handles one event; `true` when the session must end now.
    fn handle(&mut self, event: Event, operator: &mut dyn Operator, log: &Syslog) -> bool {
        match event {
            Event::Incoming { conn, peer, .. } => self.incoming(conn, peer.ip(), log),
            Event::Request { conn, request } => match PairRequest::parse(&request.body) {
                Ok(parsed) => {
                    let perl = request.is_http_10() && request.headers.all("Host").next().is_none();
                    self.look_up(conn, parsed, perl, operator, log);
                }
                Err(refusal) => self.refuse(conn, refusal, log),
            },
            Event::BadRequest { conn, error } => {
                let refusal = match error {
                    HttpError::BodyTooLarge => Refusal::TooLarge,
                    _ => Refusal::InvalidRequest,
                };
                self.refuse(conn, refusal, log);
            }
            // A pairing client that closes its side has gone: it does not close half-way.
            Event::PeerClosed { conn } => {
                self.reactor.close(conn);
            }
            Event::Closed { conn, .. } => self.closed(conn, operator, log),
            Event::Offloaded { value, .. } => {
                self.questions = self.questions.saturating_sub(1);
                if let Some(Ok(named)) = value.map(|value| value.downcast::<Named>()) {
                    self.answered(*named, operator, log);
                }
            }
            Event::Woken => {
                if operator.input() {
                    self.stop();
                }
                self.look_for_decisions(operator, log);
            }
            Event::Timer { token: SESSION, .. } => self.drain(operator),
            Event::Timer { token: GRACE, .. } => return true,
            Event::Timer { token: POLL, .. } => {
                self.poll = None;
                self.look_for_decisions(operator, log);
                self.arm_poll();
            }
            Event::Timer { token, .. } => {
                if let Some(asking) = self.asking.remove(&token) {
                    self.enqueue(asking, &Identified::default(), operator, log);
                }
            }
            Event::Signal(_) => self.stop(),
            _ => {}
        }
        false
    }

    fn incoming(&mut self, conn: ConnId, peer: IpAddr, log: &Syslog) {
        let verdict = self.rate.check(peer, self.reactor.now());
        if verdict == Verdict::Block {
            let line = Line::new("rate-block")
                .field("PEER", peer)
                .field("REASON", "volume");
            log.log(Level::Warning, &line);
        }
        if verdict != Verdict::Accept || self.stopping {
            self.reactor.close(conn);
        } else {
            if self.idle.len() >= self.options.max_conns {
                self.give_way(log);
            }
            self.idle.insert(conn, Peer::of(peer), self.reactor.now());
            self.reactor.serve(conn, &self.config, &self.limits);
        }
    }

    /// All places are taken: the longest idle connection of whoever has most of them goes.
    fn give_way(&mut self, log: &Syslog) {
        let Some(oldest) = self.idle.oldest_of_most() else {
            return;
        };
        let line = Line::new("pairing-full").field(
            "PEER",
            self.reactor
                .peer_addr(oldest)
                .map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_string()),
        );
        log.log(Level::Warning, &line);
        self.idle.remove(oldest);
        self.reactor.close(oldest);
    }

    /// The queue is full: whoever has more requests in it than the newcomer would loses the latest.
    /// Whether there is room now.
    fn make_room(&mut self, newcomer: Peer, operator: &mut dyn Operator, log: &Syslog) -> bool {
        let Some(conn) = self.queued.newest_of_more_than(newcomer) else {
            return false;
        };
        let Some(waiting) = self.waiting.remove(&conn) else {
            return false;
        };
        self.queued.remove(conn);
        // What was just decided stays decided.
        if self.queue.decision(&waiting.queued.id).is_some() {
            self.queued.insert(conn, newcomer, self.reactor.now());
            self.waiting.insert(conn, waiting);
            return false;
        }
        self.refuse(conn, Refusal::QueueFull, log);
        operator.gone(&waiting.queued, "its address has the most requests waiting");
        self.finish(&waiting.queued.id, log);
        true
    }

    /// Asks DNS about the sender before the request is queued, within its time.
    fn look_up(
        &mut self,
        conn: ConnId,
        request: PairRequest,
        perl: bool,
        operator: &mut dyn Operator,
        log: &Syslog,
    ) {
        self.idle.remove(conn);
        let source = self
            .reactor
            .peer_addr(conn)
            .map(|peer| peer.ip().to_canonical());
        let token = self.next_question;
        self.next_question += 1;
        let timer = self.reactor.set_timer(self.options.dns, token);
        let asking = Asking {
            conn,
            source,
            request,
            perl,
            timer,
        };
        let free = self.questions < MAX_QUESTIONS;
        let asked = source.filter(|_| free).is_some_and(|source| {
            let question = move || -> Named { (token, identify(source)) };
            self.reactor.offload(question).is_ok()
        });
        if asked {
            self.questions += 1;
            self.asking.insert(token, asking);
        } else {
            self.reactor.cancel_timer(timer);
            self.enqueue(asking, &Identified::default(), operator, log);
        }
    }

    fn answered(&mut self, named: Named, operator: &mut dyn Operator, log: &Syslog) {
        let (token, identified) = named;
        if let Some(asking) = self.asking.remove(&token) {
            self.reactor.cancel_timer(asking.timer);
            self.enqueue(asking, &identified, operator, log);
        }
    }

    fn enqueue(
        &mut self,
        asking: Asking,
        identified: &Identified,
        operator: &mut dyn Operator,
        log: &Syslog,
    ) {
        let Asking {
            conn,
            source,
            request,
            perl,
            ..
        } = asking;
        let identified = &Identified {
            perl,
            ..identified.clone()
        };
        if self.reactor.peer_addr(conn).is_none() {
            return;
        }
        let peer = Peer::of(source.unwrap_or(IpAddr::from([0, 0, 0, 0])));
        let source = source.map_or_else(|| "unknown".to_owned(), |source| source.to_string());
        let full = self
            .queue
            .expire()
            .and_then(|()| self.queue.len())
            .is_ok_and(|length| length >= self.options.max_queue);
        if full && !self.make_room(peer, operator, log) {
            return self.refuse(conn, Refusal::QueueFull, log);
        }
        let each = self.options.max_queue.saturating_mul(CODES_EACH);
        let most = self.options.max_queue.saturating_mul(CODES);
        if !self.codes.take(peer, each, most) {
            let line = Line::new("pair-reject")
                .field("IP", &source)
                .field("REASON", "too-many-codes");
            log.log(Level::Warning, &line);
            return self.refuse(conn, Refusal::QueueFull, log);
        }
        let queued = match self.queue.add(&request, &source, identified, Utc::now()) {
            Ok(queued) => queued,
            Err(error) => {
                log.log(Level::Err, &Line::new("pair-reject").field("ERROR", error));
                let body = Outcome::Denied {
                    reason: "dispatcher error".to_owned(),
                }
                .render();
                self.answer(
                    conn,
                    body.replace("\"denied\"", "\"error\"").as_bytes(),
                    Then::Close,
                );
                return;
            }
        };
        let mut line = Line::new("pair-request")
            .field("AGENT", &queued.hostname)
            .field("IP", &queued.source_ip)
            .field("REQID", &queued.id)
            .field("STATUS", "pending");
        if queued.ip != queued.source_ip {
            line = line.field("REPORTED_IP", &queued.ip);
        }
        log.log(Level::Info, &line);
        self.answer(conn, Ack::render_pending(&queued.id).as_bytes(), Then::Hold);
        operator.arrived(&queued);
        let until = self.reactor.now() + self.options.approval;
        self.queued.insert(conn, peer, self.reactor.now());
        self.waiting.insert(conn, Waiting { queued, until });
        self.arm_poll();
    }

    fn refuse(&mut self, conn: ConnId, refusal: Refusal, log: &Syslog) {
        let reason = match refusal {
            Refusal::TooLarge => "body-too-large",
            Refusal::InvalidHostname => "invalid-hostname",
            Refusal::QueueFull => "queue-full",
            Refusal::InvalidRequest => "invalid-request",
        };
        let peer = self
            .reactor
            .peer_addr(conn)
            .map(|peer| peer.ip().to_canonical());
        let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        log.log(
            Level::Info,
            &Line::new("pair-reject")
                .field("IP", peer)
                .field("REASON", reason),
        );
        self.answer(conn, refusal.render().as_bytes(), Then::Close);
    }

    /// Sends what the operator decided, and gives up on what nobody decided in time.
    fn look_for_decisions(&mut self, operator: &mut dyn Operator, log: &Syslog) {
        let now = self.reactor.now();
        let due: Vec<(ConnId, Option<Vec<u8>>)> = self
            .waiting
            .iter()
            .filter_map(
                |(conn, waiting)| match self.queue.answer(&waiting.queued.id) {
                    Some((_, bytes)) => Some((*conn, Some(bytes))),
                    None if now >= waiting.until => Some((*conn, None)),
                    None => None,
                },
            )
            .collect();
        for (conn, decision) in due {
            self.queued.remove(conn);
            let Some(waiting) = self.waiting.remove(&conn) else {
                continue;
            };
            let bytes = decision.unwrap_or_else(|| {
                operator.gone(&waiting.queued, "nobody decided in time");
                Outcome::Denied {
                    reason: "approval timeout".to_owned(),
                }
                .render()
                .into_bytes()
            });
            self.answer(conn, &bytes, Then::Close);
            self.finish(&waiting.queued.id, log);
        }
    }

    /// A connection is over. Whoever waited on it is withdrawn: nobody would get the answer.
    fn closed(&mut self, conn: ConnId, operator: &mut dyn Operator, log: &Syslog) {
        self.idle.remove(conn);
        self.queued.remove(conn);
        let questions: Vec<u64> = self
            .asking
            .iter()
            .filter(|(_, asking)| asking.conn == conn)
            .map(|(token, _)| *token)
            .collect();
        for token in questions {
            if let Some(asking) = self.asking.remove(&token) {
                self.reactor.cancel_timer(asking.timer);
            }
        }
        let Some(waiting) = self.waiting.remove(&conn) else {
            return;
        };
        let queued = waiting.queued;
        let mut line = Line::new("pair-withdrawn")
            .field("AGENT", &queued.hostname)
            .field("REQID", &queued.id);
        let mut level = Level::Info;
        if self.queue.decision(&queued.id) == Some(Decision::Approved) {
            line = line.field(
                "ERROR",
                "approved, but the agent had gone and has no certificate",
            );
            level = Level::Warning;
        }
        log.log(level, &line);
        operator.gone(&queued, "the agent closed the connection");
        self.finish(&queued.id, log);
    }

    /// The session's time is over.
    fn drain(&mut self, operator: &mut dyn Operator) {
        self.draining = true;
        self.reactor.close_listener(self.listener);
        if !self.waiting.is_empty() {
            operator.draining(self.waiting.len());
        }
    }

    /// Ends the session: whoever waits is told at once.
    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.reactor.close_listener(self.listener);
        let stopped = Outcome::Denied {
            reason: "pairing mode stopped".to_owned(),
        }
        .render();
        let waiting: Vec<(ConnId, Waiting)> = self.waiting.drain().collect();
        for (conn, waiting) in waiting {
            // A decision that was just made still counts.
            let decision = self.queue.answer(&waiting.queued.id);
            let bytes = decision.map_or_else(|| stopped.clone().into_bytes(), |(_, bytes)| bytes);
            self.answer(conn, &bytes, Then::Close);
            let _ = self.queue.finish(&waiting.queued.id);
        }
        let asking: Vec<Asking> = self.asking.drain().map(|(_, asking)| asking).collect();
        for asking in asking {
            self.answer(asking.conn, stopped.as_bytes(), Then::Close);
        }
        self.reactor.set_timer(GRACE_TIME, GRACE);
    }

    fn answer(&mut self, conn: ConnId, body: &[u8], then: Then) {
        let body = String::from_utf8_lossy(body);
        self.reactor
            .send(conn, render_response(200, &body, false), then);
    }

    fn finish(&self, id: &str, log: &Syslog) {
        if let Err(error) = self.queue.finish(id) {
            log.log(Level::Err, &Line::new("pair-queue").field("ERROR", error));
        }
    }

    fn arm_poll(&mut self) {
        if self.poll.is_none() && !self.waiting.is_empty() {
            self.poll = Some(self.reactor.set_timer(self.options.poll, POLL));
        }
    }
}
