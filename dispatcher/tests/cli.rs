//! Verbs, flags, exit codes and files, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_testkit::json as jval;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use support::agent::{Act, Agent};
use support::{Ended, Root, items, object, text};

const OK: &str = r#"{"script":"s","exit":0,"stdout":"out\n","stderr":"","reqid":"r"}"#;

fn agent(root: &Root, name: &str) -> Agent {
    let (identity, _) = root.agent_identity(name, 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |request| {
        match &*request.path() {
        "/ping" => Act::Answer(200, r#"{"status":"ok","expiry":"Feb 24 13:29:34 2099 GMT","version":"0.13.0"}"#.into()),
        "/capabilities" => Act::Answer(200, r#"{"status":"ok","version":"0.13.0","scripts":[{"name":"s","path":"/x/s","executable":true,"profile":"default"}],"tags":{"site":"lab"}}"#.into()),
        _ => Act::Answer(200, OK.into()),
    }
    });
    root.register(name, agent.address);
    agent
}

fn hook(root: &Root, body: &str, more: &str) {
    let path = root.path("hook");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    root.configure(&format!("auth_hook = {}\n{more}", path.display()));
}

#[test]
fn the_hook_decides() {
    let root = Root::new();
    let agent = agent(&root, "vm");
    for (body, code, reason) in [
        ("exit 1", 1, "denied"),
        ("exit 2", 2, "bad credentials"),
        ("exit 3", 3, "insufficient privilege"),
        ("exit 7", 7, "hook exited 7"),
        ("kill -9 $$", 1, "denied"),
        ("sleep 60", 1, "denied"),
    ] {
        hook(&root, body, "auth_hook_timeout = 2\n");
        for verb in [&["run", "vm", "s"][..], &["ping", "vm"]] {
            let ended = root.run(&[verb, &["--json"]].concat());
            assert_eq!(ended.exit, 1, "{body}: {ended:?}");
            let denied = object(&ended.stdout);
            assert_eq!(
                jval::line(&denied),
                format!(r#"{{"code":{code},"error":"{reason}","ok":0}}"#),
                "{body}"
            );
            if body == "sleep 60" {
                break;
            }
        }
    }
    hook(&root, "exit 3", "");
    let ended = root.run(&["run", "vm", "s"]);
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("", "Denied: insufficient privilege\n")
    );
    std::fs::set_permissions(root.path("hook"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(root.run(&["run", "vm", "s"]).exit, 1);
    root.configure("auth_hook = /nowhere/hook\n");
    assert!(
        root.run(&["ping", "vm"])
            .stderr
            .contains("Denied: auth hook not found")
    );
    assert_eq!(agent.connections(), 0, "no agent was called");
}

#[test]
fn the_hook_sees_the_words_and_goes_first() {
    let root = Root::new();
    let _agent = agent(&root, "vm");
    let out = root.path("seen");
    let body = format!("cat > {}; env | grep ^ENVEXEC | sort >> {0}", out.display());
    hook(&root, &body, "");
    let ended = root.run(&[
        "run", "vm:7443", "nosuch", "s", "--token", "T", "--", "a b", "l1\nl2",
    ]);
    assert_eq!(ended.exit, 3, "an unknown agent, but only after the hook");
    assert!(ended.stderr.starts_with("Error: unknown agent: nosuch\n"));
    let seen = std::fs::read_to_string(&out).unwrap();
    for part in [
        r#""hosts":["vm:7443","nosuch"]"#,
        r#""args":["a b","l1\nl2"]"#,
        r#""source_ip":"127.0.0.1""#,
        "ENVEXEC_HOSTS=vm:7443,nosuch",
        r#"ENVEXEC_ARGS_JSON=["a b","l1\nl2"]"#,
        "ENVEXEC_ACTION=run",
        "ENVEXEC_TOKEN=T",
        "ENVEXEC_USERNAME=op",
        "ENVEXEC_DISPATCHER=",
    ] {
        assert!(seen.contains(part), "{part} not in {seen}");
    }
    // A pattern is shown to the hook as the agents it stands for.
    root.run(&["ping", "v*"]);
    assert!(
        std::fs::read_to_string(&out)
            .unwrap()
            .contains(r#""hosts":["vm"]"#)
    );
}

#[test]
fn locks_are_honoured_and_held() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 825);
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let slow = {
        let gate = Arc::clone(&gate);
        Agent::start(&identity, &root.ca_pem(), move |_| {
            let (open, opened) = &*gate;
            let closed = open.lock().unwrap();
            drop(opened.wait_while(closed, |open| !*open).unwrap());
            Act::Answer(200, OK.into())
        })
    };
    root.register("vm", slow.address);
    let mut first = root
        .command(&["run", "vm", "s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while text_of_locks(&root).is_empty() {
        assert!(Instant::now() < deadline, "the lock is never held");
    }
    assert_eq!(text_of_locks(&root), "vm:s");
    assert!(root.run(&["list-locks"]).stdout.contains("vm:s"));
    let second = root.run(&["run", "vm:7443", "s", "--json"]);
    assert_eq!(second.exit, 1, "{second:?}");
    for part in [
        "\"code\":4,\"conflicts\":[\"vm:s\"],\"error\":\"locked\"",
        "\"holders\":[{\"host\":\"vm\",\"live\":true,\"reqid\":\"",
    ] {
        assert!(second.stdout.contains(part), "{part}: {second:?}");
    }
    assert!(root.run(&["run", "vm", "s"]).stderr.contains("vm:s"));
    assert_eq!(slow.connections(), 1);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert!(first.wait().unwrap().success());
    assert_eq!(
        root.run(&["list-locks"]).stdout,
        "No locks currently held.\n"
    );
}

fn text_of_locks(root: &Root) -> String {
    let locks = root.json(&["list-locks", "--json"]);
    items(&locks, "locks")
        .iter()
        .map(|lock| format!("{}:{}", text(lock, "host"), text(lock, "script")))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_foreign_process_that_holds_the_lock_blocks_the_run() {
    let root = Root::new();
    let agent = agent(&root, "vm");
    let locks = root.path("var/lib/ctrl-exec/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let file = std::fs::File::create(locks.join("vm--s.lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(root.run(&["run", "vm", "s"]).exit, 1);
    assert_eq!(root.run(&["run", "vm", "other"]).exit, 0);
    // Not by closing it: a child of another test that is not its program yet has a copy.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(root.run(&["run", "vm", "s"]).exit, 0);
    assert_eq!(agent.connections(), 2);
}

#[test]
fn two_processes_lose_no_registry_update() {
    let root = Root::new();
    for n in 0..20 {
        root.register_json(&format!("a{n}"), r#"{"port":7443,"future":{"kept":[1]}}"#);
    }
    let jobs: Vec<_> = (0..20)
        .flat_map(|n| {
            let name = format!("a{n}");
            [
                root.command(&["edit-agent", &name, "--ip", "10.0.0.1"])
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap(),
                root.command(&["edit-agent", &name, "--agent-port", "9000"])
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap(),
            ]
        })
        .collect();
    for mut job in jobs {
        assert!(job.wait().unwrap().success());
    }
    for n in 0..20 {
        let record = root.record(&format!("a{n}"));
        assert_eq!(
            jval::line(&record),
            r#"{"future":{"kept":[1]},"ip":"10.0.0.1","port":9000}"#
        );
    }
}

#[test]
fn bad_command_lines_exit_3_with_one_message() {
    let root = Root::new();
    for (args, word) in [
        (
            &["run", "vm", "s", "--verbose"][..],
            "unknown option '--verbose'",
        ),
        (&["run", "s"], "at least one host"),
        (&["ping"], "no host given"),
        (&["frobnicate"], "unknown verb 'frobnicate'"),
        (&[], "no verb given"),
        (&["edit-agent", "vm"], "at least one of"),
        (&["edit-agent", "vm", "--ip", ""], "--ip"),
        (
            &["edit-agent", "nosuch", "--ip", "1.2.3.4"],
            "no agent named 'nosuch'",
        ),
        (
            &["edit-agent", "../x", "--ip", "1.2.3.4"],
            "invalid agent name",
        ),
        (&["unpair", "../../etc/passwd"], "invalid agent name"),
        (&["approve", "../x"], "no request id"),
        (
            &["approve", "0123456789abcdef", "--ip", "x"],
            "no IP address",
        ),
        (&["pairing-mode", "sideways"], "neither start nor stop"),
        (&["pairing-mode", "--timeout", "601"], "from 1 to 600"),
        (&["list-agents", "--tags", "x"], "key=value"),
        (&["completions", "tcsh"], "bash, zsh or fish"),
        (&["setup-ca"], "exists already"),
    ] {
        let ended = root.run(args);
        assert_eq!(ended.exit, 3, "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        assert!(
            ended.stderr.starts_with("Error: ") && ended.stderr.contains(word),
            "{ended:?}"
        );
    }
    let ended = root.run(&["ping", "vm", "--config", "/nowhere/x.conf"]);
    assert!(
        ended.exit == 3 && ended.stderr.contains("/nowhere/x.conf"),
        "{ended:?}"
    );
    std::fs::remove_file(root.path("etc/ctrl-exec/ctrl-exec.conf")).unwrap();
    assert_eq!(
        root.run(&["list-agents", "--json"]).stdout,
        "[]\n",
        "needs no configuration"
    );
    assert_eq!(root.run(&["list-agents"]).stdout, "No agents registered.\n");
    assert_eq!(root.run(&["status", "x"]).exit, 1);
}

#[test]
fn not_found_and_versions() {
    let root = Root::new();
    assert_eq!(
        root.run(&["--version"]).stdout,
        format!("ctrl-exec-dispatcher {}\n", env!("CARGO_PKG_VERSION"))
    );
    let ced = std::process::Command::new(env!("CARGO_BIN_EXE_ced"))
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(Ended::of(&ced).exit, 0);
    for verb in ["status", "wait"] {
        let ended = root.run(&[verb, "nosuch", "--json"]);
        assert_eq!(ended.exit, 1);
        assert_eq!(
            ended.stdout,
            "{\"error\":\"not found\",\"ok\":0,\"reqid\":\"nosuch\"}\n"
        );
        let ended = root.run(&[verb, "../../x"]);
        assert!(ended.exit == 1 && ended.stderr.contains("not found"));
    }
    for args in [
        &["help"][..],
        &["help", "run"],
        &["run", "--help"],
        &["man"],
        &["completions", "zsh"],
    ] {
        let ended = root.run(args);
        assert!(
            ended.exit == 0 && ended.stdout.replace("\\-", "-").contains("--root"),
            "{args:?}"
        );
    }
}

#[test]
fn discovery_caches_tags_that_select() {
    let root = Root::new();
    let _agent = agent(&root, "vm");
    assert_eq!(root.run(&["ping", "--tags", "site=lab"]).exit, 3);
    let found = root.json(&["discover", "--json"]);
    assert_eq!(text(items(&found, "results")[0], "status"), "ok");
    assert_eq!(
        root.run(&["ping", "--tags", "site=lab", "--strict"]).exit,
        0
    );
    assert_eq!(
        root.run(&["list-agents", "--tags", "site=lab"])
            .stdout
            .lines()
            .count(),
        3
    );
    assert_eq!(
        root.run(&["list-agents", "--tags", "site=roof", "--json"])
            .stdout,
        "[]\n"
    );
    assert!(
        root.run(&["discover", "vm"])
            .stdout
            .contains("tags: site=lab")
    );
}

#[test]
fn wait_polls_gently_and_ends() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 825);
    let begun = Instant::now();
    let agent = Agent::start(&identity, &root.ca_pem(), move |request| {
        let body = if request.path() == "/run" {
            return Act::Answer(202, r#"{"status":"accepted"}"#.into());
        } else if begun.elapsed() < Duration::from_secs(4) {
            r#"{"status":"running"}"#
        } else {
            r#"{"status":"done","exit":0,"stdout":"done\n","stderr":""}"#
        };
        Act::Answer(200, body.into())
    });
    root.register("vm", agent.address);
    let submitted = root.json(&["run", "vm", "s", "--async", "--json"]);
    let reqid = text(&submitted, "reqid");
    let ended = root.run(&["wait", reqid, "--timeout", "60"]);
    assert_eq!(ended.exit, 0, "{ended:?}");
    assert!(ended.stdout.contains("[done  exit:0]\ndone\n"));
    // Looks come within a second of each other at most, and this agent keeps no connection.
    assert!(
        agent.connections() <= 9,
        "{} connections",
        agent.connections()
    );
    // Two pollers at once do no harm.
    let jobs: Vec<_> = (0..2)
        .map(|_| {
            root.command(&["wait", reqid])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    assert!(
        jobs.into_iter()
            .all(|mut job| job.wait().unwrap().success())
    );
}

#[test]
fn an_agent_that_forgot_the_run_ends_it() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |request| {
        match &*request.path() {
            "/run" => Act::Answer(202, r#"{"status":"accepted"}"#.into()),
            _ => Act::Answer(404, r#"{"error":"unknown"}"#.into()),
        }
    });
    root.register("vm", agent.address);
    let submitted = root.json(&["run", "vm", "s", "--async", "--json"]);
    let ended = root.run(&["wait", text(&submitted, "reqid")]);
    assert_eq!(ended.exit, 1);
    assert!(ended.stdout.contains("[EXPIRED]"), "{ended:?}");
}

#[test]
fn an_interrupt_tells_who_runs_and_a_second_ends_it() {
    let root = Root::new();
    let _quick = agent(&root, "quick");
    let (identity, _) = root.agent_identity("slow", 825);
    let slow = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Hang(Duration::from_secs(60))
    });
    root.register("slow", slow.address);
    let mut child = root
        .command(&["run", "quick", "slow", "s", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let interrupt = || rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while slow.seen().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    interrupt();
    let told = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("still running"))
        .unwrap();
    assert!(told.contains("slow"), "{told}");
    interrupt();
    let ended = Ended::of(&child.wait_with_output().unwrap());
    assert_eq!(ended.exit, 1, "{ended:?}");
    let results = object(&ended.stdout);
    let results = items(&results, "results");
    let outcome = |name| {
        let result = results
            .iter()
            .find(|result| text(result, "host") == name)
            .unwrap();
        text(result, "outcome")
    };
    // The request had gone out, so it may still be running there.
    assert_eq!((outcome("quick"), outcome("slow")), ("ok", "unknown"));
}

#[test]
fn revoked_certificates_are_refused() {
    let root = Root::new();
    let gone = agent(&root, "gone");
    let _left = agent(&root, "left");
    let revoked = root.json(&["revoke", "gone", "--json"]);
    let serial = text(items(&revoked, "certificates")[0], "serial").to_owned();
    assert!(serial.len() >= 16);
    // Its certificate poses as the other agent.
    root.register("left", gone.address);
    let ended = root.run(&["run", "left", "s", "--json"]);
    let results = object(&ended.stdout);
    let result = items(&results, "results")[0];
    assert!(text(result, "error").contains("revoked"), "{ended:?}");
    assert_eq!(text(result, "phase"), "tls");
    assert_eq!(
        gone.seen()
            .iter()
            .filter(|seen| seen.path == "/run")
            .count(),
        0
    );
    // It stays, marked; a second time bars nothing new.
    assert!(!text(&root.record("gone"), "revoked").is_empty());
    let again = root.json(&["revoke", "gone", "--json"]);
    assert_eq!(jval::integer(&again, "new"), Some(0));
    assert_eq!(root.run(&["revoke", "nobody"]).exit, 3);
    root.register(
        "away",
        std::net::SocketAddr::from(([127, 0, 0, 1], support::ports::claim().unwrap())),
    );
    let unknown = root.run(&["revoke", "away"]);
    assert!(
        unknown.exit == 1 && unknown.stderr.contains("openssl x509"),
        "{unknown:?}"
    );
    assert_eq!(text(&root.record("away"), "revoked"), "");
}

#[test]
fn doctor_names_what_is_wrong() {
    let root = Root::new();
    let _agent = agent(&root, "vm");
    let fine = root.run(&["doctor"]);
    assert_eq!(fine.exit, 0, "{fine:?}");
    assert!(
        fine.stdout.contains("1 of 1 agent(s) answer"),
        "{}",
        fine.stdout
    );
    let key = root.path("etc/ctrl-exec/dispatcher.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    root.register_json("broken", "{");
    root.register(
        "away",
        std::net::SocketAddr::from(([127, 0, 0, 1], support::ports::claim().unwrap())),
    );
    root.configure("auth_hook = /nowhere\n  indented = 1\n");
    let ill = root.json_any(&["doctor", "--json"], 1);
    let faults: Vec<_> = items(&ill, "checks")
        .iter()
        .filter(|check| text(check, "grade") == "fault")
        .map(|check| text(check, "check").to_owned())
        .collect();
    assert_eq!(
        faults,
        ["permissions", "auth-hook", "registry", "reachability"]
    );
    assert!(
        root.run(&["doctor", "--offline"])
            .stdout
            .contains("indented")
    );
}

#[test]
fn a_new_dispatcher_certificate_asks_first() {
    let root = Root::new();
    root.register("vm", std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let cert = || std::fs::read(root.path("etc/ctrl-exec/dispatcher.crt")).unwrap();
    let before = cert();
    for (answer, changed) in [("", false), ("n\n", false), ("yes\n", false), ("y\n", true)] {
        let mut child = root
            .command(&["setup-ctrl-exec"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(answer.as_bytes())
            .unwrap();
        let ended = Ended::of(&child.wait_with_output().unwrap());
        assert_eq!(ended.exit, i32::from(!changed));
        assert!(ended.stderr.contains("1 agent(s)"), "{ended:?}");
        assert_eq!(cert() != before, changed, "{answer:?}");
    }
}

#[test]
fn no_reader_no_panic() {
    let root = Root::new();
    let _agent = agent(&root, "vm");
    let mut child = root
        .command(&["ping", "vm"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = Ended::of(&child.wait_with_output().unwrap());
    assert_eq!((ended.exit, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_killed_writer_leaves_the_record_whole() {
    let root = Root::new();
    root.register_json("vm", r#"{"ip":"10.0.0.1","port":7443}"#);
    for n in 0..60_u64 {
        let address = format!("10.0.0.{n}");
        let mut child = root
            .command(&["edit-agent", "vm", "--ip", &address])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(n * 100));
        let _ = child.kill();
        let _ = child.wait();
        assert!(text(&root.record("vm"), "ip").starts_with("10.0.0."));
    }
    // Whatever was left behind is no agent and holds no lock.
    let agents = root.run(&["list-agents", "--json"]);
    assert_eq!(agents.stdout.matches("port").count(), 1, "{agents:?}");
    assert_eq!(root.run(&["edit-agent", "vm", "--ip", "10.1.1.1"]).exit, 0);
}
