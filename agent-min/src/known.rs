//! Addresses from which a trusted dispatcher was lately seen. Nobody's misdeeds are held against
//! them: they have places of their own among unproven connections, and no rate limit.
//!
//! An address is the whole address, not its network: neighbours of a dispatcher are strangers.

use heapless::Vec;
use std::net::IpAddr;

/// Addresses remembered.
pub const KNOWN: usize = 32;
/// How long an address is remembered since it was last seen, in seconds.
pub const KNOWN_FOR: u32 = 24 * 3600;

/// A bounded memory of addresses.
#[derive(Default)]
pub struct Known(Vec<(IpAddr, u32), KNOWN>);

impl Known {
    /// Notes that a trusted dispatcher spoke from `peer`.
    pub fn seen(&mut self, now: u32, peer: IpAddr) {
        let address = peer.to_canonical();
        if let Some(entry) = self.0.iter_mut().find(|(known, _)| *known == address) {
            entry.1 = now;
            return;
        }
        if self.0.len() >= KNOWN {
            let times = self.0.iter().enumerate().map(|(at, (_, seen))| (*seen, at));
            if let Some((_, oldest)) = times.min() {
                self.0.swap_remove(oldest);
            }
        }
        // There is room: a full memory has just lost its oldest.
        let _ = self.0.push((address, now));
    }

    /// Whether one was lately seen there.
    pub fn contains(&self, now: u32, peer: IpAddr) -> bool {
        let address = peer.to_canonical();
        let lately = |seen: u32| now.saturating_sub(seen) < KNOWN_FOR;
        let mut entries = self.0.iter();
        entries.any(|(known, seen)| *known == address && lately(*seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn bounded_in_number_and_time() {
        let mut known = Known::default();
        for n in 0..1000 {
            known.seen(n, ip(n));
        }
        assert_eq!(known.0.len(), KNOWN);
        assert!(known.contains(1000, ip(999)) && known.contains(1000, ip(1000 - 32)));
        assert!(!known.contains(1000, ip(999 - 32)));
        assert!(known.contains(999 + KNOWN_FOR - 1, ip(999)));
        assert!(!known.contains(999 + KNOWN_FOR, ip(999)));
        // Seen again, it stays when others go.
        known.seen(1001, ip(968));
        known.seen(1002, ip(1));
        assert!(known.contains(1002, ip(968)) && !known.contains(1002, ip(969)));
    }

    #[test]
    fn a_neighbour_is_a_stranger() {
        let host = |n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, n));
        let mut known = Known::default();
        known.seen(0, host(1));
        assert!(known.contains(0, host(1)) && !known.contains(0, host(2)));
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        known.seen(0, IpAddr::V6(v4.to_ipv6_mapped()));
        assert!(known.contains(0, IpAddr::V4(v4)));
    }
}
