//! How many connections an agent takes, over everything this engine does.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::call::Route;
use crate::model::Rate;

/// Connections to one agent at once. Several names may stand for one agent, and a host may be
/// given twice.
const PER_AGENT: usize = 4;
/// Agents take 10 connections in 60 s of one address (agent.md §1.1); one is left to others.
const RATE: usize = 9;
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Agents that nothing is known of any more are forgotten when the table has grown by so much.
const SWEEP: usize = 1024;

/// Whether a connection may be made now.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Leave {
    /// Yes, and it counts from now.
    Now,
    /// The rate is used up until then.
    Later(Instant),
    /// As many connections as the agent takes at once are open.
    Busy,
}

/// What every agent called lately has had.
#[derive(Debug, Default)]
pub(super) struct Pacing<W> {
    lanes: HashMap<Route, Lane<W>>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Lane<W> {
    open: usize,
    /// How far back connections count.
    window: Duration,
    begun: VecDeque<Instant>,
    waiting: VecDeque<W>,
}

impl<W> Default for Lane<W> {
    fn default() -> Self {
        Self {
            open: 0,
            window: RATE_WINDOW,
            begun: VecDeque::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl<W> Lane<W> {
    fn forget(&mut self, window: Duration, now: Instant) {
        let old = |begun: &Instant| now.duration_since(*begun) > window;
        while self.begun.front().is_some_and(old) {
            self.begun.pop_front();
        }
    }
}

impl<W> Pacing<W> {
    /// Asks for a connection to an agent.
    pub fn connect(&mut self, route: &Route, rate: Option<Rate>, now: Instant) -> Leave {
        let (most, window) = match rate {
            None => (RATE, RATE_WINDOW),
            Some(Rate::Off) => (usize::MAX, Duration::ZERO),
            Some(Rate::Within(count, seconds)) => (
                usize::try_from(count).unwrap_or(usize::MAX),
                Duration::from_secs(seconds.into()),
            ),
        };
        self.sweep(now);
        if !self.lanes.contains_key(route) {
            self.lanes.insert(route.clone(), Lane::default());
        }
        let Some(lane) = self.lanes.get_mut(route) else {
            return Leave::Busy;
        };
        lane.window = window;
        lane.forget(window, now);
        if lane.open >= PER_AGENT {
            return Leave::Busy;
        }
        match lane.begun.front() {
            Some(first) if lane.begun.len() >= most => Leave::Later(*first + window),
            _ => {
                lane.begun.push_back(now);
                lane.open += 1;
                Leave::Now
            }
        }
    }

    /// A connection that was allowed is gone.
    pub fn closed(&mut self, route: &Route) {
        if let Some(lane) = self.lanes.get_mut(route) {
            lane.open = lane.open.saturating_sub(1);
        }
    }

    /// Takes back that one was gone.
    pub fn reopen(&mut self, route: &Route) {
        if let Some(lane) = self.lanes.get_mut(route) {
            lane.open += 1;
        }
    }

    /// Notes that something waits for a connection to this agent to come free.
    pub fn wait(&mut self, route: &Route, what: W) {
        if let Some(lane) = self.lanes.get_mut(route) {
            lane.waiting.push_back(what);
        }
    }

    /// The first of what waits for this agent.
    pub fn waiting(&mut self, route: &Route) -> Option<W> {
        self.lanes.get_mut(route)?.waiting.pop_front()
    }

    /// Whether something waits for a connection to this agent.
    pub fn is_awaited(&self, route: &Route) -> bool {
        self.lanes
            .get(route)
            .is_some_and(|lane| !lane.waiting.is_empty())
    }

    /// Takes back what waits and `gone` says is to go.
    pub fn take_waiting(&mut self, mut gone: impl FnMut(&W) -> bool) -> Vec<W> {
        let mut taken = Vec::new();
        for lane in self.lanes.values_mut() {
            for what in std::mem::take(&mut lane.waiting) {
                if gone(&what) {
                    taken.push(what);
                } else {
                    lane.waiting.push_back(what);
                }
            }
        }
        taken
    }

    fn sweep(&mut self, now: Instant) {
        if self.lanes.len() < self.sweep_at.max(SWEEP) {
            return;
        }
        self.lanes.retain(|_, lane| {
            lane.forget(lane.window, now);
            lane.open > 0 || !lane.begun.is_empty() || !lane.waiting.is_empty()
        });
        self.sweep_at = self.lanes.len() + SWEEP.max(self.lanes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        Route::Dial {
            address: "a".into(),
            port,
        }
    }

    #[test]
    fn four_at_once_and_nine_a_minute() {
        let mut pacing: Pacing<()> = Pacing::default();
        let start = Instant::now();
        for _ in 0..PER_AGENT {
            assert_eq!(pacing.connect(&route(1), None, start), Leave::Now);
        }
        assert_eq!(pacing.connect(&route(1), None, start), Leave::Busy);
        assert_eq!(
            pacing.connect(&route(2), None, start),
            Leave::Now,
            "another agent"
        );
        for n in PER_AGENT..RATE {
            pacing.closed(&route(1));
            assert_eq!(pacing.connect(&route(1), None, start), Leave::Now, "{n}");
        }
        pacing.closed(&route(1));
        let later = start + RATE_WINDOW;
        assert_eq!(pacing.connect(&route(1), None, start), Leave::Later(later));
        // Whatever became of the connections in between: the agent counts them.
        assert_eq!(
            pacing.connect(&route(1), None, later + Duration::from_millis(1)),
            Leave::Now
        );
    }

    #[test]
    fn a_pace_of_its_own_takes_the_place_of_the_usual_one() {
        let mut pacing: Pacing<()> = Pacing::default();
        let start = Instant::now();
        for _ in 0..200 {
            assert_eq!(
                pacing.connect(&route(1), Some(Rate::Off), start),
                Leave::Now
            );
            pacing.closed(&route(1));
        }
        let rate = Some(Rate::Within(2, 5));
        for _ in 0..2 {
            assert_eq!(pacing.connect(&route(2), rate, start), Leave::Now);
            pacing.closed(&route(2));
        }
        let later = start + Duration::from_secs(5);
        assert_eq!(pacing.connect(&route(2), rate, start), Leave::Later(later));
        let after = later + Duration::from_millis(1);
        assert_eq!(pacing.connect(&route(2), rate, after), Leave::Now);
    }

    #[test]
    fn who_waits_is_served_in_turn_and_can_be_taken_back() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        pacing.connect(&route(1), None, now);
        for n in 0..4 {
            pacing.wait(&route(1), n);
        }
        assert!(pacing.is_awaited(&route(1)));
        assert_eq!(pacing.waiting(&route(1)), Some(0));
        assert_eq!(pacing.take_waiting(|n| n % 2 == 0), [2]);
        assert_eq!(pacing.waiting(&route(1)), Some(1));
        assert_eq!(pacing.waiting(&route(1)), Some(3));
        assert_eq!(pacing.waiting(&route(1)), None);
    }

    #[test]
    fn agents_of_long_ago_are_forgotten() {
        let mut pacing: Pacing<()> = Pacing::default();
        let start = Instant::now();
        for port in 1..=5_000 {
            pacing.connect(&route(port), None, start);
            pacing.closed(&route(port));
        }
        let later = start + RATE_WINDOW + Duration::from_secs(1);
        for port in 10_000..18_000 {
            pacing.connect(&route(port), None, later);
        }
        assert!(!pacing.lanes.contains_key(&route(1)));
        assert!(
            pacing.lanes.len() <= 8_000 + SWEEP,
            "{}",
            pacing.lanes.len()
        );
    }
}
