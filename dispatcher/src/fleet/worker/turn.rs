//! The loop: what is due, then the next event.

use super::super::error::Fault;
use super::names::LOOK;
use super::part::Part;
use super::state::{Flight, Worker};
use ctrl_exec_reactor::Event;
use std::io;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

impl Worker {
    /// Runs until the engine is gone, or until an error of the loop itself, which fails what it
    /// has under way.
    pub fn run(mut self) {
        let fault = match self.drive() {
            Ok(()) => Fault::Interrupted,
            Err(error) => Fault::Local(error.to_string()),
        };
        let talking = self.conns.drain().filter_map(|(_, conn)| conn.flight);
        let left: Vec<Flight> = talking
            .chain(self.resolving.drain().map(|(_, flight)| flight))
            .collect();
        for flight in left {
            self.end(flight, Err(fault.clone()));
        }
        let stopped = match fault {
            Fault::Interrupted => Fault::NotStarted,
            other => other,
        };
        self.take_back(|_| true);
        for (_, part) in std::mem::take(&mut self.parts) {
            part.fail(&stopped);
        }
        while let Ok(part) = self.inbox.try_recv() {
            part.fail(&stopped);
        }
    }

    fn drive(&mut self) -> io::Result<()> {
        loop {
            loop {
                match self.inbox.try_recv() {
                    Ok(part) => self.take(part),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.end_overdue();
            self.drop_stopped();
            self.release_delayed();
            self.ask_heard();
            self.set_silent_aside();
            if std::mem::take(&mut self.may_begin) {
                self.begin_calls();
            }
            self.expire_names();
            let wait = self.wait();
            if let Some(event) = self.reactor.next(wait)? {
                self.handle(event);
            }
        }
    }

    /// How long nothing has to be done but for events.
    fn wait(&self) -> Option<Duration> {
        let delayed = self.delayed.first_key_value().map(|((due, _), _)| *due);
        let heard = self.hearing.first_key_value().map(|((due, _), _)| *due);
        let unheard = self.unheard.first_key_value().map(|((due, _), _)| *due);
        let deadlines = self.parts.values().filter_map(Part::deadline);
        let due = deadlines
            .chain(delayed)
            .chain(heard)
            .chain(unheard)
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()));
        match (self.resolving.is_empty(), due) {
            (true, due) => due,
            (false, due) => Some(due.unwrap_or(LOOK).min(LOOK)),
        }
    }

    fn take(&mut self, part: Part) {
        self.parts_made += 1;
        self.parts.insert(self.parts_made, part);
        self.may_begin = true;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Resolved { query, result } => self.resolved(query, result),
            Event::Handshaken { conn } => self.handshaken(conn),
            Event::Part { conn, bytes } => self.piece(conn, &bytes),
            Event::Response { conn, response } => self.answered(conn, response),
            Event::Closed { conn, reason } => self.closed(conn, &reason),
            _ => {}
        }
    }
}
