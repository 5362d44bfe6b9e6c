//! Runs one script and collects what it writes (executor.md §5.4).
//!
//! Beyond the reference: stdin, stdout and stderr are served together, so neither side can block
//! the other; what is kept of each stream is bounded; a run may have a time limit or be cancelled,
//! and then ends as a whole ([`crate::supervisor`]); and the answer does not wait for ever for a
//! descendant that keeps a stream open.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ctrl_exec_protocol::config::{Permit, Processes};
use ctrl_exec_protocol::frame::{CancelDecoder, Capture, Ended, Request, Response};
use ctrl_exec_protocol::live::Stream;
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process, setsid};
use rustix::thread::UnshareFlags;

use crate::cgroup::{Base, Group};
use crate::confine::{Containment, EXIT_REFUSED, Start, become_script};
use crate::guard::Guarded;
use crate::identity::Identity;
use crate::relay::Relay;
use crate::supervisor::{CANCEL, GRACE, REPORT_LEN, Report, Supervisor};
use crate::sys::{self, Forked};
use crate::{host_init, report};

/// How long output is still collected after the script itself has ended, while a descendant holds
/// the stream open.
const LINGER: Duration = Duration::from_secs(2);
/// How much longer than it needs a supervisor is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The circumstances of a run that the request has no say in.
pub struct Setting<'a> {
    /// What the script may not change.
    pub guarded: &'a Guarded,
    /// Where control groups are made.
    pub cgroups: &'a Base,
    /// Whether this executor has root's powers.
    pub privileged: bool,
    /// Bytes kept of each output stream.
    pub max_output: usize,
    /// When the run is ended; none = never.
    pub time_limit: Option<Duration>,
    /// The user the script runs as.
    pub identity: &'a Identity,
    /// Its surroundings.
    pub containment: Containment,
}

/// Runs the script to its end. A script that cannot be started at all gives exit -1 and no output.
/// `peer` is listened to for a cancel. Where output is wanted while it comes, `relay` passes it on
/// once the script runs; the response has none then.
pub fn run(
    permit: &Permit<'_>,
    request: &mut Request,
    setting: &Setting<'_>,
    peer: &UnixStream,
    relay: &mut Option<Relay>,
) -> Response {
    let live = request.live;
    match start(permit, request, setting, peer) {
        Ok(Started::Running(script)) => {
            *relay = live.then(Relay::new);
            script.collect(setting, peer, relay.as_mut())
        }
        Ok(Started::Refused(fault)) => Response {
            exit: EXIT_REFUSED,
            ..Response::refusal(&format!("executor: {fault}"))
        },
        Err(error) => {
            log::error!("cannot start a script: {error}");
            Response {
                exit: -1,
                ..Response::default()
            }
        }
    }
}

enum Started<'a> {
    Running(Script<'a>),
    Refused(String),
}

struct Script<'a> {
    supervisor: Pid,
    control: UnixStream,
    report: Vec<u8>,
    peer: Option<&'a UnixStream>,
    cancel: CancelDecoder,
    stdin: Option<File>,
    input: Vec<u8>,
    written: usize,
    outputs: [Option<File>; 2],
}

fn start<'a>(
    permit: &Permit<'_>,
    request: &mut Request,
    setting: &Setting<'_>,
    peer: &'a UnixStream,
) -> io::Result<Started<'a>> {
    let mut containment = setting.containment;
    if !setting.privileged {
        containment.own_processes = false;
    }
    // Outside of the namespace, so before it.
    let may_reboot = permit
        .profile
        .caps
        .iter()
        .any(|cap| cap.name == "CAP_SYS_BOOT");
    let messenger = match containment.own_processes && may_reboot {
        true => Some(host_init::messenger(peer)?),
        false => None,
    };
    if containment.own_processes {
        match sys::unshare(UnshareFlags::NEWPID) {
            Ok(()) => {}
            // Not asked for in so many words: `check` and the start have said that it is missing.
            Err(_) if permit.profile.processes != Some(Processes::Own) => {
                containment.own_processes = false;
            }
            Err(error) => {
                let reason = report::text(&error);
                return Ok(Started::Refused(format!(
                    "cannot create a process namespace: {reason}"
                )));
            }
        }
    }
    let group = match group(permit, setting) {
        Ok(group) => group,
        Err(fault) => return Ok(Started::Refused(fault)),
    };
    let (control, to_worker) = UnixStream::pair()?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) =
        (pipe()?, pipe()?, pipe()?);
    let deadline = setting
        .time_limit
        .and_then(|limit| Instant::now().checked_add(limit));
    let supervisor = match sys::fork()? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            // The connection and the far ends are the worker's to close.
            sys::close_copy(peer.as_fd());
            drop((control, to_stdin, from_stdout, from_stderr));
            sys::ignore(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE]);
            let mut watched = vec![libc::SIGCHLD];
            if messenger.is_some() {
                watched.extend(host_init::SIGNALS);
            }
            let Ok(signals) = sys::signal_fd(&watched) else {
                sys::exit_now(1);
            };
            let _ = rustix::process::set_dumpable_behavior(
                rustix::process::DumpableBehavior::NotDumpable,
            );
            if !containment.own_processes {
                let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
            }
            let script = match sys::fork() {
                Ok(Forked::Parent(pid)) => pid,
                Ok(Forked::Child) => {
                    drop((to_worker, messenger));
                    let wired = rustix::stdio::dup2_stdin(&stdin)
                        .and_then(|()| rustix::stdio::dup2_stdout(&stdout))
                        .and_then(|()| rustix::stdio::dup2_stderr(&stderr));
                    if wired.is_err() {
                        sys::exit_now(EXIT_REFUSED);
                    }
                    let _ = setsid();
                    sys::reset_signals();
                    let (exit, text) = become_script(&Start {
                        permit,
                        identity: setting.identity,
                        containment,
                        args: &request.args,
                        guarded: setting.guarded,
                        group: &group,
                        privileged: setting.privileged,
                    });
                    let _ = writeln!(io::stderr(), "{text}");
                    sys::exit_now(exit);
                }
                Err(error) => {
                    log::error!("cannot start a script: {error}");
                    group.remove();
                    sys::exit_now(1);
                }
            };
            drop((stdin, stdout, stderr));
            let name = String::from_utf8_lossy(&request.script).into_owned();
            // What the request held is not needed here, while a daemon of the script may live long.
            *request = Request::default();
            Supervisor {
                script,
                worker: to_worker,
                signals,
                messenger,
                deadline,
                own_processes: containment.own_processes,
                group: &group,
                name: &name,
            }
            .watch();
            sys::exit_now(0);
        }
    };
    for fd in [&to_stdin, &from_stdout, &from_stderr] {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    control.set_nonblocking(true)?;
    Ok(Started::Running(Script {
        supervisor,
        control,
        report: Vec::new(),
        peer: Some(peer),
        cancel: CancelDecoder::default(),
        stdin: Some(File::from(to_stdin)),
        input: std::mem::take(&mut request.stdin),
        written: 0,
        outputs: [Some(File::from(from_stdout)), Some(File::from(from_stderr))],
    }))
}

/// The control groups of the run.
fn group(permit: &Permit<'_>, setting: &Setting<'_>) -> Result<Group, String> {
    if !setting.privileged {
        return Ok(Group::default());
    }
    // RLIMIT_NPROC serves for everybody else.
    let max = permit.profile.limits.processes;
    let max = max.filter(|_| setting.identity.uid() == 0);
    let name = format!("run-{}", std::process::id());
    setting.cgroups.create(&name, max).map_err(|error| {
        format!(
            "cannot set limit_processes, which binds uid 0 through a control group only: {}",
            report::text(&error)
        )
    })
}

impl Script<'_> {
    fn collect(
        mut self,
        setting: &Setting<'_>,
        peer: &UnixStream,
        mut relay: Option<&mut Relay>,
    ) -> Response {
        let limit = setting.max_output.saturating_mul(2);
        let mut captures = [
            Capture::new(setting.max_output),
            Capture::new(setting.max_output),
        ];
        // The supervisor has its own clock; this one is for a supervisor that cannot go on.
        let spare = GRACE + PATIENCE;
        let mut lost_at = setting
            .time_limit
            .and_then(|limit| Instant::now().checked_add(limit)?.checked_add(spare));
        let mut give_up_at = None;
        let mut report = None;
        self.write_input();
        loop {
            let open = self.outputs.iter().any(Option::is_some);
            let now = Instant::now();
            if report.is_some() && (!open || give_up_at.is_some_and(|at| at <= now)) {
                break;
            }
            if lost_at.is_some_and(|at| at <= now) {
                let _ = kill_process(self.supervisor, Signal::KILL);
                lost_at = None;
            }
            if let Some(relay) = &mut relay {
                relay.write(peer);
            }
            let unsent = relay.as_ref().is_some_and(|relay| relay.wants_write());
            let reader = Some(peer).filter(|_| unsent);
            self.wait(reader, lost_at.into_iter().chain(give_up_at).min());
            if report.is_none() {
                if self.is_cancelled() {
                    let _ = self.control.write(&[CANCEL]);
                    self.peer = None;
                    let at = Instant::now().checked_add(spare);
                    lost_at = lost_at.into_iter().chain(at).min();
                }
                report = self.take_report();
                if report.is_some() {
                    (lost_at, self.stdin, self.peer) = (None, None, None);
                    give_up_at = Instant::now().checked_add(LINGER);
                }
            }
            self.write_input();
            match &mut relay {
                Some(relay) => self.relay_output(relay, limit),
                None => self.read_output(&mut captures),
            }
        }
        let [stdout, mut stderr] = captures;
        let report = report.unwrap_or(LOST);
        if let Some(text) = explanation(&report, setting.time_limit) {
            let text = format!("executor: {text}\n");
            match relay {
                Some(relay) => relay.push(Stream::Err, text.as_bytes(), limit),
                None => stderr.push(text.as_bytes()),
            }
        }
        Response {
            // Death by any signal is 126, as in the reference.
            exit: report.exit.unwrap_or(EXIT_REFUSED),
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            ended: Some(report.ended),
        }
    }

    /// Waits until something can be read or written, to `reader` too, the supervisor has something to
    /// say, the peer asks for something, or `until`.
    fn wait(&self, reader: Option<&UnixStream>, until: Option<Instant>) {
        let limit = until.map(|at| at.saturating_duration_since(Instant::now()));
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
        fds.extend(self.peer.map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(reader.map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(self.stdin.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(
            self.outputs
                .iter()
                .flatten()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        // An interrupted or failed wait only means another round.
        let _ = sys::poll(&mut fds, limit);
    }

    /// Whether the peer asks for the script's end. A peer that is gone asks for nothing, then and
    /// later.
    fn is_cancelled(&mut self) -> bool {
        let mut buffer = [0; 64];
        let Some(mut peer) = self.peer else {
            return false;
        };
        match peer.read(&mut buffer) {
            Ok(0) => self.peer = None,
            Ok(count) => return self.cancel.push(&buffer[..count]),
            Err(error) if is_temporary(&error) => {}
            Err(_) => self.peer = None,
        }
        false
    }

    fn take_report(&mut self) -> Option<Report> {
        let mut buffer = [0; REPORT_LEN];
        match self.control.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.report.extend_from_slice(&buffer[..count]);
                let report = self.report.first_chunk::<REPORT_LEN>()?;
                Some(Report::from_bytes(report))
            }
            Err(error) if is_temporary(&error) => None,
            // It ended without a word: somebody killed it.
            Ok(_) | Err(_) => Some(LOST),
        }
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

    /// One read of each output, so that what they bring is passed on in the order in which it came,
    /// as far as it shows.
    fn relay_output(&mut self, relay: &mut Relay, limit: usize) {
        let mut buffer = [0; 16 * 1024];
        for (output, stream) in self.outputs.iter_mut().zip([Stream::Out, Stream::Err]) {
            let Some(file) = output else { continue };
            match file.read(&mut buffer) {
                Ok(0) => *output = None,
                Ok(count) => relay.push(stream, &buffer[..count], limit),
                Err(error) if is_temporary(&error) => {}
                Err(_) => *output = None,
            }
        }
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

/// What is known of a run whose supervisor is gone.
const LOST: Report = Report {
    exit: None,
    ended: Ended {
        signal: None,
        oom: false,
        time_limit: false,
        cancelled: false,
    },
};

/// The line that tells the caller why the script did not end by itself.
fn explanation(report: &Report, time_limit: Option<Duration>) -> Option<String> {
    if *report == LOST {
        Some("the script's supervisor was killed; the script may still run".to_owned())
    } else if report.ended.time_limit {
        let seconds = time_limit.unwrap_or_default().as_secs();
        Some(format!("script killed after {seconds} seconds"))
    } else if report.ended.cancelled {
        Some("script cancelled".to_owned())
    } else {
        None
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
