//! `pairing-mode start` and `stop`: the listener in the background, behind a pid file.
//!
//! There is no fork: `start` runs the program again and waits until the child says over a pipe that
//! the port is bound (the reference reports success before it knows: DEVIATE).

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ctrl_exec_host::durable::{self, Perm};
use rustix::process::{Pid, Signal};

/// Where the pid file is, below the root.
pub const PID_FILE: &str = "/var/lib/ctrl-exec/pairing-mode.pid";

/// Tells the child that it is one.
const VARIABLE: &str = "CTRL_EXEC_PAIRING_CHILD";
/// How long a start or stop may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a start came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Process id of the listener.
    pub pid: u32,
    /// The port it is bound to.
    pub port: u16,
}

/// What a stop came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// There was no pid file.
    NotRunning,
    /// The pid file was stale and is gone.
    Stale,
    /// The listener ended.
    Stopped(u32),
}

/// Why it did not work.
#[derive(Debug)]
pub enum BackgroundError {
    /// It runs already, as this process.
    Running(u32),
    /// The child said why it cannot.
    Child(String),
    /// It did not stop in time.
    WillNotStop(u32),
    /// The operating system said no.
    Io(PathBuf, io::Error),
}

impl fmt::Display for BackgroundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(pid) => write!(f, "pairing mode runs already (pid {pid})"),
            Self::Child(why) => f.write_str(why),
            Self::WillNotStop(pid) => write!(f, "pairing mode (pid {pid}) does not stop"),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for BackgroundError {}

/// Starts `command` (this program, in pairing mode) in the background. Its standard streams are
/// set here.
///
/// # Errors
/// It runs already, or the child could not bind; then nothing is left behind.
pub fn start(mut command: Command, pid_file: &Path) -> Result<Started, BackgroundError> {
    if let Some(pid) = running(pid_file) {
        return Err(BackgroundError::Running(pid));
    }
    let mut child = command
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| BackgroundError::Io(PathBuf::from(command.get_program()), error))?;
    let pid = child.id();
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(io::Read::take(stdout, 4096)).read_line(&mut line);
            let _ = sender.send(line);
        });
    }
    let line = receiver.recv_timeout(PATIENCE).unwrap_or_default();
    match line.trim().split_once(' ') {
        Some(("ready", port)) => Ok(Started {
            pid,
            port: port.parse().unwrap_or_default(),
        }),
        Some(("error", why)) => {
            let _ = child.wait();
            Err(BackgroundError::Child(why.to_owned()))
        }
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            Err(BackgroundError::Child(
                "pairing mode did not start".to_owned(),
            ))
        }
    }
}

/// Ends the listener of the pid file and waits for it.
///
/// # Errors
/// It may not be signalled, or does not end within ten seconds.
pub fn stop(pid_file: &Path) -> Result<Stopped, BackgroundError> {
    let failed = |error: io::Error| BackgroundError::Io(pid_file.to_owned(), error);
    if !pid_file.exists() {
        return Ok(Stopped::NotRunning);
    }
    let Some(number) = running(pid_file) else {
        durable::remove(pid_file).map_err(failed)?;
        return Ok(Stopped::Stale);
    };
    let pid = pid_of(number).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    rustix::process::kill_process(pid, Signal::TERM).map_err(|errno| failed(errno.into()))?;
    let deadline = Instant::now() + PATIENCE;
    while running(pid_file).is_some() {
        if Instant::now() > deadline {
            return Err(BackgroundError::WillNotStop(number));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = durable::remove(pid_file);
    Ok(Stopped::Stopped(number))
}

/// The child's end of a start.
#[derive(Debug)]
pub struct Child {
    pid_file: PathBuf,
    written: bool,
}

impl Child {
    /// `Some` when this process was made by [`start`].
    pub fn recognise(pid_file: &Path) -> Option<Self> {
        std::env::var_os(VARIABLE)?;
        Some(Self {
            pid_file: pid_file.to_owned(),
            written: false,
        })
    }

    /// The port is bound: leave the terminal, write the pid file, tell the parent.
    ///
    /// # Errors
    /// The pid file cannot be written, or the session not left.
    pub fn ready(&mut self, port: u16) -> Result<(), BackgroundError> {
        let failed = |error: io::Error| BackgroundError::Io(self.pid_file.clone(), error);
        // Fails only for a group leader, which a started child is not; then nothing is lost.
        let _ = rustix::process::setsid();
        let _ = std::env::set_current_dir("/");
        if let Some(dir) = self.pid_file.parent() {
            crate::store::files::dirs::ensure(dir).map_err(failed)?;
        }
        let pid = format!("{}\n", std::process::id());
        durable::write(&self.pid_file, pid.as_bytes(), &Perm::mode(0o644)).map_err(failed)?;
        self.written = true;
        tell(&format!("ready {port}"));
        // The parent reads until the pipe closes: nothing of the terminal stays open.
        let null = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null");
        if let Ok(null) = null {
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
        Ok(())
    }

    /// It cannot be: tell the parent why.
    pub fn failed(&self, why: &dyn fmt::Display) {
        tell(&format!("error {why}").replace('\n', " "));
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.written {
            let _ = durable::remove(&self.pid_file);
        }
    }
}

fn tell(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The process of the pid file, if it lives and is one of ours.
fn running(pid_file: &Path) -> Option<u32> {
    let number: u32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let pid = pid_of(number)?;
    match rustix::process::test_kill_process(pid) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(_) => return None,
    }
    // The number may belong to another program by now. Without /proc, believe the file.
    match fs::read(format!("/proc/{number}/cmdline")) {
        Ok(words) => {
            let words = String::from_utf8_lossy(&words);
            (words.contains("pairing-mode")).then_some(number)
        }
        Err(_) => Some(number),
    }
}

fn pid_of(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}
