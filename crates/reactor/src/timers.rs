//! Deadlines, in a heap with lazy deletion.
//!
//! Moving a deadline to later, which every request on a kept connection does, costs nothing: the
//! entry in the heap is looked at again when it comes up. Entries that nothing needs any more are
//! swept out when they are the majority, so that the heap is bounded by what is alive.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Child(u32),
    Conn(u32),
    Listener(u32),
    User(u32),
}

/// The deadline of one object, kept in that object.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alarm {
    /// When it is due.
    wanted: Option<Duration>,
    /// The entry in the heap that stands for it.
    entry: Option<(Duration, u32)>,
}

impl Alarm {
    pub fn is_armed(&self) -> bool {
        self.wanted.is_some()
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Duration,
    stamp: u32,
    owner: Owner,
}

/// All deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    next_stamp: u32,
    /// Entries that stand for nothing any more.
    stale: usize,
}

/// What came up.
pub(crate) struct Due {
    pub owner: Owner,
    pub stamp: u32,
}

impl Timers {
    /// Sets, moves or (with `None`) removes a deadline.
    pub fn arm(&mut self, alarm: &mut Alarm, owner: Owner, at: Option<Duration>) {
        alarm.wanted = at;
        let Some(at) = at else { return };
        if let Some((current, _)) = alarm.entry {
            if current <= at {
                return;
            }
            self.stale += 1;
        }
        self.push(alarm, owner, at);
    }

    /// To be called when the object of `alarm` goes away.
    pub fn forget(&mut self, alarm: &Alarm) {
        if alarm.entry.is_some() {
            self.stale += 1;
        }
    }

    /// When to wake up next: never too late, at times too early.
    pub fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|entry| entry.0.at)
    }

    /// An entry that is due at `now`. The caller finds its owner and asks [`Timers::fires`]; when
    /// there is no such owner any more it calls [`Timers::was_stale`].
    pub fn pop(&mut self, now: Duration) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        let entry = self.heap.pop()?.0;
        Some(Due {
            owner: entry.owner,
            stamp: entry.stamp,
        })
    }

    /// Whether the entry just popped means that the deadline of `alarm` has passed.
    pub fn fires(&mut self, alarm: &mut Alarm, due: &Due, now: Duration) -> bool {
        if alarm.entry.is_none_or(|(_, stamp)| stamp != due.stamp) {
            self.was_stale();
            return false;
        }
        alarm.entry = None;
        match alarm.wanted {
            Some(at) if at <= now => {
                alarm.wanted = None;
                true
            }
            Some(at) => {
                self.push(alarm, due.owner, at);
                false
            }
            None => false,
        }
    }

    /// The entry just popped stood for nothing.
    pub fn was_stale(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    /// Most entries are stale: time for [`Timers::sweep`].
    pub fn wants_sweep(&self) -> bool {
        self.stale > 64 && self.stale > self.heap.len() / 2
    }

    /// Drops entries for which `alive` finds no alarm with this stamp.
    pub fn sweep(&mut self, mut alive: impl FnMut(Owner) -> Option<Alarm>) {
        self.heap.retain(|entry| {
            alive(entry.0.owner)
                .and_then(|alarm| alarm.entry)
                .is_some_and(|(_, stamp)| stamp == entry.0.stamp)
        });
        self.heap.shrink_to(256);
        self.stale = 0;
    }

    fn push(&mut self, alarm: &mut Alarm, owner: Owner, at: Duration) {
        let stamp = self.next_stamp;
        self.next_stamp = stamp.wrapping_add(1);
        alarm.entry = Some((at, stamp));
        self.heap.push(Reverse(Entry { at, stamp, owner }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn later_is_free_and_earlier_fires_earlier() {
        let mut timers = Timers::default();
        let mut alarm = Alarm::default();
        let owner = Owner::Conn(1);
        timers.arm(&mut alarm, owner, Some(secs(5)));
        for n in 6..1000 {
            timers.arm(&mut alarm, owner, Some(secs(n)));
        }
        assert_eq!(timers.heap.len(), 1);
        timers.arm(&mut alarm, owner, Some(secs(3)));
        assert!(timers.pop(secs(2)).is_none());
        let due = timers.pop(secs(3)).unwrap();
        assert!(timers.fires(&mut alarm, &due, secs(3)));
        let due = timers.pop(secs(5)).unwrap();
        assert!(
            !timers.fires(&mut alarm, &due, secs(5)),
            "the first entry is stale"
        );
        assert_eq!((timers.stale, timers.next()), (0, None));
    }

    #[test]
    fn moved_deadline_comes_up_again() {
        let mut timers = Timers::default();
        let mut alarm = Alarm::default();
        timers.arm(&mut alarm, Owner::User(0), Some(secs(1)));
        timers.arm(&mut alarm, Owner::User(0), Some(secs(9)));
        let due = timers.pop(secs(1)).unwrap();
        assert!(!timers.fires(&mut alarm, &due, secs(1)));
        assert_eq!(timers.next(), Some(secs(9)));
        timers.arm(&mut alarm, Owner::User(0), None);
        let due = timers.pop(secs(9)).unwrap();
        assert!(!timers.fires(&mut alarm, &due, secs(9)));
    }

    #[test]
    fn churn_does_not_grow_the_heap() {
        let mut timers = Timers::default();
        let mut kept = Alarm::default();
        timers.arm(&mut kept, Owner::Conn(0), Some(secs(7)));
        for n in 0..100_000 {
            let mut alarm = Alarm::default();
            timers.arm(&mut alarm, Owner::Conn(1), Some(secs(10 + n)));
            timers.forget(&alarm);
            if timers.wants_sweep() {
                timers.sweep(|owner| (owner == Owner::Conn(0)).then_some(kept));
            }
            assert!(timers.heap.len() < 200);
        }
        assert_eq!(timers.next(), Some(secs(7)));
    }
}
