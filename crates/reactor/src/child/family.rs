//! Everything that a child has started, wherever it went.
//!
//! A process group does not hold a family together: `setsid` leaves it, and whoever loses its
//! parent is handed to another. So the family is looked for in `/proc`: the child itself, whoever
//! descends from a member, whoever was a member before, and whoever carries the child's mark in the
//! environment it was started with. What this cannot find: a process that has shed its environment,
//! its session and its parents all three before it was first looked for.

use std::fs;
use std::io::Read;

use rustix::process::{Pid, Signal, kill_process};

/// Rounds in which members are stopped until no new ones turn up.
const ROUNDS: usize = 16;
/// Bytes of an environment that are looked at; marks stand at its beginning.
const ENVIRONMENT: u64 = 4096;

/// The family of one child.
#[derive(Debug, Default)]
pub(super) struct Family {
    /// `NAME=value` of its environment, when it has one.
    mark: Option<Vec<u8>>,
    /// Members seen: process id and start time, which together name a process for good.
    seen: Vec<(i32, u64)>,
}

/// One process of the system.
struct Process {
    pid: i32,
    parent: i32,
    start: u64,
    /// It has not ended.
    alive: bool,
}

impl Family {
    pub fn new(mark: Option<Vec<u8>>) -> Family {
        Family {
            mark,
            seen: Vec::new(),
        }
    }

    /// Sends a signal to every member, and says how many there are. `leader`: the child, as long as
    /// it was not reaped.
    pub fn signal(&mut self, leader: Option<i32>, signal: Signal) -> usize {
        let members = self.members(leader);
        send(&members, signal);
        members.len()
    }

    /// Kills every member, and those that are born meanwhile: all are stopped first.
    pub fn kill(&mut self, leader: Option<i32>) {
        let mut known = 0;
        for _ in 0..ROUNDS {
            let members = self.members(leader);
            if members.len() <= known {
                break;
            }
            known = members.len();
            send(&members, Signal::STOP);
        }
        let members = self.members(leader);
        send(&members, Signal::KILL);
    }

    /// How many members live.
    pub fn count(&mut self, leader: Option<i32>) -> usize {
        self.members(leader).len()
    }

    fn members(&mut self, leader: Option<i32>) -> Vec<i32> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let all: Vec<Process> = processes().filter(|process| process.pid != own).collect();
        let mut member: Vec<bool> = all
            .iter()
            .map(|process| {
                Some(process.pid) == leader
                    || self.seen.contains(&(process.pid, process.start))
                    || self
                        .mark
                        .as_ref()
                        .is_some_and(|mark| carries(process.pid, mark))
            })
            .collect();
        // Children of members, until there are no more. Parents usually stand before children.
        loop {
            let mut grown = false;
            for at in 0..all.len() {
                if member[at] {
                    continue;
                }
                let parent = all[at].parent;
                let found = all
                    .iter()
                    .zip(&member)
                    .any(|(process, is)| *is && process.pid == parent);
                if found {
                    member[at] = true;
                    grown = true;
                }
            }
            if !grown {
                break;
            }
        }
        let found = || {
            all.iter()
                .zip(&member)
                .filter(|(_, is)| **is)
                .map(|(process, _)| process)
        };
        self.seen = found()
            .map(|process| (process.pid, process.start))
            .collect();
        found()
            .filter(|process| process.alive)
            .map(|process| process.pid)
            .collect()
    }
}

fn send(members: &[i32], signal: Signal) {
    for pid in members.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // It may have ended just now; between that and this call its number is not given again.
        let _ = kill_process(pid, signal);
    }
}

fn carries(pid: i32, mark: &[u8]) -> bool {
    let Ok(file) = fs::File::open(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let mut text = Vec::new();
    // What cannot be read is another user's.
    let _ = file.take(ENVIRONMENT).read_to_end(&mut text);
    text.split(|byte| *byte == 0).any(|entry| entry == mark)
}

fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
            parse(pid, &text)
        })
}

/// Reads `/proc/PID/stat`. The name in it may hold anything, so counting starts after its end.
fn parse(pid: i32, text: &[u8]) -> Option<Process> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of the whole, the 20th from the state on.
    let start = fields.nth(17)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        start,
        alive: !matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name() {
        let line = b"77 (a) b) R 1 2) S 42 77 77 0 -1 4194304 91 0 0 0 0 0 0 0 20 0 1 0 12345 1 2";
        let process = parse(77, line).unwrap();
        assert_eq!(
            (process.parent, process.start, process.alive),
            (42, 12345, true)
        );
        let line = b"77 (x) Z 42 77 77 0 -1 4194304 91 0 0 0 0 0 0 0 20 0 1 0 12345 1 2";
        assert!(!parse(77, line).unwrap().alive);
        for bad in [&b""[..], b"77 (x", b"77 (x) S", b"77 (x) S 1 2 3"] {
            assert!(parse(77, bad).is_none());
        }
    }

    #[test]
    fn we_are_found_among_the_processes() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(processes().any(|process| process.pid == own && process.alive));
    }
}
