//! What the operator decided, or did not decide in time.

use super::options::Operator;
use super::state::Listener;
use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::wire::pairing::Outcome;
use ctrl_exec_reactor::{ConnId, Then};

impl Listener {
    /// Sends what the operator decided, and gives up on what nobody decided in time.
    pub(super) fn look_for_decisions(&mut self, operator: &mut dyn Operator, log: &Syslog) {
        let now = self.reactor.now();
        let due: Vec<(ConnId, Option<Vec<u8>>)> = self
            .waiting
            .iter()
            .filter_map(
                |(conn, waiting)| match self.queue.answer(&waiting.queued.id) {
                    Some((_, bytes)) => Some((*conn, Some(bytes))),
                    None if now >= waiting.until => Some((*conn, None)),
                    None => None,
                },
            )
            .collect();
        for (conn, decision) in due {
            self.queued.remove(conn);
            let Some(waiting) = self.waiting.remove(&conn) else {
                continue;
            };
            let bytes = decision.unwrap_or_else(|| {
                operator.gone(&waiting.queued, "nobody decided in time");
                Outcome::Denied {
                    reason: "approval timeout".to_owned(),
                }
                .render()
                .into_bytes()
            });
            self.answer(conn, &bytes, Then::Close);
            self.finish(&waiting.queued.id, log);
        }
    }
}
