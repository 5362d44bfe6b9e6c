//! Answers that come in pieces while the script runs.

use super::super::error::Fault;
use super::incoming::Incoming;
use super::state::{Flight, Worker};
use ctrl_exec_protocol::capture::{Capture, Captured};
use ctrl_exec_protocol::live::Found;
use ctrl_exec_reactor::ConnId;
use ctrl_exec_reactor::http::Response;

/// Largest result behind the output.
const MAX_RESULT: usize = 1 << 20;

impl Worker {
    /// A piece came: it is told at once, and kept within bounds.
    pub(super) fn piece(&mut self, conn: ConnId, bytes: &[u8]) {
        let room = self.keep_output.saturating_sub(self.kept_output);
        let flight = self.conns.get_mut(&conn);
        let Some(flight) = flight.and_then(|conn| conn.flight.as_mut()) else {
            return;
        };
        let (part, index) = flight.which;
        let Some(shared) = self.parts.get(&part).map(|part| &part.shared) else {
            return;
        };
        let incoming = flight
            .incoming
            .get_or_insert_with(|| Box::new(Incoming::new()));
        let before = incoming.held();
        let Incoming {
            items,
            kept,
            result,
            too_large,
        } = incoming.as_mut();
        items.push(bytes, &mut |found| match found {
            Found::Bytes(_, []) => {}
            Found::Bytes(stream, bytes) => {
                kept[stream as usize].push_within(bytes, room);
                shared.sink.output(index, Found::Bytes(stream, bytes));
            }
            Found::Gap(stream, missing) => {
                kept[stream as usize].skip(missing);
                shared.sink.output(index, found);
            }
            Found::End(bytes) => {
                *too_large |= result.len() + bytes.len() > MAX_RESULT;
                if !*too_large {
                    result.extend_from_slice(bytes);
                }
            }
        });
        self.kept_output = (self.kept_output + incoming.held()).saturating_sub(before);
    }

    /// Puts the pieces of an answer together, if it came in pieces: the result, and the output.
    pub(super) fn gather(
        &mut self,
        flight: &mut Flight,
        answer: Result<Response, Fault>,
    ) -> (Result<Response, Fault>, Option<Box<[Captured; 2]>>) {
        let Some(mut incoming) = flight.incoming.take() else {
            return (answer, None);
        };
        self.kept_output = self.kept_output.saturating_sub(incoming.held());
        let answer = answer.and_then(|response| {
            let body = incoming.result()?;
            Ok(Response { body, ..response })
        });
        let output = incoming.kept.map(Capture::finish);
        (answer, Some(Box::new(output)))
    }
}
