//! What came of a reload, for whoever asked for it: `ctrl-exec-agent reload`, and so `systemctl reload`.
//!
//! The server holds a lock on a file of its state directory and writes into it, after its start and
//! after each reload, its process id, how many reloads there were, and the fault of the last one.

use crate::config::paths::Paths;
use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_host::stderr;
use ctrl_exec_protocol::text::Untrusted;
use rustix::fs::{Uid, fstat};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a reload may take.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);
/// Most bytes of the file that are read.
const MAX: u64 = 4096;

fn place(paths: &Paths) -> PathBuf {
    paths.var().join("serving")
}

/// The server's side. Without a file that can be written there is nothing to be told, and the server
/// goes on.
pub struct Verdict(Option<Lock>, u32);

impl Verdict {
    /// Takes the file for this process.
    pub fn new(paths: &Paths) -> Verdict {
        let file = lock::open(&place(paths), 0o644);
        let lock =
            file.and_then(|file| lock::within(file, Kind::Exclusive, Duration::from_secs(2)));
        let mut verdict = Verdict(lock.ok().flatten(), 0);
        verdict.write("");
        verdict
    }

    /// Tells how a reload ended: nothing, or its fault.
    pub fn tell(&mut self, fault: &str) {
        self.1 = self.1.wrapping_add(1);
        self.write(fault);
    }

    fn write(&mut self, fault: &str) {
        let Some(lock) = &self.0 else { return };
        let fault = Untrusted::new(fault).at_most(2000);
        let line = format!("{} {} {fault}\n", std::process::id(), self.1);
        let mut file = lock.file();
        // A reader that meets half of it has no end of line and looks again.
        let _ = file.set_len(0);
        let _ = file.seek(SeekFrom::Start(0));
        let _ = file.write_all(line.as_bytes());
    }
}

/// Asks the server to read its files again and waits for what comes of it. The result is the exit
/// code.
pub fn reload(paths: &Paths) -> u8 {
    match ask(paths) {
        Ok(()) => 0,
        Err(fault) => {
            stderr::write(format!("ctrl-exec-agent: {fault}\n").as_bytes());
            1
        }
    }
}

fn ask(paths: &Paths) -> Result<(), String> {
    let none = "no agent serves here";
    let file = lock::open_existing(&place(paths)).map_err(|_| none)?;
    if is_free(&file)? {
        return Err(none.to_owned());
    }
    if rustix::process::geteuid().is_root() {
        // The file is the agent's user's: what it says must reach no process of others.
        let owner = fstat(&file).map_err(|error| error.to_string())?.st_uid;
        let owner = Uid::from_raw(owner);
        rustix::thread::set_thread_uid(owner).map_err(|error| error.to_string())?;
    }
    let deadline = Instant::now() + PATIENCE;
    let before = read(&file, deadline)?;
    let pid = Pid::from_raw(before.pid).ok_or(none)?;
    kill_process(pid, Signal::HUP).map_err(|error| format!("process {}: {error}", before.pid))?;
    loop {
        let now = read(&file, deadline)?;
        if now.count != before.count {
            return match now.fault.as_str() {
                "" => Ok(()),
                fault => Err(format!(
                    "reload failed, the old configuration stays: {}",
                    Untrusted::new(fault)
                )),
            };
        }
        if is_free(&file)? {
            return Err("the agent ended".to_owned());
        }
        if Instant::now() >= deadline {
            return Err(format!("no verdict within {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(STEP);
    }
}

/// What the file says.
struct Told {
    pid: i32,
    count: u32,
    fault: String,
}

fn read(file: &File, deadline: Instant) -> Result<Told, String> {
    loop {
        let mut text = String::new();
        let mut from = file;
        let whole = from
            .seek(SeekFrom::Start(0))
            .and_then(|_| from.take(MAX).read_to_string(&mut text));
        let line = text.strip_suffix('\n').filter(|_| whole.is_ok());
        let mut words = line.unwrap_or_default().splitn(3, ' ');
        let pid = words.next().and_then(|word| word.parse().ok());
        let count = words.next().and_then(|word| word.parse().ok());
        if let (Some(pid), Some(count), Some(fault)) = (pid, count, words.next()) {
            let fault = fault.to_owned();
            return Ok(Told { pid, count, fault });
        }
        if Instant::now() >= deadline {
            return Err("the agent's state cannot be read".to_owned());
        }
        std::thread::sleep(STEP);
    }
}

/// Whether no server holds the file.
fn is_free(file: &File) -> Result<bool, String> {
    let file = file.try_clone().map_err(|error| error.to_string())?;
    let free = lock::attempt(file, Kind::Shared).map_err(|error| error.to_string())?;
    // A lock that was got goes with every copy of the descriptor; nobody is waited for any more.
    Ok(free.is_some())
}
