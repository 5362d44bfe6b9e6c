//! The process between the worker and the script: sees to it that a run ends as a whole.
//!
//! It is the parent of the script, and of everything that the script leaves behind: the first
//! process of a namespace where the profile has one, else a subreaper. It tells the worker how the
//! script ended, and stays while anything of the run lives, so that what a script starts on purpose
//! (a delayed `reboot`) goes on. When the time is over or the worker asks, it sends TERM to all of
//! the run, KILL after [`GRACE`], and goes on until none is left.
//!
//! In a process namespace no script can stop or kill it: the kernel keeps signals of its own
//! namespace from a first process that does not want them.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ctrl_exec_protocol::frame::Ended;
use ctrl_exec_protocol::log_line::Line;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};

use crate::cgroup::Group;
use crate::{descendants, host_init, report, sys};

/// Between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// Between rounds of KILL, where new processes may escape a round.
const ROUND: Duration = Duration::from_millis(20);
/// What the worker sends to have the run ended.
pub const CANCEL: u8 = b'C';
/// Length of a [`Report`] on the way to the worker.
pub const REPORT_LEN: usize = 12;

/// How the script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Its exit status; none when a signal ended it.
    pub exit: Option<i32>,
    /// The rest.
    pub ended: Ended,
}

impl Report {
    /// For the worker.
    pub fn to_bytes(self) -> [u8; REPORT_LEN] {
        let flags = [
            self.exit.is_some(),
            self.ended.oom,
            self.ended.time_limit,
            self.ended.cancelled,
        ];
        let mut bytes = [0; REPORT_LEN];
        bytes[..4].copy_from_slice(&self.exit.unwrap_or(0).to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.ended.signal.unwrap_or(0).to_ne_bytes());
        for (byte, flag) in bytes[8..].iter_mut().zip(flags) {
            *byte = u8::from(flag);
        }
        bytes
    }

    /// From the supervisor.
    pub fn from_bytes(bytes: &[u8; REPORT_LEN]) -> Self {
        let &[a, b, c, d, e, f, g, h, exited, oom, time_limit, cancelled] = bytes;
        let signal = i32::from_ne_bytes([e, f, g, h]);
        Self {
            exit: (exited != 0).then(|| i32::from_ne_bytes([a, b, c, d])),
            ended: Ended {
                signal: (signal != 0).then_some(signal),
                oom: oom != 0,
                time_limit: time_limit != 0,
                cancelled: cancelled != 0,
            },
        }
    }
}

/// A run in the care of this process.
pub struct Supervisor<'a> {
    /// The script.
    pub script: Pid,
    /// To the worker.
    pub worker: UnixStream,
    /// Deaths of children, and with a messenger what is meant for the host's process 1.
    pub signals: OwnedFd,
    /// Passes signals on to the host's process 1.
    pub messenger: Option<UnixStream>,
    /// When the run has to end.
    pub deadline: Option<Instant>,
    /// Whether this is the first process of a namespace.
    pub own_processes: bool,
    /// Where the script's processes count.
    pub group: &'a Group,
    /// For the log.
    pub name: &'a str,
}

/// Why a run is being ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Time,
    Asked,
    WorkerGone,
}

struct Ending {
    why: Why,
    kill_at: Instant,
}

impl Supervisor<'_> {
    /// Returns when nothing of the run is left.
    pub fn watch(mut self) {
        let mut ending: Option<Ending> = None;
        let mut reported = false;
        let mut listening = true;
        loop {
            let (status, none_left) = self.reap();
            if let Some(status) = status {
                self.report(status, ending.as_ref());
                reported = true;
            }
            if none_left {
                break;
            }
            let now = Instant::now();
            if ending.is_none() && self.deadline.is_some_and(|at| at <= now) {
                ending = Some(self.begin(Why::Time));
                if reported {
                    let line = Line::new("background-killed").field("SCRIPT", self.name);
                    report::warning(&line);
                }
            }
            if let Some(ending) = ending.as_mut().filter(|ending| ending.kill_at <= now) {
                self.signal_all(Signal::KILL);
                ending.kill_at = now + ROUND;
            }
            let until = match &ending {
                Some(ending) => Some(ending.kill_at),
                None => self.deadline,
            };
            if !self.wait(until, listening) {
                continue;
            }
            match self.listen() {
                Some(why) if why == Why::Asked || !reported => {
                    ending.get_or_insert_with(|| self.begin(why));
                    listening = why == Why::Asked;
                }
                // The worker has its report, and may go.
                Some(_) => listening = false,
                None => {}
            }
        }
        self.group.remove();
    }

    /// The script's status, if it has ended, and whether no child is left.
    fn reap(&mut self) -> (Option<WaitStatus>, bool) {
        while let Some((signal, sender)) = sys::next_signal_and_sender(&self.signals) {
            // What comes from outside is meant for this process, by a service manager, say.
            if let Some(messenger) = self.messenger.as_mut().filter(|_| sender != 0) {
                host_init::tell(messenger, signal);
            }
        }
        let mut script = None;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.script => script = Some(status),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return (script, false),
                Err(_) => return (script, true),
            }
        }
    }

    fn report(&mut self, status: WaitStatus, ending: Option<&Ending>) {
        let why = ending.map(|ending| ending.why);
        let report = Report {
            exit: status.exit_status(),
            ended: Ended {
                signal: status.terminating_signal(),
                oom: self.group.had_oom(),
                time_limit: why == Some(Why::Time),
                cancelled: why == Some(Why::Asked),
            },
        };
        // A worker that is gone has nobody to tell.
        let _ = self.worker.write_all(&report.to_bytes());
    }

    fn begin(&self, why: Why) -> Ending {
        self.signal_all(Signal::TERM);
        // Who is stopped cannot hear.
        self.signal_all(Signal::CONT);
        Ending {
            why,
            kill_at: Instant::now() + GRACE,
        }
    }

    fn signal_all(&self, signal: Signal) {
        if self.own_processes {
            return sys::signal_all_others(signal.as_raw());
        }
        if signal == Signal::KILL {
            self.group.kill();
        }
        let mut pids = descendants::of(rustix::process::getpid());
        pids.extend(self.group.processes().into_iter().filter_map(Pid::from_raw));
        descendants::signal(pids, signal);
    }

    /// Waits for a death, a time, or the worker; whether it was the worker.
    fn wait(&self, until: Option<Instant>, listening: bool) -> bool {
        let limit = until.map(|at| at.saturating_duration_since(Instant::now()));
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if listening {
            fds.push(PollFd::new(&self.worker, PollFlags::IN));
        }
        // An interrupted or failed wait only means another round.
        sys::poll(&mut fds, limit).is_ok() && fds.get(1).is_some_and(|fd| !fd.revents().is_empty())
    }

    fn listen(&mut self) -> Option<Why> {
        let mut byte = [0];
        match self.worker.read(&mut byte) {
            Ok(0) => Some(Why::WorkerGone),
            Ok(_) if byte == [CANCEL] => Some(Why::Asked),
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => None,
            Err(_) => Some(Why::WorkerGone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_way() {
        for bits in 0..16 {
            let report = Report {
                exit: (bits & 1 == 0).then_some(i32::MIN),
                ended: Ended {
                    signal: (bits & 1 != 0).then_some(9),
                    oom: bits & 2 != 0,
                    time_limit: bits & 4 != 0,
                    cancelled: bits & 8 != 0,
                },
            };
            assert_eq!(Report::from_bytes(&report.to_bytes()), report);
        }
    }
}
