//! Serials of certificates that no agent may show.

use std::collections::HashSet;
use std::fmt;
use std::io;

/// One serial that is barred.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The serial: lower-case hex without leading zeros.
    pub serial: String,
    /// Whose it was and since when.
    pub comment: String,
}

/// Where barred serials are kept.
pub trait Revoked: fmt::Debug + Send + Sync {
    /// The serials, in the order they were barred.
    ///
    /// # Errors
    /// What is kept cannot be read: going on without it would let the revoked in.
    fn entries(&self) -> io::Result<Vec<Entry>>;

    /// Bars serials, each with a comment of who it was; returns how many are new.
    ///
    /// # Errors
    /// As [`entries`](Self::entries), or the operating system's.
    fn add(&self, serials: &[String], comment: &str) -> io::Result<usize>;

    /// Frees serials; returns those that were barred.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    fn remove(&self, serials: &HashSet<String>) -> io::Result<Vec<String>>;
}
