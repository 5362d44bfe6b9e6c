//! A request on its way into the queue.

use super::super::Identified;
use super::super::identity::identify;
use super::options::Operator;
use super::shares::Peer;
use super::state::{Asking, Listener, Named, Waiting};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Ack, Outcome, PairRequest, Refusal};
use ctrl_exec_reactor::{ConnId, Then};
use std::net::IpAddr;

/// Codes that one address, and all together, may show the operator in a session, as multiples of
/// the length of the queue. Each is a chance that a wrong one is taken for the right one.
const CODES_EACH: usize = 2;
const CODES: usize = 20;

/// Questions to DNS at a time, abandoned ones included; beyond it none is asked.
const MAX_QUESTIONS: usize = 8;

impl Listener {
    /// Asks DNS about the sender before the request is queued, within its time.
    pub(super) fn look_up(
        &mut self,
        conn: ConnId,
        request: PairRequest,
        perl: bool,
        operator: &mut dyn Operator,
        log: &Syslog,
    ) {
        self.idle.remove(conn);
        let source = self
            .reactor
            .peer_addr(conn)
            .map(|peer| peer.ip().to_canonical());
        let token = self.next_question;
        self.next_question += 1;
        let timer = self.reactor.set_timer(self.options.dns, token);
        let asking = Asking {
            conn,
            source,
            request,
            perl,
            timer,
        };
        let free = self.questions < MAX_QUESTIONS;
        let asked = source.filter(|_| free).is_some_and(|source| {
            let question = move || -> Named { (token, identify(source)) };
            self.reactor.offload(question).is_ok()
        });
        if asked {
            self.questions += 1;
            self.asking.insert(token, asking);
        } else {
            self.reactor.cancel_timer(timer);
            self.enqueue(asking, &Identified::default(), operator, log);
        }
    }

    pub(super) fn answered(&mut self, named: Named, operator: &mut dyn Operator, log: &Syslog) {
        let (token, identified) = named;
        if let Some(asking) = self.asking.remove(&token) {
            self.reactor.cancel_timer(asking.timer);
            self.enqueue(asking, &identified, operator, log);
        }
    }

    pub(super) fn enqueue(
        &mut self,
        asking: Asking,
        identified: &Identified,
        operator: &mut dyn Operator,
        log: &Syslog,
    ) {
        let Asking {
            conn,
            source,
            request,
            perl,
            ..
        } = asking;
        let identified = &Identified {
            perl,
            ..identified.clone()
        };
        if self.reactor.peer_addr(conn).is_none() {
            return;
        }
        let peer = Peer::of(source.unwrap_or(IpAddr::from([0, 0, 0, 0])));
        let source = source.map_or_else(|| "unknown".to_owned(), |source| source.to_string());
        let full = self
            .queue
            .expire()
            .and_then(|()| self.queue.len())
            .is_ok_and(|length| length >= self.options.max_queue);
        if full && !self.make_room(peer, operator, log) {
            return self.refuse(conn, Refusal::QueueFull, log);
        }
        let each = self.options.max_queue.saturating_mul(CODES_EACH);
        let most = self.options.max_queue.saturating_mul(CODES);
        if !self.codes.take(peer, each, most) {
            let line = Line::new("pair-reject")
                .field("IP", &source)
                .field("REASON", "too-many-codes");
            log.log(Level::Warning, &line);
            return self.refuse(conn, Refusal::QueueFull, log);
        }
        let queued = match self.queue.add(&request, &source, identified, Utc::now()) {
            Ok(queued) => queued,
            Err(error) => {
                log.log(Level::Err, &Line::new("pair-reject").field("ERROR", error));
                let body = Outcome::Denied {
                    reason: "dispatcher error".to_owned(),
                }
                .render();
                self.answer(
                    conn,
                    body.replace("\"denied\"", "\"error\"").as_bytes(),
                    Then::Close,
                );
                return;
            }
        };
        let mut line = Line::new("pair-request")
            .field("AGENT", &queued.hostname)
            .field("IP", &queued.source_ip)
            .field("REQID", &queued.id)
            .field("STATUS", "pending");
        if queued.ip != queued.source_ip {
            line = line.field("REPORTED_IP", &queued.ip);
        }
        log.log(Level::Info, &line);
        self.answer(conn, Ack::render_pending(&queued.id).as_bytes(), Then::Hold);
        operator.arrived(&queued);
        let until = self.reactor.now() + self.options.approval;
        self.queued.insert(conn, peer, self.reactor.now());
        self.waiting.insert(conn, Waiting { queued, until });
        self.arm_poll();
    }

    /// The queue is full: whoever has more requests in it than the newcomer would loses the latest.
    /// Whether there is room now.
    fn make_room(&mut self, newcomer: Peer, operator: &mut dyn Operator, log: &Syslog) -> bool {
        let Some(conn) = self.queued.newest_of_more_than(newcomer) else {
            return false;
        };
        let Some(waiting) = self.waiting.remove(&conn) else {
            return false;
        };
        self.queued.remove(conn);
        // What was just decided stays decided.
        if self.queue.decision(&waiting.queued.id).is_some() {
            self.queued.insert(conn, newcomer, self.reactor.now());
            self.waiting.insert(conn, waiting);
            return false;
        }
        self.refuse(conn, Refusal::QueueFull, log);
        operator.gone(&waiting.queued, "its address has the most requests waiting");
        self.finish(&waiting.queued.id, log);
        true
    }
}
