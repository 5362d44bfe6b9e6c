//! Accepting connections.

use std::io;
use std::time::Duration;

use super::Reactor;
use super::turn::Target;
use crate::conn::Conn;
use crate::event::{ConnId, Event};
use crate::link::{Link, Socket};
use crate::timers::Owner;

impl Reactor {
    /// Accepts a burst. What finds no place is closed at once, so that the peer knows.
    pub(super) fn accept(&mut self, slot: u32) {
        if let Some(listener) = self.listeners.get_mut(slot as usize) {
            listener.queued = false;
        }
        for _ in 0..self.config.accept_burst.max(1) {
            let Some(listener) = self.listeners.get_mut(slot as usize) else {
                return;
            };
            match listener.socket.accept() {
                Ok((socket, peer)) => {
                    let listener = listener.id;
                    if self.is_full() {
                        continue;
                    }
                    let generation = self.next_generation();
                    let entry = self.conns.vacant_entry();
                    let conn = ConnId::at(entry.key(), generation);
                    entry.insert(Conn::accepted(conn, Link::new(Socket::Tcp(socket)), peer));
                    self.inject_faults(conn);
                    self.events.push_back(Event::Incoming {
                        listener,
                        conn,
                        peer,
                    });
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // One that came and went.
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset => {}
                    // Out of descriptors or memory, or a fault of the network on that one
                    // connection: later, for the queue of the system keeps them.
                    _ => {
                        let at = Some(self.now + ACCEPT_PAUSE);
                        self.timers
                            .arm(&mut listener.alarm, Owner::Listener(slot), at);
                        return;
                    }
                },
            }
        }
        self.queue_listener(slot);
    }

    /// Tries again those listeners that had to pause.
    pub(super) fn resume_listeners(&mut self) {
        for (slot, listener) in &mut self.listeners {
            if listener.alarm.is_armed() {
                self.timers
                    .arm(&mut listener.alarm, Owner::Listener(0), None);
                if !listener.queued {
                    listener.queued = true;
                    #[allow(clippy::cast_possible_truncation, reason = "few listeners")]
                    self.ready.push_back(Target::Listener(slot as u32));
                }
            }
        }
    }
}

/// How long nothing is accepted after the system could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
