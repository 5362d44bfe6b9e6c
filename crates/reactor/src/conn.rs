//! One connection: a state machine that is advanced whenever something may have changed.
//!
//! It reads and writes through its [`Link`] and [`Stream`], puts what the application has to know
//! into the queue of events, and names its next deadline. It does not know the poll.

mod client;
mod closing;
mod opening;
mod raw;
mod server;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::event::{CloseReason, ConnId, Event, Phase};
use crate::limits::{ClientLimits, RawLimits, ServerLimits, Then};
use crate::link::Link;
use crate::stream::{Out, Stream};
use crate::timers::Alarm;

use client::Client;
use closing::{connect_reason, io_reason};
use raw::Raw;
use server::Server;

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub id: ConnId,
    pub peer: Option<SocketAddr>,
    /// `None`: not connected yet (a Unix socket whose backlog is full), or never to be.
    pub link: Option<Link>,
    pub alarm: Alarm,
    /// The connection waits in the ready queue.
    pub queued: bool,
    /// Bytes counted for it in the reactor's sum.
    pub counted: usize,
    stream: Stream,
    state: State,
    role: Role,
    out: Out,
    deadline: Option<Duration>,
    /// When the handshake began.
    begun: Duration,
    /// Handshake: the peer has said something. Response: bytes sent since the deadline was set.
    progress: usize,
}

#[derive(Debug)]
enum Role {
    /// Accepted, and not yet known what for.
    None,
    Client(Client),
    Raw(Raw),
    Server(Server),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Accepted; waits for the application's word.
    Incoming,
    /// TCP connect under way, or Unix connect to be tried again.
    Connecting,
    /// TLS handshake.
    Handshake,
    /// Server: receiving a request.
    Reading,
    /// Server: the application owes a response.
    Busy,
    /// Server: sending a response.
    Writing(Then),
    /// Client: sending a request or awaiting its response.
    Asking,
    /// Client: nothing outstanding.
    Parked,
    /// Raw: sending and receiving.
    Raw,
    /// Waiting for the peer to close; `drained` bytes were thrown away.
    Lingering { reason: CloseReason, drained: usize },
    /// Over.
    Dead(CloseReason),
}

/// What a connection needs from the reactor while it is advanced.
pub(crate) struct Cx<'a> {
    pub now: Duration,
    pub events: &'a mut VecDeque<Event>,
    pub scratch: &'a mut [u8],
    /// Bytes this connection may hold at most, in view of what all others hold.
    pub room: usize,
}

/// What to do with a connection after it was advanced.
pub(crate) enum Next {
    /// It is over.
    Dead(CloseReason),
    /// It had its share of work and there is more: again, after the others.
    More,
    /// Nothing to be done before an event or the deadline.
    Wait,
}

/// The outcome of one step.
enum Flow {
    Again,
    /// Its share is used up.
    Yield,
    Wait,
}

impl Conn {
    /// An accepted connection.
    pub fn accepted(id: ConnId, link: Link, peer: SocketAddr) -> Box<Conn> {
        Conn::new(
            id,
            Some(link),
            Some(peer),
            State::Incoming,
            Role::None,
            Stream::plain(),
        )
    }

    /// A connection that is being made to a TLS server.
    pub fn client(
        id: ConnId,
        peer: SocketAddr,
        link: io::Result<Link>,
        tls: &Arc<ClientConfig>,
        name: ServerName<'static>,
        limits: &Arc<ClientLimits>,
        now: Duration,
    ) -> Box<Conn> {
        let role = Role::Client(Client::new(limits.clone()));
        let (stream, link, state) = match (Stream::client(tls, name), link) {
            (Ok(stream), Ok(link)) => (stream, Some(link), State::Connecting),
            (Err(text), _) => {
                let reason = CloseReason::Tls {
                    phase: Phase::Connect,
                    text,
                };
                (Stream::plain(), None, State::Dead(reason))
            }
            (_, Err(error)) => (Stream::plain(), None, State::Dead(connect_reason(&error))),
        };
        let mut conn = Conn::new(id, link, Some(peer), state, role, stream);
        conn.deadline = Some(now + limits.connect);
        conn
    }

    /// A raw connection; [`Conn::attach`] brings its socket.
    pub fn raw(
        id: ConnId,
        path: PathBuf,
        payload: Vec<u8>,
        limits: RawLimits,
        now: Duration,
    ) -> Box<Conn> {
        let deadline = now + limits.connect;
        let role = Role::Raw(Raw::new(path, limits, deadline));
        let mut conn = Conn::new(id, None, None, State::Connecting, role, Stream::plain());
        conn.out.set(payload);
        conn.deadline = Some(now);
        conn
    }

    /// A connection for which there was no place.
    pub fn stillborn(id: ConnId, reason: CloseReason) -> Box<Conn> {
        Conn::new(
            id,
            None,
            None,
            State::Dead(reason),
            Role::None,
            Stream::plain(),
        )
    }

    fn new(
        id: ConnId,
        link: Option<Link>,
        peer: Option<SocketAddr>,
        state: State,
        role: Role,
        stream: Stream,
    ) -> Box<Conn> {
        Box::new(Conn {
            id,
            peer,
            link,
            alarm: Alarm::default(),
            queued: false,
            counted: 0,
            stream,
            state,
            role,
            out: Out::default(),
            deadline: None,
            begun: Duration::ZERO,
            progress: 0,
        })
    }

    /// The deadline as it stands.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Heap bytes held for messages.
    pub fn held(&self) -> usize {
        let parsed = match &self.role {
            Role::None | Role::Raw(_) => 0,
            Role::Client(client) => client.parser.buffered(),
            Role::Server(server) => server.parser.buffered(),
        };
        parsed + self.out.held() + self.stream.held()
    }

    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.stream.peer_certificate()
    }

    pub fn resumed(&self) -> bool {
        self.stream.resumed()
    }

    /// Bounds request bodies from here on.
    pub fn limit_body(&mut self, max_body: usize) -> bool {
        match &mut self.role {
            Role::Server(server) => {
                server.parser.limit_body(max_body);
                true
            }
            _ => false,
        }
    }

    /// The application's word on an accepted connection. `tls`: `None` for clear text.
    pub fn serve(
        &mut self,
        tls: Option<&Arc<ServerConfig>>,
        limits: &Arc<ServerLimits>,
        now: Duration,
    ) -> bool {
        if self.state != State::Incoming {
            return false;
        }
        let mut server = Server::new(limits.clone());
        let first = server.begin(now);
        self.role = Role::Server(server);
        match tls.map(Stream::server) {
            None => {
                self.state = State::Reading;
                self.deadline = Some(first);
            }
            Some(Ok(stream)) => {
                self.stream = stream;
                self.state = State::Handshake;
                self.begun = now;
                self.deadline = Some(now + limits.handshake);
            }
            Some(Err(text)) => {
                self.state = State::Dead(CloseReason::Tls {
                    phase: Phase::Handshake,
                    text,
                });
            }
        }
        true
    }

    /// The application wants bytes sent. `false`: not now.
    /// `room`: what all connections may still hold.
    pub fn send(&mut self, bytes: Vec<u8>, then: Then, room: usize, now: Duration) -> bool {
        match (&self.role, &self.state, then) {
            // It failed at once, which the application has yet to be told.
            (_, State::Dead(_), Then::AwaitResponse) => true,
            (Role::Server(_), State::Busy, Then::Close | Then::Hold | Then::KeepAlive) => {
                self.start_response(bytes, then, room, now);
                true
            }
            // An answer to a peer that has not asked yet, such as a refusal of its certificate.
            (Role::Server(_), State::Reading, Then::Close) => {
                self.start_response(bytes, then, room, now);
                true
            }
            (Role::Client(_), _, Then::AwaitResponse) => self.ask(bytes, now),
            (Role::Client(_), _, Then::Close) if bytes.is_empty() => {
                self.close();
                true
            }
            _ => false,
        }
    }

    /// It failed at once, which the application has yet to be told.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead(_))
    }

    /// The application awaits a further response.
    pub fn await_response(&mut self, read: Duration, now: Duration) -> bool {
        self.ask_again(read, now)
    }

    /// The application ends the connection.
    pub fn close(&mut self) {
        if matches!(self.state, State::Dead(_)) {
            return;
        }
        let established = matches!(
            self.state,
            State::Reading | State::Busy | State::Writing(_) | State::Asking | State::Parked
        );
        if established {
            self.say_goodbye();
        }
        self.state = match std::mem::replace(&mut self.state, State::Incoming) {
            // The response is out and the peer may have it: that is what there was to do.
            State::Lingering { reason, .. } => State::Dead(reason),
            _ => State::Dead(CloseReason::Local),
        };
    }

    /// The system refused what the connection needs.
    pub fn fail(&mut self, error: &io::Error) {
        let phase = self.phase(&self.state);
        self.state = State::Dead(io_reason(phase, error));
    }

    /// The deadline has passed.
    pub fn expire(&mut self, now: Duration) {
        self.deadline = None;
        let reason = match &self.state {
            State::Dead(_) => return,
            State::Lingering { reason, .. } => reason.clone(),
            State::Connecting if self.wants_connect(now) => return,
            State::Asking => {
                let phase = self.phase(&State::Asking);
                match &self.role {
                    Role::Client(client) if client.is_too_slow(!self.out.is_empty(), now) => {
                        let bytes = client.received();
                        CloseReason::TooSlow { phase, bytes }
                    }
                    _ => CloseReason::Timeout(phase),
                }
            }
            state => CloseReason::Timeout(self.phase(state)),
        };
        if reason == CloseReason::Timeout(Phase::Idle) {
            self.say_goodbye();
        }
        self.state = State::Dead(reason);
    }

    /// Does what can be done now, up to its share.
    pub fn advance(&mut self, cx: &mut Cx<'_>) -> Next {
        for _ in 0..SHARE {
            let flow = match &self.state {
                State::Dead(reason) => return Next::Dead(reason.clone()),
                State::Incoming => Flow::Wait,
                State::Connecting => self.step_connecting(cx),
                State::Handshake => self.step_handshake(cx),
                State::Reading => self.step_reading(cx),
                State::Busy => self.step_busy(cx),
                State::Writing(then) => {
                    let then = *then;
                    self.step_writing(then, cx)
                }
                State::Asking => self.step_asking(cx),
                State::Parked => self.step_parked(cx),
                State::Raw => self.step_raw(cx),
                State::Lingering { .. } => self.step_lingering(cx),
            };
            match flow {
                Flow::Again => {}
                Flow::Yield => return self.next_or(Next::More),
                Flow::Wait => return self.next_or(Next::Wait),
            }
        }
        self.next_or(Next::More)
    }

    fn next_or(&self, next: Next) -> Next {
        match &self.state {
            State::Dead(reason) => Next::Dead(reason.clone()),
            _ => next,
        }
    }

    fn phase(&self, state: &State) -> Phase {
        match state {
            State::Incoming | State::Connecting => Phase::Connect,
            State::Handshake => Phase::Handshake,
            State::Reading => match &self.role {
                Role::Server(server) if server.kept && server.parser.is_idle() => Phase::Idle,
                _ => Phase::Request,
            },
            State::Busy => Phase::Busy,
            State::Writing(_) => Phase::Write,
            State::Asking | State::Raw if !self.out.is_empty() => Phase::Write,
            State::Asking | State::Raw => Phase::Response,
            State::Parked => Phase::Idle,
            State::Lingering { .. } | State::Dead(_) => Phase::Linger,
        }
    }
}

/// Steps a connection may take before others get their turn: with one read of 4 KiB each, 64 KiB.
const SHARE: usize = 16;
