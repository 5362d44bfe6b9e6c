//! What is to be called next: calls in order, but never more to one agent than it takes.

use super::Call;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Connections to one agent at once. Several names may stand for one agent, and a host may be
/// given twice.
const PER_AGENT: usize = 4;
/// Agents take 10 connections in 60 s of one address (agent.md §1.1); one is left to others.
const RATE: usize = 9;
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The queue of calls not yet begun.
#[derive(Debug)]
pub struct Feed {
    ready: VecDeque<usize>,
    delayed: BTreeMap<(Instant, usize), ()>,
    /// Only agents that are called more than once have a lane.
    lanes: Vec<Lane>,
    lane_of: HashMap<usize, usize>,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<usize>,
    begun: VecDeque<Instant>,
}

/// What [`Feed::next`] found.
#[derive(Debug, Eq, PartialEq)]
pub enum Next {
    /// Begin this call now.
    Call(usize),
    /// The next one may begin then.
    Later(Instant),
    /// Nothing is ready; calls may come free when others end.
    Nothing,
}

impl Feed {
    /// A queue of all calls, in their order.
    pub fn new(calls: &[Call]) -> Self {
        let mut of_target: HashMap<(&str, u16), Vec<usize>> = HashMap::new();
        for (index, call) in calls.iter().enumerate() {
            of_target
                .entry((&call.target.address, call.target.port))
                .or_default()
                .push(index);
        }
        let mut feed = Self {
            ready: VecDeque::with_capacity(calls.len()),
            delayed: BTreeMap::new(),
            lanes: Vec::new(),
            lane_of: HashMap::new(),
        };
        let mut parked: std::collections::HashSet<usize> = std::collections::HashSet::new();
        for indices in of_target.into_values().filter(|indices| indices.len() > 1) {
            let lane = feed.lanes.len();
            for index in &indices {
                feed.lane_of.insert(*index, lane);
            }
            let waiting: VecDeque<usize> = indices.into_iter().skip(PER_AGENT).collect();
            parked.extend(&waiting);
            feed.lanes.push(Lane {
                waiting,
                begun: VecDeque::new(),
            });
        }
        feed.ready
            .extend((0..calls.len()).filter(|index| !parked.contains(index)));
        feed
    }

    /// The next call to begin on a new connection.
    pub fn next(&mut self, now: Instant) -> Next {
        if let Some((&(due, index), ())) = self.delayed.first_key_value() {
            if due <= now {
                self.delayed.pop_first();
                self.ready.push_front(index);
            }
        }
        while let Some(index) = self.ready.pop_front() {
            match self.begin(index, now) {
                Ok(()) => return Next::Call(index),
                Err(due) => {
                    self.delayed.insert((due, index), ());
                }
            }
        }
        match self.delayed.first_key_value() {
            Some((&(due, _), ())) => Next::Later(due),
            None => Next::Nothing,
        }
    }

    /// A call has ended. With `kept` the connection can serve another: the next call to the same
    /// agent, if there is one, is handed out for it. Else that call joins the queue.
    pub fn ended(&mut self, index: usize, kept: bool) -> Option<usize> {
        let lane = self.lanes.get_mut(*self.lane_of.get(&index)?)?;
        let next = lane.waiting.pop_front()?;
        if kept {
            return Some(next);
        }
        self.ready.push_back(next);
        None
    }

    /// Whether more calls to the agent of `index` are waiting for a connection to come free.
    pub fn more_for(&self, index: usize) -> bool {
        self.lane_of
            .get(&index)
            .and_then(|lane| self.lanes.get(*lane))
            .is_some_and(|lane| !lane.waiting.is_empty())
    }

    /// Takes every call that has not begun.
    pub fn drain(&mut self) -> Vec<usize> {
        let mut left: Vec<usize> = self.ready.drain(..).collect();
        left.extend(
            std::mem::take(&mut self.delayed)
                .into_keys()
                .map(|(_, index)| index),
        );
        for lane in &mut self.lanes {
            left.extend(lane.waiting.drain(..));
        }
        left.sort_unstable();
        left
    }

    fn begin(&mut self, index: usize, now: Instant) -> Result<(), Instant> {
        let Some(lane) = self
            .lane_of
            .get(&index)
            .and_then(|lane| self.lanes.get_mut(*lane))
        else {
            return Ok(());
        };
        while lane
            .begun
            .front()
            .is_some_and(|begun| now.duration_since(*begun) > RATE_WINDOW)
        {
            lane.begun.pop_front();
        }
        match lane.begun.front() {
            Some(first) if lane.begun.len() >= RATE => Err(*first + RATE_WINDOW),
            _ => {
                lane.begun.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::address::Target;

    fn calls(addresses: &[&str]) -> Vec<Call> {
        addresses
            .iter()
            .map(|address| {
                let target = Target {
                    name: "n".into(),
                    address: (*address).into(),
                    port: 7443,
                    serial_status: crate::store::files::registry::SerialStatus::Current,
                    perl: false,
                };
                Call::get(target, "/x")
            })
            .collect()
    }

    #[test]
    fn different_agents_in_order() {
        let mut feed = Feed::new(&calls(&["a", "b", "c"]));
        let now = Instant::now();
        assert_eq!(feed.next(now), Next::Call(0));
        assert_eq!(feed.ended(0, true), None);
        assert_eq!(feed.drain(), [1, 2]);
        assert_eq!(feed.next(now), Next::Nothing);
    }

    #[test]
    fn one_agent_under_many_names_is_not_stormed() {
        let mut feed = Feed::new(&calls(&["a"; 30]));
        let now = Instant::now();
        for index in 0..PER_AGENT {
            assert_eq!(feed.next(now), Next::Call(index));
        }
        assert_eq!(feed.next(now), Next::Nothing, "four at once");
        assert!(feed.more_for(0));
        // A kept connection takes the next call without counting as a connection.
        assert_eq!(feed.ended(0, true), Some(4));
        // Without keep-alive: new connections, at most nine in a minute.
        let mut begun = PER_AGENT;
        let mut last = 1;
        loop {
            assert_eq!(feed.ended(last, false), None);
            match feed.next(now) {
                Next::Call(index) => {
                    begun += 1;
                    last = index;
                }
                Next::Later(due) => {
                    assert!(due > now + Duration::from_secs(50));
                    assert!(matches!(
                        feed.next(due + Duration::from_secs(1)),
                        Next::Call(_)
                    ));
                    break;
                }
                Next::Nothing => panic!("calls are left"),
            }
        }
        assert_eq!(begun, RATE);
    }
}
