//! The store of async runs, in the reference's files (agent.md §5.3, §5.4).
//!
//! `<runs_dir>/<dispatcher>/<reqid>.json` holds one record. `<runs_dir>/.locks/<script>.lock` is
//! held with `flock` by the process that supervises the script's run, and names that run, so that
//! a record that says `running` can be told from one whose supervisor is gone.

use super::outcome::Outcome;
use super::run::RunId;
use super::{lock, retention};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::json::{Bounds, Raw};
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{Output, ResultReply, RunHead, RunReply, RunningScript};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Age at which a record is deleted (agent.md §5.4).
pub const RETENTION: Duration = Duration::from_secs(86_400);

/// Size of a record for whose result there was no room, and of one without a result.
const RESERVED: usize = 4096;
/// Bytes of JSON kept of each stream then.
const TAIL: usize = 1024;

/// `stderr` of a run whose supervisor vanished.
pub const LOST: &str = "ctrl-exec-agent: the run was lost: its supervising process ended without \
                        a result (the host went down, or the process was killed)\n";

/// A record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The JSON text, verbatim.
    pub json: String,
    /// Its `status`.
    pub status: String,
    /// Its `owner`.
    pub owner: String,
    script: String,
    started: String,
}

/// Bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most records.
    pub records: u32,
    /// Most bytes of all records.
    pub bytes: u64,
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Store {
        Store { dir: dir.into() }
    }

    /// Writes the record of a run that is about to start, and sets aside what its result needs at
    /// the least: the record has the size of a small result, and a second file of that size gives
    /// way to it.
    ///
    /// # Errors
    /// The directory cannot be made or written, or is full.
    pub fn write_running(&self, id: &RunId, started: &str) -> io::Result<()> {
        let mut text = ResultReply::Running(head(id, started)).render();
        pad(&mut text);
        self.write(id, &text)?;
        let mut filling = Vec::new();
        // Random, so that a file system that compresses sets aside as much.
        File::open("/dev/urandom")?
            .take(RESERVED as u64)
            .read_to_end(&mut filling)?;
        let room = self.room(id);
        durable::write(&room, &filling, &Perm::mode(0o600)).inspect_err(|_| {
            let _ = fs::remove_file(self.path(&id.owner, &id.reqid));
        })
    }

    /// Replaces the record of a run by its result: whole, or where that does not fit, by its exit
    /// code and the ends of its output.
    ///
    /// # Errors
    /// Not even that could be written.
    pub fn write_done(
        &self,
        id: &RunId,
        started: &str,
        finished: Utc,
        outcome: &Outcome,
    ) -> io::Result<()> {
        let room = self.room(id);
        let text = done(id, started, finished, outcome);
        let whole = match self.write(id, &text) {
            Ok(()) => {
                let _ = fs::remove_file(room);
                return Ok(());
            }
            Err(error) => error,
        };
        let mut small = done(id, started, finished, &shortened(outcome, &whole));
        pad(&mut small);
        let _ = fs::remove_file(room);
        if self.write(id, &small).is_ok() {
            return Ok(());
        }
        // The last resort: over the record itself, which takes no more room.
        self.overwrite(id, &small).map_err(|_| whole)
    }

    fn overwrite(&self, id: &RunId, text: &str) -> io::Result<()> {
        let path = self.path(&id.owner, &id.reqid);
        let mut file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() != text.len() as u64 {
            return Err(ErrorKind::InvalidInput.into());
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn room(&self, id: &RunId) -> PathBuf {
        self.dir.join(&id.owner).join(format!("{}.room", id.reqid))
    }

    /// Reads the record of `reqid` in the namespace of `owner`. `None` when there is none or it
    /// cannot be understood.
    ///
    /// # Errors
    /// `ErrorKind::OutOfMemory` when it is larger than `max_bytes`.
    pub fn read(&self, owner: &str, reqid: &str, max_bytes: u64) -> io::Result<Option<Stored>> {
        let bounded = Bounded::new(max_bytes).no_follow();
        let mut json = match bounded.text(&self.path(owner, reqid)) {
            Ok(json) => json,
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                return Err(ErrorKind::OutOfMemory.into());
            }
            Err(_) => return Ok(None),
        };
        json.truncate(json.trim_end().len());
        let Some(members) = strings(&json, ["status", "owner", "script", "started"]) else {
            return Ok(None);
        };
        let [status, owner, script, started] = members;
        Ok(Some(Stored {
            status,
            owner,
            script,
            started,
            json,
        }))
    }

    /// As [`Store::read`], but a run recorded as `running` whose supervisor is gone is first
    /// recorded as lost.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn settle(&self, owner: &str, reqid: &str, max_bytes: u64) -> io::Result<Option<Stored>> {
        let Some(stored) = self.read(owner, reqid, max_bytes)? else {
            return Ok(None);
        };
        if stored.status != "running" || self.is_supervised(&stored.script, owner, reqid) {
            return Ok(Some(stored));
        }
        // The run may have ended between reading the record and trying the lock.
        let Some(stored) = self.read(owner, reqid, max_bytes)? else {
            return Ok(None);
        };
        if stored.status != "running" {
            return Ok(Some(stored));
        }
        let id = RunId {
            reqid: reqid.to_owned(),
            owner: stored.owner.clone(),
            script: stored.script.clone(),
        };
        let outcome = Outcome {
            exit: -1,
            stderr: LOST.into(),
            ..Outcome::default()
        };
        if stored.owner == owner
            && self
                .write_done(&id, &stored.started, Utc::now(), &outcome)
                .is_ok()
        {
            return self.read(owner, reqid, max_bytes);
        }
        Ok(Some(stored))
    }

    /// Deletes what is older than [`RETENTION`], and then the oldest finished records until one
    /// more fits within `limits`; never the record of a run in progress. False when it cannot fit
    /// because every record is of one.
    pub fn make_room(&self, limits: Limits, now: SystemTime) -> bool {
        let all = || {
            let dirs = self.namespaces().into_iter();
            dirs.flat_map(|dir| records(&dir))
        };
        let note = self.locks().join("clock");
        retention::follow_clock(&note, all().map(|(path, ..)| path), now);
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        for (path, modified, size) in all() {
            let old = now
                .duration_since(modified)
                .is_ok_and(|age| age > RETENTION);
            if old && !self.is_in_progress(&path) {
                let _ = fs::remove_file(path.with_extension("room"));
                let _ = fs::remove_file(&path);
            } else {
                bytes += size;
                entries.push((modified, size, path));
            }
        }
        let full =
            |count: usize, bytes: u64| count >= limits.records as usize || bytes >= limits.bytes;
        let mut count = entries.len();
        // Usually nothing or one record goes, so the oldest is looked for rather than sorted out.
        while full(count, bytes) && !entries.is_empty() {
            let oldest = entries
                .iter()
                .enumerate()
                .min_by_key(|(_, (modified, ..))| *modified);
            let (_, size, path) = entries.swap_remove(oldest.map_or(0, |(at, _)| at));
            if !self.is_in_progress(&path) && fs::remove_file(&path).is_ok() {
                count -= 1;
                bytes -= size;
            }
        }
        !full(count, bytes)
    }

    /// Takes the lock of the script of `id`. `None` when a run of it is in progress.
    ///
    /// # Errors
    /// The lock file cannot be made or written.
    pub fn lock(&self, id: &RunId) -> io::Result<Option<File>> {
        make_dir(&self.locks())?;
        lock::take(&self.lock_path(&id.script), id)
    }

    /// The runs of one dispatcher that are supervised.
    pub fn supervised(&self, dispatcher: &str) -> Vec<RunningScript> {
        lock::held_by(&self.locks(), dispatcher)
    }

    /// Sends a signal to the process that supervises a run. False when there is none.
    pub fn signal_supervisor(&self, id: &RunId, signal: Signal) -> bool {
        lock::signal(&self.lock_path(&id.script), id, signal)
    }

    /// The file of a record.
    pub fn path(&self, owner: &str, reqid: &str) -> PathBuf {
        self.dir.join(owner).join(format!("{reqid}.json"))
    }

    fn locks(&self) -> PathBuf {
        self.dir.join(".locks")
    }

    fn lock_path(&self, script: &str) -> PathBuf {
        lock::path(&self.locks(), script)
    }

    /// Whether the process that runs `reqid` is alive. Never waits.
    fn is_supervised(&self, script: &str, owner: &str, reqid: &str) -> bool {
        lock::is_held_for(&self.lock_path(script), owner, reqid)
    }

    /// Whether a record is of a run whose supervisor is alive. Only its size is looked at first,
    /// since such records are small.
    fn is_in_progress(&self, path: &Path) -> bool {
        let Ok(text) = Bounded::new(RESERVED as u64).no_follow().text(path) else {
            return false;
        };
        let members = strings(&text, ["status", "owner", "script", "reqid"]);
        members.is_some_and(|[status, owner, script, reqid]| {
            status == "running" && self.is_supervised(&script, &owner, &reqid)
        })
    }

    fn write(&self, id: &RunId, json: &str) -> io::Result<()> {
        let path = self.path(&id.owner, &id.reqid);
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        durable::write(
            &path,
            json.as_bytes(),
            &Perm {
                mode: 0o640,
                owner: None,
            },
        )
    }

    /// The store itself (old flat records) and each dispatcher's directory.
    fn namespaces(&self) -> Vec<PathBuf> {
        let mut dirs = vec![self.dir.clone()];
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name() != ".locks" && entry.file_type().is_ok_and(|t| t.is_dir()) {
                dirs.push(entry.path());
            }
        }
        dirs
    }
}

/// Members of a record that have to be strings; those of another kind, or absent, are empty.
/// `None` when the record is no JSON object.
fn strings(record: &str, names: [&str; 4]) -> Option<[String; 4]> {
    let record = Raw::parse(record.as_bytes(), &Bounds::ANSWER).ok()?;
    let members = record.is_object().then(|| record.select(names))?;
    Some(members.map(|member| member.and_then(Raw::string).unwrap_or_default()))
}

fn head(id: &RunId, started: &str) -> RunHead {
    RunHead {
        reqid: id.reqid.clone(),
        script: id.script.clone(),
        owner: id.owner.clone(),
        started: started.to_owned(),
    }
}

fn done(id: &RunId, started: &str, finished: Utc, outcome: &Outcome) -> String {
    let reply = ResultReply::Done {
        head: head(id, started),
        finished: finished.iso(),
        reply: RunReply {
            script: id.script.clone(),
            exit: outcome.exit,
            stdout: Output {
                text: outcome.stdout.clone(),
                dropped: outcome.dropped.0,
                gap_at: outcome.gaps.0,
            },
            stderr: Output {
                text: outcome.stderr.clone(),
                dropped: outcome.dropped.1,
                gap_at: outcome.gaps.1,
            },
            ending: outcome.ending,
            reqid: id.reqid.clone(),
        },
    };
    reply.render()
}

/// What is kept of a result for which there is no room: exit code and the ends of its output.
fn shortened(outcome: &Outcome, why: &io::Error) -> Outcome {
    let (stdout, out) = end_of(&outcome.stdout, TAIL);
    let (stderr, err) = end_of(&outcome.stderr, TAIL);
    let note = format!("\nctrl-exec-agent: only the end of the output was stored: {why}\n");
    Outcome {
        exit: outcome.exit,
        stdout: stdout.to_owned(),
        stderr: format!("{stderr}{}", end_of(&note, TAIL).0),
        dropped: (outcome.dropped.0 + out, outcome.dropped.1 + err),
        gaps: (
            if out > 0 { 0 } else { outcome.gaps.0 },
            if err > 0 { 0 } else { outcome.gaps.1 },
        ),
        ending: outcome.ending,
    }
}

/// The longest end of `text` that takes at most `most` bytes in JSON, and the bytes before it.
fn end_of(text: &str, most: usize) -> (&str, u64) {
    // A control character takes six, and so may each byte of what is not ASCII.
    let mut room = most;
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        let size = if c.is_ascii_graphic() && !matches!(c, '"' | '\\') || c == ' ' {
            1
        } else if c.is_ascii() {
            6
        } else {
            12
        };
        if size > room {
            break;
        }
        room -= size;
        start = at;
    }
    (&text[start..], start as u64)
}

/// Brings a record to the size that was set aside for it.
fn pad(text: &mut String) {
    let missing = RESERVED.saturating_sub(text.len());
    text.extend(std::iter::repeat_n(' ', missing));
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)
}

fn records(dir: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_record = name
            .to_str()
            .and_then(|name| name.strip_suffix(".json"))
            .is_some_and(ctrl_exec_protocol::names::is_reqid);
        if let (true, Ok(meta)) = (is_record, entry.metadata()) {
            if let (true, Ok(modified)) = (meta.is_file(), meta.modified()) {
                found.push((entry.path(), modified, meta.len()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir =
                std::env::temp_dir().join(format!("ctrl-exec-store-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn id(reqid: &str) -> RunId {
        RunId {
            reqid: reqid.into(),
            owner: "disp".into(),
            script: "slow".into(),
        }
    }

    const MAX: u64 = 1 << 20;

    #[test]
    fn a_run_is_recorded_from_start_to_end() {
        let dir = Dir::new("life");
        let store = Store::new(&dir.0);
        let lock = store.lock(&id("r1")).expect("lock").expect("free");
        store
            .write_running(&id("r1"), "1970-01-01T00:00:00Z")
            .expect("write");
        assert!(
            store.lock(&id("r2")).expect("lock").is_none(),
            "one run of a script at a time"
        );
        let running = store
            .settle("disp", "r1", MAX)
            .expect("read")
            .expect("there");
        assert_eq!(
            running.json,
            "{\"reqid\":\"r1\",\"status\":\"running\",\"script\":\"slow\",\"owner\":\"disp\",\
             \"started\":\"1970-01-01T00:00:00Z\"}"
        );
        let outcome = Outcome {
            exit: 3,
            stdout: "é\n".into(),
            dropped: (7, 0),
            ..Outcome::default()
        };
        store
            .write_done(&id("r1"), &running.started, Utc(5), &outcome)
            .expect("write");
        drop(lock);
        let done = store
            .settle("disp", "r1", MAX)
            .expect("read")
            .expect("there");
        assert_eq!(
            (done.status.as_str(), done.owner.as_str()),
            ("done", "disp")
        );
        assert!(done.json.contains("\"stdout_truncated\":7") && !done.json.contains("stderr_tr"));
        assert_eq!(store.read("other", "r1", MAX).expect("read"), None);
        assert!(store.read("disp", "r1", 10).is_err());
        assert!(store.lock(&id("r2")).expect("lock").is_some());
    }

    #[test]
    fn a_run_without_a_supervisor_is_lost_even_when_another_one_runs() {
        let dir = Dir::new("lost");
        let store = Store::new(&dir.0);
        drop(store.lock(&id("r1")).expect("lock"));
        store
            .write_running(&id("r1"), "1970-01-01T00:00:00Z")
            .expect("write");
        let _other = store.lock(&id("r2")).expect("lock").expect("free");
        store
            .write_running(&id("r2"), "1970-01-01T00:00:00Z")
            .expect("write");
        let lost = store
            .settle("disp", "r1", MAX)
            .expect("read")
            .expect("there");
        assert_eq!(lost.status, "done");
        assert!(lost.json.contains("\"exit\":-1") && lost.json.contains("the run was lost"));
        let alive = store
            .settle("disp", "r2", MAX)
            .expect("read")
            .expect("there");
        assert_eq!(alive.status, "running");
    }

    #[test]
    fn the_references_records_and_locks_are_understood() {
        let dir = Dir::new("perl");
        let store = Store::new(&dir.0);
        fs::create_dir_all(dir.0.join("perl-disp")).expect("dir");
        fs::create_dir_all(dir.0.join(".locks")).expect("dir");
        let record = "{\"status\":\"running\",\"script\":\"slow\",\"owner\":\"perl-disp\",\
                      \"started\":\"2026-11-22T13:31:02Z\",\"reqid\":\"aa\"}";
        fs::write(store.path("perl-disp", "aa"), record).expect("write");
        // The reference leaves it empty.
        let lock = File::create(store.lock_path("slow")).expect("open");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
        let stored = store
            .settle("perl-disp", "aa", MAX)
            .expect("read")
            .expect("there");
        assert_eq!(
            (stored.json.as_str(), stored.status.as_str()),
            (record, "running")
        );
        fs::write(store.path("perl-disp", "bb"), "{\"status\":").expect("write");
        assert_eq!(store.read("perl-disp", "bb", MAX).expect("read"), None);
    }

    #[test]
    fn old_records_go_and_running_ones_stay() {
        let dir = Dir::new("room");
        let store = Store::new(&dir.0);
        for n in 0..5 {
            store
                .write_done(&id(&format!("d{n}")), "", Utc(0), &Outcome::default())
                .expect("write");
        }
        let lock = store.lock(&id("busy")).expect("lock").expect("free");
        store
            .write_running(&id("busy"), "1970-01-01T00:00:00Z")
            .expect("write");
        let now = SystemTime::now();
        let limits = Limits {
            records: 3,
            bytes: 1 << 20,
        };
        assert!(store.make_room(limits, now));
        let sizes = || -> Vec<u64> {
            let dirs = store.namespaces();
            let all = dirs.iter().flat_map(|dir| records(dir));
            all.map(|(_, _, size)| size).collect()
        };
        assert_eq!(sizes().len(), 2, "one below the limit");
        assert!(store.read("disp", "busy", MAX).expect("read").is_some());
        let bytes = |bytes| Limits {
            records: 100,
            bytes,
        };
        let all: u64 = sizes().iter().sum();
        assert!(store.make_room(bytes(all + 1), now));
        assert_eq!(sizes().len(), 2, "they fit");
        assert!(store.make_room(bytes(all), now));
        assert_eq!(sizes().len(), 1, "the finished one went");
        assert!(store.read("disp", "busy", MAX).expect("read").is_some());
        assert!(!store.make_room(bytes(1), now), "only a running one");
        assert!(
            !store.make_room(
                Limits {
                    records: 1,
                    bytes: 1 << 20
                },
                now
            ),
            "only a running one"
        );
        // However old it looks, a run in progress keeps its record; without a supervisor it goes.
        let path = store.path("disp", "busy");
        let age = |path: &Path| {
            let old = now - RETENTION - Duration::from_secs(60);
            File::open(path)
                .and_then(|file| file.set_modified(old))
                .expect("age");
        };
        age(&path);
        assert!(store.make_room(limits, now));
        assert!(store.read("disp", "busy", MAX).expect("read").is_some());
        drop(lock);
        assert!(store.make_room(limits, now));
        assert!(store.read("disp", "busy", MAX).expect("read").is_none());
        assert!(!store.room(&id("busy")).exists());
    }

    #[test]
    fn a_clock_that_is_set_forward_makes_nothing_old() {
        const YEARS: Duration = Duration::from_secs(56 * 365 * 86_400);
        let dir = Dir::new("clock");
        let store = Store::new(&dir.0);
        make_dir(&store.locks()).expect("dir");
        let now = SystemTime::now();
        let then = now - YEARS;
        let limits = Limits {
            records: 100,
            bytes: 1 << 20,
        };
        let write = |reqid: &str, time: SystemTime| {
            store
                .write_done(&id(reqid), "", Utc(0), &Outcome::default())
                .expect("write");
            let file = File::open(store.path("disp", reqid)).expect("open");
            file.set_modified(time).expect("age");
        };
        let there = |reqid: &str| store.read("disp", reqid, MAX).expect("read").is_some();
        // Booted in 1970: one run just now, one twenty hours ago, one from before.
        assert!(store.make_room(limits, then));
        write("fresh", then);
        write("older", then - Duration::from_secs(20 * 3600));
        write("ended", then - RETENTION - Duration::from_secs(10));
        // The time is told. One was written after that, before anybody looked.
        write("after", now);
        assert!(store.make_room(limits, now));
        let found = ["fresh", "older", "after", "ended"].map(there);
        assert_eq!(found, [true, true, true, false]);
        let modified = |reqid: &str| {
            let meta = fs::metadata(store.path("disp", reqid)).expect("meta");
            meta.modified().expect("time")
        };
        assert!(modified("after") <= now);
        // They age from there on. Only what lies behind the records moves here, not the clock.
        let file = File::open(store.path("disp", "older")).expect("open");
        file.set_modified(modified("older") - Duration::from_secs(5 * 3600))
            .expect("age");
        assert!(store.make_room(limits, now));
        assert!(there("fresh") && !there("older"));
        // Back to 1970: nothing is in the future for ever.
        assert!(store.make_room(limits, then));
        assert!(store.make_room(limits, now));
        assert!(there("fresh") && modified("fresh") <= now);
    }

    #[test]
    fn eviction_by_bytes_takes_only_the_oldest() {
        let dir = Dir::new("evict");
        let store = Store::new(&dir.0);
        let now = SystemTime::now();
        let mut total = 0;
        for n in 0..4u64 {
            let outcome = Outcome {
                stdout: "x".repeat(1000),
                ..Outcome::default()
            };
            let id = id(&format!("r{n}"));
            store.write_done(&id, "", Utc(0), &outcome).expect("write");
            let path = store.path("disp", &id.reqid);
            let time = now - Duration::from_secs(100 - n);
            File::open(&path)
                .and_then(|file| file.set_modified(time))
                .expect("age");
            total += fs::metadata(&path).expect("meta").len();
        }
        let limits = Limits {
            records: 100,
            bytes: total - 10,
        };
        assert!(store.make_room(limits, now));
        let there = |n: u64| store.path("disp", &format!("r{n}")).exists();
        assert!(!there(0) && there(1) && there(2) && there(3));
    }

    #[test]
    fn a_small_result_always_fits_what_was_set_aside() {
        for c in ['x', '\u{1}', '"', '\\', 'é', '\u{fffd}', '🎉', '\n'] {
            let outcome = Outcome {
                exit: 255,
                stdout: c.to_string().repeat(100_000),
                stderr: c.to_string().repeat(100_000),
                dropped: (u64::MAX / 2, u64::MAX / 2),
                ..Outcome::default()
            };
            let long = RunId {
                reqid: "r".repeat(128),
                owner: "o".repeat(64),
                script: "s".repeat(128),
            };
            let error = io::Error::other("\u{1}".repeat(1000));
            let small = shortened(&outcome, &error);
            let mut text = done(&long, "1970-01-01T00:00:00Z", Utc(0), &small);
            assert!(text.len() <= RESERVED, "{c:?}: {}", text.len());
            pad(&mut text);
            assert_eq!(text.len(), RESERVED);
        }
    }

    #[test]
    fn lock_names_cannot_leave_the_directory() {
        let store = Store::new("/x");
        assert_eq!(
            store.lock_path("../a/b"),
            Path::new("/x/.locks/.._a_b.lock")
        );
    }
}
