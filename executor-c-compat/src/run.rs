//! Runs one script and collects what it writes (executor.md §5.4).
//!
//! Beyond the reference: stdin, stdout and stderr are served together, so neither side can block
//! the other; what is kept of each stream is bounded; a script may have a time limit; and the
//! answer does not wait for ever for a descendant that keeps a stream open.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ctrl_exec_protocol::config::Permit;
use ctrl_exec_protocol::frame::{Capture, Request, Response};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, setsid, waitpid};

use crate::confine::{EXIT_REFUSED, become_script};
use crate::mounts::Guarded;
use crate::sys::{self, Forked};
use crate::timespec;

/// How long output is still collected after the script itself has ended, while a descendant holds
/// the stream open.
const LINGER: Duration = Duration::from_secs(2);

/// The circumstances of a run that the request has no say in.
pub struct Setting<'a> {
    /// The script's view of the file system.
    pub guarded: &'a Guarded,
    /// Whether this executor has root's powers.
    pub privileged: bool,
    /// Bytes kept of each output stream.
    pub max_output: usize,
    /// When the script is killed; none = never.
    pub timeout: Option<Duration>,
}

/// Runs the script to its end. A script that cannot be started at all gives exit -1 and no output.
pub fn run(permit: &Permit<'_>, request: &mut Request, setting: &Setting<'_>) -> Response {
    match start(permit, request, setting) {
        Ok(script) => script.collect(setting),
        Err(error) => {
            crate::report::line(format_args!("cannot start a script: {error}"));
            Response {
                exit: -1,
                ..Response::default()
            }
        }
    }
}

struct Script {
    pid: Pid,
    child_signals: OwnedFd,
    stdin: Option<File>,
    input: Vec<u8>,
    written: usize,
    outputs: [Option<File>; 2],
}

fn start(permit: &Permit<'_>, request: &mut Request, setting: &Setting<'_>) -> io::Result<Script> {
    let child_signals = sys::signal_fd(&[libc::SIGCHLD])?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) =
        (pipe()?, pipe()?, pipe()?);
    let pid = match sys::fork()? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            let wired = rustix::stdio::dup2_stdin(&stdin)
                .and_then(|()| rustix::stdio::dup2_stdout(&stdout))
                .and_then(|()| rustix::stdio::dup2_stderr(&stderr));
            if wired.is_err() {
                sys::exit_now(EXIT_REFUSED);
            }
            // A session of its own lets a time limit reach everything the script started.
            let _ = setsid();
            sys::reset_signals();
            let (exit, text) =
                become_script(permit, &request.args, setting.guarded, setting.privileged);
            let _ = writeln!(io::stderr(), "{text}");
            sys::exit_now(exit);
        }
    };
    for fd in [&to_stdin, &from_stdout, &from_stderr] {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    Ok(Script {
        pid,
        child_signals,
        stdin: Some(File::from(to_stdin)),
        input: std::mem::take(&mut request.stdin),
        written: 0,
        outputs: [Some(File::from(from_stdout)), Some(File::from(from_stderr))],
    })
}

impl Script {
    fn collect(mut self, setting: &Setting<'_>) -> Response {
        let mut captures = [
            Capture::new(setting.max_output),
            Capture::new(setting.max_output),
        ];
        let mut kill_at = setting
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let mut give_up_at = None;
        let mut timed_out = false;
        let mut status = None;
        self.write_input();
        loop {
            let open = self.outputs.iter().any(Option::is_some);
            let now = Instant::now();
            if status.is_some() && (!open || give_up_at.is_some_and(|at| at <= now)) {
                break;
            }
            if kill_at.is_some_and(|at| at <= now) {
                let _ = kill_process_group(self.pid, Signal::KILL);
                (timed_out, kill_at) = (true, None);
            }
            self.wait(kill_at.into_iter().chain(give_up_at).min());
            while sys::next_signal(&self.child_signals).is_some() {}
            if status.is_none() {
                status = exit_of(self.pid);
                if status.is_some() {
                    (kill_at, self.stdin) = (None, None);
                    give_up_at = Instant::now().checked_add(LINGER);
                }
            }
            self.write_input();
            self.read_output(&mut captures);
        }
        let [stdout, mut stderr] = captures;
        if timed_out {
            let seconds = setting.timeout.unwrap_or_default().as_secs();
            stderr.push(format!("executor: script killed after {seconds} seconds\n").as_bytes());
        }
        Response {
            exit: status.unwrap_or(EXIT_REFUSED),
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            ended: None,
        }
    }

    /// Waits until something can be read or written, a child ended, or `until`.
    fn wait(&self, until: Option<Instant>) {
        let timeout = until.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut fds = vec![PollFd::new(&self.child_signals, PollFlags::IN)];
        fds.extend(self.stdin.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(
            self.outputs
                .iter()
                .flatten()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        // An interrupted or failed wait only means another round.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn write_input(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        while self.written < self.input.len() {
            match stdin.write(&self.input[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The script does not want it.
                Err(_) => break,
            }
        }
        self.stdin = None;
        self.input = Vec::new();
    }

    fn read_output(&mut self, captures: &mut [Capture; 2]) {
        let mut buffer = [0; 16 * 1024];
        for (stream, capture) in self.outputs.iter_mut().zip(captures) {
            // A bounded number of reads, so that one stream cannot starve the rest of the loop.
            for _ in 0..16 {
                let Some(file) = stream else { break };
                match file.read(&mut buffer) {
                    Ok(0) => *stream = None,
                    Ok(count) => capture.push(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => *stream = None,
                }
            }
        }
    }
}

/// The exit status as the caller sees it, once the script has ended.
fn exit_of(pid: Pid) -> Option<i32> {
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(None) => None,
        Ok(Some((_, status))) => Some(code(status)),
        Err(_) => Some(EXIT_REFUSED),
    }
}

fn code(status: WaitStatus) -> i32 {
    // Death by any signal is 126, as in the reference.
    status.exit_status().unwrap_or(EXIT_REFUSED)
}
