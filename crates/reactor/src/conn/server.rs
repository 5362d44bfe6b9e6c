//! The side that receives requests.

use std::sync::Arc;
use std::time::Duration;

use ctrl_exec_protocol::http::{HttpError, RequestParser};

use super::closing::io_reason;
use super::{Conn, Cx, Flow, Role, State};
use crate::event::{CloseReason, Event, Phase};
use crate::limits::{ServerLimits, Then};
use crate::link::SEND_BUFFER;
use crate::stream::{Chunk, Fault, Pulled};

#[derive(Debug)]
pub(super) struct Server {
    pub limits: Arc<ServerLimits>,
    pub parser: RequestParser,
    /// A response went out on this connection and nothing came since.
    pub kept: bool,
    /// When the whole request has to be there, while its head has a deadline of its own.
    whole_by: Option<Duration>,
    /// The request was bad: there will be no other.
    spoilt: bool,
    peer: Peer,
}

/// Whether the peer still sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Open,
    /// It has ended, which the application has not been told.
    Ended,
    Reported,
}

impl Server {
    pub fn new(limits: Arc<ServerLimits>) -> Self {
        let parser = RequestParser::new(limits.http);
        Server {
            limits,
            parser,
            kept: false,
            whole_by: None,
            spoilt: false,
            peer: Peer::Open,
        }
    }

    /// A request begins: the first deadline of it.
    pub fn begin(&mut self, now: Duration) -> Duration {
        let whole = now + self.limits.request;
        match self.limits.head.map(|head| now + head) {
            Some(head) if head < whole => {
                self.whole_by = Some(whole);
                head
            }
            _ => whole,
        }
    }
}

impl Conn {
    pub(super) fn server_established(&mut self, now: Duration) {
        let Role::Server(server) = &mut self.role else {
            return;
        };
        self.deadline = Some(server.begin(now));
        self.state = State::Reading;
    }

    pub(super) fn start_response(
        &mut self,
        bytes: Vec<u8>,
        then: Then,
        room: usize,
        now: Duration,
    ) {
        let Role::Server(server) = &self.role else {
            return;
        };
        let then = if server.spoilt && then == Then::KeepAlive {
            Then::Close
        } else {
            then
        };
        self.deadline = Some(now + server.limits.write);
        // The system may hold as much again as we do, where there is room for that: then its own
        // bounds, which grow with the link, are the better ones.
        let much = bytes.len() > SEND_BUFFER && bytes.len() > room / 4;
        if let Some(link) = self.link.as_ref().filter(|_| much) {
            link.bound_send_buffer();
        }
        self.out.set(bytes);
        self.progress = 0;
        self.state = State::Writing(then);
    }

    pub(super) fn step_reading(&mut self, cx: &mut Cx<'_>) -> Flow {
        let (Some(link), Role::Server(server)) = (&mut self.link, &mut self.role) else {
            return Flow::Wait;
        };
        match self.stream.chunk() {
            Chunk::Bytes(bytes) => {
                if server.kept {
                    server.kept = false;
                    self.deadline = Some(server.begin(cx.now));
                }
                match server.parser.push(bytes) {
                    Ok(used) => self.stream.consume(used),
                    Err(error) => return self.bad_request(error, cx),
                }
                if server.whole_by.is_some() && server.parser.is_past_head() {
                    self.deadline = server.whole_by.take();
                }
                if server.parser.buffered() > cx.room {
                    return self.bad_request(HttpError::Overloaded, cx);
                }
                if server.parser.is_complete() {
                    self.request_complete(cx)
                } else {
                    Flow::Again
                }
            }
            Chunk::End { clean } => {
                server.peer = Peer::Ended;
                if server.parser.is_idle() && server.kept {
                    self.say_goodbye();
                    return self.die(CloseReason::PeerClosed);
                }
                match server.parser.finish() {
                    Ok(()) => self.request_complete(cx),
                    Err(HttpError::Empty) if !clean => self.die(CloseReason::Eof {
                        phase: Phase::Request,
                        partial: false,
                    }),
                    Err(error) => self.bad_request(error, cx),
                }
            }
            Chunk::Empty => {
                if link.readable {
                    match self.stream.pull(link, cx.scratch) {
                        Ok(Pulled::Blocked) => {}
                        Ok(Pulled::Bytes | Pulled::Eof) => return Flow::Again,
                        Err(Fault::Io(error)) => {
                            let phase = self.phase(&State::Reading);
                            return self.die(io_reason(phase, &error));
                        }
                        Err(Fault::Tls(text)) => return self.tls_failed(Phase::Request, text, cx),
                    }
                }
                // What TLS has to say goes out before we wait, and not sooner: with luck it
                // leaves together with the response.
                self.flush_own(Phase::Request)
            }
        }
    }

    fn request_complete(&mut self, cx: &mut Cx<'_>) -> Flow {
        let Role::Server(server) = &mut self.role else {
            return Flow::Wait;
        };
        if let Some(request) = server.parser.take() {
            cx.events.push_back(Event::Request {
                conn: self.id,
                request,
            });
        }
        self.deadline = None;
        self.state = State::Busy;
        Flow::Yield
    }

    fn bad_request(&mut self, error: HttpError, cx: &mut Cx<'_>) -> Flow {
        let Role::Server(server) = &mut self.role else {
            return Flow::Wait;
        };
        server.spoilt = true;
        // Gives the memory of what came back.
        server.parser = RequestParser::new(server.limits.http);
        cx.events.push_back(Event::BadRequest {
            conn: self.id,
            error,
        });
        self.deadline = None;
        self.state = State::Busy;
        Flow::Yield
    }

    /// Watches for the end of the peer. At most one record of a further request is read; more
    /// waits in the socket, which slows the peer down.
    pub(super) fn step_busy(&mut self, cx: &mut Cx<'_>) -> Flow {
        let (Some(link), Role::Server(server)) = (&mut self.link, &mut self.role) else {
            return Flow::Wait;
        };
        match server.peer {
            Peer::Ended => {
                server.peer = Peer::Reported;
                cx.events.push_back(Event::PeerClosed { conn: self.id });
                return Flow::Wait;
            }
            Peer::Reported => return self.flush_own(Phase::Busy),
            Peer::Open => {}
        }
        if let Chunk::End { .. } = self.stream.chunk() {
            server.peer = Peer::Ended;
            return Flow::Again;
        }
        if link.readable && self.stream.wants_pull() {
            match self.stream.pull(link, cx.scratch) {
                Ok(Pulled::Blocked) => {}
                Ok(Pulled::Bytes | Pulled::Eof) => return Flow::Again,
                Err(Fault::Io(error)) => return self.die(io_reason(Phase::Busy, &error)),
                Err(Fault::Tls(text)) => {
                    return self.die(CloseReason::Tls {
                        phase: Phase::Busy,
                        text,
                    });
                }
            }
        }
        self.flush_own(Phase::Busy)
    }

    /// Sends what TLS itself has to say, and waits.
    pub(super) fn flush_own(&mut self, phase: Phase) -> Flow {
        let Some(link) = &mut self.link else {
            return Flow::Wait;
        };
        if self.stream.wants_flush() && link.writable {
            if let Err(error) = self.stream.push(link, &mut self.out, false) {
                return self.die(io_reason(phase, &error));
            }
        }
        Flow::Wait
    }

    pub(super) fn step_writing(&mut self, then: Then, cx: &mut Cx<'_>) -> Flow {
        let (Some(link), Role::Server(server)) = (&mut self.link, &mut self.role) else {
            return Flow::Wait;
        };
        if !link.writable {
            return Flow::Wait;
        }
        let close = then == Then::Close || (then == Then::KeepAlive && server.peer != Peer::Open);
        let (all, sent) = match self.stream.push(link, &mut self.out, close) {
            Ok(pushed) => pushed,
            Err(error) => return self.die(io_reason(Phase::Write, &error)),
        };
        let limits = &server.limits;
        if !all {
            self.progress = self.progress.saturating_add(sent);
            if self.progress >= WRITE_STEP {
                self.progress = 0;
                self.deadline = Some(cx.now + limits.write);
            }
            return Flow::Wait;
        }
        if close {
            let linger = limits.linger;
            self.linger(CloseReason::Done, linger, cx.now);
        } else if then == Then::Hold {
            cx.events.push_back(Event::Sent { conn: self.id });
            self.deadline = None;
            self.state = State::Busy;
            return Flow::Yield;
        } else {
            self.deadline = Some(cx.now + limits.idle);
            server.kept = true;
            self.state = State::Reading;
        }
        Flow::Again
    }
}

/// Bytes that a peer has to take within each write limit.
const WRITE_STEP: usize = 16 * 1024;
