//! When agents may be asked again how far a run is. Each look is a connection to every agent that has
//! not finished, and an agent shuts out who connects too often; polls in between are answered from
//! the record.

use crate::tasks::follow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Runs that are remembered. Beyond it those are forgotten that may be asked for anyway.
const MOST: usize = 4096;

/// When each run may be looked at again.
#[derive(Debug, Default)]
pub struct Looks {
    runs: Mutex<HashMap<String, Look>>,
}

#[derive(Debug)]
struct Look {
    count: usize,
    next: Instant,
}

impl Looks {
    /// Whether agents may be asked now; if so, that they are is noted.
    pub fn take(&self, reqid: &str) -> bool {
        let now = Instant::now();
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= MOST {
            runs.retain(|_, look| look.next > now);
        }
        let look = runs.entry(reqid.to_owned()).or_insert(Look {
            count: 0,
            next: now,
        });
        if look.next > now {
            return false;
        }
        look.next = now + follow::pause(look.count);
        look.count += 1;
        true
    }

    /// A run is over.
    pub fn forget(&self, reqid: &str) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.remove(reqid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_in_between_are_not_looks() {
        let looks = Looks::default();
        assert!(looks.take("a"));
        assert!(!looks.take("a"));
        assert!(looks.take("b"));
        looks.forget("a");
        assert!(looks.take("a"));
    }
}
