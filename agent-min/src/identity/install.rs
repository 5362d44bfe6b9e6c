//! Installing a new identity (certificate, key, CA and the dispatcher to trust) so that a crash at
//! any moment leaves the old one or the new one, never parts of both.
//!
//! The four pieces are written to a directory of their own, which is then renamed to
//! `/etc/ctrl-exec-agent/.pairing`: that rename is the moment of change. From then on every reader
//! prefers the files in `.pairing` ([`effective`]), and whoever may write moves them to their
//! places ([`finish`]); after a crash the next start that is allowed to does so.

use crate::config::paths::{Paths, USER};
use crate::trust::{TrustError, TrustMap, read_bounded};
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::guarded::Guarded;
use ctrl_exec_host::users;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What pairing brings.
pub struct NewIdentity {
    /// Certificate, PEM.
    pub cert: String,
    /// Private key, PEM.
    pub key: String,
    /// CA certificate, PEM.
    pub ca: String,
    /// Serial and id of the dispatcher to trust, if it told them.
    pub trust: Option<(String, String)>,
}

/// User and group ids that the files are given to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Id of the user `ctrl-exec-agent`, if it exists and this process may give files away.
    pub uid: Option<u32>,
    /// Id of the group `ctrl-exec-agent`, likewise.
    pub gid: Option<u32>,
}

const FILES: [&str; 3] = ["agent.crt", "agent.key", "ca.crt"];
const TRUST: &str = "dispatcher";

impl Owner {
    /// Looks the agent's user up in the system's files. Nobody when not root.
    pub fn of_agent() -> Owner {
        if !rustix::process::geteuid().is_root() {
            return Owner::default();
        }
        Owner {
            uid: users::user(Path::new(users::PASSWD), USER)
                .ok()
                .flatten()
                .map(|user| user.uid),
            gid: users::group(Path::new(users::GROUP), USER).ok().flatten(),
        }
    }
}

/// Installs `new` in the place of whatever was there.
///
/// # Errors
/// On an error before the moment of change the old identity is untouched.
pub fn install(paths: &Paths, new: &NewIdentity, owner: Owner) -> io::Result<()> {
    finish(paths, owner)?;
    let building = paths.etc().join(".pairing.tmp");
    match fs::remove_dir_all(&building) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o750).create(&building)?;
    let owned = owner.gid.map(|gid| (0, gid));
    for (name, text, mode) in [
        (FILES[0], &new.cert, 0o640),
        (FILES[1], &new.key, 0o640),
        (FILES[2], &new.ca, 0o644),
    ] {
        durable::write(
            &building.join(name),
            text.as_bytes(),
            &Perm { mode, owner: owned },
        )?;
    }
    if let Some((serial, id)) = &new.trust {
        let text = format!("{serial} {id}\n");
        let perm = Perm {
            mode: 0o644,
            owner: owned,
        };
        durable::write(&building.join(TRUST), text.as_bytes(), &perm)?;
    }
    if let Some(gid) = owner.gid {
        std::os::unix::fs::chown(&building, Some(0), Some(gid))?;
    }
    durable::sync_dir(&building)?;
    fs::rename(&building, pending(paths))?;
    durable::sync_dir(&paths.etc())?;
    finish(paths, owner).map(|_| ())
}

/// Completes an installation that was interrupted after its moment of change. True when there was
/// one.
///
/// # Errors
/// The files could not be moved; readers still find the new identity.
pub fn finish(paths: &Paths, owner: Owner) -> io::Result<bool> {
    let pending = pending(paths);
    if !pending.is_dir() {
        return Ok(false);
    }
    for name in FILES {
        match fs::rename(pending.join(name), paths.etc().join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    durable::sync_dir(&paths.etc())?;
    if let Some((serial, id)) = pending_trust(paths) {
        make_state_dir(paths, owner)?;
        // The directory is the agent's user's, and this may be root.
        let guarded = Guarded::new(&paths.default_map())?;
        let path = guarded.path();
        let mut map = TrustMap::load_no_follow(path)?;
        let stored = map.assign(&serial, &id).and_then(|()| map.store(path));
        if let Err(TrustError::Io(error)) = stored {
            return Err(error);
        }
        fs::remove_file(pending.join(TRUST))?;
    }
    // What the CA before handed over is not this one's.
    let handed = Guarded::new(&paths.handed_ca());
    if let Ok(handed) = handed {
        durable::remove(handed.path())?;
    }
    fs::remove_dir_all(&pending)?;
    durable::sync_dir(&paths.etc())?;
    Ok(true)
}

/// Where the file configured as `path` is now: in the pending identity, if that holds it.
pub fn effective(paths: &Paths, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    if path.parent() == Some(paths.etc().as_path()) && FILES.iter().any(|file| *file == name) {
        let moved = pending(paths).join(name);
        if moved.is_file() {
            return moved;
        }
    }
    path.to_owned()
}

/// Adds the trust of a pending identity to a map that was read from disk.
pub fn add_pending_trust(paths: &Paths, map: &mut TrustMap) {
    if let Some((serial, id)) = pending_trust(paths) {
        // It was checked before it was written.
        let _ = map.assign(&serial, &id);
    }
}

fn pending(paths: &Paths) -> PathBuf {
    paths.etc().join(".pairing")
}

/// Serial and dispatcher id of a pairing whose files are not in their places yet.
pub fn pending_trust(paths: &Paths) -> Option<(String, String)> {
    let text = read_bounded(&pending(paths).join(TRUST)).ok()??;
    let (serial, id) = text.trim().split_once(' ')?;
    Some((serial.to_owned(), id.to_owned()))
}

fn make_state_dir(paths: &Paths, owner: Owner) -> io::Result<()> {
    let dir = paths.var();
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(&dir)?;
    if owner.uid.is_some() || owner.gid.is_some() {
        let guarded = Guarded::new(&dir)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(guarded.path(), flags, Mode::empty())?;
        let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
        rustix::fs::fchown(&made, uid, gid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctrl_exec_host::Root;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn paths(name: &str) -> (Dir, Paths) {
        let dir = std::env::temp_dir().join(format!("ctrl-exec-id-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let paths = Paths::new(Root::at(&dir), None, None);
        fs::create_dir_all(paths.etc()).expect("etc");
        (Dir(dir), paths)
    }

    fn identity(tag: &str) -> NewIdentity {
        NewIdentity {
            cert: format!("cert {tag}"),
            key: format!("key {tag}"),
            ca: format!("ca {tag}"),
            trust: Some((format!("abc{}", tag.len()), format!("disp-{tag}"))),
        }
    }

    /// What a reader sees: the three texts and the trusted ids.
    fn seen(paths: &Paths) -> (Vec<String>, TrustMap) {
        let texts = FILES.map(|name| {
            let path = effective(paths, &paths.etc().join(name));
            fs::read_to_string(path).unwrap_or_default()
        });
        let mut map = TrustMap::load(&paths.default_map()).expect("map");
        add_pending_trust(paths, &mut map);
        (texts.to_vec(), map)
    }

    #[test]
    fn everything_is_in_place_with_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, paths) = paths("modes");
        install(&paths, &identity("one"), Owner::default()).expect("install");
        let mode = |path: PathBuf| fs::metadata(path).expect("file").permissions().mode() & 0o777;
        assert_eq!(mode(paths.etc().join("agent.crt")), 0o640);
        assert_eq!(mode(paths.etc().join("agent.key")), 0o640);
        assert_eq!(mode(paths.etc().join("ca.crt")), 0o644);
        assert_eq!(mode(paths.default_map()), 0o644);
        assert_eq!(mode(paths.var()), 0o750);
        assert!(!pending(&paths).exists());
        let (texts, map) = seen(&paths);
        assert_eq!(texts, ["cert one", "key one", "ca one"]);
        assert_eq!(map.owner("abc3"), Some("disp-one"));
    }

    #[test]
    fn a_second_dispatcher_is_added_to_the_first() {
        let (_dir, paths) = paths("second");
        install(&paths, &identity("one"), Owner::default()).expect("install");
        install(&paths, &identity("three"), Owner::default()).expect("install");
        let (texts, map) = seen(&paths);
        assert_eq!(texts, ["cert three", "key three", "ca three"]);
        assert_eq!(
            (map.owner("abc3"), map.owner("abc5")),
            (Some("disp-one"), Some("disp-three"))
        );
    }

    #[test]
    fn stopping_after_any_step_shows_old_or_new_and_can_be_finished() {
        for steps in 0..=5 {
            let (_dir, paths) = paths(&format!("steps{steps}"));
            install(&paths, &identity("one"), Owner::default()).expect("install");
            // The state after the moment of change and `steps` further steps of `finish`.
            let new = identity("two22");
            let dir = pending(&paths);
            fs::create_dir(&dir).expect("dir");
            for (name, text) in FILES.iter().zip([&new.cert, &new.key, &new.ca]) {
                fs::write(dir.join(name), text).expect("write");
            }
            fs::write(dir.join(TRUST), "abc5 disp-two22\n").expect("write");
            for (at, name) in FILES.iter().enumerate() {
                if steps > at {
                    fs::rename(dir.join(name), paths.etc().join(name)).expect("rename");
                }
            }
            if steps > 3 {
                let mut map = TrustMap::load(&paths.default_map()).expect("map");
                map.add("abc5", "disp-two22").expect("add");
                map.store(&paths.default_map()).expect("store");
            }
            if steps > 4 {
                fs::remove_file(dir.join(TRUST)).expect("remove");
            }
            let before = seen(&paths);
            assert_eq!(
                before.0,
                ["cert two22", "key two22", "ca two22"],
                "after {steps}"
            );
            assert_eq!(before.1.owner("abc5"), Some("disp-two22"));
            assert!(finish(&paths, Owner::default()).expect("finish"));
            assert!(!finish(&paths, Owner::default()).expect("idempotent"));
            assert_eq!(seen(&paths), before);
            assert!(!dir.exists());
        }
    }

    #[test]
    fn a_half_built_identity_is_not_seen_and_does_not_hinder() {
        let (_dir, paths) = paths("half");
        install(&paths, &identity("one"), Owner::default()).expect("install");
        let building = paths.etc().join(".pairing.tmp");
        fs::create_dir(&building).expect("dir");
        fs::write(building.join("agent.crt"), "half").expect("write");
        assert_eq!(seen(&paths).0, ["cert one", "key one", "ca one"]);
        install(&paths, &identity("two22"), Owner::default()).expect("install");
        assert_eq!(seen(&paths).0[0], "cert two22");
        assert!(!building.exists());
    }
}
