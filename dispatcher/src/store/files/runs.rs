//! Records of runs under their request id (dispatcher.md §12), shared with the reference, the API
//! and other pollers of the same run.

use super::dirs;
use crate::model::RunRecord;
use crate::store::runs::{Retention, RunStoreError, Runs};
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::lock::{self, Kind, Lock};
use ctrl_exec_protocol::names;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where run records live, below the root.
pub const DIR: &str = "/var/lib/ctrl-exec/runs";
/// Largest record read back.
const MAX_FILE: u64 = 256 << 20;

/// A run store directory.
#[derive(Clone, Debug)]
pub struct RunStore {
    dir: PathBuf,
}

impl RunStore {
    /// The store in `dir`; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// All records with the time they were written and their size.
    fn entries(&self) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // Another process may have purged it meanwhile.
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if let Ok(written) = meta.modified() {
                found.push((path, written, meta.len()));
            }
        }
        Ok(found)
    }

    fn purge_inner(&self, now: SystemTime, keep: &Retention) -> io::Result<usize> {
        let mut purged = 0;
        for path in keep.surplus(now, self.entries()?) {
            match fs::remove_file(&path) {
                Ok(()) => purged += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(purged)
    }

    fn path(&self, reqid: &str) -> PathBuf {
        self.dir.join(format!("{reqid}.json"))
    }

    fn ensure(&self) -> Result<(), RunStoreError> {
        dirs::ensure(&self.dir).map_err(|error| RunStoreError::Io(self.dir.clone(), error))
    }

    fn lock(&self) -> Result<Lock, RunStoreError> {
        self.ensure()?;
        let path = self.dir.join(".runs.lock");
        lock_file(&path).map_err(|error| RunStoreError::Io(path, error))
    }
}

impl Runs for RunStore {
    fn load(&self, reqid: &str) -> Result<Option<RunRecord>, RunStoreError> {
        if !names::is_reqid(reqid) {
            return Ok(None);
        }
        let path = self.path(reqid);
        let read = Bounded::new(MAX_FILE).no_follow().optional(&path);
        let Some(bytes) = read.map_err(|error| RunStoreError::Io(path.clone(), error))? else {
            return Ok(None);
        };
        match RunRecord::parse(reqid, &bytes) {
            Ok(record) => Ok(Some(record)),
            Err(fault) => Err(RunStoreError::Damaged { path, fault }),
        }
    }

    fn save(&self, record: &RunRecord) -> Result<(), RunStoreError> {
        if !names::is_reqid(&record.reqid) {
            return Err(RunStoreError::BadId(record.reqid.clone()));
        }
        self.ensure()?;
        let path = self.path(&record.reqid);
        durable::write(&path, record.to_json().as_bytes(), &Perm::mode(0o640))
            .map_err(|error| RunStoreError::Io(path, error))
    }

    fn update(
        &self,
        reqid: &str,
        change: &mut dyn FnMut(&mut RunRecord),
    ) -> Result<Option<RunRecord>, RunStoreError> {
        let _lock = self.lock()?;
        let Some(mut record) = self.load(reqid)? else {
            return Ok(None);
        };
        change(&mut record);
        self.save(&record)?;
        Ok(Some(record))
    }

    fn ids(&self) -> Result<Vec<String>, RunStoreError> {
        let entries = self.entries();
        let mut entries = entries.map_err(|error| RunStoreError::Io(self.dir.clone(), error))?;
        entries.sort_by_key(|(_, written, _)| std::cmp::Reverse(*written));
        let ids = entries
            .iter()
            .filter_map(|(path, ..)| path.file_stem()?.to_str());
        Ok(ids
            .filter(|id| names::is_reqid(id))
            .map(str::to_owned)
            .collect())
    }

    fn purge(&self, now: SystemTime, keep: &Retention) -> Result<usize, RunStoreError> {
        self.purge_inner(now, keep)
            .map_err(|error| RunStoreError::Io(self.dir.clone(), error))
    }
}

/// Takes an exclusive lock on a file made for the purpose, waiting for it.
///
/// # Errors
/// The operating system's.
pub fn lock_file(path: &Path) -> io::Result<Lock> {
    lock::wait(lock::open(path, 0o660)?, Kind::Exclusive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryState, HostEntry, Mode};
    use crate::store::conformance;
    use crate::testing::TempDir;
    use std::time::Duration;

    fn record(reqid: &str, names: &[String]) -> RunRecord {
        let entries = names
            .iter()
            .map(|name| (name.clone(), HostEntry::new(EntryState::Accepted)))
            .collect();
        RunRecord::new(reqid, "s", Mode::Async { entries }, 1)
    }

    #[test]
    fn files_are_a_run_store() {
        let dir = TempDir::new();
        conformance::runs(&RunStore::new(dir.path().join("runs")));
    }

    #[test]
    fn ids_never_leave_the_directory() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path().join("runs"));
        fs::write(dir.path().join("x.json"), "{}").unwrap();
        assert!(store.load("../x").unwrap().is_none());
        assert!(store.save(&record("../x", &[])).is_err());
        assert!(store.load("").unwrap().is_none());
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path());
        for text in ["", "{", "[]", "{\"reqid\":\"a\""] {
            fs::write(dir.path().join("a.json"), text).unwrap();
            let error = store.load("a").unwrap_err().to_string();
            assert!(error.contains("a.json"), "{error}");
            assert!(store.update("a", &mut |_| ()).is_err());
        }
        fs::remove_file(dir.path().join("a.json")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a.json")).unwrap();
        assert!(store.load("a").is_err());
    }

    #[test]
    fn pollers_do_not_lose_each_others_hosts() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path().join("runs"));
        let names: Vec<String> = (0..20).map(|n| format!("h{n:02}")).collect();
        store.save(&record("r1", &names)).unwrap();
        assert_eq!(store.load("r1").unwrap().unwrap().open_hosts().len(), 20);
        std::thread::scope(|scope| {
            for name in &names {
                let store = &store;
                scope.spawn(move || {
                    let mut change = |record: &mut RunRecord| {
                        if let Mode::Async { entries } = &mut record.mode {
                            let done = EntryState::Done(Box::default());
                            entries.insert(name.clone(), HostEntry::new(done));
                        }
                        record.recompute();
                    };
                    store.update("r1", &mut change).unwrap().unwrap();
                });
            }
        });
        let record = store.load("r1").unwrap().unwrap();
        assert!(record.complete);
        assert!(record.open_hosts().is_empty());
    }

    #[test]
    fn purge_takes_only_old_records() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path());
        store.save(&record("a", &[])).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let keep = Retention {
            age: Duration::from_secs(86_400),
            bytes: 1,
        };
        let now = SystemTime::now();
        assert_eq!(store.purge(now, &keep).unwrap(), 0, "it may be under way");
        let roomy = Retention {
            bytes: 1 << 20,
            ..keep
        };
        let later = now + Duration::from_secs(7_200);
        assert_eq!(store.purge(later, &roomy).unwrap(), 0);
        assert_eq!(store.purge(later, &keep).unwrap(), 1);
        assert_eq!(store.ids().unwrap(), Vec::<String>::new());
        store.save(&record("a", &[])).unwrap();
        assert_eq!(store.ids().unwrap(), ["a"]);
        let later = now + Duration::from_secs(86_500);
        assert_eq!(store.purge(later, &roomy).unwrap(), 1);
        assert!(dir.path().join("other").exists());
    }
}
