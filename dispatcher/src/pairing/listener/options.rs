//! What a session is given and what comes of it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Queued, RateLimit};
use ctrl_exec_protocol::names::PAIRING_PORT;

/// What bounds a session.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Address and port.
    pub bind: SocketAddr,
    /// How long new requests are accepted (1 to 600 s).
    pub session: Duration,
    /// Most undecided requests (`pairing_max_queue`).
    pub max_queue: usize,
    /// Volume limit per address (`pairing_rate_limit_volume`).
    pub rate: RateLimit,
    /// Most connections at a time that have not asked yet; when there are more, the oldest of
    /// whoever has most gives way. Requests that wait are bounded by `max_queue`.
    pub max_conns: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the request.
    pub request: Duration,
    /// For the operator.
    pub approval: Duration,
    /// For reverse DNS.
    pub dns: Duration,
    /// Between looks into the queue directory.
    pub poll: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([0, 0, 0, 0], PAIRING_PORT)),
            session: Duration::from_secs(600),
            max_queue: 10,
            rate: RateLimit::default(),
            max_conns: 128,
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(30),
            approval: Duration::from_secs(600),
            dns: Duration::from_secs(2),
            poll: Duration::from_millis(500),
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its time was over and nobody waits any more.
    Timeout,
    /// SIGINT, SIGTERM or the operator's `quit`.
    Stopped,
}

/// Why the listener cannot run.
#[derive(Debug)]
pub enum ListenerError {
    /// The port.
    Bind(SocketAddr, io::Error),
    /// TLS.
    Tls(rustls::Error),
    /// The event loop.
    Loop(io::Error),
}

impl fmt::Display for ListenerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Loop(error) => write!(f, "event loop: {error}"),
        }
    }
}

impl std::error::Error for ListenerError {}

/// Who watches the session: the console, or nobody.
pub trait Operator {
    /// A request was queued.
    fn arrived(&mut self, queued: &Queued);
    /// A request is gone without a decision.
    fn gone(&mut self, queued: &Queued, why: &str);
    /// New requests are no longer accepted, but so many still wait.
    fn draining(&mut self, waiting: usize);
    /// The loop was woken through [`Listener::waker`](super::Listener::waker); `true` ends the session.
    fn input(&mut self) -> bool;
}

/// Nobody watches.
impl Operator for () {
    fn arrived(&mut self, _: &Queued) {}
    fn gone(&mut self, _: &Queued, _: &str) {}
    fn draining(&mut self, _: usize) {}
    fn input(&mut self) -> bool {
        false
    }
}
