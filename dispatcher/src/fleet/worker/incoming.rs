//! What has come of an answer in pieces.

use super::super::error::Fault;
use ctrl_exec_protocol::capture::Capture;
use ctrl_exec_protocol::live::Decoder;

/// Bytes kept of each output, half of the beginning and half of the end. Owners are told all of it.
const KEPT: usize = 1 << 20;

/// What has come of an answer in pieces.
pub struct Incoming {
    pub(super) items: Decoder,
    pub(super) kept: [Capture; 2],
    pub(super) result: Vec<u8>,
    pub(super) too_large: bool,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            items: Decoder::default(),
            kept: [Capture::new(KEPT), Capture::new(KEPT)],
            result: Vec::new(),
            too_large: false,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.kept.iter().map(Capture::held).sum()
    }

    /// The result, where the whole of it has come.
    pub(super) fn result(&mut self) -> Result<Vec<u8>, Fault> {
        if self.too_large {
            return Err(Fault::TooLarge);
        }
        if !self.items.is_over() {
            return Err(Fault::Truncated);
        }
        Ok(std::mem::take(&mut self.result))
    }
}
