//! The pairing listener on 7444 (pki-and-pairing.md §7): one loop, everything bounded.
//!
//! A connection costs its own slot and deadlines only: the handshake and the request have time
//! limits, reverse DNS runs elsewhere, and waiting for the operator costs a map entry. The two
//! answers go over one connection; decisions arrive as files in the queue, whoever writes them.

mod conns;
mod decisions;
mod options;
mod requests;
mod session;
mod shares;
mod state;

pub use options::{Ended, ListenerError, ListenerOptions, Operator};
pub use state::Listener;
