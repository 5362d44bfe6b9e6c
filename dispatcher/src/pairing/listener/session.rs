//! A session from its beginning to its end.

use super::super::Identified;
use super::options::{Ended, ListenerError, Operator};
use super::state::{Asking, GRACE, Listener, Named, POLL, SESSION, Waiting};
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::http::HttpError;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::wire::pairing::{Outcome, PairRequest, Refusal};
use ctrl_exec_reactor::{ConnId, Event, Signal, Then};
use std::time::Duration;

/// How long answers may take to leave after a stop.
const GRACE_TIME: Duration = Duration::from_secs(3);

impl Listener {
    /// Serves until the session's time is over and nobody waits, or until it is stopped.
    ///
    /// When the time is over, the port is closed and connections that wait for a decision keep
    /// waiting, each up to its own limit. A stop tells them so at once.
    ///
    /// # Errors
    /// The event loop's.
    pub fn run(
        mut self,
        operator: &mut dyn Operator,
        log: &Syslog,
    ) -> Result<Ended, ListenerError> {
        self.reactor
            .watch_signals(&[Signal::Int, Signal::Term])
            .map_err(ListenerError::Loop)?;
        let _ = self.queue.expire();
        self.reactor.set_timer(self.options.session, SESSION);
        let port = self.address.port();
        log.log(
            Level::Info,
            &Line::new("pairing-mode-start").field("PORT", port),
        );
        loop {
            let Some(event) = self.reactor.next(None).map_err(ListenerError::Loop)? else {
                continue;
            };
            if self.handle(event, operator, log) || self.is_over() {
                break;
            }
        }
        let action = if self.stopping {
            "pairing-mode-stop"
        } else {
            "pairing-mode-timeout"
        };
        log.log(Level::Info, &Line::new(action).field("PORT", port));
        Ok(if self.stopping {
            Ended::Stopped
        } else {
            Ended::Timeout
        })
    }

    fn is_over(&self) -> bool {
        (self.draining || self.stopping) && self.reactor.live_conns() == 0
    }

    /// Handles one event; `true` when the session must end now.
    fn handle(&mut self, event: Event, operator: &mut dyn Operator, log: &Syslog) -> bool {
        match event {
            Event::Incoming { conn, peer, .. } => self.incoming(conn, peer.ip(), log),
            Event::Request { conn, request } => match PairRequest::parse(&request.body) {
                Ok(parsed) => {
                    let perl = request.is_http_10() && request.headers.all("Host").next().is_none();
                    self.look_up(conn, parsed, perl, operator, log);
                }
                Err(refusal) => self.refuse(conn, refusal, log),
            },
            Event::BadRequest { conn, error } => {
                let refusal = match error {
                    HttpError::BodyTooLarge => Refusal::TooLarge,
                    _ => Refusal::InvalidRequest,
                };
                self.refuse(conn, refusal, log);
            }
            // A pairing client that closes its side has gone: it does not close half-way.
            Event::PeerClosed { conn } => {
                self.reactor.close(conn);
            }
            Event::Closed { conn, .. } => self.closed(conn, operator, log),
            Event::Offloaded { value, .. } => {
                self.questions = self.questions.saturating_sub(1);
                if let Some(Ok(named)) = value.map(|value| value.downcast::<Named>()) {
                    self.answered(*named, operator, log);
                }
            }
            Event::Woken => {
                if operator.input() {
                    self.stop();
                }
                self.look_for_decisions(operator, log);
            }
            Event::Timer { token: SESSION, .. } => self.drain(operator),
            Event::Timer { token: GRACE, .. } => return true,
            Event::Timer { token: POLL, .. } => {
                self.poll = None;
                self.look_for_decisions(operator, log);
                self.arm_poll();
            }
            Event::Timer { token, .. } => {
                if let Some(asking) = self.asking.remove(&token) {
                    self.enqueue(asking, &Identified::default(), operator, log);
                }
            }
            Event::Signal(_) => self.stop(),
            _ => {}
        }
        false
    }

    /// The session's time is over.
    fn drain(&mut self, operator: &mut dyn Operator) {
        self.draining = true;
        self.reactor.close_listener(self.listener);
        if !self.waiting.is_empty() {
            operator.draining(self.waiting.len());
        }
    }

    /// Ends the session: whoever waits is told at once.
    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.reactor.close_listener(self.listener);
        let stopped = Outcome::Denied {
            reason: "pairing mode stopped".to_owned(),
        }
        .render();
        let waiting: Vec<(ConnId, Waiting)> = self.waiting.drain().collect();
        for (conn, waiting) in waiting {
            // A decision that was just made still counts.
            let decision = self.queue.answer(&waiting.queued.id);
            let bytes = decision.map_or_else(|| stopped.clone().into_bytes(), |(_, bytes)| bytes);
            self.answer(conn, &bytes, Then::Close);
            let _ = self.queue.finish(&waiting.queued.id);
        }
        let asking: Vec<Asking> = self.asking.drain().map(|(_, asking)| asking).collect();
        for asking in asking {
            self.answer(asking.conn, stopped.as_bytes(), Then::Close);
        }
        self.reactor.set_timer(GRACE_TIME, GRACE);
    }
}
