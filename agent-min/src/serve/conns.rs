//! Connections: who may connect, and what is read from them (agent.md §1).

use super::Server;
use super::answer::Answer;
use crate::handlers::{self, Call, Peer, Reply};
use crate::rate_limit::{Reason, Verdict};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::messages;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role};
use ctrl_exec_reactor::http::{self, HttpError, Request};
use ctrl_exec_reactor::{CloseReason, ConnId, Then};
use log::debug;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Largest request body of a caller that is not trusted.
const UNTRUSTED_BODY: usize = 16 * 1024;

/// Connections without work at a time, beside as many as scripts may run.
pub(super) const CONTROL: usize = 16;
/// The words for a caller whose address is blocked and that is not trusted.
const RATE_LIMITED: &str = "too many connections from this address; try again later";
/// The alert of a peer that finds our certificate expired.
const FINDS_US_EXPIRED: &str = "received fatal alert: CertificateExpired";

/// What the server knows of one connection.
pub(super) struct Conn {
    pub(super) ip: IpAddr,
    /// Serial of the certificate; empty until it was proved.
    pub(super) serial: Rc<str>,
    pub(super) stage: Stage,
    /// The CA certificates by which it proved itself; others since are asked before it is heard.
    chain: Option<Arc<ChainVerifier>>,
    /// It is a trusted dispatcher's, as of its handshake.
    trusted: bool,
    /// It has been answered and is kept for more.
    kept: bool,
    /// How the rate limiter took it.
    rated: Rated,
    /// Seconds of the monotonic clock at which it last asked.
    since: u32,
    /// It reads bodies in chunks.
    pub(super) chunks: bool,
    /// Its answer is under way while the script runs.
    pub(super) live: Option<Box<Answer>>,
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

/// How the rate limiter took a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rated {
    /// Not at all: its address is a trusted dispatcher's, or it has not had its turn.
    Free,
    /// It was counted.
    Counted,
    /// Its address is blocked; it may show that it is a trusted dispatcher's.
    OnTrial,
}

impl Conn {
    pub(super) fn peer(&self) -> Peer {
        Peer {
            ip: self.ip,
            serial: Rc::clone(&self.serial),
        }
    }

    /// Notes that its answer is given; what becomes of it then.
    pub(super) fn answered(&mut self, stopping: bool) -> Then {
        self.kept = self.stage == Stage::Busy(true) && !stopping;
        if self.kept {
            self.stage = Stage::Idle;
            Then::KeepAlive
        } else {
            self.stage = Stage::Over;
            Then::Close
        }
    }
}

impl Server {
    /// A connection was accepted: address and rate are looked at before TLS costs anything.
    pub(super) fn incoming(&mut self, conn: ConnId, peer: IpAddr) {
        let ip = peer.to_canonical();
        debug!("connection from {ip}");
        let now = self.now();
        if self.stopping || !self.is_allowed(ip) {
            self.reactor.close(conn);
            return;
        }
        let known = self.admission.knows(now, ip);
        let mut rated = Rated::Free;
        if !known && self.rate.is_blocked(now, ip) {
            if self.rate.check(now, ip) != Verdict::Trial {
                self.reactor.close(conn);
                return;
            }
            rated = Rated::OnTrial;
        }
        let admitted = self.admission.admit(now, conn, ip);
        if let Some(evicted) = admitted.evict {
            if let Some(entry) = self.conns.get_mut(evicted) {
                entry.stage = Stage::Over;
            }
            self.reactor.close(evicted);
        }
        let entry = Conn {
            ip,
            serial: Rc::from(""),
            stage: Stage::Waiting,
            chain: None,
            trusted: false,
            kept: false,
            rated,
            since: now,
            chunks: false,
            live: None,
        };
        if !self.conns.insert(conn, entry) {
            self.log_overload(ip);
            self.reactor.close(conn);
        } else if admitted.serve {
            self.shake_hands(conn);
        }
    }

    /// Starts the handshake of an accepted connection, if its address may. Only here it is counted:
    /// of many that a dispatcher opens at once, the first prove it before the others have their
    /// turn.
    fn shake_hands(&mut self, conn: ConnId) {
        let now = self.now();
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let (ip, rated) = (entry.ip, entry.rated);
        let rated = if rated == Rated::OnTrial || self.admission.knows(now, ip) {
            Some(rated)
        } else {
            self.rate_connection(now, ip)
        };
        let stopping = self.stopping;
        if let (Some(entry), Some(rated)) = (self.conns.get_mut(conn), rated) {
            entry.stage = Stage::Unproven;
            entry.rated = rated;
            let tls = Arc::clone(&self.state.loaded.identity.tls);
            if !stopping && self.reactor.serve(conn, &tls, &Arc::clone(&self.limits)) {
                return;
            }
        } else if let Some(entry) = self.conns.get_mut(conn) {
            entry.stage = Stage::Over;
        }
        self.reactor.close(conn);
    }

    /// Counts a connection. `None`: it is to be closed.
    fn rate_connection(&mut self, now: u32, ip: IpAddr) -> Option<Rated> {
        let mut verdict = self.rate.check(now, ip);
        if let Verdict::Block(reason) = verdict {
            self.log_block(ip, reason);
            verdict = self.rate.check(now, ip);
        }
        match verdict {
            Verdict::Allow => {
                if self.rate.record_connection(now, ip) {
                    self.log_evict();
                }
                Some(Rated::Counted)
            }
            Verdict::Trial => Some(Rated::OnTrial),
            Verdict::Block(_) | Verdict::Blocked => None,
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
                .identity
                .chain
                .verify(der, Role::Client, loaded.now())
                .map_err(|error| error.to_string())
        } else {
            cert::facts(der).map_err(|error| error.to_string())
        };
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        let ip = entry.ip;
        match facts {
            Ok(facts) => {
                entry.serial = facts.serial_hex.into();
                entry.chain = Some(Arc::clone(&self.state.loaded.identity.chain));
                entry.since = now;
            }
            Err(reason) => {
                entry.stage = Stage::Over;
                self.tls_failure(ip, &reason);
                self.reactor.close(conn);
                return;
            }
        }
        let (peer, rated) = (entry.peer(), entry.rated);
        if self.state.loaded.revoked.contains(&peer.serial) {
            let reply = handlers::revoked(&mut self.state, &peer);
            self.last_answer(conn, reply);
            return;
        }
        let trusted = self.state.loaded.trusted.owner(&peer.serial).is_some();
        if trusted {
            self.admission.trusted_seen(now, ip);
            if rated == Rated::Counted {
                self.rate.forgive(ip);
            }
        } else if rated == Rated::OnTrial {
            let reply = Reply {
                status: 429,
                body: messages::error_body(RATE_LIMITED),
            };
            self.last_answer(conn, reply);
            return;
        }
        if !self.make_place(trusted) {
            self.log_overload(ip);
            let reply = Reply {
                status: 503,
                body: messages::error_body("busy: too many connections"),
            };
            self.last_answer(conn, reply);
            return;
        }
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.stage = Stage::Idle;
            entry.trusted = trusted;
        }
        if !trusted {
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
        let chain = &self.state.loaded.identity.chain;
        if entry
            .chain
            .as_ref()
            .is_none_or(|own| !Arc::ptr_eq(own, chain))
        {
            // The CA was exchanged while the connection was kept.
            let (ip, der) = (entry.ip, self.reactor.peer_certificate(conn));
            let known = chain.verify(
                der.unwrap_or_default(),
                Role::Client,
                self.state.loaded.now(),
            );
            entry.chain = Some(Arc::clone(chain));
            if let Err(error) = known {
                entry.stage = Stage::Over;
                self.tls_failure(ip, &error.to_string());
                self.reactor.close(conn);
                return;
            }
        }
        entry.stage = Stage::Busy(request.keep_alive && !self.stopping);
        entry.since = now;
        entry.chunks = !request.is_http_10();
        let peer = entry.peer();
        let call = Call {
            method: &request.method(),
            path: &request.path(),
            body: &request.body,
            from_perl: is_of_perl(request),
        };
        debug!("{:?} {:?} from {}", call.method, call.path, peer.ip);
        let step = handlers::handle(&mut self.state, &peer, call);
        self.carry_out(conn, &peer, step);
        if call.path == "/trust" {
            self.judge_waiting();
        }
    }

    /// What came is not a request: answered where the reference answers, then closed.
    pub(super) fn bad_request(&mut self, conn: ConnId, error: HttpError) {
        let reply = Reply {
            status: error.status(),
            body: error.body(),
        };
        self.last_answer(conn, reply);
    }

    /// Sends the answer of a request. The caller may be gone.
    pub(super) fn answer(&mut self, conn: ConnId, reply: Reply) {
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        if let Some(live) = &mut entry.live {
            live.end = Some(reply.body);
            return self.go_on(conn);
        }
        let then = entry.answered(self.stopping);
        let bytes = http::into_response(reply.status, reply.body, then == Then::KeepAlive);
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

    fn last_answer(&mut self, conn: ConnId, reply: Reply) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.stage = Stage::Over;
        }
        let bytes = http::into_response(reply.status, reply.body, false);
        if !self.reactor.send(conn, bytes, Then::Close) {
            self.reactor.close(conn);
        }
    }

    fn is_allowed(&self, ip: IpAddr) -> bool {
        let list = self.state.loaded.conf.allowed_ips.as_ref();
        let allowed = list.is_none_or(|list| list.contains(ip));
        if !allowed {
            let line = Line::new("ip-block").field("PEER", ip);
            self.log.log(Level::Warning, &line);
        }
        allowed
    }

    /// Makes a place for one more proven connection. Those at work are bounded by what they wait
    /// for; of the others there are so many, and the oldest gives way: first one that is not
    /// trusted, then one that is only kept for later. A trusted dispatcher's always finds a place.
    fn make_place(&mut self, trusted: bool) -> bool {
        let most = self.state.loaded.conf.max_children as usize + CONTROL;
        let idle = |conn: &&Conn| conn.stage == Stage::Idle;
        if self.conns.values().filter(idle).count() < most {
            return true;
        }
        let may_go = |conn: &Conn| conn.stage == Stage::Idle && (trusted || !conn.trusted);
        let candidates = self.conns.iter().filter(|(_, conn)| may_go(conn));
        let oldest = candidates.min_by_key(|(_, conn)| (conn.trusted, !conn.kept, conn.since));
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

    fn log_block(&self, ip: IpAddr, reason: Reason) {
        let line = Line::new("rate-block")
            .field("PEER", ip)
            .field("REASON", reason.word());
        self.log.log(Level::Warning, &line);
    }

    /// A handshake failed: logged, counted, and a block that starts with it is logged too. Nothing
    /// is counted of a trusted dispatcher's address, nor that a peer finds our certificate expired:
    /// the agent's own, or the peer's clock, is at fault then.
    fn tls_failure(&mut self, ip: IpAddr, reason: &str) {
        let now = self.now();
        let line = Line::new("tls-failure")
            .field("PEER", ip)
            .field("REASON", reason);
        self.log.log(Level::Warning, &line);
        if self.admission.knows(now, ip) || reason.contains(FINDS_US_EXPIRED) {
            return;
        }
        if self.rate.is_blocked(now, ip) {
            return;
        }
        if self.rate.record_failure(now, ip) {
            self.log_evict();
        }
        if let Verdict::Block(reason) = self.rate.check(now, ip) {
            self.log_block(ip, reason);
        }
    }
}

/// Whether a request is of a dispatcher of release 0.12.3: its HTTP library names itself, ours does
/// not.
fn is_of_perl(request: &Request) -> bool {
    let agent = request.headers.one("User-Agent");
    matches!(agent, Ok(Some(name)) if name.starts_with("libwww-perl/"))
}
