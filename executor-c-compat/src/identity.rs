//! Who a script runs as: the `run_as` rules of executor.md §5.1 step 8.

use std::io;

use ctrl_exec_protocol::config::RunAs;
use rustix::process::{Gid, Uid, getgroups};
use rustix::thread;

use crate::{report, sys};

/// Ids to switch to.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// The id that the kernel reads as "leave unchanged".
const UNCHANGED: u32 = u32::MAX;

impl Identity {
    /// Looks `run_as` up: a user of that name, or else the number with no other groups.
    ///
    /// # Errors
    /// A sentence for the caller.
    pub fn of(run_as: &RunAs) -> Result<Self, String> {
        let name = &run_as.text;
        let user = sys::user_by_name(name).map_err(|error| {
            format!(
                "cannot look up run_as user '{name}': {}",
                report::text(&error)
            )
        })?;
        let identity = match (user, run_as.number) {
            (Some(user), _) => {
                let groups = sys::groups_of(&user).map_err(|error| {
                    format!(
                        "cannot look up the groups of '{name}': {}",
                        report::text(&error)
                    )
                })?;
                Self {
                    uid: user.uid,
                    gid: user.gid,
                    groups,
                }
            }
            (None, Some(number)) => Self {
                uid: number,
                gid: number,
                groups: Vec::new(),
            },
            (None, None) => return Err(format!("unknown run_as user '{name}'")),
        };
        // setuid(-1) and its like mean "keep what there is", which is root.
        if identity.uid == UNCHANGED || identity.gid == UNCHANGED {
            return Err(format!("run_as '{name}' is not a usable user id"));
        }
        Ok(identity)
    }

    /// The user's id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether this process has the identity's user already.
    pub fn is_own(&self) -> bool {
        rustix::process::geteuid().as_raw() == self.uid
    }

    /// Switches to the identity for good, keeping the permitted capabilities for the next step.
    ///
    /// # Errors
    /// The failing call, or that the switch did not take effect.
    pub fn assume(&self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let mut groups: Vec<Gid> = self.groups.iter().map(|id| Gid::from_raw(*id)).collect();
        thread::set_keep_capabilities(true)?;
        thread::set_thread_groups(&groups)?;
        thread::set_thread_res_gid(gid, gid, gid)?;
        thread::set_thread_res_uid(uid, uid, uid)?;
        let mut now = getgroups()?;
        groups.sort_unstable_by_key(|id| id.as_raw());
        now.sort_unstable_by_key(|id| id.as_raw());
        if sys::ids()? == ([self.uid; 3], [self.gid; 3]) && now == groups {
            Ok(())
        } else {
            Err(io::Error::other("the switch had no effect"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Result<Identity, String> {
        Identity::of(&RunAs::parse(text).unwrap())
    }

    #[test]
    fn names_come_before_numbers_and_nothing_else_becomes_root() {
        let root = identity("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        let number = Identity {
            uid: 54_321,
            gid: 54_321,
            groups: vec![],
        };
        assert_eq!(identity("54321"), Ok(number));
        assert!(
            identity("4294967295")
                .unwrap_err()
                .contains("not a usable user id")
        );
        assert!(
            identity("no-such-user")
                .unwrap_err()
                .contains("unknown run_as user")
        );
    }
}
