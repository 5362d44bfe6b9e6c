//! Who is behind an address: forward-confirmed reverse DNS (pki-and-pairing.md §7.6).
//!
//! The C resolver blocks and cannot be interrupted, so each question gets a thread of its own; the
//! listener stops waiting after two seconds and lets the thread finish by itself. Their number is
//! bounded; beyond it the question is not asked.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

/// Questions under way at a time, abandoned ones included.
const MAX_THREADS: usize = 8;

/// What DNS says about an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identified {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// That name resolves to the address.
    pub confirmed: bool,
}

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
    }
}

/// Asks off the loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Identifier {
    running: Arc<AtomicUsize>,
}

impl Identifier {
    /// Starts a question; its answer is sent as `(token, answer)` and then `wake` is called.
    /// `false` when too many are under way.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        address: IpAddr,
        token: T,
        answers: Sender<(T, Identified)>,
        wake: impl FnOnce() + Send + 'static,
    ) -> bool {
        if self.running.fetch_add(1, Ordering::Relaxed) >= MAX_THREADS {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let running = Arc::clone(&self.running);
        let started = std::thread::Builder::new()
            .name("reverse-dns".to_owned())
            .spawn(move || {
                let identified = identify(address);
                running.fetch_sub(1, Ordering::Relaxed);
                if answers.send((token, identified)).is_ok() {
                    wake();
                }
            });
        if started.is_err() {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
        started.is_ok()
    }
}
