//! The ways in which a connection ends.

use std::io::{self, Read};
use std::time::Duration;

use super::{Conn, Cx, Flow, Role, State};
use crate::event::{CloseReason, Phase};
use crate::stream::Out;

impl Conn {
    /// Sends the alert. A server then waits a little for the peer to take it.
    pub(super) fn tls_failed(&mut self, phase: Phase, text: String, cx: &mut Cx<'_>) -> Flow {
        self.flush_best_effort(false);
        let reason = CloseReason::Tls { phase, text };
        match &self.role {
            Role::Server(server) => {
                let linger = server.limits.linger;
                self.linger(reason, linger, cx.now);
                Flow::Again
            }
            _ => self.die(reason),
        }
    }

    pub(super) fn linger(&mut self, reason: CloseReason, time: Duration, now: Duration) {
        if let Some(link) = &self.link {
            link.shutdown_write();
        }
        self.out.clear();
        self.deadline = Some(now + time);
        self.state = State::Lingering { reason, drained: 0 };
    }

    pub(super) fn step_lingering(&mut self, cx: &mut Cx<'_>) -> Flow {
        let (Some(link), State::Lingering { reason, drained }) = (&mut self.link, &mut self.state)
        else {
            return Flow::Wait;
        };
        if !link.readable {
            return Flow::Wait;
        }
        let over = match link.read(cx.scratch) {
            Ok(0) => true,
            Ok(read) => {
                *drained += read;
                *drained > LINGER_MAX
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flow::Wait,
            // Whatever it is, there is nothing left to lose.
            Err(_) => true,
        };
        if over {
            let reason = reason.clone();
            return self.die(reason);
        }
        Flow::Again
    }

    pub(super) fn die(&mut self, reason: CloseReason) -> Flow {
        self.deadline = None;
        self.state = State::Dead(reason);
        Flow::Wait
    }

    /// A close_notify, if the socket takes it now.
    pub(super) fn say_goodbye(&mut self) {
        self.out.clear();
        self.flush_best_effort(true);
    }

    pub(super) fn flush_best_effort(&mut self, close: bool) {
        if let Some(link) = &mut self.link {
            // The connection is given up: nobody would be helped by the error.
            let _ = self.stream.push(link, &mut Out::default(), close);
        }
    }
}

/// Why a connect failed.
pub(super) fn connect_reason(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => CloseReason::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            CloseReason::Unreachable
        }
        io::ErrorKind::TimedOut => CloseReason::Timeout(Phase::Connect),
        _ => io_reason(Phase::Connect, error),
    }
}

pub(super) fn io_reason(phase: Phase, error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset => CloseReason::Reset { phase },
        io::ErrorKind::TimedOut => CloseReason::Timeout(phase),
        kind => CloseReason::Io {
            phase,
            kind,
            errno: error.raw_os_error(),
        },
    }
}

/// Bytes thrown away at most while a peer is waited for after the last response.
const LINGER_MAX: usize = 4 * 1024 * 1024;
