//! A dead disk, a moved host, a second dispatcher, through the real program: `backup`, `restore`,
//! `export-ca` and `join-ca`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_protocol::http::Request;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::agent::{Act, Agent};
use support::{Ended, Root, text};

const SECRET: &str = "a passphrase of some length";

fn honest(request: &Request) -> Act {
    let body = match &*request.path() {
        "/run" => r#"{"exit":0,"stdout":"fine\n","stderr":""}"#.to_owned(),
        _ => r#"{"status":"ok","expiry":"Jan  1 00:00:00 2040 GMT"}"#.to_owned(),
    };
    Act::Answer(200, body)
}

/// A dispatcher at the default paths with an agent, a rotation behind it and a revocation.
fn dispatcher() -> (Root, Agent) {
    let root = Root::new();
    defaults(&root, "main");
    let (identity, _) = root.agent_identity("vm", 400);
    let agent = Agent::start(&identity, &root.ca_pem(), honest);
    root.register("vm", agent.address);
    ok(&root, &["rotate-cert"]);
    ok(&root, &["run", "vm", "s"]);
    ok(&root, &["revoke", "--serial", "4abc01"]);
    (root, agent)
}

/// A configuration without paths.
fn defaults(root: &Root, id: &str) {
    let path = root.path("etc/ctrl-exec/ctrl-exec.conf");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("dispatcher_id = {id}\n")).unwrap();
}

/// A host where nothing is.
fn bare() -> Root {
    let root = Root::empty();
    std::fs::remove_dir_all(root.path("etc")).unwrap();
    root
}

fn ok(root: &Root, args: &[&str]) -> Ended {
    let ended = root.run(args);
    assert_eq!(ended.exit, 0, "{args:?}: {ended:?}");
    ended
}

fn refused(root: &Root, args: &[&str], why: &str) -> String {
    let before = tree(root);
    let ended = root.run(args);
    assert_eq!(ended.exit, 3, "{args:?}: {ended:?}");
    assert!(ended.stderr.contains(why), "{args:?}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "one message: {ended:?}");
    assert!(tree(root) == before, "{args:?} changed something");
    ended.stderr
}

/// A file with the passphrase, and where to write a backup.
fn aside(root: &Root) -> (String, String) {
    let file = |name| root.path(name).display().to_string();
    std::fs::write(root.path("pass"), format!("{SECRET}\nrest\n")).unwrap();
    (file("pass"), file("backup.age"))
}

/// A key pair made by the program: the public key, and the file of the secret one.
fn key(root: &Root) -> (String, String) {
    let path = root.path("key.txt").display().to_string();
    let public = ok(root, &["backup", "--new-key", &path]).stdout;
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    (public.trim().to_owned(), path)
}

/// What lies in a root's `etc` and `var`, but for locks and what only tells of backups.
fn tree(root: &Root) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for top in ["etc", "var"] {
        walk(&root.path(top), &root.path(""), &mut found);
    }
    found
}

fn walk(dir: &Path, root: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        let unlike = name.ends_with(".lock")
            || name.ends_with(".tmp")
            || name == "last-backup"
            || name == "ca.serial"
            || name.starts_with("before-restore-");
        if entry.file_type().unwrap().is_dir() {
            walk(&path, root, found);
        } else if !unlike {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let relative = path.strip_prefix(root).unwrap().to_owned();
            found.insert(relative, (mode, std::fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn a_dispatcher_moves_to_another_host() {
    let (old, agent) = dispatcher();
    let (pass, file) = aside(&old);
    let said = ok(&old, &["backup", &file, "--passphrase-file", &pass]);
    assert!(said.stdout.contains("1 agent(s) and 1 run(s)"), "{said:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let sealed = std::fs::read(&file).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n-> scrypt "));
    let calls = agent.seen().len();

    let new = bare();
    let restored = ok(&new, &["restore", &file, "--passphrase-file", &pass]);
    assert!(
        restored.stdout.contains("Restored the dispatcher 'main'")
            && restored.stdout.contains("1 of 1 agent(s) answer"),
        "{restored:?}"
    );
    assert!(agent.seen().len() > calls);
    let (was, is) = (tree(&old), tree(&new));
    let names = |tree: &BTreeMap<PathBuf, _>| {
        // Made by the ping after the restore.
        let made = |path: &&PathBuf| !path.ends_with("issued-certificates");
        tree.keys().filter(made).cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(&was), names(&is));
    for (path, content) in &was {
        // The ping after the restore may have noted something in the record.
        if !path.ends_with("vm.json") && !path.ends_with("issued-certificates") {
            assert!(&is[path] == content, "{}", path.display());
        }
    }
    // The counter never goes back, and everything works on.
    let counter = |root: &Root| std::fs::read(root.path("etc/ctrl-exec/ca.serial")).unwrap();
    assert_ne!(counter(&old), counter(&new));
    ok(&new, &["run", "vm", "s"]);
    assert!(ok(&new, &["list-revoked"]).stdout.contains("4abc01"));
    let status = ok(&new, &["serial-status"]).stdout;
    assert_eq!(status, ok(&old, &["serial-status"]).stdout);
    ok(&new, &["doctor", "--offline"]);
    ok(&new, &["rotate-cert"]);
    // The same again is nothing to refuse, and nothing is left of the way there.
    let state = new.path("var/lib/ctrl-exec");
    assert!(!state.join(".restore").exists());
    ok(
        &new,
        &["restore", &file, "--force", "--passphrase-file", &pass],
    );
}

#[test]
fn what_is_there_is_not_lost() {
    let (root, _agent) = dispatcher();
    let (public, secret) = key(&root);
    let file = root.path("b.age").display().to_string();
    ok(&root, &["backup", &file, "--to", &public]);
    let then = tree(&root);
    // Since then: a rotation, a pairing and a revocation.
    std::thread::sleep(Duration::from_millis(1100));
    ok(&root, &["rotate-cert"]);
    root.register_json(
        "late",
        r#"{"hostname":"late","paired":"2999-01-01T00:00:00Z"}"#,
    );
    ok(&root, &["revoke", "--serial", "4abc02"]);
    let now = tree(&root);
    let restore = ["restore", &*file, "--identity", &*secret, "--offline"];
    refused(&root, &restore, "--force replaces it");
    let forced = [&restore[..], &["--force"]].concat();
    let said = ok(&root, &forced).stdout;
    for part in [
        "Older than what was here: a rotation since",
        "pairings since: late",
        "1 revocation(s) since, which are kept",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut is = tree(&root);
    let revoked = Path::new("var/lib/ctrl-exec/revoked-serials");
    let list = String::from_utf8(is[revoked].1.clone()).unwrap();
    assert!(list.contains("4abc01") && list.contains("4abc02"), "{list}");
    is.insert(revoked.to_owned(), then[revoked].clone());
    assert!(is.keys().eq(then.keys()), "{:?}", is.keys());
    assert!(is == then);
    // And back again, from what was kept.
    let kept = std::fs::read_dir(root.path("var/lib/ctrl-exec"))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("before-"))
        .unwrap();
    assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o600);
    let kept = kept.path().display().to_string();
    ok(&root, &["restore", &kept, "--force", "--offline"]);
    let mut back = tree(&root);
    back.insert(revoked.to_owned(), now[revoked].clone());
    assert!(back == now);
}

/// An agent that trusts one serial only, as after a rotation that it was told of.
#[test]
fn a_backup_older_than_the_fleet_is_told_by_the_fleet() {
    let root = Root::new();
    defaults(&root, "main");
    let (identity, _) = root.agent_identity("vm", 400);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(403, r#"{"error":"serial mismatch"}"#.to_owned())
    });
    root.register("vm", agent.address);
    let (other, _) = root.agent_identity("up", 400);
    let up = Agent::start(&other, &root.ca_pem(), honest);
    root.register("up", up.address);
    root.register(
        "gone",
        ([127, 0, 0, 1], support::ports::claim().unwrap()).into(),
    );
    let (public, secret) = key(&root);
    let file = root.path("b.age").display().to_string();
    ok(&root, &["backup", &file, "--to", &public]);
    let new = bare();
    let said = ok(&new, &["restore", &file, "--identity", &secret]).stdout;
    for part in [
        "1 of 3 agent(s) answer",
        "refuse this dispatcher's certificate, so it was rotated after the backup: vm",
        "the backup did not know, now noted: up, vm",
        "1 agent(s) do not answer now",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn nothing_is_done_with_a_file_that_is_not_sound() {
    let (root, _agent) = dispatcher();
    let (public, secret) = key(&root);
    let (pass, file) = aside(&root);
    ok(&root, &["backup", &file, "--to", &public]);
    let whole = std::fs::read(&file).unwrap();
    let bad = root.path("bad.age").display().to_string();
    let restore = ["restore", &*bad, "--force", "--identity", &*secret];
    for keep in [0, 10, 100, 300, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&bad, &whole[..keep]).unwrap();
        let why = if keep < 22 { "no backup" } else { "bad.age" };
        let said = refused(&root, &restore, why);
        assert!(said.contains("nothing was changed"), "{keep}: {said}");
    }
    for at in [30, 120, 250, 700, whole.len() - 5] {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        std::fs::write(&bad, changed).unwrap();
        refused(&root, &restore, "nothing was changed");
    }
    std::fs::write(&bad, "PK zip or whatever").unwrap();
    refused(&root, &restore, "no backup of ctrl-exec");
    refused(
        &root,
        &["restore", "/no/such/file"],
        "cannot read /no/such/file",
    );
    // The wrong key, the wrong way, no way.
    let by_key = ["restore", &*file, "--force"];
    refused(&root, &by_key, "--identity");
    let other = Root::empty();
    let (_, stranger) = key(&other);
    let by_other = [&by_key[..], &["--identity", &*stranger]].concat();
    refused(&root, &by_other, "another key");
    let by_pass = [&by_key[..], &["--passphrase-file", &*pass]].concat();
    refused(&root, &by_pass, "to a key, not with a passphrase");
    ok(
        &root,
        &[
            "backup",
            &file.replace("backup", "two"),
            "--passphrase-file",
            &pass,
        ],
    );
    let two = file.replace("backup", "two");
    std::fs::write(root.path("wrong"), "another passphrase\n").unwrap();
    let wrong = root.path("wrong").display().to_string();
    refused(
        &root,
        &["restore", &two, "--force", "--passphrase-file", &wrong],
        "wrong passphrase",
    );
    std::fs::write(root.path("wrong"), "").unwrap();
    refused(
        &root,
        &["restore", &two, "--force", "--passphrase-file", &wrong],
        "it is empty",
    );
    // Nothing but a backup is overwritten by one.
    let precious = root.path("thesis.txt").display().to_string();
    std::fs::write(&precious, "years").unwrap();
    refused(
        &root,
        &["backup", &precious, "--to", &public],
        "is no backup",
    );
    refused(
        &root,
        &["backup", &file, "--to", "age1nonsense"],
        "is no public key",
    );
    std::fs::write(root.path("wrong"), "short\n").unwrap();
    refused(
        &root,
        &["backup", &file, "--passphrase-file", &wrong],
        "fewer than 10 characters",
    );
    // A dispatcher whose parts do not fit is not backed up in silence.
    let (another, _) = dispatcher();
    std::fs::copy(
        another.path("etc/ctrl-exec/dispatcher.key"),
        root.path("etc/ctrl-exec/dispatcher.key"),
    )
    .unwrap();
    refused(
        &root,
        &["backup", &file, "--to", &public],
        "does not belong to",
    );
}

/// A configuration in a backup cannot send its files elsewhere.
#[test]
fn a_backup_writes_in_the_dispatchers_directories_only() {
    let root = Root::new();
    let (public, secret) = key(&root);
    let file = root.path("b.age").display().to_string();
    ok(&root, &["backup", &file, "--to", &public]);
    // Its paths are those of the first root.
    let new = bare();
    let restore = ["restore", &*file, "--identity", &*secret, "--offline"];
    refused(
        &new,
        &restore,
        "if that is meant, put that configuration to",
    );
    std::fs::create_dir_all(new.path("etc/ctrl-exec")).unwrap();
    std::fs::copy(
        root.path("etc/ctrl-exec/ctrl-exec.conf"),
        new.path("etc/ctrl-exec/ctrl-exec.conf"),
    )
    .unwrap();
    ok(&new, &restore);
}

/// Whatever moment the power fails: the old dispatcher or the new one, never a part of each, and
/// the next command goes on by itself.
#[test]
fn killed_while_restoring() {
    let (root, _agent) = dispatcher();
    let (public, secret) = key(&root);
    let file = root.path("b.age").display().to_string();
    for n in 0..40 {
        root.register_json(
            &format!("a{n}"),
            &format!(r#"{{"hostname":"a{n}","n":{n}}}"#),
        );
    }
    ok(&root, &["backup", &file, "--to", &public]);
    let new_tree = {
        let probe = bare();
        ok(
            &probe,
            &["restore", &file, "--identity", &secret, "--offline"],
        );
        tree(&probe)
    };
    let (old, _) = dispatcher();
    let old_tree = tree(&old);
    let config = old.path("etc/ctrl-exec/ctrl-exec.conf");
    std::fs::write(&config, "dispatcher_id = main\n").unwrap();
    let restore = [
        "restore",
        &*file,
        "--identity",
        &*secret,
        "--offline",
        "--force",
    ];
    let whole = {
        let (probe, _) = dispatcher();
        let began = Instant::now();
        ok(&probe, &restore);
        began.elapsed()
    };
    // Revocations and runs only ever become more.
    let grows =
        |path: &Path| path.ends_with("revoked-serials") || path.parent().unwrap().ends_with("runs");
    let (mut olds, mut news) = (0, 0);
    for round in 0..30 {
        let mut child = old.command(&restore).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * round * 5 / (30 * 4));
        let _ = child.kill();
        child.wait().unwrap();
        // Any command first ends what was begun.
        ok(&old, &["list-agents"]);
        let mut is = tree(&old);
        is.retain(|path, _| !grows(path));
        let same = |wanted: &BTreeMap<PathBuf, (u32, Vec<u8>)>| {
            let mut wanted = wanted.clone();
            wanted.retain(|path, _| !grows(path));
            wanted == is
        };
        if same(&old_tree) {
            olds += 1;
            assert!(!old.path("var/lib/ctrl-exec/.restore").exists());
        } else {
            let list = || {
                is.keys()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
            };
            assert!(
                same(&new_tree),
                "a part of each, round {round}: {:?}",
                list()
            );
            news += 1;
            // Begin the next round from the old one again.
            for top in ["etc", "var"] {
                std::fs::remove_dir_all(old.path(top)).unwrap();
            }
            for (path, (mode, bytes)) in &old_tree {
                let path = old.path(path.to_str().unwrap());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, bytes).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
    assert!(olds > 0 && news > 0, "{olds} old, {news} new");
}

#[test]
fn the_owners_are_as_they_were() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root gives files away");
        return;
    }
    let (root, _agent) = dispatcher();
    let (public, secret) = key(&root);
    let file = root.path("b.age").display().to_string();
    let agents = root.path("var/lib/ctrl-exec/agents");
    let mail = |path: &Path| std::os::unix::fs::chown(path, Some(8), Some(8)).unwrap();
    mail(&root.path("etc/ctrl-exec/dispatcher.key"));
    mail(&agents);
    std::fs::set_permissions(&agents, std::fs::Permissions::from_mode(0o2770)).unwrap();
    ok(&root, &["backup", &file, "--to", &public]);
    let new = bare();
    ok(
        &new,
        &["restore", &file, "--identity", &secret, "--offline"],
    );
    for path in ["etc/ctrl-exec/dispatcher.key", "var/lib/ctrl-exec/agents"] {
        let meta = std::fs::metadata(new.path(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (8, 8), "{path}");
    }
    let mode = std::fs::metadata(new.path("var/lib/ctrl-exec/agents"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o2770);
}

#[test]
fn a_backup_is_whole_while_others_work() {
    let (root, _agent) = dispatcher();
    let (public, secret) = key(&root);
    let file = root.path("b.age").display().to_string();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                ok(&root, &["rotate-cert", "--force"]);
            }
        });
        for _ in 0..8 {
            ok(&root, &["backup", &file, "--to", &public]);
            let new = bare();
            ok(
                &new,
                &["restore", &file, "--identity", &secret, "--offline"],
            );
            let status = ok(&new, &["serial-status", "--json"]).stdout;
            let state = support::object(&status);
            let state = match state.get("state") {
                Some(ctrl_exec_testkit::json::Value::Object(state)) => state.clone(),
                other => panic!("{other:?}"),
            };
            let cert = new.path("etc/ctrl-exec/dispatcher.crt");
            let serial = ctrl_exec_dispatcher::ca::trust_serial(&cert).unwrap();
            assert_eq!(text(&state, "current_serial"), serial);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_passphrase_by_descriptor() {
    let (root, _agent) = dispatcher();
    let file = root.path("b.age").display().to_string();
    let by_input = |args: &[&str], input: &str| {
        let mut child = root
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        Ended::of(&child.wait_with_output().unwrap())
    };
    let made = by_input(
        &["backup", &file, "--passphrase-fd", "0"],
        &format!("{SECRET}\n"),
    );
    assert_eq!(made.exit, 0, "{made:?}");
    let wrong = [
        "restore",
        &*file,
        "--force",
        "--offline",
        "--passphrase-fd",
        "0",
    ];
    assert_eq!(by_input(&wrong, "something else\n").exit, 3);
    let right = by_input(&wrong, SECRET);
    assert_eq!(right.exit, 0, "{right:?}");
}

#[test]
fn reminded_when_something_has_changed_since() {
    let (root, _agent) = dispatcher();
    let (public, _) = key(&root);
    let file = root.path("b.age").display().to_string();
    let backup = |root: &Root| {
        let doctor = root.run(&["doctor", "--offline"]).stdout;
        let line = doctor.lines().find(|line| line.contains(" backup "));
        line.unwrap_or_default().to_owned()
    };
    assert!(backup(&root).starts_with("WARNING") && backup(&root).contains("no backup"));
    let told = ok(&root, &["maintain"]);
    assert!(told.stderr.contains("no backup was ever made"), "{told:?}");
    ok(&root, &["backup", &file, "--to", &public]);
    assert!(backup(&root).starts_with("OK"), "{}", backup(&root));
    assert!(!ok(&root, &["maintain"]).stderr.contains("backup"));
    root.register_json(
        "late",
        r#"{"hostname":"late","ip":"127.0.0.1","paired":"2999-01-01T00:00:00Z"}"#,
    );
    assert!(
        backup(&root).contains("the pairing of 'late'"),
        "{}",
        backup(&root)
    );
    std::fs::remove_file(root.path("var/lib/ctrl-exec/agents/late.json")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    ok(&root, &["rotate-cert"]);
    assert!(
        backup(&root).contains("a rotation on 20"),
        "{}",
        backup(&root)
    );
    let json = root.json(&["maintain", "--json"]);
    assert!(
        text(&json, "backup_due").contains("a rotation on"),
        "{json:?}"
    );
    std::fs::write(
        root.path("etc/ctrl-exec/ctrl-exec.conf"),
        "dispatcher_id = main\nbackup_reminder = no\n",
    )
    .unwrap();
    assert_eq!(backup(&root), "");
}

#[test]
fn a_second_dispatcher_joins() {
    let (first, agent) = dispatcher();
    let (public, secret) = key(&first);
    let file = first.path("ca.age").display().to_string();
    ok(&first, &["export-ca", &file, "--to", &public]);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let second = bare();
    let join = ["join-ca", &*file, "--identity", &*secret];
    defaults(&second, "main");
    refused(&second, &join, "set another dispatcher_id");
    defaults(&second, "spare");
    let joined = ok(&second, &join).stdout;
    assert!(
        joined.contains("now has the CA of dispatcher 'main'"),
        "{joined}"
    );
    assert!(joined.contains("Learnt: 1 revoked"), "{joined}");
    let read =
        |root: &Root, name: &str| std::fs::read(root.path("etc/ctrl-exec").join(name)).unwrap();
    assert_eq!(read(&first, "ca.crt"), read(&second, "ca.crt"));
    assert_ne!(
        read(&first, "dispatcher.crt"),
        read(&second, "dispatcher.crt")
    );
    assert_ne!(read(&first, "ca.serial"), read(&second, "ca.serial"));
    for (name, mode) in [
        ("ca.key", 0o600),
        ("ca.crt", 0o644),
        ("dispatcher.key", 0o600),
    ] {
        let meta = std::fs::metadata(second.path("etc/ctrl-exec").join(name)).unwrap();
        assert_eq!(meta.mode() & 0o777, mode, "{name}");
    }
    second.register("vm", agent.address);
    ok(&second, &["run", "vm", "s"]);
    assert_eq!(second.run(&["setup-ca"]).exit, 3);
    // Later: what the first one has revoked since.
    ok(&first, &["revoke", "--serial", "4abc09"]);
    ok(&first, &["export-ca", &file, "--to", &public]);
    let again = ok(&second, &join).stdout;
    assert!(
        again.contains("already has the CA") && again.contains("Learnt: 1 revoked and 0 issued"),
        "{again}"
    );
    assert!(ok(&second, &["list-revoked"]).stdout.contains("4abc09"));

    // Where another CA is, nothing happens; neither with the wrong kind of file.
    let (third, _) = dispatcher();
    defaults(&third, "third");
    refused(&third, &join, "is another CA");
    let backup = first.path("b.age").display().to_string();
    ok(&first, &["backup", &backup, "--to", &public]);
    refused(
        &second,
        &["join-ca", &backup, "--identity", &secret],
        "'ced restore' takes it",
    );
    refused(
        &second,
        &["restore", &file, "--identity", &secret, "--force"],
        "'ced join-ca' takes it",
    );
}

/// Killed at whatever moment, joining goes on when it is begun again.
#[test]
fn killed_while_joining() {
    let (first, _agent) = dispatcher();
    let (public, secret) = key(&first);
    let file = first.path("ca.age").display().to_string();
    ok(&first, &["export-ca", &file, "--to", &public]);
    let join = ["join-ca", &*file, "--identity", &*secret];
    let whole = {
        let probe = bare();
        defaults(&probe, "spare");
        let began = Instant::now();
        ok(&probe, &join);
        began.elapsed()
    };
    for round in 0..20 {
        let second = bare();
        defaults(&second, "spare");
        let mut child = second.command(&join).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * round * 5 / (20 * 4));
        let _ = child.kill();
        child.wait().unwrap();
        ok(&second, &join);
        second.authority();
        assert_eq!(second.ca_pem(), first.ca_pem());
        let doctor = second.run(&["doctor", "--offline"]);
        assert_eq!(doctor.exit, 0, "{doctor:?}");
    }
}
