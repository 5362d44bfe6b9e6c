//! Names of users and groups for their numbers, and the reverse.

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::users;
use std::collections::HashMap;
use std::path::Path;

/// Largest file of users read.
const MAX_FILE: u64 = 4 << 20;

/// The users and groups of this host.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// Those of the system. What cannot be read has no names.
    pub fn of_system() -> Self {
        Self {
            users: names(Path::new(users::PASSWD)),
            groups: names(Path::new(users::GROUP)),
        }
    }

    pub fn user(&self, uid: u32) -> String {
        self.users
            .get(&uid)
            .cloned()
            .unwrap_or_else(|| uid.to_string())
    }

    pub fn group(&self, gid: u32) -> String {
        self.groups
            .get(&gid)
            .cloned()
            .unwrap_or_else(|| gid.to_string())
    }

    /// The numbers of a user and a group, or which of them this host does not have.
    pub fn ids(&self, user: &str, group: &str) -> Result<(u32, u32), String> {
        let uid = id(&self.users, user).ok_or_else(|| format!("user '{user}'"))?;
        let gid = id(&self.groups, group).ok_or_else(|| format!("group '{group}'"))?;
        Ok((uid, gid))
    }
}

fn id(names: &HashMap<u32, String>, name: &str) -> Option<u32> {
    let known = names.iter().find(|(_, known)| *known == name);
    known
        .map(|(id, _)| *id)
        .or_else(|| name.parse().ok().filter(|id| *id != u32::MAX))
}

fn names(path: &Path) -> HashMap<u32, String> {
    let text = Bounded::new(MAX_FILE).read(path).unwrap_or_default();
    let mut found = HashMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            // An archive takes no longer ones.
            if name.len() > 31 {
                continue;
            }
            found.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    found
}
