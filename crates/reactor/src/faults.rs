//! Short reads and writes and `WouldBlock` at any step, from a seed. Tests only.

/// What an operation on the socket is to do.
pub(crate) enum Verdict {
    /// Return `WouldBlock`.
    Block,
    /// Handle at most so many bytes.
    Limit(usize),
}

/// A generator of verdicts.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    state: u32,
    /// The last verdict was [`Verdict::Block`]: the operation must be tried again without an
    /// event.
    pub retry: bool,
}

impl Faults {
    pub fn new(seed: u32) -> Self {
        Faults {
            state: seed.wrapping_mul(2_654_435_761) | 1,
            retry: false,
        }
    }

    pub fn verdict(&mut self, wanted: usize) -> Verdict {
        // xorshift32
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        match self.state % 8 {
            0 | 1 => {
                self.retry = true;
                Verdict::Block
            }
            2 | 3 => Verdict::Limit(wanted.min(1)),
            4 => Verdict::Limit(wanted.min(7)),
            5 => Verdict::Limit(wanted.min(1000)),
            _ => Verdict::Limit(wanted),
        }
    }
}
