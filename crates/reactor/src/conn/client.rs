//! The side that sends requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ctrl_exec_protocol::http::{ChunkedBody, HttpError, ResponseParser};

use super::closing::io_reason;
use super::{Conn, Cx, Flow, Role, State};
use crate::event::{CloseReason, Event, Phase};
use crate::limits::ClientLimits;
use crate::stream::{Chunk, Fault, Pulled};

#[derive(Debug)]
pub(super) struct Client {
    pub limits: Arc<ClientLimits>,
    pub parser: ResponseParser,
    /// The application asked before the connection stood.
    asked: bool,
    /// The longest time without progress while this response is awaited.
    read: Duration,
    /// The end of patience for this response, whatever the progress.
    until: Option<Duration>,
    /// When the request began to leave, and how much of it has.
    sending: Pace,
    /// When the response began to come, and how much of it has; `None` before its first byte.
    receiving: Option<Pace>,
    /// Reads a body that comes in chunks, where one is awaited. A trait object, so that a program
    /// that awaits none does not carry the code.
    chunks: Option<Box<dyn Chunks>>,
    /// The peer takes no more bytes, or what it got is no longer in step with what was asked:
    /// there will be no further request.
    spoilt: bool,
}

/// What reads a body in chunks: [`ChunkedBody`].
trait Chunks: std::fmt::Debug + Send {
    fn push(&mut self, input: &[u8], content: &mut dyn FnMut(&[u8])) -> Result<usize, HttpError>;
    fn is_over(&self) -> bool;
}

impl Chunks for ChunkedBody {
    fn push(&mut self, input: &[u8], content: &mut dyn FnMut(&[u8])) -> Result<usize, HttpError> {
        ChunkedBody::push(self, input, content)
    }

    fn is_over(&self) -> bool {
        ChunkedBody::is_over(self)
    }
}

/// How fast a message passes.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    since: Duration,
    bytes: usize,
}

impl Client {
    pub fn new(limits: Arc<ClientLimits>) -> Self {
        let parser = ResponseParser::new(limits.http);
        let read = limits.read;
        Client {
            limits,
            parser,
            asked: false,
            read,
            until: None,
            sending: Pace::default(),
            receiving: None,
            chunks: None,
            spoilt: false,
        }
    }

    /// Takes bytes of a body in chunks. Such a body is as long, and comes as slowly, as it likes,
    /// while something comes.
    fn push_chunks(&mut self, bytes: &[u8], part: &mut Vec<u8>) -> Result<usize, HttpError> {
        let Some(chunks) = &mut self.chunks else {
            return Err(HttpError::UnsupportedTransferEncoding);
        };
        let used = chunks.push(bytes, &mut |bytes| part.extend_from_slice(bytes))?;
        if chunks.is_over() {
            self.chunks = None;
            self.parser.end_chunked();
        }
        self.receiving = None;
        self.until = None;
        self.read = self.read.max(PATIENCE);
        Ok(used)
    }

    fn next_deadline(&self, sending: bool, now: Duration) -> Duration {
        let step = now
            + if sending {
                self.limits.write
            } else {
                self.read
            };
        let step = self.until.map_or(step, |until| until.min(step));
        self.slowest(sending).map_or(step, |slow| slow.min(step))
    }

    /// When what is under way is too slow, as far as it has got.
    fn slowest(&self, sending: bool) -> Option<Duration> {
        let floor = self.limits.floor?;
        let end = |pace: Pace| pace.since.saturating_add(floor.time_for(pace.bytes));
        let receiving = self.receiving.map(end);
        match sending.then(|| end(self.sending)) {
            Some(sent) => Some(receiving.map_or(sent, |received| received.min(sent))),
            None => receiving,
        }
    }

    /// Whether the deadline that passed was that of the speed.
    pub(super) fn is_too_slow(&self, sending: bool, now: Duration) -> bool {
        self.slowest(sending).is_some_and(|slow| slow <= now)
    }

    /// Bytes of this response that have come.
    pub(super) fn received(&self) -> usize {
        self.receiving.map_or(0, |pace| pace.bytes)
    }
}

impl Conn {
    pub(super) fn ask(&mut self, bytes: Vec<u8>, now: Duration) -> bool {
        let Role::Client(client) = &mut self.role else {
            return false;
        };
        if bytes.is_empty() || client.asked || client.spoilt {
            return false;
        }
        client.asked = true;
        client.read = client.limits.read;
        client.chunks = None;
        self.begin(bytes, now)
    }

    pub fn ask_for_stream(&mut self, bytes: Vec<u8>, now: Duration) -> bool {
        let asked = self.ask(bytes, now);
        if let Role::Client(client) = &mut self.role {
            if asked {
                client.chunks = Some(Box::<ChunkedBody>::default());
            }
        }
        asked
    }

    pub(super) fn ask_again(&mut self, read: Duration, now: Duration) -> bool {
        let Role::Client(client) = &mut self.role else {
            return false;
        };
        if client.asked {
            return false;
        }
        client.asked = true;
        client.read = read;
        self.begin(Vec::new(), now)
    }

    fn begin(&mut self, bytes: Vec<u8>, now: Duration) -> bool {
        match self.state {
            State::Connecting | State::Handshake => self.out.set(bytes),
            State::Parked => {
                self.out.set(bytes);
                self.start_asking(now);
            }
            _ => return false,
        }
        true
    }

    pub(super) fn client_established(&mut self, now: Duration) {
        let Role::Client(client) = &self.role else {
            return;
        };
        if client.asked {
            self.start_asking(now);
        } else {
            self.deadline = Some(now + client.limits.idle);
            self.state = State::Parked;
        }
    }

    fn start_asking(&mut self, now: Duration) {
        let Role::Client(client) = &mut self.role else {
            return;
        };
        client.until = client.limits.total.map(|total| now + total);
        client.sending = Pace {
            since: now,
            bytes: 0,
        };
        client.receiving = None;
        self.deadline = Some(client.next_deadline(!self.out.is_empty(), now));
        self.state = State::Asking;
    }

    /// Sends and receives at the same time: a server may answer before it has read everything.
    pub(super) fn step_asking(&mut self, cx: &mut Cx<'_>) -> Flow {
        let (Some(link), Role::Client(client)) = (&mut self.link, &mut self.role) else {
            return Flow::Wait;
        };
        if link.writable && !client.spoilt && (!self.out.is_empty() || self.stream.wants_flush()) {
            match self.stream.push(link, &mut self.out, false) {
                Ok((_, 0)) => {}
                Ok((_, sent)) => {
                    client.sending.bytes += sent;
                    self.deadline = Some(client.next_deadline(!self.out.is_empty(), cx.now));
                }
                Err(error) if is_reset(&error) => {
                    // What the server said before it closed may still be there to read.
                    client.spoilt = true;
                    link.readable = true;
                }
                Err(error) => return self.die(io_reason(Phase::Write, &error)),
            }
        }
        match self.stream.chunk() {
            Chunk::Bytes(bytes) if client.parser.is_chunked() => {
                let mut part = Vec::new();
                match client.push_chunks(bytes, &mut part) {
                    Ok(used) => self.stream.consume(used),
                    Err(error) => return self.bad_response(error),
                }
                self.deadline = Some(client.next_deadline(!self.out.is_empty(), cx.now));
                if !part.is_empty() {
                    cx.events.push_back(Event::Part {
                        conn: self.id,
                        bytes: part,
                    });
                }
                if client.parser.is_complete() {
                    return self.response_complete(cx);
                }
                Flow::Yield
            }
            Chunk::Bytes(bytes) => {
                match client.parser.push(bytes) {
                    Ok(used) => {
                        client
                            .receiving
                            .get_or_insert(Pace {
                                since: cx.now,
                                bytes: 0,
                            })
                            .bytes += used;
                        self.stream.consume(used);
                    }
                    Err(error) => return self.bad_response(error),
                }
                if client.parser.buffered() > cx.room {
                    return self.bad_response(HttpError::Overloaded);
                }
                self.deadline = Some(client.next_deadline(!self.out.is_empty(), cx.now));
                if client.parser.is_complete() {
                    self.response_complete(cx)
                } else {
                    Flow::Again
                }
            }
            Chunk::End { clean } => match client.parser.finish() {
                Ok(()) if clean => self.response_complete(cx),
                // Without a length and without a close_notify it may have been cut by anyone.
                Ok(()) | Err(HttpError::Truncated) => self.ended_early(true),
                Err(HttpError::Empty) => self.ended_early(false),
                Err(error) => self.bad_response(error),
            },
            Chunk::Empty if !link.readable => Flow::Wait,
            Chunk::Empty => match self.stream.pull(link, cx.scratch) {
                Ok(Pulled::Blocked) => Flow::Wait,
                Ok(Pulled::Bytes | Pulled::Eof) => Flow::Again,
                Err(Fault::Io(error)) => {
                    let phase = self.phase(&State::Asking);
                    self.die(io_reason(phase, &error))
                }
                Err(Fault::Tls(text)) => self.tls_failed(Phase::Response, text, cx),
            },
        }
    }

    fn response_complete(&mut self, cx: &mut Cx<'_>) -> Flow {
        let Role::Client(client) = &mut self.role else {
            return Flow::Wait;
        };
        client.asked = false;
        // The server answered before it had the whole request: it will not read the rest.
        client.spoilt |= !self.out.is_empty();
        if let Some(mut response) = client.parser.take() {
            response.keep_alive &= !client.spoilt;
            cx.events.push_back(Event::Response {
                conn: self.id,
                response,
            });
        }
        self.out.clear();
        self.deadline = Some(cx.now + client.limits.idle);
        self.state = State::Parked;
        Flow::Yield
    }

    fn bad_response(&mut self, error: HttpError) -> Flow {
        self.say_goodbye();
        self.die(CloseReason::Http(error))
    }

    fn ended_early(&mut self, partial: bool) -> Flow {
        let phase = self.phase(&State::Asking);
        self.die(match phase {
            Phase::Write if !partial => CloseReason::Reset { phase },
            _ => CloseReason::Eof {
                phase: Phase::Response,
                partial,
            },
        })
    }

    /// Watches for the end of the server. Bytes of a further response are kept by the stream
    /// until the application awaits it.
    pub(super) fn step_parked(&mut self, cx: &mut Cx<'_>) -> Flow {
        let Some(link) = &mut self.link else {
            return Flow::Wait;
        };
        match self.stream.chunk() {
            Chunk::Bytes(_) => return Flow::Wait,
            Chunk::End { .. } => {
                self.say_goodbye();
                return self.die(CloseReason::PeerClosed);
            }
            Chunk::Empty => {}
        }
        if link.readable && self.stream.wants_pull() {
            match self.stream.pull(link, cx.scratch) {
                Ok(Pulled::Blocked) => {}
                Ok(Pulled::Bytes | Pulled::Eof) => return Flow::Again,
                Err(Fault::Io(error)) => return self.die(io_reason(Phase::Idle, &error)),
                Err(Fault::Tls(text)) => return self.tls_failed(Phase::Idle, text, cx),
            }
        }
        self.flush_own(Phase::Idle)
    }
}

/// How long a body in chunks may pause, at the least: its sender shows every 10 s that it is there.
const PATIENCE: Duration = Duration::from_secs(30);

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
