//! The tags of all agents, so that a selection by tag need not read every record.
//!
//! The index is a file beside the registry that anybody may delete. It is never believed: each of
//! its entries holds the inode, the time of the last change and the size of the record it was made
//! of, and a record that has others, or was changed when the index was being made, is read again.
//! So a record that was edited by hand, by release 0.12.3 or by another dispatcher counts at once.

use super::{Registry, RegistryError, io_error};
use crate::model::AgentRecord;
use ctrl_exec_host::bounded::Bounded;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// First line of the file; another one is another format.
const HEAD: &str = "ctrl-exec tags 1";
/// Largest index read.
const MAX_FILE: u64 = 256 << 20;
/// What was changed so shortly before the index was made may have been changed again since within
/// the same tick of the file system's clock.
const TICK: i128 = 50_000_000;
/// With more entries than this out of date the index is written anew.
const MANY: usize = 64;
/// Registries below this are read as quickly without.
const WORTH: usize = 1_000;

/// State of a file: inode, change time in ns, size.
type Stamp = (u64, i128, u64);

/// What the index knows of one agent.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    stamp: Stamp,
    /// Its record cannot be read: it counts as having every tag, so that it is told of.
    damaged: bool,
    revoked: bool,
    tags: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Index {
    /// When it was made, and the state of the directory then.
    made: i128,
    dir: Option<Stamp>,
    entries: Vec<Entry>,
}

impl Registry {
    /// Names of the agents that are not revoked and have all these tags, sorted; those whose record
    /// cannot be read are among them.
    ///
    /// # Errors
    /// The operating system's.
    pub fn tagged(&self, wanted: &[(String, String)]) -> Result<Vec<String>, RegistryError> {
        let entries = self.current_tags()?;
        let fits = |entry: &&Entry| {
            entry.damaged || !entry.revoked && wanted.iter().all(|pair| entry.tags.contains(pair))
        };
        let found = entries.iter().filter(fits);
        Ok(found.map(|entry| entry.name.clone()).collect())
    }

    fn index_path(&self) -> PathBuf {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        self.dir.with_file_name(format!(".{name}-tags"))
    }

    fn current_tags(&self) -> Result<Vec<Entry>, RegistryError> {
        let now = now();
        let dir = stamp_of(&self.dir);
        let index = Bounded::new(MAX_FILE)
            .no_follow()
            .text(&self.index_path())
            .ok()
            .and_then(|text| Index::parse(&text))
            .unwrap_or_default();
        // The same directory has the same names, unless it changed while the index was made.
        let settled = |(_, changed, _): Stamp| changed + TICK < index.made;
        let same = dir.is_some_and(|dir| index.dir == Some(dir) && settled(dir));
        let old = index.entries;
        let mut entries: Vec<Entry> = if same {
            old
        } else {
            let mut old = old.into_iter().peekable();
            let mut entries = Vec::new();
            for name in self.names()? {
                while old.next_if(|entry| entry.name < name).is_some() {}
                let known = old.next_if(|entry| entry.name == name);
                entries.push(known.unwrap_or_else(|| Entry::unread(name)));
            }
            entries
        };
        let total = entries.len();
        let made = index.made;
        let read = self.refresh(&mut entries, |changed| changed + TICK < made)?;
        entries.retain(|entry| entry.stamp.0 != 0);
        if total >= WORTH && (read > MANY || !same) {
            // Whoever may not write it does without.
            let _ = self.store(&Index {
                made: now,
                dir,
                entries: entries.clone(),
            });
        }
        Ok(entries)
    }

    /// Reads again what has changed; returns how many.
    fn refresh(
        &self,
        entries: &mut [Entry],
        settled: impl Fn(i128) -> bool + Sync,
    ) -> Result<usize, RegistryError> {
        let threads = match std::thread::available_parallelism() {
            Ok(n) if entries.len() > 2_000 => n.get().min(8),
            _ => 1,
        };
        let share = entries.len().div_ceil(threads).max(1);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(CWD, &self.dir, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(rustix::io::Errno::NOENT) => return Ok(0),
            Err(error) => return Err(io_error("read", &self.dir, error.into())),
        };
        let (dir, settled) = (&dir, &settled);
        std::thread::scope(|scope| {
            let workers: Vec<_> = entries
                .chunks_mut(share)
                .map(|chunk| {
                    scope.spawn(move || {
                        let mut read = 0;
                        let mut file = String::new();
                        for entry in chunk {
                            file.clear();
                            let _ = write!(file, "{}.json", entry.name);
                            let stat = rustix::fs::statat(dir, &*file, AtFlags::SYMLINK_NOFOLLOW);
                            let stamp = match stat {
                                Ok(stat) => (
                                    stat.st_ino,
                                    i128::from(stat.st_ctime) * 1_000_000_000
                                        + i128::from(stat.st_ctime_nsec),
                                    u64::try_from(stat.st_size).unwrap_or(u64::MAX),
                                ),
                                Err(_) => (0, 0, 0),
                            };
                            if stamp == entry.stamp && settled(stamp.1) || stamp.0 == 0 {
                                entry.stamp = stamp;
                                continue;
                            }
                            read += 1;
                            let record = match self.load(&entry.name) {
                                Ok(Some(record)) => Some(record),
                                Ok(None) => {
                                    entry.stamp = (0, 0, 0);
                                    continue;
                                }
                                Err(RegistryError::Damaged(_)) => None,
                                Err(error) => return Err(error),
                            };
                            entry.take(stamp, record.as_ref());
                        }
                        Ok(read)
                    })
                })
                .collect();
            let mut total = 0;
            for worker in workers {
                match worker.join() {
                    Ok(read) => total += read?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(total)
        })
    }

    fn store(&self, index: &Index) -> std::io::Result<()> {
        let path = self.index_path();
        let temp = path.with_extension(format!("{}.tmp", std::process::id()));
        let _ = fs::remove_file(&temp);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temp)?;
        let written = file
            .write_all(index.to_text().as_bytes())
            .and_then(|()| fs::rename(&temp, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temp);
        }
        written
    }
}

impl Entry {
    fn unread(name: String) -> Self {
        Self {
            name,
            stamp: (0, 0, 0),
            damaged: false,
            revoked: false,
            tags: Vec::new(),
        }
    }

    fn take(&mut self, stamp: Stamp, record: Option<&AgentRecord>) {
        self.stamp = stamp;
        self.damaged = record.is_none();
        self.revoked = record.is_some_and(|record| record.revoked().is_some());
        self.tags.clear();
        let Some(tags) = record.and_then(|record| record.tags.as_ref()) else {
            return;
        };
        for (key, _) in tags.iter() {
            if let Some(value) = tags.text(key) {
                self.tags.push((key.to_owned(), value.into_owned()));
            }
        }
    }
}

impl Index {
    fn to_text(&self) -> String {
        let (ino, changed, size) = self.dir.unwrap_or_default();
        let mut text = String::with_capacity(self.entries.len() * 96);
        let _ = writeln!(text, "{HEAD}\t{}\t{ino}\t{changed}\t{size}", self.made);
        for entry in &self.entries {
            let (ino, changed, size) = entry.stamp;
            let state = match (entry.damaged, entry.revoked) {
                (true, _) => 'd',
                (_, true) => 'r',
                _ => '-',
            };
            let _ = write!(text, "{}\t{ino}\t{changed}\t{size}\t{state}", entry.name);
            for (key, value) in &entry.tags {
                text.push('\t');
                escape(&mut text, key);
                text.push('\t');
                escape(&mut text, value);
            }
            text.push('\n');
        }
        // Tells a whole file from one that was cut.
        text.push_str("end\n");
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let body = text.strip_suffix("\nend\n")?;
        let mut lines = body.split('\n');
        let mut head = lines.next()?.split('\t');
        if head.next()? != HEAD {
            return None;
        }
        let made = head.next()?.parse().ok()?;
        let dir = stamp(&mut head)?;
        let mut entries = Vec::new();
        for line in lines {
            let mut fields = line.split('\t');
            let name = fields.next()?.to_owned();
            let stamp = stamp(&mut fields)?;
            let state = fields.next()?;
            let mut tags = Vec::new();
            while let Some(key) = fields.next() {
                tags.push((unescape(key), unescape(fields.next()?)));
            }
            entries.push(Entry {
                name,
                stamp,
                damaged: state == "d",
                revoked: state == "r",
                tags,
            });
        }
        Some(Self {
            made,
            dir: Some(dir),
            entries,
        })
    }
}

fn stamp<'a>(fields: &mut impl Iterator<Item = &'a str>) -> Option<Stamp> {
    Some((
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    ))
}

fn stamp_of(path: &std::path::Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    Some((meta.ino(), changed, meta.len()))
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(0))
}

fn escape(out: &mut String, text: &str) {
    for ch in text.chars() {
        match ch {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            ch => out.push(ch),
        }
    }
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(ch) = chars.next() {
        match ch {
            '\\' => match chars.next() {
                Some('t') => out.push('\t'),
                Some('n') => out.push('\n'),
                other => out.extend(other),
            },
            ch => out.push(ch),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn put(registry: &Registry, name: &str, tags: &str) {
        fs::create_dir_all(registry.dir()).unwrap();
        let path = registry.dir().join(format!("{name}.json"));
        fs::write(path, format!(r#"{{"hostname":"{name}","tags":{tags}}}"#)).unwrap();
    }

    fn tagged(registry: &Registry, key: &str, value: &str) -> Vec<String> {
        registry
            .tagged(&[(key.to_owned(), value.to_owned())])
            .unwrap()
    }

    /// Whatever happens to the files, by whichever program, the answer is that of the records.
    #[test]
    fn it_is_never_stale() {
        let dir = TempDir::new();
        let registry = Registry::new(dir.path().join("agents"));
        assert!(tagged(&registry, "a", "b").is_empty());
        for n in 0..WORTH {
            put(&registry, &format!("r{n:04}"), r#"{"site":"lab","n":7}"#);
        }
        assert_eq!(tagged(&registry, "site", "lab").len(), WORTH);
        let index = registry.index_path();
        for round in 0..40 {
            let name = format!("r{round:04}");
            // In place, of the same size, at once.
            put(&registry, &name, r#"{"site":"bar","n":7}"#);
            assert_eq!(tagged(&registry, "site", "bar"), [&*name], "{round}");
            if round % 3 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(70));
                assert_eq!(tagged(&registry, "site", "bar"), [&*name], "{round}");
                assert!(index.exists());
            }
            put(&registry, &name, r#"{"site":"lab","n":7}"#);
            assert!(tagged(&registry, "site", "bar").is_empty(), "{round}");
        }
        std::thread::sleep(std::time::Duration::from_millis(70));
        assert_eq!(tagged(&registry, "site", "lab").len(), WORTH);
        registry.remove("r0001").unwrap();
        put(&registry, "new", r#"{"site":"lab"}"#);
        let found = tagged(&registry, "site", "lab");
        assert_eq!(found.len(), WORTH);
        assert!(found.contains(&"new".to_owned()) && !found.contains(&"r0001".to_owned()));
        // Revoked ones are not meant, damaged ones are told of.
        registry
            .update("r0002", |record| {
                record.revoked = Some("2026-11-28T00:00:00Z".to_owned());
            })
            .unwrap();
        fs::write(registry.dir().join("r0003.json"), "{").unwrap();
        let found = tagged(&registry, "site", "bar");
        assert_eq!(found, ["r0003"]);
        assert_eq!(tagged(&registry, "site", "lab").len(), WORTH - 1);
        // A file that is no index, or a part of one, counts as none.
        let whole = fs::read_to_string(&index).unwrap();
        for bad in [
            "",
            "x",
            &whole[..whole.len() / 2],
            &whole[..whole.len() - 4],
        ] {
            fs::write(&index, bad).unwrap();
            assert_eq!(tagged(&registry, "n", "7").len(), WORTH - 2);
        }
    }

    #[test]
    fn odd_tags_come_back() {
        let dir = TempDir::new();
        let registry = Registry::new(dir.path().join("agents"));
        for n in 0..WORTH {
            put(
                &registry,
                &format!("r{n:04}"),
                r#"{"a\tb":"c\\\n","x":"","y":[1]}"#,
            );
        }
        for _ in 0..2 {
            std::thread::sleep(std::time::Duration::from_millis(70));
            assert_eq!(tagged(&registry, "a\tb", "c\\\n").len(), WORTH);
            assert_eq!(tagged(&registry, "x", "").len(), WORTH);
            assert!(tagged(&registry, "y", "1").is_empty());
        }
    }
}
