//! Output that is passed on while the script runs. The script never waits for the peer: what that
//! does not take in time waits within bounds, and of more the middle is lost.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use ctrl_exec_protocol::frame::LIVE_MARK;
use ctrl_exec_protocol::live::{END, Live, Stream, put_item};

/// Bytes prepared for one write, at most a little more.
const CHUNK: usize = 32 * 1024;

/// A response under way.
pub struct Relay {
    waiting: Live,
    /// What is being written, and how much of it has been.
    bytes: Vec<u8>,
    sent: usize,
    /// The peer takes nothing any more.
    gone: bool,
}

impl Relay {
    /// A response that has not begun.
    pub fn new() -> Self {
        Self {
            waiting: Live::default(),
            bytes: LIVE_MARK.to_vec(),
            sent: 0,
            gone: false,
        }
    }

    /// Adds output; about `limit` bytes may wait.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], limit: usize) {
        if !self.gone {
            self.waiting.push(stream, bytes, limit);
        }
    }

    /// Whether there is something to write.
    pub fn wants_write(&self) -> bool {
        !self.gone && (self.sent < self.bytes.len() || !self.waiting.is_empty())
    }

    /// Writes what the peer takes now.
    pub fn write(&mut self, mut peer: &UnixStream) {
        while self.wants_write() {
            if self.sent == self.bytes.len() {
                self.bytes.clear();
                self.sent = 0;
                self.waiting.encode(&mut self.bytes, CHUNK);
            }
            match peer.write(&self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    self.waiting = Live::default();
                }
            }
        }
    }

    /// What is still to be written, `response` at its end.
    pub fn finish(mut self, response: &[u8]) -> Vec<u8> {
        let mut rest = self.bytes.split_off(self.sent);
        self.waiting.encode(&mut rest, usize::MAX);
        put_item(&mut rest, END, response);
        rest
    }
}
