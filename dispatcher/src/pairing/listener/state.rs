//! What the listener has under way, and what every part of it does.

use super::super::{Identified, Queue, Queued, RateTable};
use super::options::{ListenerError, ListenerOptions};
use super::shares::{Codes, Held};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::http::{Limits, render_response};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::wire::pairing::{PairRequest, Refusal};
use ctrl_exec_protocol::x509::verify::system_clock;
use ctrl_exec_reactor::{Config, ConnId, ListenerId, Reactor, ServerLimits, Then, TimerId, Waker};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Timer tokens; questions to DNS use the numbers from `FIRST_QUESTION` on.
pub(super) const SESSION: u64 = 0;
pub(super) const POLL: u64 = 1;
pub(super) const GRACE: u64 = 2;
const FIRST_QUESTION: u64 = 16;

/// What DNS said, with the number of the question.
pub(super) type Named = (u64, Identified);

/// A listener that is bound and can run.
pub struct Listener {
    pub(super) reactor: Reactor,
    pub(super) listener: ListenerId,
    pub(super) address: SocketAddr,
    pub(super) config: Arc<ServerConfig>,
    pub(super) limits: Arc<ServerLimits>,
    pub(super) options: ListenerOptions,
    pub(super) queue: Queue,
    pub(super) rate: RateTable,
    /// Connections that have not asked yet.
    pub(super) idle: Held<ConnId>,
    /// Requests that wait for the operator.
    pub(super) queued: Held<ConnId>,
    pub(super) codes: Codes,
    pub(super) waker: Waker,
    /// Questions to DNS that are under way, abandoned ones included.
    pub(super) questions: usize,
    pub(super) next_question: u64,
    pub(super) asking: HashMap<u64, Asking>,
    pub(super) waiting: HashMap<ConnId, Waiting>,
    pub(super) poll: Option<TimerId>,
    pub(super) draining: bool,
    pub(super) stopping: bool,
}

/// A request whose sender is being looked up.
pub(super) struct Asking {
    pub(super) conn: ConnId,
    pub(super) source: Option<IpAddr>,
    pub(super) request: PairRequest,
    pub(super) perl: bool,
    pub(super) timer: TimerId,
}

/// A request that waits for the operator.
pub(super) struct Waiting {
    pub(super) queued: Queued,
    pub(super) until: Duration,
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

    pub(super) fn answer(&mut self, conn: ConnId, body: &[u8], then: Then) {
        let body = String::from_utf8_lossy(body);
        self.reactor
            .send(conn, render_response(200, &body, false), then);
    }

    pub(super) fn refuse(&mut self, conn: ConnId, refusal: Refusal, log: &Syslog) {
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

    pub(super) fn finish(&self, id: &str, log: &Syslog) {
        if let Err(error) = self.queue.finish(id) {
            log.log(Level::Err, &Line::new("pair-queue").field("ERROR", error));
        }
    }

    pub(super) fn arm_poll(&mut self) {
        if self.poll.is_none() && !self.waiting.is_empty() {
            self.poll = Some(self.reactor.set_timer(self.options.poll, POLL));
        }
    }
}
