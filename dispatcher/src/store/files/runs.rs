//! Records of runs under their request id (dispatcher.md §12), shared with the reference, the API
//! and other pollers of the same run.

use crate::jval::{self, Object, Value};
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::names;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where run records live, below the root.
pub const DIR: &str = "/var/lib/ctrl-exec/runs";
/// Records not written for so long are purged.
pub const KEEP: Duration = Duration::from_secs(86_400);
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

    /// The record of `reqid`; `None` when absent, unreadable as JSON, or no usable id.
    pub fn load(&self, reqid: &str) -> Option<Object> {
        use io::Read;
        if !names::is_reqid(reqid) {
            return None;
        }
        let mut bytes = Vec::new();
        fs::File::open(self.path(reqid))
            .ok()?
            .take(MAX_FILE)
            .read_to_end(&mut bytes)
            .ok()?;
        jval::parse_object(&bytes)
    }

    /// Writes a record.
    pub fn save(&self, reqid: &str, record: &Object) -> io::Result<()> {
        if !names::is_reqid(reqid) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "invalid request id",
            ));
        }
        crate::store::files::dirs::ensure(&self.dir)?;
        let text = jval::line(record);
        durable::write(
            &self.path(reqid),
            text.as_bytes(),
            &Perm {
                mode: 0o640,
                owner: None,
            },
        )
    }

    /// Reads, changes and writes one record while no other poller of ours does. `None` when the
    /// record is gone. The reference takes no lock; its last write wins.
    pub fn update(
        &self,
        reqid: &str,
        change: impl FnOnce(&mut Object),
    ) -> io::Result<Option<Object>> {
        let _lock = self.lock()?;
        let Some(mut record) = self.load(reqid) else {
            return Ok(None);
        };
        change(&mut record);
        self.save(reqid, &record)?;
        Ok(Some(record))
    }

    /// Deletes records older than [`KEEP`] by modification time; returns how many.
    pub fn purge(&self, now: SystemTime) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut purged = 0;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Ok(modified) = fs::symlink_metadata(&path).and_then(|m| m.modified()) else {
                continue;
            };
            if now.duration_since(modified).is_ok_and(|age| age > KEEP) {
                match fs::remove_file(&path) {
                    Ok(()) => purged += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(purged)
    }

    fn path(&self, reqid: &str) -> PathBuf {
        self.dir.join(format!("{reqid}.json"))
    }

    fn lock(&self) -> io::Result<OwnedFd> {
        crate::store::files::dirs::ensure(&self.dir)?;
        lock_file(&self.dir.join(".runs.lock"))
    }
}

/// The record of an async run just submitted (dispatcher.md §12.2). `entries` are host entries by
/// registry name; of a name given twice the last one counts.
pub fn async_record(
    reqid: &str,
    script: &str,
    created: i64,
    entries: Vec<(String, Object)>,
) -> Object {
    let hosts: Object = entries
        .into_iter()
        .map(|(name, entry)| (name, Value::Object(entry)))
        .collect();
    let mut record = jval::object([
        ("reqid", jval::string(reqid)),
        ("script", jval::string(script)),
        ("mode", jval::string("async")),
        ("hosts", Value::Object(hosts)),
        ("created", jval::int(created)),
    ]);
    recompute(&mut record);
    record
}

/// Sets `pending` and `complete` from the host entries.
pub fn recompute(record: &mut Object) {
    let pending: Vec<String> = host_entries(record)
        .filter(|(_, entry)| is_open(entry))
        .map(|(name, _)| name.to_owned())
        .collect();
    record.insert("complete".to_owned(), Value::Bool(pending.is_empty()));
    record.insert("pending".to_owned(), jval::strings(&pending));
}

/// Whether an entry may still change: accepted or running.
pub fn is_open(entry: &Object) -> bool {
    matches!(jval::str_or_empty(entry, "status"), "accepted" | "running")
}

/// Whether an entry counts as failed for `wait` and `--failed-of`.
pub fn is_failed(entry: &Object) -> bool {
    match jval::str_or_empty(entry, "status") {
        "accepted" | "running" => false,
        "done" => jval::integer(entry, "exit").unwrap_or(-1) != 0,
        _ => true,
    }
}

/// The host entries of an async record, by name in order.
pub fn host_entries(record: &Object) -> impl Iterator<Item = (&str, &Object)> {
    jval::sub_object(record, "hosts")
        .into_iter()
        .flat_map(|hosts| {
            hosts.iter().filter_map(|(name, entry)| match entry {
                Value::Object(entry) => Some((name, entry)),
                _ => None,
            })
        })
}

/// The results of a sync record.
pub fn results(record: &Object) -> impl Iterator<Item = &Object> {
    let results = match record.get("results") {
        Some(Value::Array(results)) => Some(results),
        _ => None,
    };
    results.into_iter().flat_map(|results| {
        results.iter().filter_map(|result| match result {
            Value::Object(result) => Some(result),
            _ => None,
        })
    })
}

/// Names of the hosts where a recorded run failed.
pub fn failed_hosts(record: &Object) -> Vec<String> {
    let mut failed: Vec<String> = host_entries(record)
        .filter(|(_, entry)| is_failed(entry))
        .map(|(name, _)| name.to_owned())
        .collect();
    failed.extend(
        results(record)
            .filter(|result| jval::integer(result, "exit").unwrap_or(-1) != 0)
            .map(|result| jval::str_or_empty(result, "host").to_owned()),
    );
    failed.sort();
    failed.dedup();
    failed
}

/// Takes an exclusive lock on a file made for the purpose, waiting for it.
pub fn lock_file(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::CLOEXEC | OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o660))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn ids_never_leave_the_directory() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path().join("runs"));
        fs::write(dir.path().join("x.json"), "{}").unwrap();
        assert!(store.load("../x").is_none());
        assert!(store.save("../x", &Object::new()).is_err());
        assert!(store.load("").is_none());
    }

    #[test]
    fn records_of_the_reference() {
        let record = jval::parse_object(
            br#"{"pending":[],"mode":"async","script":"slow","created":1795354413,"complete":true,
                "reqid":"86d314f7460cf3e2","hosts":{"vm":{"error":"e","status":"error"},
                "ok":{"status":"done","exit":0,"stdout":"","stderr":""},
                "gone":{"status":"expired"},"on":{"status":"running"}}}"#,
        )
        .unwrap();
        assert_eq!(failed_hosts(&record), ["gone", "vm"]);
        let sync = jval::parse_object(
            br#"{"mode":"sync","hosts":["a","b:1","c"],"complete":true,
                "results":[{"host":"a","exit":0},{"host":"b","exit":"3"},{"host":"c","error":"x"}]}"#,
        )
        .unwrap();
        assert_eq!(failed_hosts(&sync), ["b", "c"]);
    }

    #[test]
    fn pollers_do_not_lose_each_others_hosts() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path().join("runs"));
        let names: Vec<String> = (0..20).map(|n| format!("h{n:02}")).collect();
        let entries = names
            .iter()
            .map(|name| {
                (
                    name.clone(),
                    jval::object([("status", jval::string("accepted"))]),
                )
            })
            .collect();
        store
            .save("r1", &async_record("r1", "s", 1, entries))
            .unwrap();
        assert_eq!(
            jval::line(&store.load("r1").unwrap()["pending"])
                .matches("h")
                .count(),
            20
        );
        std::thread::scope(|scope| {
            for name in &names {
                let store = &store;
                scope.spawn(move || {
                    store
                        .update("r1", |record| {
                            let Some(Value::Object(hosts)) = record.get_mut("hosts") else {
                                return;
                            };
                            let done = jval::object([("status", jval::string("done"))]);
                            hosts.insert(name.clone(), Value::Object(done));
                            recompute(record);
                        })
                        .unwrap()
                        .unwrap();
                });
            }
        });
        let record = store.load("r1").unwrap();
        assert!(jval::truthy(&record, "complete"));
        assert!(host_entries(&record).all(|(_, entry)| !is_open(entry)));
    }

    #[test]
    fn purge_takes_only_old_records() {
        let dir = TempDir::new();
        let store = RunStore::new(dir.path());
        store.save("a", &Object::new()).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        assert_eq!(store.purge(SystemTime::now()).unwrap(), 0);
        assert_eq!(
            store
                .purge(SystemTime::now() + KEEP + Duration::from_secs(60))
                .unwrap(),
            1
        );
        assert!(dir.path().join("other").exists());
    }
}
