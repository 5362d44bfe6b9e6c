//! The loop, and everything an application can ask of it.

mod accept;
mod services;
mod turn;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use slab::Slab;

use crate::child::Child;
use crate::conn::Conn;
use crate::event::{ChildId, CloseReason, ConnId, Event, ListenerId, TimerId};
use crate::limits::{ClientLimits, Config, RawLimits, ServerLimits, Then};
use crate::link::{Link, Socket};
use crate::offload::Offload;
use crate::signals::Signals;
use crate::timers::{Alarm, Timers};

use turn::Target;

/// Polls, drives connections and children, and hands out events. One thread.
///
/// The methods that act on a connection return `false` when it is gone or in a state in which the
/// act makes no sense; nothing has happened then, and whatever ended the connection is told by
/// [`Event::Closed`].
#[derive(Debug)]
pub struct Reactor {
    config: Config,
    poll: Poll,
    polled: mio::Events,
    start: Instant,
    now: Duration,
    /// What [`Reactor::next`] returns before it looks further.
    events: VecDeque<Event>,
    /// Objects that have something to do, each at most once.
    ready: VecDeque<Target>,
    /// How many of them are done before the poll is asked again.
    share: usize,
    timers: Timers,
    conns: Slab<Box<Conn>>,
    listeners: Slab<Listener>,
    children: Slab<Box<Child>>,
    user_timers: Slab<UserTimer>,
    signals: Option<Signals>,
    offload: Option<Box<dyn Offload>>,
    waker: Option<Waker>,
    /// For the next id.
    generation: u32,
    buffered: usize,
    scratch: Box<[u8]>,
    #[cfg(test)]
    pub(crate) fault_seed: Option<u32>,
}

#[derive(Debug)]
struct Listener {
    id: ListenerId,
    socket: TcpListener,
    address: SocketAddr,
    queued: bool,
    alarm: Alarm,
}

#[derive(Debug)]
struct UserTimer {
    id: TimerId,
    token: u64,
    alarm: Alarm,
}

/// Ends the wait in [`Reactor::next`] from any thread; the reactor then yields [`Event::Woken`].
#[derive(Clone, Debug)]
pub struct Waker {
    waker: Arc<mio::Waker>,
    woken: Arc<AtomicBool>,
}

impl Waker {
    /// Wakes the reactor.
    ///
    /// # Errors
    /// Those of the write to the descriptor behind it.
    pub fn wake(&self) -> io::Result<()> {
        self.woken.store(true, Ordering::SeqCst);
        self.waker.wake()
    }
}

impl Reactor {
    /// A reactor with nothing in it.
    ///
    /// # Errors
    /// When the operating system has no poll descriptor for us.
    pub fn new(config: Config) -> io::Result<Reactor> {
        Ok(Reactor {
            config,
            poll: Poll::new()?,
            polled: mio::Events::with_capacity(POLL_EVENTS),
            start: Instant::now(),
            now: Duration::ZERO,
            events: VecDeque::new(),
            ready: VecDeque::new(),
            share: 0,
            timers: Timers::default(),
            conns: Slab::new(),
            listeners: Slab::new(),
            children: Slab::new(),
            user_timers: Slab::new(),
            signals: None,
            offload: None,
            waker: None,
            generation: 0,
            buffered: 0,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            #[cfg(test)]
            fault_seed: None,
        })
    }

    /// The next event, waiting for it at most `timeout` (`None`: for ever). `Ok(None)` when the
    /// time is over.
    ///
    /// # Errors
    /// Only when polling itself fails.
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Event>> {
        self.tick();
        let until = timeout.map(|timeout| self.now.saturating_add(timeout));
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let waited = self.turn(until)?;
            let idle = waited && self.share == 0 && self.events.is_empty();
            if idle && until.is_some_and(|until| self.now >= until) {
                return Ok(None);
            }
        }
    }

    /// Time since this reactor was made, on the monotonic clock, as of the last event.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Changes how many connections there may be at a time. Those there are stay.
    pub fn set_max_conns(&mut self, max_conns: usize) {
        self.config.max_conns = max_conns;
    }

    /// Listens on `address` (port 0: any free one), with SO_REUSEADDR.
    ///
    /// # Errors
    /// Those of `socket`, `bind` and `listen`.
    pub fn listen(&mut self, address: SocketAddr, backlog: i32) -> io::Result<ListenerId> {
        let mut socket = TcpListener::bind(address)?;
        // mio has its own idea of a backlog; a second call replaces it.
        rustix::net::listen(&socket, backlog)?;
        let address = socket.local_addr()?;
        let generation = self.next_generation();
        let entry = self.listeners.vacant_entry();
        let id = ListenerId::at(entry.key(), generation);
        let token = Target::Listener(id.slot).token();
        self.poll
            .registry()
            .register(&mut socket, token, Interest::READABLE)?;
        entry.insert(Listener {
            id,
            socket,
            address,
            queued: false,
            alarm: Alarm::default(),
        });
        Ok(id)
    }

    /// The address a listener has.
    pub fn listener_addr(&self, listener: ListenerId) -> Option<SocketAddr> {
        let found = self.listeners.get(listener.index())?;
        (found.id == listener).then_some(found.address)
    }

    /// Stops listening. Connections already accepted go on.
    pub fn close_listener(&mut self, listener: ListenerId) -> bool {
        if self.listener_addr(listener).is_none() {
            return false;
        }
        let listener = self.listeners.remove(listener.index());
        self.timers.forget(&listener.alarm);
        true
    }

    /// Starts TLS on a connection of [`Event::Incoming`].
    pub fn serve(
        &mut self,
        conn: ConnId,
        tls: &Arc<ServerConfig>,
        limits: &Arc<ServerLimits>,
    ) -> bool {
        self.serve_inner(conn, Some(tls), limits)
    }

    /// Reads requests without TLS from a connection of [`Event::Incoming`].
    pub fn serve_plain(&mut self, conn: ConnId, limits: &Arc<ServerLimits>) -> bool {
        self.serve_inner(conn, None, limits)
    }

    fn serve_inner(
        &mut self,
        id: ConnId,
        tls: Option<&Arc<ServerConfig>>,
        limits: &Arc<ServerLimits>,
    ) -> bool {
        let now = self.now;
        let registry = self.poll.registry();
        let Some(conn) = conn_mut(&mut self.conns, id) else {
            return false;
        };
        if !conn.serve(tls, limits, now) {
            return false;
        }
        if let Some(link) = &mut conn.link {
            if let Err(error) = link.register(registry, Target::Conn(id.slot).token()) {
                conn.fail(&error);
            }
        }
        self.drive_conn(id.slot);
        true
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
        let full = self.is_full();
        let generation = self.next_generation();
        let entry = self.conns.vacant_entry();
        let id = ConnId::at(entry.key(), generation);
        let conn = if full {
            Conn::stillborn(id, CloseReason::Full)
        } else {
            let token = Target::Conn(id.slot).token();
            let registry = self.poll.registry();
            let link = TcpStream::connect(address).and_then(|socket| {
                let mut link = Link::new(Socket::Tcp(socket));
                link.register(registry, token)?;
                Ok(link)
            });
            Conn::client(id, address, link, tls, name, limits, self.now)
        };
        entry.insert(conn);
        self.inject_faults(id);
        // Not driven at once: the application is to know the id before anything can end it.
        self.start_conn(id.slot);
        id
    }

    /// Connects to a Unix socket, sends `payload` and takes what comes until the peer closes. What
    /// goes wrong, even at once, comes as [`Event::Closed`].
    pub fn connect_unix(&mut self, path: &Path, payload: Vec<u8>, limits: RawLimits) -> ConnId {
        let full = self.is_full();
        let generation = self.next_generation();
        let entry = self.conns.vacant_entry();
        let id = ConnId::at(entry.key(), generation);
        entry.insert(if full {
            Conn::stillborn(id, CloseReason::Full)
        } else {
            Conn::raw(id, path.to_owned(), payload, limits, self.now)
        });
        self.try_unix(id.slot);
        self.start_conn(id.slot);
        id
    }

    /// Sends a request, head and body in one TLS record when they have at most 16,384 bytes
    /// together, and awaits the response. One at a time.
    pub fn request(&mut self, conn: ConnId, bytes: Vec<u8>) -> bool {
        self.send(conn, bytes, Then::AwaitResponse)
    }

    /// As [`Reactor::request`], where the response may be one whose body comes in pieces of unknown
    /// number ([`Event::Part`]); of such a response the body in [`Event::Response`] is empty. It may
    /// take as long as it likes, while something comes every half minute.
    pub fn request_stream(&mut self, conn: ConnId, bytes: Vec<u8>) -> bool {
        let now = self.now;
        let done = conn_mut(&mut self.conns, conn)
            .is_some_and(|conn| conn.is_dead() || conn.ask_for_stream(bytes, now));
        self.after(conn, done)
    }

    /// Awaits a further response to the same request (pairing has two), for at most `read`
    /// without progress.
    pub fn await_response(&mut self, conn: ConnId, read: Duration) -> bool {
        let now = self.now;
        let done = conn_mut(&mut self.conns, conn).is_some_and(|c| c.await_response(read, now));
        self.after(conn, done)
    }

    /// Sends bytes; `then` says what follows them. A server sends when it owes a response, or from
    /// [`Event::Handshaken`] on a last one (with [`Then::Close`]) before the request has come; a
    /// client sends when nothing is outstanding.
    pub fn send(&mut self, conn: ConnId, bytes: Vec<u8>, then: Then) -> bool {
        let now = self.now;
        let room = self.config.max_buffered.saturating_sub(self.buffered);
        let done = conn_mut(&mut self.conns, conn).is_some_and(|c| c.send(bytes, then, room, now));
        self.after(conn, done)
    }

    /// Ends a connection at once: before the handshake without a byte, afterwards with a
    /// close_notify if the socket takes it. [`Event::Closed`] still comes.
    pub fn close(&mut self, conn: ConnId) -> bool {
        let found = conn_mut(&mut self.conns, conn)
            .map(|conn| conn.close())
            .is_some();
        self.after(conn, found)
    }

    fn after(&mut self, conn: ConnId, done: bool) -> bool {
        if done {
            self.drive_conn(conn.slot);
        }
        done
    }

    /// Bounds the bodies of further requests on an accepted connection, for a peer that turned out
    /// to deserve less than what [`Reactor::serve`] allowed.
    pub fn limit_body(&mut self, conn: ConnId, max_body: usize) -> bool {
        conn_mut(&mut self.conns, conn).is_some_and(|conn| conn.limit_body(max_body))
    }

    /// The peer's leaf certificate, DER. Known after the handshake.
    pub fn peer_certificate(&self, conn: ConnId) -> Option<&[u8]> {
        self.conn(conn)?.peer_certificate()
    }

    /// The TLS session was resumed.
    pub fn resumed(&self, conn: ConnId) -> bool {
        self.conn(conn).is_some_and(Conn::resumed)
    }

    /// The address of the peer.
    pub fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conn(conn)?.peer
    }

    /// Our address on this connection.
    pub fn local_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conn(conn)?.link.as_ref()?.local_addr()
    }

    /// Connections that exist.
    pub fn live_conns(&self) -> usize {
        self.conns.len()
    }

    /// Bytes held in bodies, unsent responses and captured output.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns
            .get(id.index())
            .map(AsRef::as_ref)
            .filter(|conn| conn.id == id)
    }

    fn child(&self, id: ChildId) -> Option<&Child> {
        self.children
            .get(id.index())
            .map(AsRef::as_ref)
            .filter(|child| child.id == id)
    }

    fn is_full(&self) -> bool {
        self.conns.len() >= self.config.max_conns
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    #[allow(unused_variables, reason = "only tests have faults to inject")]
    fn inject_faults(&mut self, id: ConnId) {
        #[cfg(test)]
        if let (Some(seed), Some(conn)) = (self.fault_seed, conn_mut(&mut self.conns, id)) {
            if let Some(link) = &mut conn.link {
                link.faults = Some(crate::faults::Faults::new(seed ^ id.generation));
            }
        }
    }
}

fn conn_mut(conns: &mut Slab<Box<Conn>>, id: ConnId) -> Option<&mut Conn> {
    conns
        .get_mut(id.index())
        .map(AsMut::as_mut)
        .filter(|conn| conn.id == id)
}

/// Events taken from the system at a time.
const POLL_EVENTS: usize = 256;
/// One buffer for all clear-text reads: the size of a full TLS record.
const SCRATCH: usize = 16 * 1024;
