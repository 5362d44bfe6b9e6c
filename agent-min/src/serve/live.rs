//! Answers that begin while the script runs: its output is sent as it comes. What a caller does not
//! take in time waits within bounds, and of more the middle is lost; the script waits for nobody.

use super::Server;
use super::answer::Answer;
use super::conns::Stage;
use crate::runs::in_flight::MIN_OUTPUT;
use ctrl_exec_protocol::live::{ALIVE, END, Found, Stream, put_item};
use ctrl_exec_reactor::http::{begin_chunk, end_chunk, live_head};
use ctrl_exec_reactor::{ChildId, ConnId, Then};
use std::time::Duration;

/// The timer by which callers are shown that their scripts still run.
pub(super) const TOKEN: u64 = 2;
/// How often. A dispatcher waits three times as long.
const SHOW_LIFE: Duration = Duration::from_secs(10);
/// Bytes sent together, at most a little more.
const CHUNK: usize = 14 * 1024;

impl Server {
    /// The script of this caller was started, or asked for at the executor.
    pub(super) fn begin_live(&mut self, conn: ConnId) {
        let entry = self.conns.get_mut(conn);
        let Some(entry) = entry.filter(|entry| entry.chunks) else {
            return;
        };
        let head = live_head(entry.stage == Stage::Busy(true) && !self.stopping);
        entry.live = Some(Box::new(Answer {
            sending: true,
            ..Answer::default()
        }));
        self.reactor.send(conn, head.into(), Then::Hold);
        if !self.showing_life {
            self.showing_life = true;
            self.reactor.set_timer(SHOW_LIFE, TOKEN);
        }
    }

    /// A script wrote something.
    pub(super) fn script_says(&mut self, child: ChildId, stream: Stream, bytes: &[u8]) {
        let limit = self.output_limit();
        let caller = self.runs.caller(child);
        if let Some(conn) = caller {
            if let Some(live) = self.conns.get_mut(conn).and_then(|conn| conn.live.as_mut()) {
                live.waiting.push(stream, bytes, limit);
            }
            self.go_on(conn);
        }
    }

    /// A piece of the executor's response came.
    pub(super) fn executor_says(&mut self, call: ConnId, bytes: &[u8]) {
        let limit = self.output_limit();
        let (conns, conf) = (&mut self.conns, &self.state.loaded.conf);
        let mut output = |conn, found: Found<'_>| {
            let live = conns.get_mut(conn).and_then(|conn| conn.live.as_mut());
            match (live, found) {
                (Some(live), Found::Bytes(stream, bytes)) => {
                    live.waiting.push(stream, bytes, limit);
                }
                (Some(live), Found::Gap(stream, bytes)) => live.waiting.skip(stream, bytes),
                _ => {}
            }
        };
        let reactor = &self.reactor;
        if let Some(conn) = self.runs.received(reactor, conf, call, bytes, &mut output) {
            self.go_on(conn);
        }
    }

    /// What was handed over last is out.
    pub(super) fn sent(&mut self, conn: ConnId) {
        if let Some(live) = self.conns.get_mut(conn).and_then(|conn| conn.live.as_mut()) {
            live.sending = false;
        }
        self.go_on(conn);
    }

    /// Sends what is next to be sent to a caller, if it is time for that.
    pub(super) fn go_on(&mut self, conn: ConnId) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let Some(live) = entry.live.as_mut().filter(|live| !live.sending) else {
            return;
        };
        let mut bytes = begin_chunk();
        let mut then = Then::Hold;
        if !live.waiting.is_empty() {
            live.sending = true;
            live.waiting.encode(&mut bytes, CHUNK);
        } else if let Some(end) = live.end.take() {
            put_item(&mut bytes, END, end.as_bytes());
            entry.live = None;
            then = entry.answered(self.stopping);
        } else {
            return;
        }
        end_chunk(&mut bytes, then != Then::Hold);
        self.reactor.send(conn, bytes, then);
    }

    /// Shows callers of silent scripts that these run, and that their own connections are good.
    pub(super) fn show_life(&mut self) {
        self.showing_life = false;
        let live = self.conns.iter_mut().filter_map(|(id, conn)| {
            let live = conn.live.as_mut()?;
            self.showing_life = true;
            (!std::mem::replace(&mut live.sending, true)).then_some(id)
        });
        let silent: Vec<ConnId> = live.collect();
        for conn in silent {
            let mut bytes = begin_chunk();
            bytes.extend_from_slice(ALIVE);
            end_chunk(&mut bytes, false);
            self.reactor.send(conn, bytes, Then::Hold);
        }
        if self.showing_life {
            self.reactor.set_timer(SHOW_LIFE, TOKEN);
        }
    }

    /// How much output may wait for one caller.
    fn output_limit(&mut self) -> usize {
        let live = self.conns.values().filter_map(|conn| conn.live.as_ref());
        self.runs.waiting_output = live.map(|live| live.waiting.held()).sum();
        let most = 2 * self.state.loaded.conf.max_output as usize;
        most.min(self.runs.free(&self.reactor) / 4)
            .max(2 * MIN_OUTPUT)
    }
}
