//! What this kernel and this process can do, found out before a request needs it.

use std::io;

use ctrl_exec_protocol::config::AgentConf;
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use crate::mounts;
use crate::sys::{self, Forked};

const NO_NAMESPACE: i32 = 1;
const NO_PROPAGATION: i32 = 2;
const NO_SETATTR: i32 = 4;
const NO_NETWORK_NAMESPACE: i32 = 8;

/// The answer.
pub struct Kernel {
    missing: i32,
}

impl Kernel {
    /// Tries everything once, in a child process.
    ///
    /// # Errors
    /// There is no child process to be had.
    pub fn probe() -> io::Result<Self> {
        let pid = match sys::fork()? {
            Forked::Parent(pid) => pid,
            Forked::Child => sys::exit_now(try_all()),
        };
        loop {
            match waitpid(Some(pid), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(status) => {
                    let missing = status.and_then(|(_, status)| status.exit_status());
                    return Ok(Self {
                        missing: missing.unwrap_or(NO_NAMESPACE),
                    });
                }
            }
        }
    }

    /// Without this no script can be run at all.
    pub fn fatal(&self) -> Option<&'static str> {
        if self.missing & NO_NAMESPACE != 0 {
            Some(
                "this system does not let the executor create a mount namespace: the kernel lacks namespaces, or the executor lacks CAP_SYS_ADMIN; no script can be run",
            )
        } else if self.missing & NO_PROPAGATION != 0 {
            Some(
                "this system does not let the executor make its mounts private; no script can be run",
            )
        } else {
            None
        }
    }

    /// What profiles ask for and this system does not have. Their scripts will be refused.
    pub fn faults(&self, conf: &AgentConf) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, profile) in &conf.profiles {
            if !profile.writable.is_empty() && self.missing & NO_SETATTR != 0 {
                faults.push(format!("profile '{name}': writable needs Linux 5.12"));
            }
            if profile.no_network && self.missing & NO_NETWORK_NAMESPACE != 0 {
                faults.push(format!(
                    "profile '{name}': no_network needs network namespaces (CONFIG_NET_NS)"
                ));
            }
        }
        faults
    }
}

fn try_all() -> i32 {
    if sys::unshare(UnshareFlags::NEWNS).is_err() {
        return NO_NAMESPACE;
    }
    if mounts::isolate().is_err() {
        return NO_PROPAGATION;
    }
    let mut missing = 0;
    // Changing nothing succeeds wherever the call exists.
    if sys::mount_setattr(c"/", true, 0, 0).is_err() {
        missing |= NO_SETATTR;
    }
    if sys::unshare(UnshareFlags::NEWNET).is_err() {
        missing |= NO_NETWORK_NAMESPACE;
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let conf = AgentConf::parse(
            "[profile w]\nwritable = /x\n[profile n]\nno_network = yes\n[profile p]\n",
            "agent.conf",
        )
        .unwrap()
        .0;
        let faults = |missing| Kernel { missing }.faults(&conf);
        assert!(faults(0).is_empty());
        assert_eq!(
            faults(NO_SETATTR),
            ["profile 'w': writable needs Linux 5.12"]
        );
        assert!(faults(NO_NETWORK_NAMESPACE)[0].contains("profile 'n'"));
        assert!(
            Kernel {
                missing: NO_NAMESPACE
            }
            .fatal()
            .unwrap()
            .contains("mount namespace")
        );
        assert!(
            Kernel {
                missing: NO_SETATTR
            }
            .fatal()
            .is_none()
        );
    }
}
