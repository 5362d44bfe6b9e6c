//! The calls of one batch that one loop makes.

use super::super::batch::Shared;
use super::super::error::Fault;
use ctrl_exec_reactor::Waker;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The calls of one batch that one loop makes.
pub struct Part {
    pub(super) shared: Arc<Shared>,
    /// Not begun, in order.
    pub(super) ready: VecDeque<usize>,
    pub(super) share: usize,
    /// Under way, but for the silent ones.
    pub(super) running: usize,
    /// Under way, and their agents have not been heard of for a while.
    pub(super) silent: usize,
    /// Not ended.
    pub(super) left: usize,
    /// What was under way was given up already.
    pub(super) cancelled: bool,
}

impl Part {
    pub fn new(shared: Arc<Shared>, indices: Vec<usize>, share: usize) -> Self {
        Self {
            shared,
            left: indices.len(),
            ready: indices.into(),
            share,
            running: 0,
            silent: 0,
            cancelled: false,
        }
    }

    pub fn wakes(&self, waker: Waker) {
        self.shared.wakes(waker);
    }

    /// When it has to be over, if it is not stopped yet.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.shared.plan.deadline.filter(|_| !self.cancelled)
    }

    /// Ends all calls that have not begun.
    pub fn fail(mut self, fault: &Fault) {
        self.fail_ready(fault);
    }

    pub(super) fn fail_ready(&mut self, fault: &Fault) {
        for index in std::mem::take(&mut self.ready) {
            self.left -= 1;
            let answer = self.shared.calls[index].failed(fault.clone(), false, Duration::ZERO);
            self.shared.ended(index, answer);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.fail_ready(&Fault::NotStarted);
    }
}
