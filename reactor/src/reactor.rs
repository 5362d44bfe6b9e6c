//! The loop.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::child::{ChildSpec, SpawnError};
use crate::event::{ChildId, ConnId, Event, ListenerId, QueryId, Signal, TimerId};
use crate::limits::{ClientLimits, Config, RawLimits, ServerLimits, Then};

/// Polls, drives connections and children, and hands out events. One thread.
#[derive(Debug)]
pub struct Reactor {}

/// Ends the wait in [`Reactor::next`] from any thread; the reactor then yields
/// [`Event::Woken`].
#[derive(Clone, Debug)]
pub struct Waker {}

impl Reactor {
    /// A reactor with nothing in it.
    ///
    /// # Errors
    /// When the operating system has no poll descriptor for us.
    pub fn new(config: Config) -> io::Result<Reactor> {
        todo!()
    }

    /// The next event, waiting for it at most `timeout` (`None`: for ever). `Ok(None)` when the
    /// time is over.
    ///
    /// # Errors
    /// Only when polling itself fails.
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Event>> {
        todo!()
    }

    /// Time since this reactor was made, on the monotonic clock, as of the last event.
    pub fn now(&self) -> Duration {
        todo!()
    }

    /// Listens on `address` (port 0: any free one), with SO_REUSEADDR.
    ///
    /// # Errors
    /// Those of `socket`, `bind` and `listen`.
    pub fn listen(&mut self, address: SocketAddr, backlog: i32) -> io::Result<ListenerId> {
        todo!()
    }

    /// The address a listener has.
    pub fn listener_addr(&self, listener: ListenerId) -> Option<SocketAddr> {
        todo!()
    }

    /// Stops listening. Connections already accepted go on.
    pub fn close_listener(&mut self, listener: ListenerId) -> bool {
        todo!()
    }

    /// Starts TLS on a connection of [`Event::Incoming`].
    /// Every method below returns `false` for a connection that is gone or in the wrong state.
    pub fn serve(
        &mut self,
        conn: ConnId,
        tls: &Arc<ServerConfig>,
        limits: &Arc<ServerLimits>,
    ) -> bool {
        todo!()
    }

    /// Reads requests without TLS from a connection of [`Event::Incoming`].
    pub fn serve_plain(&mut self, conn: ConnId, limits: &Arc<ServerLimits>) -> bool {
        todo!()
    }

    /// Connects over TCP and TLS. What goes wrong, even at once, comes as [`Event::Closed`].
    /// [`Event::Handshaken`] comes first when it goes well; a request may be given before that.
    pub fn connect(
        &mut self,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        name: ServerName<'static>,
        limits: &Arc<ClientLimits>,
    ) -> ConnId {
        todo!()
    }

    /// Sends a request, head and body in one TLS record when it has at most 16,384 bytes, and
    /// awaits the response. One at a time.
    pub fn request(&mut self, conn: ConnId, bytes: Vec<u8>) -> bool {
        todo!()
    }

    /// Awaits a further response to the same request (pairing has two), for at most `read`
    /// without progress.
    pub fn await_response(&mut self, conn: ConnId, read: Duration) -> bool {
        todo!()
    }

    /// Connects to a Unix socket, sends `payload` and takes what comes until the peer closes.
    pub fn connect_unix(&mut self, path: &Path, payload: Vec<u8>, limits: RawLimits) -> ConnId {
        todo!()
    }

    /// Sends bytes; `then` says what follows them.
    pub fn send(&mut self, conn: ConnId, bytes: Vec<u8>, then: Then) -> bool {
        todo!()
    }

    /// Ends a connection at once: before the handshake without a byte, afterwards with a
    /// close_notify if the socket takes it. [`Event::Closed`] still comes.
    pub fn close(&mut self, conn: ConnId) -> bool {
        todo!()
    }

    /// The peer's leaf certificate, DER.
    pub fn peer_certificate(&self, conn: ConnId) -> Option<&[u8]> {
        todo!()
    }

    /// The TLS session was resumed.
    pub fn resumed(&self, conn: ConnId) -> bool {
        todo!()
    }

    /// The address of the peer.
    pub fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        todo!()
    }

    /// Our address on this connection.
    pub fn local_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        todo!()
    }

    /// Connections that exist.
    pub fn live_conns(&self) -> usize {
        todo!()
    }

    /// Bytes held in bodies, unsent responses and captured output.
    pub fn buffered_bytes(&self) -> usize {
        todo!()
    }

    /// Yields [`Event::Timer`] after `after`.
    pub fn set_timer(&mut self, after: Duration, token: u64) -> TimerId {
        todo!()
    }

    /// Forgets a timer; `false` when it has run out already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        todo!()
    }

    /// Starts a child process; [`Event::Child`] tells its end.
    ///
    /// # Errors
    /// When it could not be started; no event follows.
    pub fn spawn(&mut self, spec: ChildSpec) -> Result<ChildId, SpawnError> {
        todo!()
    }

    /// Kills a child and its process group with SIGKILL. [`Event::Child`] follows.
    pub fn kill_group(&mut self, child: ChildId) -> bool {
        todo!()
    }

    /// The process id of a child that runs.
    pub fn child_pid(&self, child: ChildId) -> Option<u32> {
        todo!()
    }

    /// Children that were started and not yet reported.
    pub fn live_children(&self) -> usize {
        todo!()
    }

    /// Turns these signals into [`Event::Signal`].
    ///
    /// # Errors
    /// When a handler or its pipe cannot be made.
    pub fn watch_signals(&mut self, signals: &[Signal]) -> io::Result<()> {
        todo!()
    }

    /// Resolves a host name on a worker thread; [`Event::Resolved`] brings the answer. A literal
    /// address is answered without a thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn resolve(&mut self, name: &str) -> io::Result<QueryId> {
        todo!()
    }

    /// A handle with which another thread can end the wait.
    ///
    /// # Errors
    /// When the operating system has no descriptor for it.
    pub fn waker(&mut self) -> io::Result<Waker> {
        todo!()
    }
}

impl Waker {
    /// Wakes the reactor.
    ///
    /// # Errors
    /// Those of the write.
    pub fn wake(&self) -> io::Result<()> {
        todo!()
    }
}
