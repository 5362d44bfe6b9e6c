//! What one turn of the loop does.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::Token;
use mio::net::UnixStream;

use super::Reactor;
use crate::child;
use crate::conn::{Cx, Next};
use crate::event::Event;
use crate::link::{Link, Socket};
use crate::signals::Watched;
use crate::timers::Owner;

/// Whom a poll event or a place in the ready queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Child(u32, child::Stdio),
    Conn(u32),
    Listener(u32),
    Signals,
    Waker,
}

impl Target {
    /// The kind in the low bits, the place in the table above them.
    pub fn token(self) -> Token {
        let (slot, kind) = match self {
            Target::Conn(slot) => (slot, 0),
            Target::Listener(slot) => (slot, 1),
            Target::Child(slot, child::Stdio::In) => (slot, 2),
            Target::Child(slot, child::Stdio::Out) => (slot, 3),
            Target::Child(slot, child::Stdio::Err) => (slot, 4),
            Target::Signals => (0, 5),
            Target::Waker => (0, 6),
        };
        Token((slot as usize) << 3 | kind)
    }

    #[allow(clippy::cast_possible_truncation, reason = "made from a u32 above")]
    fn from_token(Token(token): Token) -> Option<Target> {
        let slot = (token >> 3) as u32;
        Some(match token & 7 {
            0 => Target::Conn(slot),
            1 => Target::Listener(slot),
            2 => Target::Child(slot, child::Stdio::In),
            3 => Target::Child(slot, child::Stdio::Out),
            4 => Target::Child(slot, child::Stdio::Err),
            5 => Target::Signals,
            6 => Target::Waker,
            _ => return None,
        })
    }
}

impl Reactor {
    pub(super) fn tick(&mut self) {
        self.now = self.start.elapsed();
    }

    /// Either gives one object its share of work, or asks the poll (waiting until `until` at
    /// most if there is nothing else to do) and returns `true`.
    ///
    /// One object at a time, so that what it has to tell is told at once and not after all the
    /// others' handshakes; but as many as were ready before the poll is asked again, so that
    /// each gets its turn before any gets a second.
    pub(super) fn turn(&mut self, until: Option<Duration>) -> io::Result<bool> {
        if self.share > 0 {
            self.share -= 1;
            if let Some(target) = self.ready.pop_front() {
                self.run(target);
            }
            return Ok(false);
        }
        self.tick();
        self.fire_timers();
        let wait = if !self.ready.is_empty() || !self.events.is_empty() {
            Some(Duration::ZERO)
        } else {
            let next = [self.timers.next(), until].into_iter().flatten().min();
            next.map(|next| next.saturating_sub(self.now))
        };
        match self.poll.poll(&mut self.polled, wait) {
            Ok(()) => self.note_polled(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.tick();
        self.share = self.ready.len();
        Ok(true)
    }

    fn note_polled(&mut self) {
        let mut polled = std::mem::replace(&mut self.polled, mio::Events::with_capacity(0));
        for event in &polled {
            match Target::from_token(event.token()) {
                Some(Target::Conn(slot)) => {
                    if let Some(conn) = self.conns.get_mut(slot as usize) {
                        if let Some(link) = &mut conn.link {
                            link.note(event);
                        }
                        self.queue_conn(slot);
                    }
                }
                Some(Target::Listener(slot)) => self.queue_listener(slot),
                Some(Target::Child(slot, stdio)) => {
                    if let Some(child) = self.children.get_mut(slot as usize) {
                        child.note(stdio);
                        self.queue_child(slot);
                    }
                }
                Some(Target::Signals) => self.take_signals(),
                Some(Target::Waker) => self.woken(),
                None => {}
            }
        }
        polled.clear();
        self.polled = polled;
    }

    /// Has a new connection driven in the next turn.
    pub(super) fn start_conn(&mut self, slot: u32) {
        if let Some(conn) = self.conns.get_mut(slot as usize) {
            let deadline = conn.deadline();
            self.timers
                .arm(&mut conn.alarm, Owner::Conn(slot), deadline);
        }
        self.queue_conn(slot);
    }

    fn queue_conn(&mut self, slot: u32) {
        if let Some(conn) = self
            .conns
            .get_mut(slot as usize)
            .filter(|conn| !conn.queued)
        {
            conn.queued = true;
            self.ready.push_back(Target::Conn(slot));
        }
    }

    fn queue_child(&mut self, slot: u32) {
        if let Some(child) = self
            .children
            .get_mut(slot as usize)
            .filter(|child| !child.queued)
        {
            child.queued = true;
            self.ready.push_back(Target::Child(slot, child::Stdio::Out));
        }
    }

    pub(super) fn queue_listener(&mut self, slot: u32) {
        if let Some(listener) = self.listeners.get_mut(slot as usize).filter(|l| !l.queued) {
            listener.queued = true;
            self.ready.push_back(Target::Listener(slot));
        }
    }

    fn run(&mut self, target: Target) {
        match target {
            // A place in the queue may outlive its object and find the next one there, which
            // does no harm.
            Target::Conn(slot) => {
                if let Some(conn) = self.conns.get_mut(slot as usize) {
                    conn.queued = false;
                    self.drive_conn(slot);
                }
            }
            Target::Child(slot, _) => {
                if let Some(child) = self.children.get_mut(slot as usize) {
                    child.queued = false;
                    self.drive_child(slot);
                }
            }
            Target::Listener(slot) => self.accept(slot),
            Target::Signals | Target::Waker => {}
        }
    }

    /// Gives a connection its share of work, and settles what follows from it.
    pub(super) fn drive_conn(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        let others = self.buffered - conn.counted;
        let mut cx = Cx {
            now: self.now,
            events: &mut self.events,
            scratch: &mut self.scratch,
            room: self.config.max_buffered.saturating_sub(others),
        };
        let next = conn.advance(&mut cx);
        match next {
            Next::Dead(reason) => {
                let conn = self.conns.remove(slot as usize);
                self.buffered = others;
                self.timers.forget(&conn.alarm);
                self.events.push_back(Event::Closed {
                    conn: conn.id,
                    reason,
                });
                // A descriptor is free again.
                self.resume_listeners();
            }
            Next::More | Next::Wait => {
                conn.counted = conn.held();
                self.buffered = others + conn.counted;
                let deadline = conn.deadline();
                self.timers
                    .arm(&mut conn.alarm, Owner::Conn(slot), deadline);
                let retry = conn.link.as_mut().is_some_and(Link::needs_retry);
                if retry || matches!(next, Next::More) {
                    self.queue_conn(slot);
                }
            }
        }
    }

    pub(super) fn drive_child(&mut self, slot: u32) {
        let Some(child) = self.children.get_mut(slot as usize) else {
            return;
        };
        // Half stays for requests, answers and children yet to be started.
        let most = self.config.max_buffered / 2;
        let room = most.saturating_sub(self.buffered);
        let next = child.advance(self.now, &mut self.scratch, room, &mut self.events);
        self.buffered -= child.counted;
        if next == child::Next::Report {
            let child = self.children.remove(slot as usize);
            self.timers.forget(&child.alarm);
            let id = child.id;
            let result = Box::new(child.into_result());
            self.events.push_back(Event::Child { child: id, result });
            return;
        }
        child.counted = child.held();
        self.buffered += child.counted;
        let deadline = child.deadline();
        self.timers
            .arm(&mut child.alarm, Owner::Child(slot), deadline);
        if next == child::Next::More {
            self.queue_child(slot);
        }
    }

    /// One attempt to connect to a Unix socket, which succeeds or fails at once.
    pub(super) fn try_unix(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        let Some(path) = conn.unix_path() else { return };
        let registry = self.poll.registry();
        let link = UnixStream::connect(path).and_then(|socket| {
            let mut link = Link::new(Socket::Unix(socket));
            link.register(registry, Target::Conn(slot).token())?;
            Ok(link)
        });
        conn.attach(link, self.now);
        let id = conn.id;
        self.inject_faults(id);
    }

    fn fire_timers(&mut self) {
        let now = self.now;
        while let Some(due) = self.timers.pop(now) {
            let fired = match due.owner {
                Owner::Child(slot) => match self.children.get_mut(slot as usize) {
                    Some(child) => self.timers.fires(&mut child.alarm, &due, now),
                    None => self.stale(),
                },
                Owner::Conn(slot) => match self.conns.get_mut(slot as usize) {
                    Some(conn) => self.timers.fires(&mut conn.alarm, &due, now),
                    None => self.stale(),
                },
                Owner::Listener(slot) => match self.listeners.get_mut(slot as usize) {
                    Some(listener) => self.timers.fires(&mut listener.alarm, &due, now),
                    None => self.stale(),
                },
                Owner::User(slot) => match self.user_timers.get_mut(slot as usize) {
                    Some(timer) => self.timers.fires(&mut timer.alarm, &due, now),
                    None => self.stale(),
                },
            };
            if fired {
                self.expire(due.owner);
            }
        }
        if self.timers.wants_sweep() {
            let (children, conns) = (&self.children, &self.conns);
            let (listeners, users) = (&self.listeners, &self.user_timers);
            self.timers.sweep(|owner| match owner {
                Owner::Child(slot) => children.get(slot as usize).map(|child| child.alarm),
                Owner::Conn(slot) => conns.get(slot as usize).map(|conn| conn.alarm),
                Owner::Listener(slot) => listeners.get(slot as usize).map(|l| l.alarm),
                Owner::User(slot) => users.get(slot as usize).map(|timer| timer.alarm),
            });
        }
    }

    fn stale(&mut self) -> bool {
        self.timers.was_stale();
        false
    }

    fn expire(&mut self, owner: Owner) {
        match owner {
            Owner::Child(slot) => {
                if let Some(child) = self.children.get_mut(slot as usize) {
                    child.expire(self.now);
                }
                self.drive_child(slot);
            }
            Owner::Conn(slot) => {
                if let Some(conn) = self.conns.get_mut(slot as usize) {
                    conn.expire(self.now);
                }
                self.try_unix(slot);
                self.drive_conn(slot);
            }
            Owner::Listener(slot) => self.queue_listener(slot),
            Owner::User(slot) => {
                let timer = self.user_timers.remove(slot as usize);
                self.events.push_back(Event::Timer {
                    timer: timer.id,
                    token: timer.token,
                });
            }
        }
    }

    fn take_signals(&mut self) {
        let Some(signals) = &mut self.signals else {
            return;
        };
        for what in signals.take() {
            match what {
                Watched::User(signal) => self.events.push_back(Event::Signal(signal)),
                Watched::Child => {
                    for (slot, child) in &mut self.children {
                        child.reap(self.now);
                        if !child.queued {
                            child.queued = true;
                            #[allow(clippy::cast_possible_truncation, reason = "few children")]
                            self.ready
                                .push_back(Target::Child(slot as u32, child::Stdio::Out));
                        }
                    }
                }
            }
        }
    }

    fn woken(&mut self) {
        if self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.woken.swap(false, Ordering::SeqCst))
        {
            self.events.push_back(Event::Woken);
        }
        if let Some(offload) = &mut self.offload {
            self.events.extend(offload.take());
        }
    }
}
