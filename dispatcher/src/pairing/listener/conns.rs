//! Connections: who may have one, and what their end means.

use super::super::{Decision, Verdict};
use super::options::Operator;
use super::shares::Peer;
use super::state::Listener;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_reactor::ConnId;
use std::net::IpAddr;

impl Listener {
    pub(super) fn incoming(&mut self, conn: ConnId, peer: IpAddr, log: &Syslog) {
        let verdict = self.rate.check(peer, self.reactor.now());
        if verdict == Verdict::Block {
            let line = Line::new("rate-block")
                .field("PEER", peer)
                .field("REASON", "volume");
            log.log(Level::Warning, &line);
        }
        if verdict != Verdict::Accept || self.stopping {
            self.reactor.close(conn);
        } else {
            if self.idle.len() >= self.options.max_conns {
                self.give_way(log);
            }
            self.idle.insert(conn, Peer::of(peer), self.reactor.now());
            self.reactor.serve(conn, &self.config, &self.limits);
        }
    }

    /// All places are taken: the longest idle connection of whoever has most of them goes.
    fn give_way(&mut self, log: &Syslog) {
        let Some(oldest) = self.idle.oldest_of_most() else {
            return;
        };
        let line = Line::new("pairing-full").field(
            "PEER",
            self.reactor
                .peer_addr(oldest)
                .map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_string()),
        );
        log.log(Level::Warning, &line);
        self.idle.remove(oldest);
        self.reactor.close(oldest);
    }

    /// A connection is over. Whoever waited on it is withdrawn: nobody would get the answer.
    pub(super) fn closed(&mut self, conn: ConnId, operator: &mut dyn Operator, log: &Syslog) {
        self.idle.remove(conn);
        self.queued.remove(conn);
        let questions: Vec<u64> = self
            .asking
            .iter()
            .filter(|(_, asking)| asking.conn == conn)
            .map(|(token, _)| *token)
            .collect();
        for token in questions {
            if let Some(asking) = self.asking.remove(&token) {
                self.reactor.cancel_timer(asking.timer);
            }
        }
        let Some(waiting) = self.waiting.remove(&conn) else {
            return;
        };
        let queued = waiting.queued;
        let mut line = Line::new("pair-withdrawn")
            .field("AGENT", &queued.hostname)
            .field("REQID", &queued.id);
        let mut level = Level::Info;
        if self.queue.decision(&queued.id) == Some(Decision::Approved) {
            line = line.field(
                "ERROR",
                "approved, but the agent had gone and has no certificate",
            );
            level = Level::Warning;
        }
        log.log(level, &line);
        operator.gone(&queued, "the agent closed the connection");
        self.finish(&queued.id, log);
    }
}
