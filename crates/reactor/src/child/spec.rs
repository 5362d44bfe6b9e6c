//! What a child is to be, and what became of it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ctrl_exec_protocol::capture::Captured;

/// A child process to start. It gets exactly the environment named here, a process group of its
/// own, and the working directory and umask of the program.
#[derive(Debug)]
pub struct ChildSpec {
    /// Absolute path of the program. It is also `argv[0]`. What the kernel cannot execute is not
    /// run: no shell is guessed.
    pub program: PathBuf,
    /// Further arguments.
    pub args: Vec<OsString>,
    /// The whole environment, which many children may share.
    pub env: Arc<[(OsString, OsString)]>,
    /// Standard input, then end of file. Empty: end of file at once.
    pub stdin: Vec<u8>,
    /// How long the child may take to read its standard input. Then the pipe is closed and the
    /// child goes on.
    pub stdin_timeout: Duration,
    /// Where standard output goes.
    pub stdout: Output,
    /// Where standard error goes.
    pub stderr: Output,
    /// When to end it. `None`: never.
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL, both to everything that it has started, when it is ended.
    /// `None`: its process group gets SIGKILL at once.
    pub patience: Option<Duration>,
    /// A variable of its environment, `NAME=value`, that no other process has: by this whatever it
    /// starts is found again.
    pub mark: Option<String>,
    /// How long after the child's end its output may stay open in other processes. Then what has
    /// come is reported.
    pub grace: Duration,
}

impl ChildSpec {
    /// A child with an empty environment and standard input, 64 KiB of each output kept (half
    /// from the beginning, half from the end), no timeout and 2 s of grace.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let half = 32 * 1024;
        ChildSpec {
            program: program.into(),
            args: Vec::new(),
            env: Arc::default(),
            stdin: Vec::new(),
            stdin_timeout: Duration::from_secs(10),
            stdout: Output::Capture {
                head: half,
                tail: half,
            },
            stderr: Output::Capture {
                head: half,
                tail: half,
            },
            timeout: None,
            patience: None,
            mark: None,
            grace: Duration::from_secs(2),
        }
    }
}

/// Where an output stream goes. The child is never blocked by us, whatever it writes.
#[derive(Debug)]
pub enum Output {
    /// Kept: the first `head` bytes and the last `tail` bytes of the rest.
    Capture {
        /// Bytes kept from the beginning.
        head: usize,
        /// Bytes kept from the end.
        tail: usize,
    },
    /// Told in pieces by [`Event::Output`](crate::Event::Output), and not kept.
    Live,
    /// `/dev/null`.
    Null,
}

/// How a child ended, and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildResult {
    /// How it ended.
    pub exit: ChildExit,
    /// Why it was ended, when [`ChildSpec::patience`] was given and it was.
    pub ended_by: Option<EndedBy>,
    /// Its standard output, as far as captured.
    pub stdout: Captured,
    /// Its standard error, as far as captured.
    pub stderr: Captured,
    /// Bytes of standard input it did not take.
    pub stdin_unwritten: usize,
    /// That was because it took too long, not because it closed the pipe or ended.
    pub stdin_timed_out: bool,
    /// Another process still held one of its outputs open when the grace was over.
    pub output_open: bool,
}

/// Why a child was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// Its time was over.
    Timeout,
    /// [`Reactor::end_child`](crate::Reactor::end_child).
    Request,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildExit {
    /// By itself, with this status (0–255).
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Killed by us when its time was over, without patience.
    TimedOut,
}

/// A child could not be started.
#[derive(Debug)]
pub enum SpawnError {
    /// A pipe could not be made; the text names it (`stdin`, `stdout`, `stderr`).
    Pipe(&'static str, io::Error),
    /// The process could not be made (EAGAIN, ENOMEM …).
    Fork(io::Error),
    /// The program could not be executed: missing (ENOENT), not executable (EACCES), a bad
    /// interpreter …
    Exec(io::Error),
}

impl SpawnError {
    /// The error of the operating system.
    pub fn io(&self) -> &io::Error {
        match self {
            SpawnError::Pipe(_, error) | SpawnError::Fork(error) | SpawnError::Exec(error) => error,
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::Pipe(stream, error) => write!(f, "pipe({stream}): {error}"),
            SpawnError::Fork(error) => write!(f, "fork failed: {error}"),
            SpawnError::Exec(error) => write!(f, "cannot execute: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {}
