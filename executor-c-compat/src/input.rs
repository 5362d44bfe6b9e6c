//! Reads one request without holding more than the executor may.
//!
//! The head of a frame tells which script is meant; a request that will be refused is read to its
//! end, since the peer expects that, but kept nowhere. What a larger one will need is reserved in a
//! table that all connections share, before any of it is kept.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ctrl_exec_protocol::frame::{Request, RequestDecoder, RequestError};
use rustix::event::{PollFd, PollFlags};

use crate::sys;

/// Requests up to this size need no place in the table.
const FREE: usize = 16 * 1024;
/// Between attempts to get a place.
const PAUSE: Duration = Duration::from_millis(20);

/// One connection's place in the table of what all of them hold.
pub struct Share {
    counters: &'static [AtomicU32],
    slot: usize,
}

impl Share {
    /// Place number `slot`; a table without it grants nothing.
    pub fn new(counters: &'static [AtomicU32], slot: usize) -> Self {
        Self { counters, slot }
    }

    /// Reserves `bytes`, if all connections together then hold at most `limit`.
    fn reserve(&self, bytes: usize, limit: usize) -> bool {
        let (Some(own), Ok(wanted)) = (self.counters.get(self.slot), u32::try_from(bytes)) else {
            return false;
        };
        // Claimed first and counted afterwards: of two that claim at once neither may get it, but
        // never both.
        own.store(wanted, Ordering::SeqCst);
        let held: u64 = self
            .counters
            .iter()
            .map(|counter| u64::from(counter.load(Ordering::SeqCst)))
            .sum();
        let fits = usize::try_from(held).is_ok_and(|held| held <= limit);
        if !fits {
            self.release();
        }
        fits
    }

    /// Gives the place back.
    pub fn release(&self) {
        if let Some(own) = self.counters.get(self.slot) {
            own.store(0, Ordering::SeqCst);
        }
    }
}

/// What came.
pub enum Received {
    /// A request, whole.
    Request(Request),
    /// One that is refused: the answer's text, and what is known of the request.
    Refused(String, Request),
    /// Nothing that could be answered.
    Nothing,
}

/// Limits of reading.
pub struct Bounds<'a> {
    /// A peer has this long to send its whole request.
    pub time: Duration,
    /// The table's.
    pub share: &'a Share,
    /// Bytes that all connections may hold.
    pub limit: usize,
}

/// Reads a request. `judge` is asked once its script's name is known; the text it returns refuses
/// it.
pub fn receive(
    stream: &mut UnixStream,
    bounds: &Bounds<'_>,
    judge: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Received {
    let deadline = Instant::now() + bounds.time;
    let mut decoder = RequestDecoder::new();
    let mut buffer = [0; FREE];
    let mut judged = false;
    let mut refusal = None;
    let mut known = Request::default();
    while !decoder.is_complete() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if decoder.push(&buffer[..count]).is_err() {
                    // As the reference: nothing that could be answered.
                    return Received::Nothing;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    log::warn!("a peer sent no complete request in time");
                    break;
                }
                // An interrupted or failed wait only means another round.
                let mut fds = [PollFd::new(&*stream, PollFlags::IN)];
                let _ = sys::poll(&mut fds, Some(left));
            }
            Err(_) => break,
        }
        if !judged && refusal.is_none() {
            match decoder.head() {
                Ok(None) => {}
                Err(_) => refusal = Some(MALFORMED.to_owned()),
                Ok(Some(head)) => {
                    judged = true;
                    known.reqid = head.reqid.to_vec();
                    known.dispatcher = head.dispatcher.to_vec();
                    known.script = head.script.to_vec();
                    let room = || room(head.rest, bounds, deadline);
                    refusal = judge(head.script).and_then(|()| room()).err();
                }
            }
            if refusal.is_some() {
                decoder.skip();
            }
        }
    }
    if !decoder.is_complete() {
        return Received::Nothing;
    }
    match (refusal, decoder.finish()) {
        (Some(text), _) => Received::Refused(text, known),
        (None, Ok(request)) => Received::Request(request),
        (None, Err(RequestError::Malformed)) => Received::Refused(MALFORMED.to_owned(), known),
        (None, Err(_)) => Received::Nothing,
    }
}

/// The answer to bytes that do not add up.
pub const MALFORMED: &str = "malformed request";

/// Waits until so many bytes may be held.
fn room(bytes: usize, bounds: &Bounds<'_>, deadline: Instant) -> Result<(), String> {
    if bytes <= FREE {
        return Ok(());
    }
    if bytes > bounds.limit {
        return Err(format!(
            "request of {bytes} bytes is larger than executor_max_input ({})",
            bounds.limit
        ));
    }
    while !bounds.share.reserve(bytes, bounds.limit) {
        if Instant::now() >= deadline {
            return Err("too much input at once".to_owned());
        }
        let _ = sys::poll(&mut [], Some(PAUSE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_never_more_than_the_whole() {
        let table = crate::sys::shared_counters(3).unwrap();
        let share = |slot| Share::new(table, slot);
        assert!(share(0).reserve(60, 100));
        assert!(!share(1).reserve(41, 100), "one too many");
        assert!(share(1).reserve(40, 100));
        assert!(!share(2).reserve(1, 100));
        share(0).release();
        assert!(share(2).reserve(60, 100));
        assert!(!share(3).reserve(0, 100), "no such place");
    }
}
