//! Which connections may wait for a handshake.
//!
//! A connection that has not yet proved a certificate costs memory and time on behalf of a
//! stranger, so such connections have a pool of their own: a number in all and a number per
//! address.
//!
//! When the pool is full the *oldest* unproven connection gives way, so that somebody who holds
//! half-open connections loses them rather than an honest newcomer his turn. Addresses from which a
//! trusted dispatcher was lately seen have places that no stranger can take. When an address has
//! used its share, its further connections queue, without TLS, until one of its handshakes is over:
//! a dispatcher that connects many times at once is served in turn, and a crowd behind one address
//! only delays itself.

use crate::known::Known;
use crate::rate_limit::key;
use heapless::Vec;
use std::net::IpAddr;

/// Connections in the queue, of all addresses and of one.
const QUEUE: usize = 256;
const QUEUE_PER_ADDRESS: usize = 192;
/// Connections in a handshake that the pool has room for; [`PoolSizes`] are below it.
const ACTIVE: usize = 64;

/// Sizes of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// Unproven connections of strangers in all.
    pub total: usize,
    /// Unproven connections of one stranger's address.
    pub per_address: usize,
    /// Paths kept for addresses of trusted dispatchers, beside `total`.
    pub reserved: usize,
}

/// dropbear's figures for strangers, and as much again for dispatchers.
pub const DEFAULTS: PoolSizes = PoolSizes {
    total: 30,
    per_address: 5,
    reserved: 32,
};

/// Most connections that the pool and its queue hold.
pub const MOST: usize = DEFAULTS.total + DEFAULTS.reserved + QUEUE;

/// What to do with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted<C> {
    /// Start its handshake now; otherwise it waits for its turn ([`Admission::release`]).
    pub serve: bool,
    /// Close this one, which is no longer in the pool.
    pub evict: Option<C>,
}

/// The pool of unproven connections; `C` identifies a connection.
pub struct Admission<C> {
    limits: PoolSizes,
    /// In a handshake, in order of arrival.
    active: Vec<Active<C>, ACTIVE>,
    /// Waiting for their turn, in order of arrival.
    queue: Vec<(C, IpAddr), QUEUE>,
    known: Known,
}

struct Active<C> {
    conn: C,
    address: u128,
    reserved: bool,
}

/// Where a connection may go at this moment.
enum Place {
    Common,
    Nowhere,
    Reserved,
}

impl<C: Copy + PartialEq> Admission<C> {
    /// An empty pool.
    pub fn new(limits: PoolSizes) -> Admission<C> {
        let reserved = limits.reserved.min(ACTIVE - 1);
        Admission {
            limits: PoolSizes {
                total: limits.total.clamp(1, ACTIVE - reserved),
                reserved,
                ..limits
            },
            active: Vec::new(),
            queue: Vec::new(),
            known: Known::default(),
        }
    }

    /// Takes `conn` into the pool or its queue.
    pub fn admit(&mut self, now: u32, conn: C, peer: IpAddr) -> Admitted<C> {
        let address = key(peer);
        match self.place(now, peer) {
            Place::Reserved => {
                self.start(conn, address, true);
                Admitted {
                    serve: true,
                    evict: None,
                }
            }
            Place::Common => {
                // `active` is in order of arrival: the first match is the oldest.
                let strangers = self.active.iter().filter(|a| !a.reserved).count();
                let full = strangers >= self.limits.total;
                let oldest = self.active.iter().position(|a| full && !a.reserved);
                let evict = oldest.map(|at| self.active.remove(at).conn);
                self.start(conn, address, false);
                Admitted { serve: true, evict }
            }
            Place::Nowhere => {
                let of_address = |(_, other): &&(C, IpAddr)| key(*other) == address;
                let same = self.queue.iter().filter(of_address).count();
                let oldest = if same >= QUEUE_PER_ADDRESS {
                    self.queue
                        .iter()
                        .position(|(_, other)| key(*other) == address)
                } else {
                    (self.queue.len() >= QUEUE).then_some(0)
                };
                let evict = oldest.map(|at| self.queue.remove(at).0);
                // There is room: a full queue has just lost its oldest.
                let _ = self.queue.push((conn, peer));
                Admitted {
                    serve: false,
                    evict,
                }
            }
        }
    }

    /// Takes `conn` out of the pool: it proved itself or is gone. The result is the connection
    /// whose turn it is now, if any; start its handshake.
    pub fn release(&mut self, now: u32, conn: C) -> Option<C> {
        self.queue.retain(|(waiting, _)| *waiting != conn);
        let at = self.active.iter().position(|a| a.conn == conn)?;
        self.active.remove(at);
        // Among the waiting, strangers' total does not count: they would only evict one another.
        let strangers = self.active.iter().filter(|a| !a.reserved).count();
        let room = strangers < self.limits.total;
        let next = self
            .queue
            .iter()
            .position(|(_, peer)| match self.place(now, *peer) {
                Place::Reserved => true,
                Place::Common => room,
                Place::Nowhere => false,
            })?;
        let (conn, peer) = self.queue.remove(next);
        let reserved = matches!(self.place(now, peer), Place::Reserved);
        self.start(conn, key(peer), reserved);
        Some(conn)
    }

    /// Notes that a trusted dispatcher spoke from `peer`.
    pub fn trusted_seen(&mut self, now: u32, peer: IpAddr) {
        self.known.seen(now, peer);
    }

    /// Whether a trusted dispatcher was lately seen at `peer`.
    pub fn knows(&self, now: u32, peer: IpAddr) -> bool {
        self.known.contains(now, peer)
    }

    /// Connections in the pool, those in the queue included.
    pub fn len(&self) -> usize {
        self.active.len() + self.queue.len()
    }

    /// True when the pool is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn start(&mut self, conn: C, address: u128, reserved: bool) {
        let entry = Active {
            conn,
            address,
            reserved,
        };
        // There is room: strangers and the others are each below their limit.
        let _ = self.active.push(entry);
    }

    fn place(&self, now: u32, peer: IpAddr) -> Place {
        let reserved = self.active.iter().filter(|a| a.reserved).count();
        if reserved < self.limits.reserved && self.knows(now, peer) {
            return Place::Reserved;
        }
        let address = key(peer);
        let own = |a: &&Active<C>| !a.reserved && a.address == address;
        if self.active.iter().filter(own).count() < self.limits.per_address.max(1) {
            return Place::Common;
        }
        Place::Nowhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    const SERVE: Admitted<u32> = Admitted {
        serve: true,
        evict: None,
    };
    const WAIT: Admitted<u32> = Admitted {
        serve: false,
        evict: None,
    };

    #[test]
    fn an_address_over_its_share_is_served_in_turn() {
        let mut pool = Admission::new(DEFAULTS);
        for conn in 0..5 {
            assert_eq!(pool.admit(0, conn, ip(1)), SERVE);
        }
        assert_eq!(pool.admit(0, 5, ip(1)), WAIT);
        assert_eq!(pool.admit(0, 6, ip(1)), WAIT);
        assert_eq!(pool.admit(0, 7, ip(2)), SERVE);
        assert_eq!(pool.release(0, 7), None, "not its address");
        assert_eq!(pool.release(0, 3), Some(5));
        assert_eq!(pool.release(0, 6), None, "gone while it waited");
        assert_eq!(pool.release(0, 5), None);
        assert_eq!(pool.release(0, 99), None);
        assert_eq!(pool.len(), 4);
    }

    #[test]
    fn the_oldest_of_all_gives_way_when_the_pool_is_full() {
        let mut pool = Admission::new(DEFAULTS);
        for conn in 0..30 {
            assert_eq!(pool.admit(0, conn, ip(conn)), SERVE);
        }
        assert_eq!(
            pool.admit(0, 30, ip(30)),
            Admitted {
                serve: true,
                evict: Some(0)
            }
        );
        assert_eq!(pool.release(0, 1), None);
        assert_eq!(pool.admit(0, 31, ip(31)), SERVE);
        assert_eq!(pool.len(), 30);
    }

    #[test]
    fn dispatchers_lately_seen_keep_their_places() {
        let mut pool = Admission::new(DEFAULTS);
        pool.trusted_seen(10, ip(9));
        for conn in 0..37 {
            assert_eq!(
                pool.admit(20, conn, ip(9)),
                SERVE,
                "reserved and a stranger's share"
            );
        }
        assert_eq!(pool.admit(20, 37, ip(9)), WAIT);
        for conn in 100..1100 {
            let evicted = pool.admit(20, conn, ip(conn)).evict;
            assert!(evicted.is_none_or(|gone| gone >= 100 || (32..37).contains(&gone)));
        }
        assert_eq!(pool.release(20, 0), Some(37));
        // A day later the address is a stranger's again.
        for conn in 40..60 {
            pool.admit(10 + crate::known::KNOWN_FOR, conn, ip(9));
        }
        assert_eq!(
            pool.release(10 + crate::known::KNOWN_FOR, 1),
            None,
            "five of its handshakes go on"
        );
    }

    #[test]
    fn the_queue_is_bounded_and_its_oldest_gives_way() {
        let mut pool = Admission::new(DEFAULTS);
        for conn in 0..1000u32 {
            let admitted = pool.admit(0, conn, ip(1));
            let expected = (conn >= 197).then(|| conn - 192);
            assert_eq!(admitted.evict, expected);
        }
        for conn in 2000..3000u32 {
            let admitted = pool.admit(0, conn, ip(2));
            assert!(admitted.evict.is_none_or(|gone| gone >= 800));
        }
        assert_eq!(pool.queue.len(), QUEUE);
        assert!(pool.len() <= MOST);
    }

    #[test]
    fn the_total_holds_when_the_queue_drains() {
        let limits = PoolSizes {
            total: 2,
            per_address: 1,
            reserved: 1,
        };
        let mut pool = Admission::new(limits);
        assert_eq!(pool.admit(0, 1, ip(1)), SERVE);
        assert_eq!(pool.admit(0, 2, ip(1)), WAIT);
        assert_eq!(pool.admit(0, 3, ip(2)), SERVE);
        // An address that is no stranger's takes a place beside the total.
        pool.trusted_seen(0, ip(9));
        assert_eq!(pool.admit(0, 4, ip(9)), SERVE);
        // Its end frees no place for strangers: both are taken.
        assert_eq!(pool.release(0, 4), None);
        assert_eq!(pool.admit(0, 5, ip(3)).evict, Some(1));
        assert_eq!(
            pool.release(0, 3),
            Some(2),
            "one place is free, and its address has none"
        );
        assert_eq!(pool.len(), 2);
    }
}
