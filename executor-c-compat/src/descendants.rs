//! The processes that came of another one, found in /proc.
//!
//! For systems and profiles without a process namespace. A process whose parent ends becomes a
//! child of the nearest subreaper, so nothing that a script starts leaves the tree of its
//! supervisor, whatever session or group it makes.

use std::io::Read;

use rustix::process::{Pid, Signal, kill_process};

/// Ids of all descendants of `ancestor`, those of processes that end meanwhile included.
pub fn of(ancestor: Pid) -> Vec<Pid> {
    let parents: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let mut stat = Vec::new();
            let file = std::fs::File::open(entry.path().join("stat")).ok()?;
            file.take(4096).read_to_end(&mut stat).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect();
    let mut found = vec![ancestor.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let children = parents.iter().filter(|(_, parent)| *parent == pid);
        found.extend(children.map(|(child, _)| *child));
    }
    found
        .iter()
        .skip(1)
        .filter_map(|pid| Pid::from_raw(*pid))
        .collect()
}

/// Signals each of them; those that are gone are no error.
pub fn signal(pids: impl IntoIterator<Item = Pid>, signal: Signal) {
    for pid in pids {
        let _ = kill_process(pid, signal);
    }
}

/// The parent in a line of `/proc/PID/stat`: the second word after the name, which is in
/// parentheses and may hold anything, parentheses included.
fn parent(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_mislead() {
        assert_eq!(parent(b"12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent(b"12 (a) S 1 (b) R 8 1"), Some(8));
        assert_eq!(parent(b"12 (\xff) S 9 1"), Some(9));
        for bad in ["", "12 (sh", "12 (sh)", "12 (sh) S", "12 (sh) S x"] {
            assert_eq!(parent(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn children_and_theirs_are_found() {
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "sleep 60 & sleep 60 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        shell
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        let found = of(Pid::from_child(&shell));
        assert_eq!(found.len(), 2);
        assert!(of(rustix::process::getpid()).len() >= 3);
        signal(found, Signal::KILL);
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
