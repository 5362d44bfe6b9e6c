//! What bounds a reactor and its connections. Every duration runs on the monotonic clock.

use std::time::Duration;

use ctrl_exec_protocol::http::Limits;

/// Bounds of a whole [`Reactor`](crate::Reactor).
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections at a time, accepted and made ones together. What is accepted beyond is closed
    /// at once; what is connected beyond ends with [`CloseReason::Full`](crate::CloseReason::Full).
    pub max_conns: usize,
    /// Bytes of request bodies, unsent responses and captured output that may be held together. A
    /// request that would pass it is refused with
    /// [`HttpError::Overloaded`](crate::http::HttpError::Overloaded); the others go on.
    pub max_buffered: usize,
    /// Connections accepted in a row before other work gets its turn.
    pub accept_burst: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_conns: 1024,
            max_buffered: 64 * 1024 * 1024,
            accept_burst: 32,
        }
    }
}

/// Bounds of one accepted connection.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// The longest time without progress from [`Reactor::serve`](crate::Reactor::serve) to the end
    /// of the TLS handshake; three times as long for all of it.
    pub handshake: Duration,
    /// From the handshake, or from the first byte of a later request, to the end of the request.
    pub request: Duration,
    /// The same to the end of its head, for servers whose bodies may take longer.
    pub head: Option<Duration>,
    /// For each piece of a response that the peer has to take: 16 KiB, but a system that holds more
    /// for the peer tells of progress only in steps of about 50 KiB.
    pub write: Duration,
    /// Between a response and the first byte of the next request on a kept connection.
    pub idle: Duration,
    /// How long after the last response the peer may take to close, while whatever it still sends
    /// (at most 4 MiB) is thrown away so that it gets the response rather than a reset.
    pub linger: Duration,
    /// Bounds of a request.
    pub http: Limits,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(30),
            head: None,
            write: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            http: Limits::AGENT_REQUEST,
        }
    }
}

/// Bounds of one connection made to a server.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Until the TCP connection stands.
    pub connect: Duration,
    /// From there to the end of the TLS handshake: the longest time without progress, and three
    /// times as long for all of it.
    pub handshake: Duration,
    /// While a response is awaited: the longest time without progress (dispatcher.md §8
    /// `read_timeout`).
    pub read: Duration,
    /// While a request is sent: the longest time without progress.
    pub write: Duration,
    /// How long the connection is kept while nothing is asked on it.
    pub idle: Duration,
    /// From a request to its whole response, whatever the progress.
    pub total: Option<Duration>,
    /// The least speed of a response that has begun, and of a request being sent. Without it a peer
    /// that sends one byte before each `read` runs out is never given up.
    pub floor: Option<Floor>,
    /// Bounds of a response.
    pub http: Limits,
}

/// The least speed of a message: one of `n` bytes may take `grace` and a second for every
/// `bytes_per_second` of them, so that neither a slow link nor a stall within the grace ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Time that is free.
    pub grace: Duration,
    /// Bytes a second; 0 counts as 1.
    pub bytes_per_second: u32,
}

impl Floor {
    /// Time that a message may have taken of which `bytes` have passed.
    pub fn time_for(self, bytes: usize) -> Duration {
        let rate = u64::from(self.bytes_per_second.max(1));
        let millis = (bytes as u64).saturating_mul(1000) / rate;
        self.grace.saturating_add(Duration::from_millis(millis))
    }
}

/// What every link that is of any use passes: a GPRS ("2G") one has 3 to 6 KiB/s.
pub const SLOWEST: u32 = 1024;

impl ClientLimits {
    /// The same limit for each step, as the reference does it with `read_timeout`, and a message
    /// that has begun at no less than [`SLOWEST`] after as long again.
    pub fn each_step(step: Duration) -> Self {
        ClientLimits {
            connect: step,
            handshake: step,
            read: step,
            write: step,
            idle: step,
            total: None,
            floor: Some(Floor {
                grace: step,
                bytes_per_second: SLOWEST,
            }),
            http: Limits::AGENT_RESPONSE,
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        ClientLimits::each_step(Duration::from_secs(60))
    }
}

/// Bounds of one raw connection to a Unix socket.
#[derive(Clone, Debug)]
pub struct RawLimits {
    /// Until the connection stands; a full backlog is tried again until then.
    pub connect: Duration,
    /// While the payload is sent: the longest time without progress.
    pub write: Duration,
    /// Afterwards: the longest time without a byte.
    pub read: Duration,
    /// For everything together.
    pub total: Option<Duration>,
    /// Bytes accepted from the peer; more end the connection with
    /// [`CloseReason::TooLarge`](crate::CloseReason::TooLarge).
    pub max_received: usize,
    /// Shut the sending side down after the payload.
    pub half_close: bool,
}

/// What happens on a connection after bytes were sent with
/// [`Reactor::send`](crate::Reactor::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Client: a response is awaited and comes as [`Event::Response`](crate::Event::Response).
    AwaitResponse,
    /// Both: close_notify, then a lingering close; ends with
    /// [`CloseReason::Done`](crate::CloseReason::Done).
    Close,
    /// Server: this was one of several responses; the application will send another.
    Hold,
    /// Server: wait for the next request, or close when the peer has closed.
    KeepAlive,
}
