//! Users and groups, as `/etc/passwd` and `/etc/group` have them. Other sources of the C library
//! are not asked: these programs are static, and their service users are local.

use crate::bounded::Bounded;
use std::io;
use std::path::Path;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Where users stand.
pub const PASSWD: &str = "/etc/passwd";

/// Where groups stand.
pub const GROUP: &str = "/etc/group";

/// A user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
}

/// Looks a user up in a passwd file; `None` when it does not name one.
///
/// # Errors
/// The file cannot be read or is too large, or the user's line is malformed (its ids are no
/// numbers, or the one that means "leave as it is").
pub fn user(passwd: &Path, name: &str) -> io::Result<Option<User>> {
    let bytes = Bounded::new(MAX_FILE).read(passwd)?;
    let Some(line) = find(&bytes, name) else {
        return Ok(None);
    };
    let ids = id(line, 2).and_then(|uid| Some((uid, id(line, 3)?)));
    let (uid, gid) = ids.ok_or_else(|| malformed("user", name))?;
    Ok(Some(User { uid, gid }))
}

/// Looks a group's id up in a group file; `None` when it does not name one.
///
/// # Errors
/// As [`user`].
pub fn group(group: &Path, name: &str) -> io::Result<Option<u32>> {
    let bytes = Bounded::new(MAX_FILE).read(group)?;
    let Some(line) = find(&bytes, name) else {
        return Ok(None);
    };
    id(line, 2)
        .map(Some)
        .ok_or_else(|| malformed("group", name))
}

/// The first line whose first field is `name`.
fn find<'a>(bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    bytes.split(|byte| *byte == b'\n').find(|line| {
        line.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b':'))
    })
}

/// The id in the field `index`. 4294967295 is none: to the system calls it means "no change".
fn id(line: &[u8], index: usize) -> Option<u32> {
    let field = line.split(|byte| *byte == b':').nth(index)?;
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let id = std::str::from_utf8(field).ok()?.parse().ok()?;
    (id != u32::MAX).then_some(id)
}

fn malformed(what: &str, name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the line of {what} '{name}' is malformed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn looks_up_by_whole_name_and_takes_the_first() {
        let dir = TempDir::new("users");
        let path = dir.file("passwd");
        let text = "# comment\nroot:x:0:0:root:/root:/bin/sh\nab:x:1:2::/:\nabc:x:3:4\nabc:x:5:6\n\
                    minus:x:4294967295:7\ngroupless:x:7:4294967295\nshort:x\nplus:x:+8:8\nbad:x:a:1\n\
                    big:x:4294967296:1\n\u{fc}:x:9:10\n";
        std::fs::write(
            &path,
            [text.as_bytes(), b"\xff:x:1:1\nlast:x:11:12"].concat(),
        )
        .unwrap();
        let get = |name| user(&path, name);
        assert_eq!(get("root").unwrap(), Some(User { uid: 0, gid: 0 }));
        assert_eq!(get("ab").unwrap(), Some(User { uid: 1, gid: 2 }));
        assert_eq!(get("abc").unwrap(), Some(User { uid: 3, gid: 4 }));
        assert_eq!(get("\u{fc}").unwrap(), Some(User { uid: 9, gid: 10 }));
        assert_eq!(get("last").unwrap(), Some(User { uid: 11, gid: 12 }));
        assert_eq!(get("a").unwrap(), None);
        assert_eq!(get("").unwrap(), None);
        for name in ["minus", "groupless", "short", "plus", "bad", "big"] {
            assert!(get(name).is_err(), "{name}");
        }
        assert!(user(&dir.file("absent"), "root").is_err());
    }

    #[test]
    fn groups() {
        let dir = TempDir::new("groups");
        let path = dir.file("group");
        std::fs::write(&path, "root:x:0:\nus:x:100:a,b\nminus:x:4294967295:\n").unwrap();
        assert_eq!(group(&path, "us").unwrap(), Some(100));
        assert_eq!(group(&path, "a").unwrap(), None);
        assert!(group(&path, "minus").is_err());
        let of_system = user(Path::new(PASSWD), "root").unwrap();
        assert_eq!(of_system, Some(User { uid: 0, gid: 0 }));
    }
}
