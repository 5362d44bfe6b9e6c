//! Who holds how much of the listener: connections that have not asked yet, requests that wait for
//! the operator, and codes that the operator was shown.
//!
//! Nothing here refuses anybody while there is room. When there is none, the one who holds most
//! gives way to one who holds less, so that a single address keeps nobody out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

/// Whom something is counted for: an IPv4 address, or the /64 of an IPv6 one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) & (u128::MAX << 64)).to_be_bytes()),
            v4 => v4,
        })
    }
}

/// Things that peers hold, each since some time.
#[derive(Debug)]
pub(super) struct Held<K> {
    by: HashMap<K, (Peer, Duration)>,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self { by: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> Held<K> {
    pub(super) fn insert(&mut self, key: K, peer: Peer, now: Duration) {
        self.by.insert(key, (peer, now));
    }

    pub(super) fn remove(&mut self, key: K) {
        self.by.remove(&key);
    }

    pub(super) fn len(&self) -> usize {
        self.by.len()
    }

    fn counts(&self) -> HashMap<Peer, usize> {
        let mut counts = HashMap::new();
        for (peer, _) in self.by.values() {
            *counts.entry(*peer).or_insert(0) += 1;
        }
        counts
    }

    /// The oldest thing of whoever holds most.
    pub(super) fn oldest_of_most(&self) -> Option<K> {
        let counts = self.counts();
        let rank = |(key, (peer, since)): (&K, &(Peer, Duration))| {
            (std::cmp::Reverse(counts.get(peer).copied()), *since, *key)
        };
        self.by.iter().map(rank).min().map(|(_, _, key)| key)
    }

    /// What has to go so that `newcomer` gets a place: the newest thing of whoever holds most, if
    /// that one holds more than the newcomer would.
    pub(super) fn newest_of_more_than(&self, newcomer: Peer) -> Option<K> {
        let counts = self.counts();
        let would = counts.get(&newcomer).copied().unwrap_or(0) + 1;
        let most = counts.values().copied().max()?;
        if most <= would {
            return None;
        }
        let theirs = self
            .by
            .iter()
            .filter(|(_, (peer, _))| counts.get(peer) == Some(&most));
        theirs
            .map(|(key, (_, since))| (*since, *key))
            .max()
            .map(|(_, key)| key)
    }
}

/// How many codes the operator has been shown in this session, and of whom: each is a guess that
/// the operator mistakes for the right one.
#[derive(Debug, Default)]
pub(super) struct Codes {
    of: HashMap<Peer, usize>,
    all: usize,
}

impl Codes {
    /// Counts one more, unless the peer has had `most_each` or all peers together `most`.
    pub(super) fn take(&mut self, peer: Peer, most_each: usize, most: usize) -> bool {
        let of = self.of.get(&peer).copied().unwrap_or(0);
        if of >= most_each || self.all >= most {
            return false;
        }
        self.of.insert(peer, of + 1);
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> Peer {
        Peer::of(IpAddr::from([10, 0, 0, n]))
    }

    #[test]
    fn a_network_of_neighbours_is_one_peer() {
        let of = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(of("fd00:1:2:3::1"), of("fd00:1:2:3:ffff::9"));
        assert_ne!(of("fd00:1:2:3::1"), of("fd00:1:2:4::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn the_one_with_most_gives_way() {
        let mut held = Held::default();
        let at = Duration::from_secs;
        for key in 0..5_u32 {
            held.insert(key, peer(1), at(u64::from(key)));
        }
        held.insert(10, peer(2), at(0));
        held.insert(11, peer(2), at(1));
        assert_eq!(held.oldest_of_most(), Some(0));
        assert_eq!(held.newest_of_more_than(peer(3)), Some(4));
        assert_eq!(held.newest_of_more_than(peer(1)), None, "not for itself");
        held.remove(0);
        held.remove(1);
        held.remove(2);
        assert_eq!(held.len(), 4);
        assert_eq!(
            held.newest_of_more_than(peer(2)),
            None,
            "not to be worse off"
        );
        assert_eq!(held.newest_of_more_than(peer(3)), Some(4));
    }

    #[test]
    fn codes_are_counted() {
        let mut codes = Codes::default();
        let took = (0..10).filter(|_| codes.take(peer(1), 3, 5)).count();
        assert_eq!(took, 3);
        let took = (0..10).filter(|_| codes.take(peer(2), 3, 5)).count();
        assert_eq!(took, 2);
    }
}
