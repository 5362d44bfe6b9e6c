//! `allowed_ips`: which peer addresses may talk to the agent.
//!
//! DEVIATE from the reference (agent.md Q-16): a list of which no entry is usable refuses
//! everyone instead of letting everyone in. IPv6 and every prefix length are understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of one `allowed_ips` key. An empty list matches nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpList {
    nets: Vec<Net>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Net {
    /// The address's 128 bits; IPv4 is kept in its IPv6-mapped form so that one rule serves both.
    bits: u128,
    /// How many leading bits count, of 128.
    prefix: u32,
}

impl IpList {
    /// Reads a comma list; returns the list and, for each unusable entry, the entry and the fault.
    pub fn parse(value: &str) -> (Self, Vec<(String, &'static str)>) {
        let mut list = Self::default();
        let mut bad = Vec::new();
        for entry in value
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            match parse_net(entry) {
                Ok(net) => list.nets.push(net),
                Err(fault) => bad.push((entry.to_owned(), fault)),
            }
        }
        (list, bad)
    }

    /// Whether nothing is in the list, so that every peer is refused.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// Whether `peer` is in the list. An IPv4 peer seen through an IPv6 socket counts as IPv4.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let bits = bits_of(peer);
        self.nets
            .iter()
            .any(|net| (bits ^ net.bits) & high_bits(net.prefix) == 0)
    }
}

fn parse_net(entry: &str) -> Result<Net, &'static str> {
    let (address, prefix) = match entry.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (entry, None),
    };
    let (bits, width) = if address.contains(':') {
        let address: Ipv6Addr = address.parse().map_err(|_| "malformed IPv6 address")?;
        (u128::from(address), 128)
    } else {
        (bits_of(IpAddr::V4(parse_v4(address)?)), 32)
    };
    let prefix = match prefix {
        None => width,
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            match text.parse::<u32>() {
                Ok(prefix) if prefix <= width => prefix,
                _ => return Err("unsupported prefix length"),
            }
        }
        Some(_) => return Err("unsupported prefix length"),
    };
    Ok(Net {
        bits,
        prefix: 128 - width + prefix,
    })
}

/// Four octets of one to three digits; leading zeros mean nothing (agent.md §7.2), whereas the
/// standard library would refuse them.
fn parse_v4(text: &str) -> Result<Ipv4Addr, &'static str> {
    const FAULT: &str = "malformed IPv4 address";
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().ok_or(FAULT)?;
        if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FAULT);
        }
        *octet = part.parse().map_err(|_| FAULT)?;
    }
    if parts.next().is_some() {
        return Err(FAULT);
    }
    Ok(Ipv4Addr::from(octets))
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn high_bits(count: u32) -> u128 {
    u128::MAX.checked_shl(128 - count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(value: &str, peer: &str) -> bool {
        IpList::parse(value).0.contains(peer.parse().unwrap())
    }

    #[test]
    fn networks() {
        assert!(allows("10.0.0.0/8", "10.255.1.2"));
        assert!(!allows("10.0.0.0/8", "11.0.0.1"));
        assert!(allows("192.168.1.9/24", "192.168.1.200"));
        assert!(allows("192.168.1.128/25", "192.168.1.200"));
        assert!(!allows("192.168.1.128/25", "192.168.1.100"));
        assert!(allows("010.000.000.001", "10.0.0.1"));
        assert!(!allows("10.0.0.1", "10.0.0.2"));
        assert!(allows("1.2.3.4, 10.0.0.1 ,", "10.0.0.1"));
        assert!(allows("0.0.0.0/0", "203.0.113.7"));
        assert!(
            !allows("0.0.0.0/0", "2001:db8::1"),
            "all of IPv4 is not all of IPv6"
        );
        assert!(allows("2001:db8::/32", "2001:db8:9::1"));
        assert!(!allows("2001:db8::/32", "2001:db9::1"));
        assert!(allows("::/0", "2001:db9::1"));
        assert!(allows("::1", "::1"));
        assert!(allows("10.0.0.0/8", "::ffff:10.1.2.3"));
    }

    #[test]
    fn numbers_are_digits_only() {
        for entry in [
            "10.0.0.0/+8",
            "10.0.0.0/ 8",
            "10.0.0.0/-8",
            "::/+0",
            "+1.2.3.4",
            "1.2.3.+4",
            "0001.2.3.4",
            "1.2.3.4.5",
            "1.2.3.",
        ] {
            let (list, bad) = IpList::parse(entry);
            assert!(list.is_empty() && bad.len() == 1, "{entry}");
        }
        assert!(allows("001.002.003.004/032", "1.2.3.4"));
    }

    #[test]
    fn bad_entries_are_named_and_never_open_the_list() {
        let (list, bad) =
            IpList::parse("10.0.0.256, 1.2.3, 10.0.0.0/33, 10.0.0.0/, x, ::g, ::/129");
        assert!(list.is_empty());
        assert!(!list.contains("10.0.0.1".parse().unwrap()));
        assert_eq!(
            bad.iter().map(|(_, fault)| *fault).collect::<Vec<_>>(),
            [
                "malformed IPv4 address",
                "malformed IPv4 address",
                "unsupported prefix length",
                "unsupported prefix length",
                "malformed IPv4 address",
                "malformed IPv6 address",
                "unsupported prefix length"
            ]
        );
    }
}
