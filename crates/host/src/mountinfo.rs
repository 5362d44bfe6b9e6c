//! The mount table of the kernel, `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the table is.
pub const FILE: &str = "/proc/self/mountinfo";
/// Largest table that is read: some thousands of mounts.
pub const MAX_FILE: u64 = 4 << 20;

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// Its number.
    pub id: u32,
    /// The number of the mount that it lies on.
    pub parent: u32,
    /// What of the file system is mounted: a path inside it.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Options of this mount, separated by commas: `ro,nosuid`.
    pub options: Vec<u8>,
    /// Kind of file system; empty when the line has none.
    pub kind: Vec<u8>,
    /// Options of the file system.
    pub super_options: Vec<u8>,
}

impl Mount {
    /// Whether an option of this mount is set.
    pub fn has(&self, option: &str) -> bool {
        listed(&self.options, option)
    }

    /// Whether an option of the file system is set.
    pub fn super_has(&self, option: &str) -> bool {
        listed(&self.super_options, option)
    }
}

/// The mounts of a table, in its order: of several at one place the last one is on top. Lines that
/// are none are left out.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let (id, parent) = (number(words.next()?)?, number(words.next()?)?);
    let mut words = words.skip(1);
    let (root, point, options) = (words.next()?, words.next()?, words.next()?);
    if !point.starts_with(b"/") {
        return None;
    }
    // Optional fields end with a lone hyphen.
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let kind = rest.next().unwrap_or_default();
    let super_options = rest.nth(1).unwrap_or_default();
    Some(Mount {
        id,
        parent,
        root: path(root),
        point: path(point),
        options: options.to_vec(),
        kind: kind.to_vec(),
        super_options: super_options.to_vec(),
    })
}

fn number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Of the mounts of `table`, those that are seen at `point` and below: the last one mounted there,
/// and what lies on it. Mounts that another one covers are left out; their paths lead elsewhere.
pub fn seen_at<'a>(table: &'a [Mount], point: &Path) -> Vec<&'a Mount> {
    let Some(top) = table.iter().rev().find(|mount| mount.point == point) else {
        return Vec::new();
    };
    let mut seen = vec![top];
    let covered = |mount: &Mount| {
        table
            .iter()
            .any(|other| other.parent == mount.id && other.point == mount.point)
    };
    let mut next = 0;
    while let Some(on) = seen.get(next).map(|mount| mount.id) {
        let above = table
            .iter()
            .filter(|mount| mount.parent == on && mount.id != on && !covered(mount));
        seen.extend(above);
        next += 1;
    }
    seen
}

fn listed(options: &[u8], wanted: &str) -> bool {
    options
        .split(|byte| *byte == b',')
        .any(|option| option == wanted.as_bytes())
}

fn path(word: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(&unescape(word))).to_owned()
}

/// Blanks, tabs, line ends and backslashes are written as `\` and three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => out.push(first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_5() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime,nodev master:1 - ext3 /dev/root rw,errors=continue\n\
            30 24 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\nnonsense\n1 2 3 / relative rw - x y z\n";
        let mounts: Vec<_> = parse(table).collect();
        assert_eq!(mounts.len(), 2);
        let mount = &mounts[0];
        assert_eq!(mount.root, Path::new("/mnt1"));
        assert_eq!(mount.point, Path::new("/mnt 2\\x"));
        assert!(mount.has("noatime") && mount.has("nodev") && !mount.has("ro") && !mount.has("no"));
        assert_eq!(mount.kind, b"ext3");
        assert!(mount.super_has("errors=continue"));
        assert!(mounts[1].super_has("pids"));
        assert_eq!(mounts[1].kind, b"cgroup");
    }

    #[test]
    fn a_short_line_and_half_an_escape() {
        assert_eq!(parse(b"").count(), 0);
        let mounts: Vec<_> = parse(b"1 2 3 / /a\\04 rw").collect();
        assert_eq!(mounts[0].point, Path::new("/a\\04"));
        assert_eq!(mounts[0].kind, b"");
        assert_eq!(unescape(b"\\400\\1"), b"\\400\\1");
    }

    #[test]
    fn what_is_covered_is_not_seen() {
        let table = b"22 1 0:5 / /proc rw - proc proc rw\n42 22 0:40 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n\
            50 22 0:50 / /proc rw - proc proc rw\n51 50 0:50 /sys /proc/sys rw - proc proc rw\n\
            52 51 0:41 / /proc/sys/a rw - tmpfs none rw\n53 52 0:42 / /proc/sys/a rw - tmpfs none rw\n\
            54 53 0:43 / /proc/sys/a/b rw - tmpfs none rw\n";
        let mounts: Vec<_> = parse(table).collect();
        let ids = |point: &str| -> Vec<u32> {
            let seen = seen_at(&mounts, Path::new(point));
            seen.iter().map(|mount| mount.id).collect()
        };
        // The old /proc has another mount below /proc/sys, which no path leads to any more.
        assert_eq!(ids("/proc/sys"), [51]);
        assert_eq!(ids("/proc/sys/a"), [53, 54]);
        assert_eq!(ids("/sys"), [0; 0]);
    }

    #[test]
    fn the_kernels_own_table() {
        let table = crate::bounded::Bounded::new(MAX_FILE)
            .any_kind()
            .read(FILE.as_ref())
            .unwrap();
        assert!(parse(&table).any(|mount| mount.point == Path::new("/proc")));
    }
}
