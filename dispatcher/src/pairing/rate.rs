//! The volume limit of the pairing port (pki-and-pairing.md §7.2): `limit/window/block`.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Most addresses remembered at a time.
const MAX_ADDRESSES: usize = 1000;

/// How many connections in which time, and how long a block lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Connections allowed within the window; 0 disables.
    pub limit: u32,
    /// The window.
    pub window: Duration,
    /// How long an address stays blocked.
    pub block: Duration,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            limit: 10,
            window: Duration::from_secs(60),
            block: Duration::from_secs(300),
        }
    }
}

impl RateLimit {
    /// Parses `limit/window/block` (seconds), each at most 86400.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text
            .trim()
            .split('/')
            .map(|part| part.trim().parse::<u32>().ok());
        let (limit, window, block) = (parts.next()??, parts.next()??, parts.next()??);
        let fits = limit <= 86_400 && window <= 86_400 && block <= 86_400;
        (parts.next().is_none() && fits).then(|| Self {
            limit,
            window: Duration::from_secs(u64::from(window)),
            block: Duration::from_secs(u64::from(block)),
        })
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Accept,
    /// Refuse; this connection triggered the block.
    Block,
    /// Refuse; blocked before.
    Refuse,
}

/// Connections of each address. Times are monotonic.
#[derive(Debug)]
pub struct RateTable {
    limit: RateLimit,
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    recent: VecDeque<Duration>,
    blocked_until: Option<Duration>,
}

impl RateTable {
    /// An empty table.
    pub fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            peers: HashMap::new(),
        }
    }

    /// Judges a connection from `address` at `now` and counts it if accepted.
    pub fn check(&mut self, address: IpAddr, now: Duration) -> Verdict {
        if self.limit.limit == 0 {
            return Verdict::Accept;
        }
        self.make_room(address, now);
        let limit = self.limit;
        let peer = self.peers.entry(address.to_canonical()).or_default();
        match peer.blocked_until {
            Some(until) if now < until => return Verdict::Refuse,
            // After a block the history starts afresh.
            Some(_) => *peer = Peer::default(),
            None => {}
        }
        while peer
            .recent
            .front()
            .is_some_and(|time| now.saturating_sub(*time) >= limit.window)
        {
            peer.recent.pop_front();
        }
        if peer.recent.len() >= limit.limit as usize {
            peer.blocked_until = Some(now + limit.block);
            peer.recent.clear();
            return Verdict::Block;
        }
        peer.recent.push_back(now);
        Verdict::Accept
    }

    /// Keeps the table bounded: what is over first, then whoever was quiet longest; blocks are
    /// given up last.
    fn make_room(&mut self, address: IpAddr, now: Duration) {
        if self.peers.len() < MAX_ADDRESSES || self.peers.contains_key(&address.to_canonical()) {
            return;
        }
        let window = self.limit.window;
        self.peers
            .retain(|_, peer| match (peer.blocked_until, peer.recent.back()) {
                (Some(until), _) => now < until,
                (None, Some(last)) => now.saturating_sub(*last) < window,
                (None, None) => false,
            });
        if self.peers.len() < MAX_ADDRESSES {
            return;
        }
        let oldest = self
            .peers
            .iter()
            .min_by_key(|(_, peer)| (peer.blocked_until, peer.recent.back().copied()))
            .map(|(address, _)| *address);
        if let Some(oldest) = oldest {
            self.peers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_eleventh_connection_is_blocked_for_five_minutes() {
        let mut table = RateTable::new(RateLimit::default());
        let peer: IpAddr = "127.0.0.1".parse().unwrap();
        for _ in 0..10 {
            assert_eq!(table.check(peer, at(1)), Verdict::Accept);
        }
        assert_eq!(table.check(peer, at(2)), Verdict::Block);
        assert_eq!(table.check(peer, at(3)), Verdict::Refuse);
        assert_eq!(
            table.check("127.0.0.2".parse().unwrap(), at(3)),
            Verdict::Accept
        );
        assert_eq!(table.check(peer, at(301)), Verdict::Refuse);
        assert_eq!(table.check(peer, at(302)), Verdict::Accept);
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        for _ in 0..9 {
            assert_eq!(table.check(mapped, at(303)), Verdict::Accept);
        }
        assert_eq!(table.check(peer, at(303)), Verdict::Block);
    }

    #[test]
    fn connections_leave_the_window() {
        let mut table = RateTable::new(RateLimit::parse("2/10/5").unwrap());
        let peer: IpAddr = "::1".parse().unwrap();
        for second in [0, 1, 10, 11, 20, 21] {
            assert_eq!(table.check(peer, at(second)), Verdict::Accept, "{second}");
        }
        assert_eq!(table.check(peer, at(22)), Verdict::Block);
        let mut off = RateTable::new(RateLimit::parse("0/1/1").unwrap());
        assert!((0..100).all(|_| off.check(peer, at(0)) == Verdict::Accept));
    }

    #[test]
    fn the_table_stays_bounded() {
        let mut table = RateTable::new(RateLimit::parse("1/60/300").unwrap());
        let blocked: IpAddr = "10.0.0.1".parse().unwrap();
        table.check(blocked, at(0));
        assert_eq!(table.check(blocked, at(0)), Verdict::Block);
        for n in 0..5000u32 {
            table.check(IpAddr::from(n.to_be_bytes()), at(1));
        }
        assert!(table.peers.len() <= MAX_ADDRESSES);
        assert_eq!(table.check(blocked, at(2)), Verdict::Refuse);
    }

    #[test]
    fn texts() {
        for bad in ["", "1", "1/2", "1/2/3/4", "a/2/3", "-1/2/3", "1/2/999999"] {
            assert_eq!(RateLimit::parse(bad), None, "{bad}");
        }
        assert_eq!(RateLimit::parse("10/60/300"), Some(RateLimit::default()));
    }
}
