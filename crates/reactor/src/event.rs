//! What a reactor tells its application.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ctrl_exec_protocol::http::{HttpError, Request, Response};
use ctrl_exec_protocol::live::Stream;

use crate::child::ChildResult;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// An id is never used twice: one that has ended is unknown to every method.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            pub(crate) slot: u32,
            pub(crate) generation: u32,
        }

        impl $name {
            #[allow(clippy::cast_possible_truncation, reason = "tables are far smaller than 2^32")]
            #[allow(dead_code, reason = "not every id lives in a table")]
            pub(crate) fn at(slot: usize, generation: u32) -> Self {
                $name { slot: slot as u32, generation }
            }

            /// The place in the table.
            #[allow(dead_code, reason = "not every id lives in a table")]
            pub(crate) fn index(self) -> usize {
                self.slot as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.slot, self.generation)
            }
        }
    };
}

id!(
    /// A child process.
    ChildId
);
id!(
    /// A connection, accepted or made.
    ConnId
);
id!(
    /// Work given to [`Reactor::offload`](crate::Reactor::offload).
    JobId
);
id!(
    /// A listening socket.
    ListenerId
);
id!(
    /// A name that is being resolved.
    QueryId
);
id!(
    /// A timer.
    TimerId
);

/// Something happened. Each is delivered once.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection was accepted and nothing was read from it. The application answers with
    /// [`Reactor::serve`](crate::Reactor::serve), [`Reactor::serve_plain`](crate::Reactor::serve_plain)
    /// or [`Reactor::close`](crate::Reactor::close).
    Incoming {
        /// Where it came in.
        listener: ListenerId,
        /// Its name from now on.
        conn: ConnId,
        /// Who it is.
        peer: SocketAddr,
    },
    /// The TLS handshake is done, on either side;
    /// [`Reactor::peer_certificate`](crate::Reactor::peer_certificate) is known from here on.
    Handshaken {
        /// The connection.
        conn: ConnId,
    },
    /// A whole request came. The application owes a response.
    Request {
        /// The connection.
        conn: ConnId,
        /// The request.
        request: Request,
    },
    /// What came is not an acceptable request. The application may send an answer with
    /// [`Then::Close`](crate::Then::Close), or close.
    BadRequest {
        /// The connection.
        conn: ConnId,
        /// The fault, with the status and text to answer.
        error: HttpError,
    },
    /// The peer closed its side while the application owes a response. It may still want it, so
    /// the connection stays until the application sends or closes. Comes at most once.
    PeerClosed {
        /// The connection.
        conn: ConnId,
    },
    /// A whole response came. The application asks again ([`Reactor::request`]), awaits another
    /// response ([`Reactor::await_response`]) or closes.
    ///
    /// [`Reactor::request`]: crate::Reactor::request
    /// [`Reactor::await_response`]: crate::Reactor::await_response
    Response {
        /// The connection.
        conn: ConnId,
        /// The response.
        response: Response,
    },
    /// A piece of the body that [`Reactor::request_stream`](crate::Reactor::request_stream) awaits.
    Part {
        /// The connection.
        conn: ConnId,
        /// What came.
        bytes: Vec<u8>,
    },
    /// What was sent with [`Then::Hold`](crate::Then::Hold) is out: the application may send more.
    Sent {
        /// The connection.
        conn: ConnId,
    },
    /// A piece of what a raw connection brings, of at most 16 KiB, as it arrives.
    Received {
        /// The connection.
        conn: ConnId,
        /// What came.
        bytes: Vec<u8>,
    },
    /// The connection is over. Every connection ends with exactly one of these, whoever ended it.
    Closed {
        /// The connection; the id is unknown from here on.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A timer of [`Reactor::set_timer`](crate::Reactor::set_timer) ran out.
    Timer {
        /// The timer; it is gone.
        timer: TimerId,
        /// What the application gave it.
        token: u64,
    },
    /// A piece of an output that is [`Output::Live`](crate::Output::Live), as it came.
    Output {
        /// The child.
        child: ChildId,
        /// Which of its outputs.
        stream: Stream,
        /// What came, at most 16 KiB.
        bytes: Vec<u8>,
    },
    /// A child process ended.
    Child {
        /// The child; the id is unknown from here on.
        child: ChildId,
        /// How, and what it wrote.
        result: Box<ChildResult>,
    },
    /// A signal of [`Reactor::watch_signals`](crate::Reactor::watch_signals) came, once or several
    /// times.
    Signal(Signal),
    /// A name was resolved.
    Resolved {
        /// The question.
        query: QueryId,
        /// The addresses, in the system's order, without duplicates; or the resolver's words.
        result: Result<Vec<IpAddr>, String>,
    },
    /// Work given to [`Reactor::offload`](crate::Reactor::offload) is done.
    Offloaded {
        /// Which.
        job: JobId,
        /// What it returned, to be downcast to that type; `None` when it panicked.
        value: Option<Box<dyn Any + Send>>,
    },
    /// A [`Waker`](crate::Waker) was used, once or several times.
    Woken,
}

/// A signal that a program may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGHUP: reload.
    Hup,
    /// SIGINT: stop.
    Int,
    /// SIGTERM: stop.
    Term,
    /// SIGUSR1.
    Usr1,
}

/// What a connection was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// TCP or Unix connect.
    Connect,
    /// TLS handshake.
    Handshake,
    /// Server: receiving a request.
    Request,
    /// Server: the application was at work.
    Busy,
    /// Sending.
    Write,
    /// Client: awaiting or receiving a response.
    Response,
    /// Nothing was outstanding.
    Idle,
    /// Waiting for the peer to close after the last response.
    Linger,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connecting",
            Phase::Handshake => "TLS handshake",
            Phase::Request => "receiving the request",
            Phase::Busy => "working",
            Phase::Write => "sending",
            Phase::Response => "awaiting the response",
            Phase::Idle => "idle",
            Phase::Linger => "closing",
        })
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The last response was sent and the connection closed in order.
    Done,
    /// The peer ended the connection where it had to go on.
    Eof {
        /// What was being done.
        phase: Phase,
        /// Some bytes of what was awaited had come.
        partial: bool,
    },
    /// The reactor has no place left ([`Config::max_conns`](crate::Config::max_conns)).
    Full,
    /// The peer's message is not acceptable HTTP.
    Http(HttpError),
    /// Any other error of the operating system.
    Io {
        /// What was being done.
        phase: Phase,
        /// The error's kind.
        kind: io::ErrorKind,
        /// The errno, where there is one.
        errno: Option<i32>,
    },
    /// The application closed it.
    Local,
    /// The peer closed in order while nothing was outstanding.
    PeerClosed,
    /// Connect: nobody listens.
    Refused,
    /// The peer reset the connection.
    Reset {
        /// What was being done.
        phase: Phase,
    },
    /// A limit of time passed.
    Timeout(Phase),
    /// TLS failed; the text is rustls's.
    Tls {
        /// What was being done: a server's refusal of our certificate comes as late as
        /// [`Phase::Response`] under TLS 1.3.
        phase: Phase,
        /// What is wrong.
        text: String,
    },
    /// The peer sends its response, or takes the request, below
    /// [`ClientLimits::floor`](crate::ClientLimits::floor).
    TooSlow {
        /// What was being done.
        phase: Phase,
        /// Bytes of the response that came.
        bytes: usize,
    },
    /// A raw peer sent more than [`RawLimits::max_received`](crate::RawLimits::max_received).
    TooLarge,
    /// Connect: no route to the host or its network.
    Unreachable,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Done => f.write_str("done"),
            CloseReason::Eof {
                phase,
                partial: false,
            } => {
                write!(f, "closed by the peer without a word ({phase})")
            }
            CloseReason::Eof {
                phase,
                partial: true,
            } => {
                write!(f, "closed by the peer half-way ({phase})")
            }
            CloseReason::Full => f.write_str("too many connections"),
            CloseReason::Http(error) => error.fmt(f),
            CloseReason::Io { phase, kind, errno } => {
                match errno {
                    Some(errno) => io::Error::from_raw_os_error(*errno).fmt(f)?,
                    None => kind.fmt(f)?,
                }
                write!(f, " ({phase})")
            }
            CloseReason::Local => f.write_str("closed"),
            CloseReason::PeerClosed => f.write_str("closed by the peer"),
            CloseReason::Refused => f.write_str("connection refused"),
            CloseReason::Reset { phase } => write!(f, "connection reset by peer ({phase})"),
            CloseReason::Timeout(phase) => write!(f, "timed out ({phase})"),
            CloseReason::Tls { phase, text } => write!(f, "TLS: {text} ({phase})"),
            CloseReason::TooSlow { phase, bytes } => {
                write!(f, "too slow ({phase}, {bytes} bytes came)")
            }
            CloseReason::TooLarge => f.write_str("too much data from the peer"),
            CloseReason::Unreachable => f.write_str("unreachable"),
        }
    }
}
