//! Connections: who may connect, and what is read from them (agent.md §1).

use super::Server;
use crate::handlers::{self, Call, Peer, Reply};
use crate::rate_limit::Verdict;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::verify::Role;
use ctrl_exec_reactor::http::{self, HttpError, Request};
use ctrl_exec_reactor::{CloseReason, ConnId, Then};
use log::debug;
use std::net::IpAddr;
use std::sync::Arc;

/// Largest request body of a caller that is not trusted.
const UNTRUSTED_BODY: usize = 16 * 1024;

/// What the server knows of one connection.
pub(super) struct Conn {
    pub(super) ip: IpAddr,
    /// Serial of the certificate; empty until it was proved.
    pub(super) serial: String,
    pub(super) stage: Stage,
    /// It is a trusted dispatcher's, as of its handshake.
    trusted: bool,
    /// It has been answered and is kept for more.
    kept: bool,
    /// Seconds of the monotonic clock at which it last asked.
    since: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the handshake.
    Unproven,
    /// Waiting until a handshake of its address is over.
    Waiting,
    /// Nothing is being done for it.
    Idle,
    /// An answer is owed; true: the caller wants to keep the connection.
    Busy(bool),
    /// The last answer was given, or it was closed here.
    Over,
}

impl Conn {
    pub(super) fn peer(&self) -> Peer {
        Peer {
            ip: self.ip,
            serial: self.serial.clone(),
        }
    }
}

impl Server {
    /// A connection was accepted: address, rate and load are looked at before TLS costs anything.
    pub(super) fn incoming(&mut self, conn: ConnId, peer: IpAddr) {
        let ip = peer.to_canonical();
        debug!("connection from {ip}");
        if !self.may_connect(ip) || self.stopping {
            self.reactor.close(conn);
            return;
        }
        if !self.has_place() {
            self.log_overload(ip);
            self.reactor.close(conn);
            return;
        }
        let now = self.now();
        let admitted = self.admission.admit(now, conn, ip);
        if let Some(evicted) = admitted.evict {
            if let Some(entry) = self.conns.get_mut(evicted) {
                entry.stage = Stage::Over;
            }
            self.reactor.close(evicted);
        }
        let entry = Conn {
            ip,
            serial: String::new(),
            stage: Stage::Waiting,
            trusted: false,
            kept: false,
            since: now,
        };
        if !self.conns.insert(conn, entry) {
            self.log_overload(ip);
            self.reactor.close(conn);
        } else if admitted.serve {
            self.shake_hands(conn);
        }
    }

    /// Starts the handshake of an accepted connection.
    fn shake_hands(&mut self, conn: ConnId) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.stage = Stage::Unproven;
        }
        let tls = Arc::clone(&self.state.loaded.tls);
        if self.stopping || !self.reactor.serve(conn, &tls, &Arc::clone(&self.limits)) {
            self.reactor.close(conn);
        }
    }

    /// A connection left the pool of unproven ones: the next one has its turn.
    fn leave_pool(&mut self, conn: ConnId) {
        let now = self.now();
        if let Some(next) = self.admission.release(now, conn) {
            self.shake_hands(next);
        }
    }

    /// The caller proved possession of a certificate of our CA.
    pub(super) fn handshaken(&mut self, conn: ConnId) {
        self.leave_pool(conn);
        let now = self.now();
        let Some(der) = self.reactor.peer_certificate(conn) else {
            return;
        };
        let resumed = self.reactor.resumed(conn);
        let facts = if resumed {
            // A ticket outlives dates and the CA file; the certificate in it is checked anew.
            let loaded = &self.state.loaded;
            loaded
                .chain
                .verify(der, Role::Client, loaded.now())
                .map_err(|error| error.to_string())
        } else {
            cert::facts(der).map_err(|error| error.to_string())
        };
        let full = !self.has_place();
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let ip = entry.ip;
        match facts {
            Ok(facts) if !full => {
                entry.serial = facts.serial_hex;
                entry.stage = Stage::Idle;
                entry.since = now;
            }
            Ok(_) => {
                entry.stage = Stage::Over;
                self.log_overload(ip);
                self.reactor.close(conn);
                return;
            }
            Err(reason) => {
                entry.stage = Stage::Over;
                self.tls_failure(ip, &reason);
                self.reactor.close(conn);
                return;
            }
        }
        let peer = entry.peer();
        if self.state.loaded.revoked.contains(&peer.serial) {
            let reply = handlers::revoked(&mut self.state, &peer);
            self.last_answer(conn, &reply);
        } else if self.state.loaded.trusted.owner(&peer.serial).is_some() {
            self.admission.trusted_seen(now, ip);
            if let Some(entry) = self.conns.get_mut(conn) {
                entry.trusted = true;
            }
        } else {
            // Another agent of our CA, or a dispatcher not trusted here: it gets its refusal, but
            // none of the memory for large requests.
            self.reactor.limit_body(conn, UNTRUSTED_BODY);
        }
    }

    /// A whole request came.
    pub(super) fn request(&mut self, conn: ConnId, request: &Request) {
        let now = self.now();
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        if entry.stage == Stage::Over {
            return;
        }
        entry.stage = Stage::Busy(request.keep_alive && !self.stopping);
        entry.since = now;
        let peer = entry.peer();
        let call = Call {
            method: &request.method,
            path: &request.path,
            body: &request.body,
        };
        debug!("{:?} {:?} from {}", call.method, call.path, peer.ip);
        let step = handlers::handle(&mut self.state, &peer, call);
        self.carry_out(conn, &peer, step);
    }

    /// What came is not a request: answered where the reference answers, then closed.
    pub(super) fn bad_request(&mut self, conn: ConnId, error: HttpError) {
        let reply = Reply {
            status: error.status(),
            body: error.body(),
        };
        self.last_answer(conn, &reply);
    }

    /// Sends the answer of a request. The caller may be gone.
    pub(super) fn answer(&mut self, conn: ConnId, reply: &Reply) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let keep = entry.stage == Stage::Busy(true) && !self.stopping;
        entry.stage = if keep { Stage::Idle } else { Stage::Over };
        entry.kept = keep;
        let bytes = http::render_response(reply.status, &reply.body, keep);
        let then = if keep { Then::KeepAlive } else { Then::Close };
        self.reactor.send(conn, bytes, then);
    }

    /// A connection is over.
    pub(super) fn closed(&mut self, conn: ConnId, reason: &CloseReason) {
        if self.runs.is_call(conn) {
            self.call_closed(conn, reason);
            return;
        }
        self.leave_pool(conn);
        let Some(entry) = self.conns.remove(conn) else {
            return;
        };
        let ours = matches!(
            reason,
            CloseReason::Local | CloseReason::Full | CloseReason::Done
        );
        if entry.stage == Stage::Unproven && !ours {
            self.tls_failure(entry.ip, &reason.to_string());
        }
    }

    fn last_answer(&mut self, conn: ConnId, reply: &Reply) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.stage = Stage::Over;
        }
        let bytes = http::render_response(reply.status, &reply.body, false);
        if !self.reactor.send(conn, bytes, Then::Close) {
            self.reactor.close(conn);
        }
    }

    fn may_connect(&mut self, ip: IpAddr) -> bool {
        let now = self.now();
        if self
            .state
            .loaded
            .conf
            .allowed_ips
            .as_ref()
            .is_some_and(|list| !list.contains(ip))
        {
            self.log
                .log(Level::Warning, &Line::new("ip-block").field("PEER", ip));
            return false;
        }
        match self.rate.check(now, ip) {
            Verdict::Allow => {}
            Verdict::Blocked => return false,
            Verdict::Block(reason) => {
                let line = Line::new("rate-block")
                    .field("PEER", ip)
                    .field("REASON", reason.word());
                self.log.log(Level::Warning, &line);
                return false;
            }
        }
        if self.rate.record_connection(now, ip) {
            self.log_evict();
        }
        true
    }

    /// Whether one more proven connection may be served. If not, one that is not trusted or that
    /// is only kept for later gives way; a dispatcher that is about to ask does not.
    fn has_place(&mut self) -> bool {
        let most = self.state.loaded.conf.max_children as usize;
        if self.live_conns() < most {
            return true;
        }
        let may_go = |conn: &Conn| conn.stage == Stage::Idle && (conn.kept || !conn.trusted);
        let candidates = self.conns.iter().filter(|(_, conn)| may_go(conn));
        let oldest = candidates.min_by_key(|(_, conn)| (conn.trusted, conn.since));
        let Some(oldest) = oldest.map(|(id, _)| id) else {
            return false;
        };
        if let Some(entry) = self.conns.get_mut(oldest) {
            entry.stage = Stage::Over;
        }
        self.reactor.close(oldest);
        true
    }

    /// Proven connections that are being served.
    fn live_conns(&self) -> usize {
        self.conns
            .values()
            .filter(|conn| matches!(conn.stage, Stage::Idle | Stage::Busy(_)))
            .count()
    }

    fn log_overload(&mut self, ip: IpAddr) {
        let line = Line::new("overload")
            .field("PEER", ip)
            .field("LIVE", self.live_conns());
        self.log.log(Level::Warning, &line);
    }

    fn log_evict(&mut self) {
        let line = Line::new("rate-evict").field("COUNT", crate::rate_limit::TABLE);
        self.log.log(Level::Warning, &line);
    }

    /// A handshake failed: logged, counted, and a block that starts with it is logged too.
    fn tls_failure(&mut self, ip: IpAddr, reason: &str) {
        let now = self.now();
        let line = Line::new("tls-failure")
            .field("PEER", ip)
            .field("REASON", reason);
        self.log.log(Level::Warning, &line);
        if self.rate.record_failure(now, ip) {
            self.log_evict();
        }
        if let Verdict::Block(reason) = self.rate.check(now, ip) {
            let line = Line::new("rate-block")
                .field("PEER", ip)
                .field("REASON", reason.word());
            self.log.log(Level::Warning, &line);
        }
    }
}
