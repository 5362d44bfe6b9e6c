//! What the agent gives up once it listens: it is the part of the system that strangers talk to,
//! and needs none of this for its work.
//!
//! With the executor in use everything goes. In direct mode scripts are the agent's children and
//! would inherit it, so there only memory is protected, unless `restrict_scripts` says otherwise.

use ctrl_exec_protocol::config::AgentConf;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_no_new_privs,
};
use std::fmt;
use std::io;

/// How much is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nobody of the same user reads this process's memory, and with it its key.
    Memory,
    /// Also: no privileges by executing, no capability can come back, and no system calls that a
    /// network service never makes.
    Everything,
}

impl Extent {
    /// What a configuration asks for.
    pub fn of(conf: &AgentConf) -> Extent {
        if conf.executor_socket.is_some() || conf.restrict_scripts {
            Extent::Everything
        } else {
            Extent::Memory
        }
    }
}

/// How giving up went: each part, and what the system said. Its `Display` is for people.
pub struct Restrictions {
    parts: Vec<(&'static str, io::Result<()>)>,
    extent: Extent,
}

/// Keeps this process's memory from others of the same user.
///
/// # Errors
/// The kernel's.
pub fn protect_memory() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)
}

/// Gives up `extent`, for this process and all that it starts. What the system does not let go of
/// is told, not fatal: it is one hurdle of several.
pub fn apply(extent: Extent) -> Restrictions {
    let mut parts = vec![("not dumpable", protect_memory())];
    if extent == Extent::Everything {
        // Before `no_new_privs` and the filter: it is the only one that takes a capability.
        parts.push(("empty bounding set", empty_bounding_set()));
        let no_new_privs = set_no_new_privs(true).map_err(io::Error::from);
        parts.push(("no_new_privs", no_new_privs));
        parts.push(("system-call filter", ctrl_exec_seccomp::install()));
    }
    Restrictions { parts, extent }
}

impl Restrictions {
    /// The parts that are not in force, and why.
    pub fn missing(&self) -> impl Iterator<Item = (&'static str, &io::Error)> {
        self.parts
            .iter()
            .filter_map(|(name, result)| Some((*name, result.as_ref().err()?)))
    }
}

impl fmt::Display for Restrictions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, result)) in self.parts.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            match result {
                Ok(()) => f.write_str(name)?,
                Err(error) => write!(f, "NOT {name} ({error})")?,
            }
        }
        match self.extent {
            Extent::Everything => Ok(()),
            Extent::Memory => f.write_str(" (direct mode; restrict_scripts = yes adds more)"),
        }
    }
}

/// Takes every capability that the kernel knows out of the bounding set.
fn empty_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(false) => {}
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
