//! Per-address rate limiting of accepted connections (agent.md §11).
//!
//! Every operation is O(1): an address keeps only its last `limit` connection times, so "at least
//! `limit` within the window" is one look at the oldest of them, and the order in which entries
//! give way is kept in linked lists threaded through the table. Times are whole seconds of the
//! monotonic clock.

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
}

/// The table of addresses.
pub struct RateLimiter {
    disabled: bool,
    volume: Rule,
    probe: Rule,
    index: Index,
    slots: Vec<Slot>,
    free: Vec<u16>,
    lists: [List; 3],
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
            slots: Vec::new(),
            free: Vec::new(),
            lists: [List {
                head: NONE,
                tail: NONE,
            }; 3],
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
        let slot = &self.slots[usize::from(at)];
        if slot.blocked_until > now {
            return Verdict::Blocked;
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
                self.slots.push(slot);
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
        self.slots[usize::from(at)].blocked_until = now.saturating_add(rule.block.max(1));
        self.link(at, list);
    }

    fn remove(&mut self, at: u16) {
        self.unlink(at);
        let slot = &mut self.slots[usize::from(at)];
        slot.connections = Ring::default();
        slot.failures = Ring::default();
        let (key, next) = (slot.key, slot.chain);
        self.free.push(at);
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
        assert_eq!(connect(&mut table, 111, ip(1)), Verdict::Blocked);
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
        assert_eq!(
            table.check(8, ip(0)),
            Verdict::Blocked,
            "the block survives"
        );
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
