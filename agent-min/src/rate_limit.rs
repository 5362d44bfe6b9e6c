//! Per-address rate limiting of accepted connections (agent.md §11).
//!
//! Every operation is O(1): an address keeps only its last `limit` connection times, so "at least
//! `limit` within the window" is one look at the oldest of them, and the order in which entries
//! give way is kept in linked lists threaded through the table. Times are whole seconds of the
//! monotonic clock.
//!
//! A blocked address may still be that of a trusted dispatcher which this agent does not know
//! yet: it has just started, or somebody else earned the block. So now and then one connection of a
//! blocked address is let through to prove itself ([`Verdict::Trial`]).

use ctrl_exec_host::random;
use std::net::IpAddr;

/// Addresses remembered at once (agent.md §11).
pub const TABLE: usize = 1000;

/// `limit/window/block` of one test; `limit` 0 disables it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How many events within the window cause a block.
    pub limit: u32,
    /// Length of the window in seconds.
    pub window: u32,
    /// Length of the block in seconds.
    pub block: u32,
}

/// The reference's default for connections: 10 in 60 s block for 300 s.
pub const VOLUME: Rule = Rule {
    limit: 10,
    window: 60,
    block: 300,
};
/// The reference's default for failed handshakes: 3 in 600 s block for 3600 s.
pub const PROBE: Rule = Rule {
    limit: 3,
    window: 600,
    block: 3600,
};

/// Seconds between two trials of one blocked address.
pub const TRIAL_EVERY: u32 = 5;
/// Trials of all blocked addresses together within one second: a handshake costs a router's
/// processor some ten milliseconds.
const TRIALS_PER_SECOND: u32 = 5;

/// Largest `limit` honoured exactly; a larger one acts as this one. Bounds the table's memory.
pub const MAX_LIMIT: u32 = 1024;

/// Why an address has just been blocked; the text is the `REASON` of `rate-block`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Too many failed handshakes.
    Probe,
    /// Too many connections.
    Volume,
}

impl Reason {
    /// The word of the log line.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Probe => "probe",
            Reason::Volume => "volume",
        }
    }
}

/// Answer to [`RateLimiter::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve the connection (and record it).
    Allow,
    /// This check starts a block: close, and log once.
    Block(Reason),
    /// Already blocked: close silently.
    Blocked,
    /// Blocked, but this connection may prove that it is a trusted dispatcher's.
    Trial,
}

/// The table of addresses.
pub struct RateLimiter {
    disabled: bool,
    volume: Rule,
    probe: Rule,
    index: Index,
    /// One block that is never grown; only slots that were used become resident.
    slots: Box<heapless::Vec<Slot, TABLE>>,
    free: heapless::Vec<u16, TABLE>,
    lists: [List; 3],
    /// Second of the latest trial, and trials in it.
    trials: (u32, u32),
}

const NONE: u16 = u16::MAX;
const UNBLOCKED: usize = 0;
const BY_VOLUME: usize = 1;
const BY_PROBE: usize = 2;

#[derive(Clone, Copy)]
struct List {
    head: u16,
    tail: u16,
}

struct Slot {
    key: u128,
    connections: Ring,
    failures: Ring,
    blocked_until: u32,
    /// When a connection may next be tried.
    next_trial: u32,
    list: usize,
    prev: u16,
    next: u16,
    /// The next slot of the same bucket.
    chain: u16,
}

/// A hash table of slots, chained through them. Keyed with a secret, so that nobody can choose
/// addresses that fall into one bucket.
struct Index {
    heads: Box<[u16]>,
    secret: u64,
}

impl Index {
    const BUCKETS: usize = 1024;

    fn new() -> Index {
        // Without random numbers the table still works, only predictably.
        let secret = random::bytes()
            .map(u64::from_ne_bytes)
            .unwrap_or(0x5851_f42d_4c95_7f2d);
        Index {
            heads: vec![NONE; Index::BUCKETS].into_boxed_slice(),
            secret,
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "taking the low half is what is meant"
    )]
    fn bucket(&self, key: u128) -> usize {
        let mut hash = self.secret;
        for half in [(key >> 64) as u64, key as u64] {
            hash = (hash ^ half).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        (hash >> 32) as usize % Index::BUCKETS
    }
}

impl RateLimiter {
    /// An empty table with the given rules.
    pub fn new(disabled: bool, volume: Rule, probe: Rule) -> RateLimiter {
        RateLimiter {
            disabled,
            volume,
            probe,
            index: Index::new(),
            slots: Box::new(heapless::Vec::new()),
            free: heapless::Vec::new(),
            lists: [List {
                head: NONE,
                tail: NONE,
            }; 3],
            trials: (0, 0),
        }
    }

    /// Whether a connection from `peer` at `now` may be served. Does not record it.
    pub fn check(&mut self, now: u32, peer: IpAddr) -> Verdict {
        if self.disabled {
            return Verdict::Allow;
        }
        let Some(at) = self.find(key(peer)) else {
            return Verdict::Allow;
        };
        let slot = &mut self.slots[usize::from(at)];
        if slot.blocked_until > now {
            if self.trials.0 != now {
                self.trials = (now, 0);
            }
            if slot.next_trial > now || self.trials.1 >= TRIALS_PER_SECOND {
                return Verdict::Blocked;
            }
            self.trials.1 += 1;
            slot.next_trial = now.saturating_add(TRIAL_EVERY);
            return Verdict::Trial;
        }
        if slot.blocked_until != 0 {
            self.remove(at);
            return Verdict::Allow;
        }
        if slot.connections.full_within(now, self.volume) {
            self.block(at, now, self.volume, BY_VOLUME);
            return Verdict::Block(Reason::Volume);
        }
        if slot.failures.full_within(now, self.probe) {
            self.block(at, now, self.probe, BY_PROBE);
            return Verdict::Block(Reason::Probe);
        }
        Verdict::Allow
    }

    /// Records a connection that was allowed. True when another address had to be forgotten for
    /// it (the caller logs `rate-evict`).
    pub fn record_connection(&mut self, now: u32, peer: IpAddr) -> bool {
        let rule = self.volume;
        self.record(now, peer, |slot| slot.connections.push(now, rule.limit))
    }

    /// Records a failed handshake; the result is that of [`RateLimiter::record_connection`].
    pub fn record_failure(&mut self, now: u32, peer: IpAddr) -> bool {
        let rule = self.probe;
        self.record(now, peer, |slot| slot.failures.push(now, rule.limit))
    }

    /// Takes back the latest connection that was recorded of `peer`: it turned out to be a trusted
    /// dispatcher's.
    pub fn forgive(&mut self, peer: IpAddr) {
        if let Some(at) = self.find(key(peer)) {
            let limit = self.volume.limit;
            self.slots[usize::from(at)].connections.pop(limit);
        }
    }

    /// Whether `peer` is blocked, without letting it try.
    pub fn is_blocked(&self, now: u32, peer: IpAddr) -> bool {
        let slot = self.find(key(peer));
        slot.is_some_and(|at| self.slots[usize::from(at)].blocked_until > now)
    }

    /// Number of addresses remembered.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when no address is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn record(&mut self, now: u32, peer: IpAddr, put: impl FnOnce(&mut Slot)) -> bool {
        if self.disabled {
            return false;
        }
        let key = key(peer);
        if let Some(at) = self.find(key) {
            put(&mut self.slots[usize::from(at)]);
            if self.slots[usize::from(at)].list == UNBLOCKED {
                self.unlink(at);
                self.link(at, UNBLOCKED);
            }
            return false;
        }
        let evicted = self.len() >= TABLE && self.make_room(now);
        let slot = Slot {
            key,
            connections: Ring::default(),
            failures: Ring::default(),
            blocked_until: 0,
            next_trial: 0,
            list: UNBLOCKED,
            prev: NONE,
            next: NONE,
            chain: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[usize::from(at)] = slot;
                at
            }
            None => {
                if self.slots.push(slot).is_err() {
                    // Cannot be: a full table has just made room. Then nothing is remembered.
                    return evicted;
                }
                // TABLE is far below u16::MAX, and a slot is only added below TABLE entries.
                u16::try_from(self.slots.len() - 1).unwrap_or(NONE - 1)
            }
        };
        put(&mut self.slots[usize::from(at)]);
        let bucket = self.index.bucket(key);
        self.slots[usize::from(at)].chain = self.index.heads[bucket];
        self.index.heads[bucket] = at;
        self.link(at, UNBLOCKED);
        evicted
    }

    /// Frees one place: an expired block if there is one, else the address not seen for longest,
    /// else the block that would end first. Each list is in the order in which its entries end.
    fn make_room(&mut self, now: u32) -> bool {
        let until = |list: usize| {
            let head = self.lists[list].head;
            (head != NONE).then(|| (self.slots[usize::from(head)].blocked_until, head))
        };
        let first_block = [until(BY_VOLUME), until(BY_PROBE)]
            .into_iter()
            .flatten()
            .min();
        let victim = match first_block {
            Some((end, at)) if end <= now => at,
            _ if self.lists[UNBLOCKED].head != NONE => self.lists[UNBLOCKED].head,
            Some((_, at)) => at,
            None => return false,
        };
        self.remove(victim);
        true
    }

    fn block(&mut self, at: u16, now: u32, rule: Rule, list: usize) {
        self.unlink(at);
        let slot = &mut self.slots[usize::from(at)];
        slot.blocked_until = now.saturating_add(rule.block.max(1));
        slot.next_trial = now;
        self.link(at, list);
    }

    fn remove(&mut self, at: u16) {
        self.unlink(at);
        let slot = &mut self.slots[usize::from(at)];
        slot.connections = Ring::default();
        slot.failures = Ring::default();
        let (key, next) = (slot.key, slot.chain);
        // Each slot is free at most once.
        let _ = self.free.push(at);
        let bucket = self.index.bucket(key);
        let mut before = self.index.heads[bucket];
        if before == at {
            self.index.heads[bucket] = next;
            return;
        }
        while before != NONE {
            let slot = &mut self.slots[usize::from(before)];
            if slot.chain == at {
                slot.chain = next;
                return;
            }
            before = slot.chain;
        }
    }

    /// The slot of an address.
    fn find(&self, key: u128) -> Option<u16> {
        let mut at = self.index.heads[self.index.bucket(key)];
        while at != NONE {
            let slot = &self.slots[usize::from(at)];
            if slot.key == key {
                return Some(at);
            }
            at = slot.chain;
        }
        None
    }

    fn link(&mut self, at: u16, list: usize) {
        let tail = self.lists[list].tail;
        let slot = &mut self.slots[usize::from(at)];
        slot.list = list;
        slot.prev = tail;
        slot.next = NONE;
        if tail == NONE {
            self.lists[list].head = at;
        } else {
            self.slots[usize::from(tail)].next = at;
        }
        self.lists[list].tail = at;
    }

    fn unlink(&mut self, at: u16) {
        let (prev, next, list) = {
            let slot = &self.slots[usize::from(at)];
            (slot.prev, slot.next, slot.list)
        };
        if prev == NONE {
            self.lists[list].head = next;
        } else {
            self.slots[usize::from(prev)].next = next;
        }
        if next == NONE {
            self.lists[list].tail = prev;
        } else {
            self.slots[usize::from(next)].prev = prev;
        }
    }
}

/// The last `limit` times of one kind of event.
#[derive(Default)]
struct Ring {
    times: Vec<u32>,
    oldest: usize,
}

impl Ring {
    fn push(&mut self, now: u32, limit: u32) {
        let limit = limit.min(MAX_LIMIT) as usize;
        if limit == 0 {
            return;
        }
        if self.times.len() < limit {
            self.times.push(now);
        } else {
            self.times[self.oldest] = now;
            self.oldest = (self.oldest + 1) % limit;
        }
    }

    /// Forgets the latest time.
    fn pop(&mut self, limit: u32) {
        let limit = limit.min(MAX_LIMIT) as usize;
        if self.times.len() < limit || self.oldest == 0 {
            self.times.pop();
        } else {
            // The latest stands before the oldest.
            self.times.rotate_left(self.oldest);
            self.times.pop();
        }
        self.oldest = 0;
    }

    fn full_within(&self, now: u32, rule: Rule) -> bool {
        rule.limit != 0
            && self.times.len() >= rule.limit.min(MAX_LIMIT) as usize
            && now.saturating_sub(self.times[self.oldest]) < rule.window
    }
}

/// An IPv6 host commands a whole /64, so that is what is counted; IPv4 counts per address.
pub(crate) fn key(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & !u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    fn limiter() -> RateLimiter {
        RateLimiter::new(false, VOLUME, PROBE)
    }

    fn connect(table: &mut RateLimiter, now: u32, peer: IpAddr) -> Verdict {
        let verdict = table.check(now, peer);
        if verdict == Verdict::Allow {
            table.record_connection(now, peer);
        }
        verdict
    }

    #[test]
    fn ten_pass_and_the_eleventh_blocks_for_300_seconds() {
        let mut table = limiter();
        for second in 0..10 {
            assert_eq!(connect(&mut table, 100 + second, ip(1)), Verdict::Allow);
        }
        assert_eq!(
            connect(&mut table, 110, ip(1)),
            Verdict::Block(Reason::Volume)
        );
        // One may try to prove itself at once, and then every few seconds.
        assert_eq!(connect(&mut table, 110, ip(1)), Verdict::Trial);
        assert_eq!(connect(&mut table, 111, ip(1)), Verdict::Blocked);
        assert_eq!(connect(&mut table, 114, ip(1)), Verdict::Blocked);
        assert_eq!(connect(&mut table, 115, ip(1)), Verdict::Trial);
        assert_eq!(connect(&mut table, 405, ip(1)), Verdict::Trial);
        // Refused attempts do not extend the block.
        assert_eq!(connect(&mut table, 409, ip(1)), Verdict::Blocked);
        assert_eq!(connect(&mut table, 410, ip(1)), Verdict::Allow);
        assert_eq!(connect(&mut table, 110, ip(2)), Verdict::Allow);
    }

    #[test]
    fn a_slow_caller_is_never_blocked() {
        let mut table = limiter();
        for n in 0..1000 {
            assert_eq!(
                connect(&mut table, 100 + n * 6, ip(1)),
                Verdict::Allow,
                "{n}"
            );
        }
    }

    #[test]
    fn three_failed_handshakes_block_for_an_hour() {
        let mut table = limiter();
        for n in 0..3 {
            assert_eq!(table.check(50 + n, ip(1)), Verdict::Allow);
            table.record_failure(50 + n, ip(1));
        }
        assert_eq!(table.check(53, ip(1)), Verdict::Block(Reason::Probe));
        assert_eq!(table.check(53 + 3599, ip(1)), Verdict::Trial);
        assert_eq!(table.check(53 + 3599, ip(1)), Verdict::Blocked);
        assert_eq!(table.check(53 + 3600, ip(1)), Verdict::Allow);
    }

    #[test]
    fn limit_zero_and_disable_switch_tests_off() {
        let off = Rule { limit: 0, ..VOLUME };
        let mut table = RateLimiter::new(false, off, PROBE);
        let mut disabled = RateLimiter::new(true, VOLUME, PROBE);
        for _ in 0..100 {
            assert_eq!(connect(&mut table, 1, ip(1)), Verdict::Allow);
            assert_eq!(connect(&mut disabled, 1, ip(1)), Verdict::Allow);
        }
        assert!(disabled.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_least_recent_unblocked() {
        let mut table = limiter();
        for _ in 0..11 {
            connect(&mut table, 5, ip(0));
        }
        for n in 1..1000 {
            assert!(!table.record_connection(6, ip(n)));
        }
        assert_eq!(table.len(), TABLE);
        table.record_connection(7, ip(1));
        assert!(table.record_connection(8, ip(5000)), "evicts");
        assert_eq!(table.len(), TABLE);
        assert!(table.is_blocked(8, ip(0)), "the block survives");
        assert!(table.find(key(ip(1))).is_some(), "seen lately");
        assert!(
            table.find(key(ip(2))).is_none(),
            "the least recently seen went"
        );
        // An expired block is the first to go.
        assert!(table.record_connection(5 + 300, ip(6000)));
        assert!(table.find(key(ip(0))).is_none());
        assert_eq!(table.slots.len(), TABLE);
    }

    #[test]
    fn when_all_are_blocked_the_block_that_ends_first_gives_way() {
        let mut table = limiter();
        let count = u32::try_from(TABLE).expect("small");
        for n in 0..count {
            // The first half for failures, which block for longer.
            for _ in 0..10 {
                if n < count / 2 {
                    table.record_failure(5 + n, ip(n));
                } else {
                    table.record_connection(5 + n, ip(n));
                }
            }
            assert!(matches!(table.check(5 + n, ip(n)), Verdict::Block(_)));
        }
        assert_eq!(table.len(), TABLE);
        // Block number 500 is the first of the shorter ones.
        let now = 5 + count / 2 + 1;
        assert!(table.record_connection(now, ip(5000)), "evicts");
        assert_eq!(table.len(), TABLE);
        assert!(!table.is_blocked(now, ip(count / 2)));
        assert!(table.is_blocked(now, ip(count / 2 + 1)) && table.is_blocked(now, ip(0)));
        assert_eq!(table.check(now, ip(5000)), Verdict::Allow);
        // The newcomer is not blocked, so it is the next to go.
        assert!(table.record_connection(now, ip(5001)));
        assert!(table.find(key(ip(5000))).is_none());
    }

    #[test]
    fn trials_are_few_in_all() {
        let mut table = limiter();
        for n in 0..100 {
            for _ in 0..3 {
                table.record_failure(5, ip(n));
            }
            assert!(matches!(table.check(5, ip(n)), Verdict::Block(_)));
        }
        let tried = |table: &mut RateLimiter, now| {
            (0..100)
                .filter(|n| table.check(now, ip(*n)) == Verdict::Trial)
                .count()
        };
        assert_eq!(tried(&mut table, 6), TRIALS_PER_SECOND as usize);
        assert_eq!(tried(&mut table, 6), 0);
        assert_eq!(tried(&mut table, 7), TRIALS_PER_SECOND as usize);
    }

    #[test]
    fn what_is_forgiven_was_never_counted() {
        let mut table = limiter();
        for n in 0..1000 {
            assert_eq!(connect(&mut table, 5 + n / 100, ip(1)), Verdict::Allow);
            table.forgive(ip(1));
        }
        // In between, also when the ring has gone round.
        for n in 0..9 {
            assert_eq!(connect(&mut table, 100 + n, ip(2)), Verdict::Allow);
        }
        for n in 0..30 {
            assert_eq!(connect(&mut table, 100 + n, ip(2)), Verdict::Allow);
            table.forgive(ip(2));
        }
        for n in 0..40 {
            assert_eq!(connect(&mut table, 200 + n * 7, ip(2)), Verdict::Allow);
            if n % 3 == 0 {
                assert_eq!(connect(&mut table, 200 + n * 7, ip(2)), Verdict::Allow);
                table.forgive(ip(2));
            }
        }
        table.forgive(ip(3));
        let mut ring = Ring::default();
        for now in 0..7 {
            ring.push(now, 3);
        }
        ring.pop(3);
        ring.push(9, 3);
        assert!(
            ring.full_within(
                9,
                Rule {
                    limit: 3,
                    window: 6,
                    block: 1
                }
            ),
            "4, 5, 9"
        );
        assert!(!ring.full_within(
            9,
            Rule {
                limit: 3,
                window: 5,
                block: 1
            }
        ));
    }

    #[test]
    fn a_flood_of_addresses_never_grows_the_table() {
        let mut table = limiter();
        for n in 0..20_000u32 {
            let peer = ip(n % 3000);
            connect(&mut table, n / 100, peer);
            if n % 3 == 0 {
                table.record_failure(n / 100, peer);
            }
        }
        assert!(table.len() <= TABLE && table.slots.len() <= TABLE);
        let mut chained = 0;
        for head in &table.index.heads {
            let mut at = *head;
            while at != NONE {
                chained += 1;
                at = table.slots[usize::from(at)].chain;
            }
        }
        assert_eq!(chained, table.len());
    }

    #[test]
    fn ipv6_counts_per_64_prefix_and_mapped_ipv4_as_ipv4() {
        let a = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
        let b = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, 9));
        let c = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1));
        assert_eq!(key(a), key(b));
        assert_ne!(key(a), key(c));
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(key(IpAddr::V4(v4)), key(IpAddr::V6(v4.to_ipv6_mapped())));
    }
}
