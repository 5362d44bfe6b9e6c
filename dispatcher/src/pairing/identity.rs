//! Who is behind an address: forward-confirmed reverse DNS (pki-and-pairing.md §7.6).
//!
//! The C resolver blocks and cannot be interrupted, so the listener asks off its loop, stops waiting
//! after two seconds and lets the question finish by itself.

use crate::model::Identified;
use std::net::{IpAddr, ToSocketAddrs};

/// Asks, blocking for as long as the system's resolver takes.
pub fn identify(address: IpAddr) -> Identified {
    let address = address.to_canonical();
    let Ok(name) = dns_lookup::lookup_addr(&address) else {
        return Identified::default();
    };
    let name = name.trim_end_matches('.').to_owned();
    // Without a name the resolver gives the address back. A name with odd characters is not worth
    // showing to an operator's terminal.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 253 || name.parse::<IpAddr>().is_ok() {
        return Identified::default();
    }
    if !name.chars().all(plain) {
        return Identified::default();
    }
    let confirmed = (name.as_str(), 0)
        .to_socket_addrs()
        .is_ok_and(|mut found| found.any(|socket| socket.ip().to_canonical() == address));
    Identified {
        name: Some(name),
        confirmed,
        perl: false,
    }
}
