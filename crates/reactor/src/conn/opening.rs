//! From a socket to an established TLS connection, on either side.

use super::closing::{connect_reason, io_reason};
use super::{Conn, Cx, Flow, Role, State};
use crate::event::{CloseReason, Event, Phase};
use crate::stream::{Fault, Out, Pulled};

impl Conn {
    pub(super) fn step_connecting(&mut self, cx: &mut Cx<'_>) -> Flow {
        let Some(link) = &mut self.link else {
            return Flow::Wait;
        };
        if !link.writable {
            return Flow::Wait;
        }
        match link.connected() {
            Ok(false) => Flow::Wait,
            Ok(true) => {
                if let Role::Client(client) = &self.role {
                    self.begun = cx.now;
                    self.deadline = Some(cx.now + client.limits.handshake);
                }
                self.state = State::Handshake;
                Flow::Again
            }
            Err(error) => self.die(connect_reason(&error)),
        }
    }

    pub(super) fn step_handshake(&mut self, cx: &mut Cx<'_>) -> Flow {
        let Some(link) = &mut self.link else {
            return Flow::Wait;
        };
        if !self.stream.is_handshaking() {
            cx.events.push_back(Event::Handshaken { conn: self.id });
            match self.role {
                Role::Client(_) => self.client_established(cx.now),
                _ => {
                    self.server_established(cx.now);
                    // The application may want to say something about this peer before anything
                    // it sent is read.
                    return Flow::Yield;
                }
            }
            return Flow::Again;
        }
        if self.stream.wants_flush() {
            if !link.writable {
                return Flow::Wait;
            }
            match self.stream.push(link, &mut Out::default(), false) {
                Ok((true, _)) => return Flow::Again,
                Ok((false, _)) => {}
                Err(error) => return self.die(io_reason(Phase::Handshake, &error)),
            }
        }
        let Some(link) = &mut self.link else {
            return Flow::Wait;
        };
        if !link.readable {
            return Flow::Wait;
        }
        match self.stream.pull(link, cx.scratch) {
            Ok(Pulled::Blocked) => Flow::Wait,
            Ok(Pulled::Bytes) => {
                self.progress = 1;
                let step = match &self.role {
                    Role::Client(client) => client.limits.handshake,
                    Role::Server(server) => server.limits.handshake,
                    Role::None | Role::Raw(_) => return Flow::Again,
                };
                self.deadline = Some((cx.now + step).min(self.begun + step * CEILING));
                Flow::Again
            }
            Ok(Pulled::Eof) => {
                let partial = self.progress > 0;
                self.die(CloseReason::Eof {
                    phase: Phase::Handshake,
                    partial,
                })
            }
            Err(Fault::Io(error)) => self.die(io_reason(Phase::Handshake, &error)),
            Err(Fault::Tls(text)) => self.tls_failed(Phase::Handshake, text, cx),
        }
    }
}

/// How many limits without progress a handshake may take in all.
const CEILING: u32 = 3;
