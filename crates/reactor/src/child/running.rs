//! A process that runs, with its pipes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ctrl_exec_protocol::capture::Capture;
use ctrl_exec_protocol::live::Stream;
use ctrl_exec_spawn::{Exit, wait};
use mio::unix::pipe::{Receiver, Sender};
use mio::{Interest, Registry, Token};
use rustix::process::{Pid, Signal, kill_process_group};

use super::family::Family;
use super::{ChildExit, ChildResult, ChildSpec, EndedBy, Output, SpawnError, start};
use crate::event::{ChildId, Event};
#[cfg(test)]
use crate::faults::{Faults, Verdict};
use crate::timers::Alarm;

/// The pipes of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stdio {
    In,
    Out,
    Err,
}

/// A child that was started and not yet reported.
#[derive(Debug)]
pub(crate) struct Child {
    pub id: ChildId,
    pub alarm: Alarm,
    pub queued: bool,
    pub counted: usize,
    #[cfg(test)]
    pub faults: Option<Faults>,
    pid: Pid,
    exit: Option<ChildExit>,
    timed_out: bool,
    stdin: Option<Feed>,
    stdin_unwritten: usize,
    stdin_timed_out: bool,
    stdout: Drain,
    stderr: Drain,
    grace: Duration,
    /// When its time is over.
    timeout_at: Option<Duration>,
    patience: Option<Duration>,
    family: Family,
    ending: Option<Ending>,
    /// When to stop waiting for the end of its output.
    report_at: Option<Duration>,
}

/// It is being ended, with patience.
#[derive(Debug)]
struct Ending {
    by: EndedBy,
    /// When what is left of its family is killed; none: that was done.
    kill_at: Option<Duration>,
    /// When to look whether anybody is left.
    look_at: Duration,
    /// Nobody is.
    over: bool,
    /// When to stop caring.
    until: Duration,
}

/// Standard input on its way.
#[derive(Debug)]
struct Feed {
    pipe: Sender,
    bytes: Vec<u8>,
    written: usize,
    writable: bool,
    until: Duration,
}

/// An output on its way. Without a pipe: not captured, or at its end.
#[derive(Debug)]
struct Drain {
    pipe: Option<Receiver>,
    readable: bool,
    capture: Capture,
    live: bool,
}

/// What to do with a child after it was advanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It had its share of work and there is more.
    More,
    /// It is over.
    Report,
    Wait,
}

impl Child {
    /// Starts it. `token` names each pipe for the poll.
    pub fn start(
        id: ChildId,
        spec: ChildSpec,
        now: Duration,
        registry: &Registry,
        token: impl Fn(Stdio) -> Token,
    ) -> Result<Child, SpawnError> {
        let started = start::start(&spec)?;
        let pid = started.pid;
        let Pipes {
            stdin,
            stdout,
            stderr,
        } = Pipes::take(started.pipes, registry, token).inspect_err(|_| {
            // It runs, but we could not watch it: better that it does not.
            kill(pid);
            let _ = wait(pid, true);
        })?;
        let until = now + spec.stdin_timeout;
        let bytes = spec.stdin;
        let feed = |pipe| Feed {
            pipe,
            bytes,
            written: 0,
            writable: true,
            until,
        };
        Ok(Child {
            id,
            alarm: Alarm::default(),
            queued: false,
            counted: 0,
            #[cfg(test)]
            faults: None,
            pid,
            exit: None,
            timed_out: false,
            stdin: stdin.map(feed),
            stdin_unwritten: 0,
            stdin_timed_out: false,
            stdout: Drain::new(stdout, &spec.stdout),
            stderr: Drain::new(stderr, &spec.stderr),
            grace: spec.grace,
            timeout_at: spec.timeout.map(|timeout| now + timeout),
            patience: spec.patience,
            family: Family::new(spec.mark.map(String::into_bytes)),
            ending: None,
            report_at: None,
        })
    }

    /// Notes that a pipe may be tried.
    pub fn note(&mut self, stdio: Stdio) {
        match stdio {
            Stdio::In => {
                if let Some(feed) = &mut self.stdin {
                    feed.writable = true;
                }
            }
            Stdio::Out => self.stdout.readable = true,
            Stdio::Err => self.stderr.readable = true,
        }
    }

    /// Asks the system whether it has ended. Only ever for this one process, so that other parts
    /// of the program may have children of their own.
    pub fn reap(&mut self, now: Duration) {
        if self.exit.is_some() {
            return;
        }
        let exit = match wait(self.pid, false) {
            Ok(None) => return,
            Ok(Some(exit)) => exit_of(exit, self.timed_out),
            // Somebody else has waited for it: it has ended, and nobody knows how.
            Err(_) => ChildExit::Code(-1),
        };
        self.exit = Some(exit);
        self.timeout_at = None;
        if let Some(ending) = &mut self.ending {
            ending.look_at = now;
        }
        self.stop_feeding();
        self.report_at = Some(now + self.grace);
        // Whatever it wrote last is there by now.
        self.stdout.readable = true;
        self.stderr.readable = true;
    }

    /// Kills its whole group. Not after it was reaped: the number might be another's by then.
    pub fn kill(&self) -> bool {
        self.exit.is_none() && kill(self.pid)
    }

    /// Ends it: SIGTERM to everything that it has started, SIGKILL to what is left after its
    /// patience. True also when that goes on already.
    pub fn end(&mut self, by: EndedBy, now: Duration) -> bool {
        if self.ending.is_some() {
            return true;
        }
        let Some(patience) = self.patience else {
            return self.kill();
        };
        // It may have ended by itself just now.
        self.reap(now);
        if self.exit.is_some() {
            return false;
        }
        self.timeout_at = None;
        let leader = self.leader();
        self.family.signal(leader, Signal::TERM);
        // A stopped process would take notice only when it is too late.
        self.family.signal(leader, Signal::CONT);
        self.ending = Some(Ending {
            by,
            kill_at: Some(now + patience),
            look_at: now + LOOK_EVERY,
            over: false,
            until: now + patience + GIVE_UP,
        });
        true
    }

    fn leader(&self) -> Option<i32> {
        self.exit.is_none().then(|| self.pid.as_raw_nonzero().get())
    }

    /// Goes on with the ending.
    fn go_on_ending(&mut self, now: Duration) {
        let leader = self.leader();
        let Some(ending) = &mut self.ending else {
            return;
        };
        if ending.over || ending.look_at > now && ending.kill_at.is_none_or(|at| at > now) {
            return;
        }
        ending.look_at = now + LOOK_EVERY;
        if ending.kill_at.is_none_or(|at| at <= now) {
            ending.kill_at = None;
            self.family.kill(leader);
        }
        // The child itself is waited for apart.
        let alive = self.family.count(leader);
        ending.over = alive == 0 || ending.until <= now;
    }

    /// Its next deadline.
    pub fn deadline(&self) -> Option<Duration> {
        let stdin = self.stdin.as_ref().map(|feed| feed.until);
        let ending = self.ending.as_ref().filter(|ending| !ending.over);
        let look_at = ending.map(|ending| ending.look_at);
        let kill_at = ending.and_then(|ending| ending.kill_at);
        let report_at = self.report_at.filter(|_| ending.is_none());
        [stdin, self.timeout_at, report_at, look_at, kill_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// A deadline has passed.
    pub fn expire(&mut self, now: Duration) {
        if self.stdin.as_ref().is_some_and(|feed| feed.until <= now) {
            self.stdin_timed_out = true;
            self.stop_feeding();
        }
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            // It may have ended by itself just now.
            self.reap(now);
            if self.patience.is_some() {
                self.end(EndedBy::Timeout, now);
            } else {
                self.timed_out = self.kill();
            }
        }
        self.go_on_ending(now);
    }

    /// Heap bytes held.
    pub fn held(&self) -> usize {
        let stdin = self.stdin.as_ref().map_or(0, |feed| feed.bytes.capacity());
        stdin + self.stdout.capture.held() + self.stderr.capture.held()
    }

    /// Moves bytes, up to its share.
    /// `room`: how much what is captured may grow.
    pub fn advance(
        &mut self,
        now: Duration,
        scratch: &mut [u8],
        room: usize,
        events: &mut VecDeque<Event>,
    ) -> Next {
        self.feed();
        #[cfg(test)]
        let scratch = match self
            .faults
            .as_mut()
            .map(|faults| faults.verdict(scratch.len()))
        {
            Some(Verdict::Limit(limit)) => &mut scratch[..limit],
            _ => scratch,
        };
        let child = self.id;
        let outputs = [
            (&mut self.stdout, Stream::Out),
            (&mut self.stderr, Stream::Err),
        ];
        let more = outputs.map(|(drain, stream)| {
            drain.run(scratch, room / 2, &mut |bytes| {
                events.push_back(Event::Output {
                    child,
                    stream,
                    bytes: bytes.to_vec(),
                });
            })
        });
        if self.exit.is_some() && self.ending.is_some() {
            self.go_on_ending(now);
        }
        let ending = self.ending.as_ref().is_some_and(|ending| !ending.over);
        if self.exit.is_some() && !ending {
            let open = self.stdout.pipe.is_some() || self.stderr.pipe.is_some();
            if !open || self.report_at.is_some_and(|at| at <= now) {
                return Next::Report;
            }
        }
        if more.contains(&true) {
            Next::More
        } else {
            Next::Wait
        }
    }

    /// How it ended. Only after [`Next::Report`].
    pub fn into_result(self) -> ChildResult {
        ChildResult {
            exit: self.exit.unwrap_or(ChildExit::Code(-1)),
            ended_by: self.ending.map(|ending| ending.by),
            output_open: self.stdout.pipe.is_some() || self.stderr.pipe.is_some(),
            stdout: self.stdout.capture.finish(),
            stderr: self.stderr.capture.finish(),
            stdin_unwritten: self.stdin_unwritten,
            stdin_timed_out: self.stdin_timed_out,
        }
    }

    fn feed(&mut self) {
        let Some(feed) = &mut self.stdin else { return };
        while feed.writable && feed.written < feed.bytes.len() {
            match feed.pipe.write(&feed.bytes[feed.written..]) {
                Ok(written) => feed.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => feed.writable = false,
                // EPIPE: it does not want it, which is its right.
                Err(_) => return self.stop_feeding(),
            }
        }
        if feed.written == feed.bytes.len() {
            self.stop_feeding();
        }
    }

    /// Closes its standard input.
    fn stop_feeding(&mut self) {
        if let Some(feed) = self.stdin.take() {
            self.stdin_unwritten = feed.bytes.len() - feed.written;
        }
    }
}

impl Drain {
    fn new(pipe: Option<Receiver>, output: &Output) -> Self {
        let capture = match output {
            Output::Capture { head, tail } => Capture::of(*head, *tail),
            Output::Live | Output::Null => Capture::of(0, 0),
        };
        Drain {
            pipe,
            readable: true,
            capture,
            live: matches!(output, Output::Live),
        }
    }

    /// Reads its share; `true`: there is more. Of what is told while it comes a share is one read,
    /// so that what the two outputs bring is told in the order in which it came, as far as it shows.
    fn run(&mut self, scratch: &mut [u8], room: usize, live: &mut dyn FnMut(&[u8])) -> bool {
        let held = self.capture.held();
        for _ in 0..if self.live { 1 } else { SHARE } {
            let Some(pipe) = self.pipe.as_mut().filter(|_| self.readable) else {
                return false;
            };
            match pipe.read(scratch) {
                Ok(0) => self.pipe = None,
                Ok(read) if self.live => live(&scratch[..read]),
                Ok(read) => {
                    let grown = self.capture.held().saturating_sub(held);
                    let room = room.saturating_sub(grown);
                    self.capture.push_within(&scratch[..read], room);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => self.pipe = None,
            }
        }
        self.pipe.is_some() && self.readable
    }
}

/// The pipes of a process just started, registered.
struct Pipes {
    stdin: Option<Sender>,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
}

impl Pipes {
    fn take(
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
        registry: &Registry,
        token: impl Fn(Stdio) -> Token,
    ) -> Result<Pipes, SpawnError> {
        let receiver = |pipe: Option<OwnedFd>, stdio, name| -> Result<_, SpawnError> {
            let Some(mut pipe) = pipe.map(Receiver::from) else {
                return Ok(None);
            };
            pipe.set_nonblocking(true)
                .and_then(|()| registry.register(&mut pipe, token(stdio), Interest::READABLE))
                .map_err(|error| SpawnError::Pipe(name, error))?;
            Ok(Some(pipe))
        };
        let stdin = match stdin.map(Sender::from) {
            None => None,
            Some(mut pipe) => {
                pipe.set_nonblocking(true)
                    .and_then(|()| {
                        registry.register(&mut pipe, token(Stdio::In), Interest::WRITABLE)
                    })
                    .map_err(|error| SpawnError::Pipe("stdin", error))?;
                Some(pipe)
            }
        };
        Ok(Pipes {
            stdin,
            stdout: receiver(stdout, Stdio::Out, "stdout")?,
            stderr: receiver(stderr, Stdio::Err, "stderr")?,
        })
    }
}

fn exit_of(exit: Exit, timed_out: bool) -> ChildExit {
    match exit {
        Exit::Signal(signal) if timed_out && signal == Signal::KILL.as_raw() => ChildExit::TimedOut,
        Exit::Signal(signal) => ChildExit::Signal(signal),
        Exit::Code(code) => ChildExit::Code(code),
    }
}

fn kill(pid: Pid) -> bool {
    kill_process_group(pid, Signal::KILL).is_ok()
}

/// How often it is looked whether anything of an ended child is left.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long after the kill what is left (a process in the kernel's hands) is still waited for.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Reads from each output before others get their turn.
const SHARE: usize = 4;
