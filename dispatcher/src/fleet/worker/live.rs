//! Answers that come in pieces while the script runs.

use super::super::error::Fault;
use super::state::{Flight, Worker};
use ctrl_exec_protocol::capture::{Capture, Captured};
use ctrl_exec_protocol::live::{Decoder, Found};
use ctrl_exec_reactor::ConnId;
use ctrl_exec_reactor::http::Response;

/// Bytes kept of each output, half of the beginning and half of the end. Owners are told all of it.
const KEPT: usize = 1 << 20;
/// Largest result behind the output.
const MAX_RESULT: usize = 1 << 20;

/// What has come of an answer in pieces.
pub struct Incoming {
    items: Decoder,
    kept: [Capture; 2],
    result: Vec<u8>,
    too_large: bool,
}

impl Incoming {
    fn new() -> Self {
        Self {
            items: Decoder::default(),
            kept: [Capture::new(KEPT), Capture::new(KEPT)],
            result: Vec::new(),
            too_large: false,
        }
    }

    fn held(&self) -> usize {
        self.kept.iter().map(Capture::held).sum()
    }

    /// The result, where the whole of it has come.
    fn result(&mut self) -> Result<Vec<u8>, Fault> {
        if self.too_large {
            return Err(Fault::TooLarge);
        }
        if !self.items.is_over() {
            return Err(Fault::Truncated);
        }
        Ok(std::mem::take(&mut self.result))
    }
}

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
