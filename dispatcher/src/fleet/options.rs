//! What an engine is allowed.

use std::time::Duration;

/// What an engine is allowed.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Loops, each a thread; started when they are first needed.
    pub loops: usize,
    /// Connections at once, over everything it does, idle ones included.
    pub connections: usize,
    /// How long a connection is kept for the next call to the same agent. `None`: only while
    /// such a call waits, as a program wants it that ends after one run.
    pub keep: Option<Duration>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            loops: std::thread::available_parallelism().map_or(1, usize::from),
            connections: 65_536,
            keep: None,
        }
    }
}
