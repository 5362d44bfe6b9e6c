//! Connections that follow a run. Each sends what comes after its place in the run's events, and
//! takes no more before that has left.

use crate::front::api::feed::Feed;
use ctrl_exec_protocol::http::ResponseHead;
use ctrl_exec_reactor::{ConnId, Reactor, Then};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes that are sent at a time.
const PIECE: usize = 32 << 10;

/// The connections that follow runs.
#[derive(Debug, Default)]
pub struct Streams {
    all: HashMap<ConnId, Stream>,
}

#[derive(Debug)]
struct Stream {
    feed: Arc<Feed>,
    place: u64,
    /// Something is on its way.
    sending: bool,
}

impl Streams {
    /// A connection begins to follow. `joined`: it counts among the feed's readers already.
    pub fn begin(
        &mut self,
        reactor: &mut Reactor,
        conn: ConnId,
        feed: Arc<Feed>,
        place: u64,
        joined: bool,
    ) {
        if !joined {
            feed.join();
        }
        let head = ResponseHead {
            content_type: Some("text/event-stream"),
            headers: &[("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")],
            ..ResponseHead::new(200)
        };
        let stream = Stream {
            feed,
            place,
            sending: true,
        };
        self.all.insert(conn, stream);
        reactor.send(conn, head.render(None), Then::Hold);
    }

    /// What was sent has left.
    pub fn sent(&mut self, reactor: &mut Reactor, conn: ConnId) {
        if let Some(stream) = self.all.get_mut(&conn) {
            stream.sending = false;
            stream.go_on(reactor, conn);
        }
    }

    /// There may be events.
    pub fn look(&mut self, reactor: &mut Reactor) {
        for (conn, stream) in &mut self.all {
            stream.go_on(reactor, *conn);
        }
    }

    /// Says something to each that has heard nothing, so that the way to it stays open and those who
    /// have gone are found.
    pub fn beat(&mut self, reactor: &mut Reactor) {
        for (conn, stream) in &mut self.all {
            if !stream.sending {
                stream.sending = reactor.send(*conn, b":\n\n".to_vec(), Then::Hold);
            }
        }
    }

    /// A connection has ended. Whether it followed a run.
    pub fn remove(&mut self, conn: ConnId) -> bool {
        match self.all.remove(&conn) {
            None => false,
            Some(stream) => {
                stream.feed.leave();
                true
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether a connection follows a run.
    pub fn has(&self, conn: ConnId) -> bool {
        self.all.contains_key(&conn)
    }

    /// All of them.
    pub fn conns(&self) -> Vec<ConnId> {
        self.all.keys().copied().collect()
    }
}

impl Stream {
    fn go_on(&mut self, reactor: &mut Reactor, conn: ConnId) {
        if self.sending {
            return;
        }
        let piece = self.feed.read(self.place, PIECE);
        if piece.text.is_empty() && !piece.over {
            return;
        }
        let then = if piece.over { Then::Close } else { Then::Hold };
        self.place = piece.next;
        self.sending = true;
        reactor.send(conn, piece.text.into_bytes(), then);
    }
}
