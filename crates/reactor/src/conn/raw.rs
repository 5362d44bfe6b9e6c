//! A stream of bytes to a Unix socket and back, without a grammar.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::closing::{connect_reason, io_reason};
use super::{Conn, Cx, Flow, Role, State};
use crate::event::{CloseReason, Event, Phase};
use crate::limits::RawLimits;
use crate::link::Link;
use crate::stream::{Chunk, Fault, Pulled};

#[derive(Debug)]
pub(super) struct Raw {
    limits: RawLimits,
    path: PathBuf,
    connect_by: Duration,
    until: Option<Duration>,
    total: usize,
    /// The payload is out, or the peer takes no more of it.
    sent: bool,
}

impl Raw {
    pub fn new(path: PathBuf, limits: RawLimits, connect_by: Duration) -> Self {
        Raw {
            limits,
            path,
            connect_by,
            until: None,
            total: 0,
            sent: false,
        }
    }

    fn next_deadline(&self, now: Duration) -> Duration {
        let step = now
            + if self.sent {
                self.limits.read
            } else {
                self.limits.write
            };
        self.until.map_or(step, |until| until.min(step))
    }
}

impl Conn {
    /// The path to connect to, while that has not succeeded.
    pub fn unix_path(&self) -> Option<&Path> {
        match (&self.role, &self.state) {
            (Role::Raw(raw), State::Connecting) => Some(&raw.path),
            _ => None,
        }
    }

    /// Adds to what is sent.
    pub fn send_more(&mut self, bytes: &[u8], now: Duration) -> bool {
        let (Role::Raw(raw), State::Raw) = (&mut self.role, &self.state) else {
            return false;
        };
        self.out.append(bytes);
        raw.sent = false;
        self.deadline = Some(raw.next_deadline(now));
        true
    }

    /// There is time left to try the connect.
    pub(super) fn wants_connect(&self, now: Duration) -> bool {
        matches!(&self.role, Role::Raw(raw) if now < raw.connect_by)
    }

    /// The outcome of a connect. A full backlog is tried again a little later.
    pub fn attach(&mut self, result: std::io::Result<Link>, now: Duration) {
        let Role::Raw(raw) = &mut self.role else {
            return;
        };
        match result {
            Ok(link) => {
                self.link = Some(link);
                raw.until = raw.limits.total.map(|total| now + total);
                self.deadline = Some(raw.next_deadline(now));
                self.state = State::Raw;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.deadline = Some(raw.connect_by.min(now + RETRY));
            }
            Err(error) => {
                self.die(connect_reason(&error));
            }
        }
    }

    pub(super) fn step_raw(&mut self, cx: &mut Cx<'_>) -> Flow {
        let (Some(link), Role::Raw(raw)) = (&mut self.link, &mut self.role) else {
            return Flow::Wait;
        };
        if !raw.sent && (link.writable || self.out.is_empty()) {
            let pushed = self.stream.push(link, &mut self.out, false);
            if let Ok((true, _)) = pushed {
                raw.sent = true;
                if raw.limits.half_close {
                    link.shutdown_write();
                }
            }
            if pushed.is_err() {
                // It may have answered before it closed.
                raw.sent = true;
                self.out.clear();
                link.readable = true;
            }
            if !matches!(pushed, Ok((false, 0))) {
                self.deadline = Some(raw.next_deadline(cx.now));
            }
        }
        match self.stream.chunk() {
            Chunk::Bytes(bytes) => {
                let length = bytes.len();
                raw.total = raw.total.saturating_add(length);
                if raw.total > raw.limits.max_received {
                    return self.die(CloseReason::TooLarge);
                }
                self.deadline = Some(raw.next_deadline(cx.now));
                cx.events.push_back(Event::Received {
                    conn: self.id,
                    bytes: bytes.to_vec(),
                });
                self.stream.consume(length);
                Flow::Yield
            }
            Chunk::End { .. } => {
                if raw.total == 0 {
                    return self.die(CloseReason::Eof {
                        phase: Phase::Response,
                        partial: false,
                    });
                }
                self.die(CloseReason::PeerClosed)
            }
            Chunk::Empty if !link.readable => Flow::Wait,
            Chunk::Empty => match self.stream.pull(link, cx.scratch) {
                Ok(Pulled::Blocked) => Flow::Wait,
                Ok(Pulled::Bytes | Pulled::Eof) => Flow::Again,
                Err(Fault::Io(error)) => {
                    let phase = self.phase(&State::Raw);
                    self.die(io_reason(phase, &error))
                }
                Err(Fault::Tls(text)) => self.die(CloseReason::Tls {
                    phase: Phase::Response,
                    text,
                }),
            },
        }
    }
}

/// How long to wait before a full backlog is tried again.
const RETRY: Duration = Duration::from_millis(20);
