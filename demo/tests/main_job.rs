//! The main job: pair, ping, run; and what must not happen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{OK, TELL, exits, paired, results, stage, succeed, text};
use ctrl_exec_demo::process::{Running, wait_until};
use ctrl_exec_demo::world::PATIENCE;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::{fs, thread};

#[test]
fn three_agents_are_paired_pinged_and_used() {
    let mut world = stage("main");
    for name in ["alpha", "beta", "gamma"] {
        paired(&mut world, name, &[TELL, OK], "");
    }
    let listed = succeed(&world, &["list-agents"]);
    assert!(
        ["alpha", "beta", "gamma"]
            .iter()
            .all(|name| listed.contains(name)),
        "{listed}"
    );

    let output = exits(&world, &["ping", "alpha", "beta", "gamma", "--json"], 0);
    for (result, name) in results(&output.stdout)
        .iter()
        .zip(["alpha", "beta", "gamma"])
    {
        assert_eq!(text(result, "host"), name);
        assert_eq!(text(result, "status"), "ok", "{output:?}");
        assert_eq!(text(result, "version"), env!("CARGO_PKG_VERSION"));
    }

    let args = [
        "",
        "a b",
        "it's \"x\" \\",
        "$HOME;id",
        "żółw ☃",
        "--json",
        "-n",
    ];
    let mut words = vec![
        "run",
        "alpha",
        "gamma",
        "tell",
        "--json",
        "--username",
        "ann",
        "--",
    ];
    words.extend(args);
    let output = exits(&world, &words, 1);
    let results = results(&output.stdout);
    assert_eq!(results.len(), 2);
    let expected: String = args.iter().map(|arg| format!(" [{arg}]")).collect();
    for result in &results {
        assert_eq!(text(result, "exit"), "3");
        assert_eq!(text(result, "stderr"), "problem\n");
        let stdout = text(result, "stdout");
        assert!(
            stdout.starts_with(&format!("args:{expected}\n")),
            "{stdout}"
        );
        for member in [
            "\"username\":\"ann\"",
            "\"dispatcher\":\"demo\"",
            "\"peer_ip\":\"127.0.0.1\"",
        ] {
            assert!(stdout.contains(member), "{member}: {stdout}");
        }
    }

    let output = exits(&world, &["run", "beta", "nothing", "--json"], 1);
    let result = &common::results(&output.stdout)[0];
    assert_eq!(
        (
            text(result, "exit").as_str(),
            text(result, "error").as_str()
        ),
        ("-1", "script not permitted")
    );
    let output = exits(&world, &["run", "beta", "delta", "ok"], 3);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("delta"),
        "{output:?}"
    );
}

#[test]
fn a_restarted_agent_keeps_its_identity_and_a_stopped_one_is_told_apart() {
    let mut world = stage("restart");
    paired(&mut world, "alpha", &[OK], "");
    world.stop_agent("alpha");
    let output = exits(&world, &["run", "alpha", "ok", "--json"], 1);
    let error = text(&results(&output.stdout)[0], "error");
    assert!(
        error.contains("connection refused") && error.contains("agent not running"),
        "{error}"
    );
    world.start_agent("alpha").unwrap();
    let output = exits(&world, &["run", "alpha", "ok", "--json"], 0);
    assert_eq!(text(&results(&output.stdout)[0], "stdout"), "fine\n");
}

#[test]
fn secrets_are_private_and_no_temporary_file_stays() {
    let mut world = stage("modes");
    paired(&mut world, "alpha", &[OK], "");
    for (path, forbidden) in [
        ("server/etc/ctrl-exec/ca.key", 0o077),
        ("server/etc/ctrl-exec/dispatcher.key", 0o077),
        ("alpha/etc/ctrl-exec-agent/agent.key", 0o027),
    ] {
        let mode = fs::metadata(world.dir.join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & forbidden, 0, "{path}: {mode:o}");
    }
    let mut dirs = vec![world.dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.ends_with(".tmp"), "{}", entry.path().display());
        }
    }
}

#[test]
fn a_denied_agent_stores_nothing_and_does_not_serve() {
    let mut world = stage("denied");
    world.add_agent("alpha", &[OK], "").unwrap();
    let before = tree(&world.agent_dir("alpha"));
    let listener = world.start_pairing_mode().unwrap();
    let port = world.pairing_port.to_string();
    let mut client = Running::start(world.agent("alpha").args([
        "request-pairing",
        "--dispatcher",
        "127.0.0.1",
        "--port",
        &port,
    ]))
    .unwrap();
    let queue = world.dir.join("server/var/lib/ctrl-exec/pairing");
    let request = || {
        let mut names = fs::read_dir(&queue)
            .ok()?
            .flatten()
            .map(|e| e.file_name().into_string().unwrap());
        names.find_map(|name| name.strip_suffix(".json").map(str::to_owned))
    };
    wait_until("the request", PATIENCE, || request().is_some()).unwrap();
    succeed(&world, &["deny", &request().unwrap()]);
    let status = client.wait(PATIENCE).unwrap();
    assert!(!status.success());
    assert!(
        client.output().contains("rejected by operator"),
        "{}",
        client.output()
    );
    drop(listener);
    assert_eq!(tree(&world.agent_dir("alpha")), before);
    let served = world.agent("alpha").arg("serve").output().unwrap();
    assert_eq!(served.status.code(), Some(78), "{served:?}");
    let said = String::from_utf8_lossy(&served.stderr);
    assert!(said.contains("not been paired"), "{said}");
}

#[test]
fn a_revoked_dispatcher_is_refused_after_reload_and_the_agent_lives() {
    let mut world = stage("revoked");
    let revoked = "revoked_serials = revoked-serials";
    paired(&mut world, "alpha", &[OK], revoked);
    let map = world
        .agent_dir("alpha")
        .join("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers");
    let map = fs::read_to_string(map).unwrap();
    let serial = map.lines().find(|line| !line.starts_with('#')).unwrap();
    let serial = serial.split_whitespace().next().unwrap();
    fs::write(
        world.dir.join("revoked-serials"),
        format!("# stolen\n{serial}\n"),
    )
    .unwrap();
    let agent = world.running("alpha").unwrap();
    agent.signal(rustix::process::Signal::HUP).unwrap();
    wait_until("the refusal", PATIENCE, || {
        let output = world.dispatch(&["ping", "alpha", "--json"]).unwrap();
        text(&results(&output.stdout)[0], "error").contains("revoked")
    })
    .unwrap();
    fs::write(world.dir.join("revoked-serials"), "").unwrap();
    agent.signal(rustix::process::Signal::HUP).unwrap();
    wait_until("the answer", PATIENCE, || {
        let output = world.dispatch(&["ping", "alpha", "--json"]).unwrap();
        text(&results(&output.stdout)[0], "status") == "ok"
    })
    .unwrap();
}

#[test]
fn outputs_of_megabytes_arrive_from_many_runs_at_once() {
    let mut world = stage("big");
    let big = "#!/bin/sh\nhead -c 3145728 /dev/zero | tr '\\0' o\nhead -c 3145728 /dev/zero | tr '\\0' e >&2\n";
    // One run of a script on a host at a time: three names for three at once.
    let names = ["big1", "big2", "big3"];
    let scripts = names.map(|name| (name, big));
    paired(
        &mut world,
        "alpha",
        &scripts,
        "max_output = 4M\nmemory_budget = 64M",
    );
    // Two streams of 4 MiB are more than the dispatcher takes of an agent unless told.
    let conf = world.dir.join("server/etc/ctrl-exec/ctrl-exec.conf");
    let text_before = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text_before}max_answer = 16M\n")).unwrap();
    let world = &world;
    thread::scope(|scope| {
        for name in names {
            scope.spawn(move || {
                let output = exits(world, &["run", "alpha", name, "--json"], 0);
                let result = &results(&output.stdout)[0];
                assert_eq!(text(result, "stdout").len(), 3 << 20);
                assert_eq!(text(result, "stderr").len(), 3 << 20);
            });
        }
    });
}

#[test]
fn a_script_that_runs_on_a_host_is_not_started_there_twice() {
    let mut world = stage("locked");
    let wait = "#!/bin/sh\nwhile [ -e \"$0\" ] && [ ! -e \"$1\" ]; do sleep 0.05; done\n";
    paired(&mut world, "alpha", &[("wait", wait)], "");
    let flag = world.dir.join("flag");
    let path = flag.display().to_string();
    let mut first = Running::start(
        world
            .dispatcher()
            .args(["run", "alpha", "wait", "--", &path]),
    )
    .unwrap();
    wait_until("the lock", PATIENCE, || {
        String::from_utf8_lossy(&world.dispatch(&["list-locks", "--json"]).unwrap().stdout)
            .contains("\"script\":\"wait\"")
    })
    .unwrap();
    let output = exits(&world, &["run", "alpha", "wait", "--json", "--", &path], 1);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("\"locked\"") && said.contains("alpha:wait"),
        "{said}"
    );
    fs::write(flag, "").unwrap();
    assert!(
        first.wait(PATIENCE).unwrap().success(),
        "{}",
        first.output()
    );
    exits(&world, &["run", "alpha", "wait", "--", &path], 0);
}

#[test]
fn output_beyond_the_limit_keeps_head_and_tail_and_says_so() {
    let mut world = stage("cut");
    let long = "#!/bin/sh\necho first\nhead -c 1000000 /dev/zero | tr '\\0' x\necho\necho last\n";
    paired(&mut world, "alpha", &[("long", long)], "max_output = 64K");
    let output = exits(&world, &["run", "alpha", "long", "--json"], 0);
    let result = &results(&output.stdout)[0];
    let stdout = text(result, "stdout");
    assert!(stdout.starts_with("first\n") && stdout.ends_with("last\n"));
    let dropped: usize = text(result, "stdout_truncated").parse().unwrap();
    assert!(
        dropped > 900_000 && stdout.len() < 80_000,
        "{dropped} {}",
        stdout.len()
    );
}

/// Every file below `dir` with its inode and size.
fn tree(dir: &std::path::Path) -> Vec<(String, u64, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            } else {
                found.push((entry.path().display().to_string(), meta.ino(), meta.size()));
            }
        }
    }
    found.sort();
    found
}
