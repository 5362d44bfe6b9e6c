//! Processes that never outlive their owner.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// A running program whose output is gathered beside it; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts `command` with standard output and standard error gathered into one text.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(gather(stdout, Arc::clone(&output)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(gather(stderr, Arc::clone(&output)));
        }
        Ok(Self {
            child,
            output,
            readers,
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        let bytes = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `wanted` finds something in the output.
    ///
    /// # Errors
    /// When the program ends, or `limit` passes, before that; the error holds the output.
    pub fn wait_for<T>(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait()?;
            if ended.is_some() {
                self.join_readers();
            }
            let output = self.output();
            if let Some(found) = wanted(&output) {
                return Ok(found);
            }
            if let Some(status) = ended {
                return Err(io::Error::other(format!(
                    "ended early ({status}): {output}"
                )));
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!(
                    "not seen within {limit:?} in: {output}"
                )));
            }
            std::thread::sleep(STEP);
        }
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// When `limit` passes before that.
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.join_readers();
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!(
                    "still running: {}",
                    self.output()
                )));
            }
            std::thread::sleep(STEP);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.map_or(Ok(()), |pid| {
            kill_process(pid, signal).map_err(io::Error::from)
        })
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader cannot panic; were it to, its part of the output is lost and no more.
            let _ = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal(Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(6);
            // Its output is not waited for: what it has started may hold that open.
            while matches!(self.child.try_wait(), Ok(None)) {
                if Instant::now() >= deadline {
                    let _ = self.child.kill();
                    break;
                }
                std::thread::sleep(STEP);
            }
        }
        let _ = self.child.wait();
    }
}

/// Polls `condition` until it holds.
///
/// # Errors
/// When `limit` passes before that; the error names `what`.
pub fn wait_until(what: &str, limit: Duration, condition: impl Fn() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("{what}: not within {limit:?}")));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn gather(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&buffer[..n]);
        }
    })
}

/// Ends every process that this one started and still has; for a sudden end of the program.
pub fn end_children() {
    let me = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The parent's id is the second field after the parenthesised name (proc(5)).
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(me.as_str()) {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}
