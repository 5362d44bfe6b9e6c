//! The store of async runs, in the reference's files (agent.md §5.3, §5.4).
//!
//! `<runs_dir>/<dispatcher>/<reqid>.json` holds one record. `<runs_dir>/.locks/<script>.lock` is
//! held with `flock` by the process that supervises the script's run, and names that run, so that
//! a record that says `running` can be told from one whose supervisor is gone.

use super::outcome::Outcome;
use super::run::RunId;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::json::{self, Bounds};
use ctrl_exec_protocol::time::Utc;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Age at which a record is deleted (agent.md §5.4).
pub const RETENTION: Duration = Duration::from_secs(86_400);

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

    /// Writes the record of a run that is about to start.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn write_running(&self, id: &RunId, started: &str) -> io::Result<()> {
        self.write(id, &head(id, "running", started).finish())
    }

    /// Replaces the record of a run by its result.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn write_done(
        &self,
        id: &RunId,
        started: &str,
        finished: Utc,
        outcome: &Outcome,
    ) -> io::Result<()> {
        let mut object = head(id, "done", started);
        object
            .str("finished", &finished.iso())
            .int("exit", i64::from(outcome.exit));
        if outcome.dropped.0 > 0 {
            object.int("stdout_truncated", signed(outcome.dropped.0));
        }
        if outcome.dropped.1 > 0 {
            object.int("stderr_truncated", signed(outcome.dropped.1));
        }
        let text = object
            .str("stdout", &outcome.stdout)
            .str("stderr", &outcome.stderr)
            .finish();
        self.write(id, &text)
    }

    /// Reads the record of `reqid` in the namespace of `owner`. `None` when there is none or it
    /// cannot be understood.
    ///
    /// # Errors
    /// `ErrorKind::OutOfMemory` when it is larger than `max_bytes`.
    pub fn read(&self, owner: &str, reqid: &str, max_bytes: u64) -> io::Result<Option<Stored>> {
        let Ok(file) = File::open(self.path(owner, reqid)) else {
            return Ok(None);
        };
        let mut json = String::new();
        match file.take(max_bytes + 1).read_to_string(&mut json) {
            Ok(_) if json.len() as u64 > max_bytes => {
                return Err(io::Error::from(ErrorKind::OutOfMemory));
            }
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
        let names = ["status", "owner", "script", "started"];
        let Ok(object) = json::parse_members(json.as_bytes(), &names, &Bounds::ANSWER) else {
            return Ok(None);
        };
        let text = |name| json::str_of(&object, name).unwrap_or_default().to_owned();
        Ok(Some(Stored {
            status: text("status"),
            owner: text("owner"),
            script: text("script"),
            started: text("started"),
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
    /// more fits within `limits`. False when it cannot fit because every record is of a run in
    /// progress.
    pub fn make_room(&self, limits: Limits, now: SystemTime) -> bool {
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        for dir in self.namespaces() {
            for (path, modified, size) in records(&dir) {
                if now
                    .duration_since(modified)
                    .is_ok_and(|age| age > RETENTION)
                {
                    let _ = fs::remove_file(&path);
                } else {
                    bytes += size;
                    entries.push((modified, size, path));
                }
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
            if !is_running(&path) && fs::remove_file(&path).is_ok() {
                count -= 1;
                bytes -= size;
            }
        }
        !full(count, bytes)
    }

    /// Takes the lock of the script of `id`, without waiting beyond a moment (somebody may be just
    /// looking). `None` when a run of it is in progress.
    ///
    /// # Errors
    /// The lock file cannot be made or written.
    pub fn lock(&self, id: &RunId) -> io::Result<Option<File>> {
        let path = self.lock_path(&id.script);
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        let mut file = open_lock(&path)?;
        for attempt in 0.. {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(_) if attempt >= 3 => return Ok(None),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        file.set_len(0)?;
        file.write_all(holder(&id.owner, &id.reqid).as_bytes())?;
        Ok(Some(file))
    }

    /// The file of a record.
    pub fn path(&self, owner: &str, reqid: &str) -> PathBuf {
        self.dir.join(owner).join(format!("{reqid}.json"))
    }

    fn lock_path(&self, script: &str) -> PathBuf {
        let allowed = |c: char| {
            if c.is_ascii_alphanumeric() || "_.-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let name: String = script.chars().map(allowed).collect();
        self.dir.join(".locks").join(format!("{name}.lock"))
    }

    /// Whether the process that runs `reqid` is alive. Never waits.
    fn is_supervised(&self, script: &str, owner: &str, reqid: &str) -> bool {
        let Ok(mut file) = File::open(self.lock_path(script)) else {
            return false;
        };
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return false;
        }
        let mut named = String::new();
        let _ = (&mut file).take(1024).read_to_string(&mut named);
        // The reference leaves its lock files empty: held, by whomever.
        named.is_empty() || named == holder(owner, reqid)
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

fn head(id: &RunId, status: &str, started: &str) -> json::Writer {
    let mut out = json::object();
    out.str("reqid", &id.reqid)
        .str("status", status)
        .str("script", &id.script)
        .str("owner", &id.owner)
        .str("started", started);
    out
}

fn holder(owner: &str, reqid: &str) -> String {
    format!("{owner}/{reqid}\n")
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o640)
        .open(path)
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

/// Whether a record says `running`; only its size is looked at first, since such records are
/// small.
fn is_running(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut text = String::new();
    if file.take(4096).read_to_string(&mut text).is_err() || text.len() == 4096 {
        return false;
    }
    let object = json::parse_members(text.as_bytes(), &["status"], &Bounds::ANSWER);
    object.is_ok_and(|object| json::str_of(&object, "status") == Some("running"))
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
        let lock = open_lock(&store.lock_path("slow")).expect("open");
        flock(&lock, FlockOperation::LockExclusive).expect("lock");
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
        assert!(store.make_room(limits, now + RETENTION + Duration::from_secs(60)));
        assert!(
            store.read("disp", "busy", MAX).expect("read").is_none(),
            "a day later it goes too"
        );
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
