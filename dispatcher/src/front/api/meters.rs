//! What is counted, for `GET /metrics`. Counters only rise; gauges are what the loop has just now.

use crate::model::Outcome;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the durations that are told apart, in seconds.
pub const BOUNDS: [u64; 8] = [1, 5, 15, 60, 300, 900, 3_600, 14_400];

/// What is counted.
#[derive(Debug, Default)]
pub struct Meters {
    answers: Mutex<BTreeMap<u16, u64>>,
    hosts: [AtomicU64; Outcome::ALL.len()],
    /// Runs by duration: within each bound, and beyond all.
    runs: [AtomicU64; BOUNDS.len() + 1],
    run_millis: AtomicU64,
    /// Requests that are being worked on.
    pub in_flight: AtomicUsize,
    /// Connections.
    pub connections: AtomicUsize,
    /// Connections that follow runs.
    pub streams: AtomicUsize,
}

impl Meters {
    /// A request was answered with this status.
    pub fn answered(&self, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(status).or_default() += 1;
    }

    /// A host of a run has ended.
    pub fn host(&self, outcome: Outcome) {
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        if let Some(count) = at.and_then(|at| self.hosts.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A run has ended after so long.
    pub fn run(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let within = |bound: &u64| seconds <= Duration::from_secs(*bound).as_secs_f64();
        let at = BOUNDS.iter().position(within).unwrap_or(BOUNDS.len());
        if let Some(count) = self.runs.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.run_millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// Answers by status.
    pub fn answers(&self) -> BTreeMap<u16, u64> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Hosts by outcome.
    pub fn hosts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.hosts.iter().map(|count| count.load(Ordering::Relaxed));
        Outcome::ALL.into_iter().map(Outcome::word).zip(counts)
    }

    /// Runs by duration, each within its bound only, and the seconds of all together.
    pub fn runs(&self) -> (Vec<u64>, f64) {
        let counts = self.runs.iter().map(|count| count.load(Ordering::Relaxed));
        let millis = self.run_millis.load(Ordering::Relaxed);
        (
            counts.collect(),
            Duration::from_millis(millis).as_secs_f64(),
        )
    }
}
