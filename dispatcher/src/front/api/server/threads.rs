//! Work that would block the loop: a thread each, as many as there are requests. What a thread has
//! to say comes back through a channel, and the loop is woken.

use super::exchange::Ticket;
use crate::front::api::app::App;
use crate::front::api::reply::Reply;
use crate::front::api::step::{Job, Step};
use ctrl_exec_reactor::Waker;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Stack of a thread. Parsing is not recursive beyond its bounds.
const STACK: usize = 1 << 20;

/// What a thread tells the loop.
#[derive(Debug)]
pub enum Note {
    /// The next step of this request.
    Step(Ticket, Step),
    /// There are events for those who follow runs.
    Events,
}

/// The way from threads to the loop.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: Sender<Note>,
    waker: Waker,
}

impl Outbox {
    /// The way, and its other end.
    pub fn new(waker: Waker) -> (Self, Receiver<Note>) {
        let (sender, receiver) = channel();
        (Self { sender, waker }, receiver)
    }

    /// Tells the loop something.
    pub fn put(&self, note: Note) {
        if self.sender.send(note).is_ok() {
            // Without it the loop sees the note at its next event.
            let _ = self.waker.wake();
        }
    }

    /// Starts work on a thread.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn work(&self, ticket: Ticket, app: Arc<App>, job: Job) -> io::Result<()> {
        let outbox = self.clone();
        let builder = thread::Builder::new()
            .name("api-work".into())
            .stack_size(STACK);
        builder.spawn(move || {
            // Whoever waits is answered, rather than left waiting.
            let step = catch_unwind(AssertUnwindSafe(|| job(&app)));
            let failed = |_| Step::Answer(Reply::error(500, "server error", "internal fault"));
            outbox.put(Note::Step(ticket, step.unwrap_or_else(failed)));
        })?;
        Ok(())
    }
}
