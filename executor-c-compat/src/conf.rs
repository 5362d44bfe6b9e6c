//! The two configuration files on disk, read again when they changed.
//!
//! Every request is decided by the files as they are then (executor.md §1). Reading them anew
//! each time costs more than everything else on a router, so a parsed file is kept as long as
//! `stat` shows the same file: device, inode, size, modification and change time. A file changed
//! within the last two seconds is not kept, since another change might leave no trace.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::config::{
    AgentConf, ConfigError, MAX_FILE_BYTES, ScriptsConf, Warning, decode,
};

/// Both files.
pub struct Conf {
    agent: Cached<AgentConf>,
    scripts: Cached<ScriptsConf>,
}

/// A file as it was parsed.
pub struct Parsed<T> {
    /// What it says.
    pub conf: T,
    /// What in it is probably a mistake.
    pub warnings: Vec<Warning>,
}

/// Either the file's content or why it cannot be used.
pub type Loaded<T> = Result<Parsed<T>, ConfigError>;

impl Conf {
    /// Names the files; nothing is read yet.
    pub fn new(agent: &Path, scripts: &Path) -> Self {
        Self {
            agent: Cached::new(agent, AgentConf::parse),
            scripts: Cached::new(scripts, ScriptsConf::parse),
        }
    }

    /// Both files as they are now.
    pub fn current(&mut self) -> (&Loaded<AgentConf>, &Loaded<ScriptsConf>) {
        (self.agent.current(), self.scripts.current())
    }

    /// Forgets what was read.
    pub fn forget(&mut self) {
        self.agent.loaded = None;
        self.scripts.loaded = None;
    }

    /// The files' paths.
    pub fn paths(&self) -> [&Path; 2] {
        [&self.agent.path, &self.scripts.path]
    }
}

type Parse<T> = fn(&str, &str) -> Result<(T, Vec<Warning>), ConfigError>;

struct Cached<T> {
    path: PathBuf,
    parse: Parse<T>,
    loaded: Option<(Option<Stamp>, Loaded<T>)>,
}

impl<T> Cached<T> {
    fn new(path: &Path, parse: Parse<T>) -> Self {
        Self {
            path: path.to_owned(),
            parse,
            loaded: None,
        }
    }

    fn current(&mut self) -> &Loaded<T> {
        let now = std::fs::metadata(&self.path)
            .ok()
            .map(|meta| Stamp::of(&meta));
        let known = self.loaded.as_ref().and_then(|(stamp, _)| stamp.as_ref());
        if now.is_none() || known != now.as_ref() {
            self.loaded = None;
        }
        &self
            .loaded
            .get_or_insert_with(|| load(&self.path, self.parse))
            .1
    }
}

fn load<T>(path: &Path, parse: Parse<T>) -> (Option<Stamp>, Loaded<T>) {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let stamp = match read(path, &mut bytes) {
        Ok(stamp) => stamp,
        Err(error) => {
            let fault = format!("cannot read: {}", crate::report::text(&error));
            return (None, Err(ConfigError::whole(&name, fault)));
        }
    };
    let parsed = decode(&bytes, &name)
        .and_then(|text| parse(&text, &name))
        .map(|(conf, warnings)| Parsed { conf, warnings });
    (stamp.settled().then_some(stamp), parsed)
}

fn read(path: &Path, bytes: &mut Vec<u8>) -> std::io::Result<Stamp> {
    let bounded = Bounded::new(MAX_FILE_BYTES as u64);
    let file = bounded.open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    *bytes = bounded.read_from(file)?;
    Ok(stamp)
}

#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino(), meta.size()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether the last change is so old that the next one must show in the times.
    fn settled(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let age = |time: i64| {
            i64::try_from(now)
                .ok()
                .and_then(|now| now.checked_sub(time))
        };
        age(self.changed.0).is_some_and(|age| age > 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_is_an_error() {
        let dir = std::env::temp_dir().join(format!("exec-conf-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (agent, scripts) = (dir.join("agent.conf"), dir.join("scripts.conf"));
        std::fs::write(&agent, "port = 1\n").unwrap();
        let mut conf = Conf::new(&agent, &scripts);
        let (read, missing) = conf.current();
        assert_eq!(
            read.as_ref().unwrap_or_else(|e| panic!("{e}")).conf.port,
            Some(1)
        );
        assert!(
            missing
                .as_ref()
                .err()
                .unwrap()
                .to_string()
                .contains("cannot read")
        );
        // Same length, and most likely the same time stamp.
        std::fs::write(&agent, "port = 2\n").unwrap();
        assert_eq!(conf.current().0.as_ref().ok().unwrap().conf.port, Some(2));
        std::fs::remove_file(&agent).unwrap();
        assert!(conf.current().0.is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
