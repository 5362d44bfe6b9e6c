//! What is known about the last rotation.

use crate::model::RotationState;
use ctrl_exec_host::syslog::Syslog;
use std::fmt;
use std::io;

/// Where the state of rotation is kept.
pub trait Rotations: fmt::Debug + Send + Sync {
    /// The state; `None` when there is none. A damaged one is logged and counts as none.
    ///
    /// # Errors
    /// The operating system's.
    fn load(&self, log: &Syslog) -> io::Result<Option<RotationState>>;

    /// Keeps a state in the place of the last one.
    ///
    /// # Errors
    /// The operating system's.
    fn save(&self, state: &RotationState) -> io::Result<()>;
}
