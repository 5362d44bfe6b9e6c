//! Which connections may wait for a handshake.
//!
//! A connection that has not yet proved a certificate costs memory and time on behalf of a
//! stranger, so such connections have a pool of their own: a number in all and a number per
//! address. When the pool (or an address's share) is full, the *oldest* unproven connection gives
//! way, so that somebody who holds half-open connections loses them rather than an honest newcomer
//! his turn. Addresses from which a trusted dispatcher was lately seen have places that no
//! stranger can take.

use crate::ratelimit::key;
use std::net::IpAddr;

/// Addresses of trusted dispatchers remembered.
const KNOWN: usize = 32;
/// How long a dispatcher's address keeps its reserved places, in seconds.
const KNOWN_FOR: u32 = 24 * 3600;

/// Sizes of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unproven connections of strangers in all.
    pub total: usize,
    /// Unproven connections of one stranger's address.
    pub per_address: usize,
    /// Places kept for addresses of trusted dispatchers, beside `total`.
    pub reserved: usize,
}

/// dropbear's figures for strangers, and as much again for dispatchers.
pub const DEFAULTS: Limits = Limits {
    total: 30,
    per_address: 5,
    reserved: 32,
};

/// The pool of unproven connections; `C` identifies a connection.
pub struct Admission<C> {
    limits: Limits,
    waiting: Vec<Waiting<C>>,
    known: Vec<(u128, u32)>,
}

struct Waiting<C> {
    conn: C,
    address: u128,
    reserved: bool,
}

impl<C: Copy + PartialEq> Admission<C> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Admission<C> {
        Admission {
            limits,
            waiting: Vec::new(),
            known: Vec::new(),
        }
    }

    /// New sizes; connections already waiting stay.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes `conn` into the pool. The result is the connection that must give way for it, which
    /// the caller closes (it is no longer in the pool).
    pub fn admit(&mut self, now: u32, conn: C, peer: IpAddr) -> Option<C> {
        let address = key(peer);
        let reserved_used = self.waiting.iter().filter(|w| w.reserved).count();
        if self.is_known(now, address) && reserved_used < self.limits.reserved {
            self.waiting.push(Waiting {
                conn,
                address,
                reserved: true,
            });
            return None;
        }
        let mut strangers = 0;
        let mut same = 0;
        for waiting in self.waiting.iter().filter(|w| !w.reserved) {
            strangers += 1;
            same += usize::from(waiting.address == address);
        }
        // `waiting` is in order of arrival: the first match is the oldest.
        let victim = if same >= self.limits.per_address.max(1) {
            self.waiting
                .iter()
                .position(|w| !w.reserved && w.address == address)
        } else if strangers >= self.limits.total.max(1) {
            self.waiting.iter().position(|w| !w.reserved)
        } else {
            None
        };
        let evicted = victim.map(|at| self.waiting.remove(at).conn);
        self.waiting.push(Waiting {
            conn,
            address,
            reserved: false,
        });
        evicted
    }

    /// Takes `conn` out of the pool: it proved itself or is gone. True when it was in the pool.
    pub fn release(&mut self, conn: C) -> bool {
        match self.waiting.iter().position(|w| w.conn == conn) {
            Some(at) => {
                self.waiting.remove(at);
                true
            }
            None => false,
        }
    }

    /// Notes that a trusted dispatcher spoke from `peer`.
    pub fn trusted_seen(&mut self, now: u32, peer: IpAddr) {
        let address = key(peer);
        if let Some(entry) = self.known.iter_mut().find(|(a, _)| *a == address) {
            entry.1 = now;
            return;
        }
        if self.known.len() >= KNOWN {
            let oldest = self
                .known
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, seen))| *seen);
            if let Some(at) = oldest.map(|(at, _)| at) {
                self.known.swap_remove(at);
            }
        }
        self.known.push((address, now));
    }

    /// Connections in the pool.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when the pool is empty.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_known(&self, now: u32, address: u128) -> bool {
        self.known
            .iter()
            .any(|(a, seen)| *a == address && now.saturating_sub(*seen) < KNOWN_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn an_address_over_its_share_loses_its_own_oldest() {
        let mut pool = Admission::new(DEFAULTS);
        for conn in 0..5 {
            assert_eq!(pool.admit(0, conn, ip(1)), None);
        }
        assert_eq!(pool.admit(0, 5, ip(1)), Some(0));
        assert_eq!(pool.admit(0, 6, ip(1)), Some(1));
        assert_eq!(pool.admit(0, 7, ip(2)), None);
        assert_eq!(pool.len(), 6);
    }

    #[test]
    fn the_oldest_of_all_gives_way_when_the_pool_is_full() {
        let mut pool = Admission::new(DEFAULTS);
        for conn in 0..30 {
            assert_eq!(pool.admit(0, conn, ip(conn)), None);
        }
        assert_eq!(pool.admit(0, 30, ip(30)), Some(0));
        assert!(pool.release(1));
        assert!(!pool.release(1));
        assert_eq!(pool.admit(0, 31, ip(31)), None);
        assert_eq!(pool.len(), 30);
    }

    #[test]
    fn dispatchers_lately_seen_keep_their_places() {
        let mut pool = Admission::new(DEFAULTS);
        pool.trusted_seen(10, ip(9));
        for conn in 0..20 {
            assert_eq!(
                pool.admit(20, conn, ip(9)),
                None,
                "more than a stranger's share"
            );
        }
        for conn in 100..1100 {
            let evicted = pool.admit(20, conn, ip(conn));
            assert!(
                evicted.is_none_or(|gone| gone >= 100),
                "never a dispatcher's connection"
            );
        }
        assert_eq!(pool.len(), 50);
        assert!(pool.release(0), "still waiting");
        // A day later the address is a stranger's again.
        assert!(pool.admit(10 + KNOWN_FOR, 2000, ip(9)).is_some());
    }

    #[test]
    fn the_memory_of_dispatchers_is_bounded() {
        let mut pool: Admission<u32> = Admission::new(DEFAULTS);
        for n in 0..1000 {
            pool.trusted_seen(n, ip(n));
        }
        assert_eq!(pool.known.len(), KNOWN);
        assert!(pool.is_known(1000, key(ip(999))));
        assert!(!pool.is_known(1000, key(ip(0))));
    }
}
