//! Where output goes and what is said when it cannot, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use support::Root;
use support::agent::{Act, Agent};

fn agent(root: &Root, name: &str, body: &'static str) -> Agent {
    let (identity, _) = root.agent_identity(name, 825);
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        Act::Answer(200, body.into())
    });
    root.register(name, agent.address);
    agent
}

const TWO: &str =
    r#"{"script":"s","exit":0,"stdout":"one\n==> r9\n","stderr":"warn\nmore","reqid":"r"}"#;
const CUT: &str =
    r#"{"script":"s","exit":4,"stdout":"x","stderr":"","stdout_truncated":7,"reqid":"r"}"#;

#[test]
fn output_that_is_lost_is_told() {
    let root = Root::new();
    let _agent = agent(&root, "r1", TWO);
    for args in [
        &["run", "r1", "s"][..],
        &["run", "r1", "s", "--json"],
        &["run", "r1", "s", "--json-lines"],
        &["run", "r1", "s", "--prefix"],
        &["ping", "r1"],
        &["list-agents"],
        &["man"],
        &["--help"],
        &["--version"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = root.command(args).stdout(full).output().unwrap();
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(3), "{args:?}: {error}");
        let told = "Error: cannot write standard output: No space left on device";
        assert_eq!(error.matches(told).count(), 1, "{args:?}: {error}");

        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let out = root
            .command(args)
            .stdout(OwnedFd::from(writer))
            .output()
            .unwrap();
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(0), "{args:?}: {error}");
        assert!(!error.contains("Error"), "{args:?}: {error}");
    }
}

const GAP: &str = r#"{"script":"s","exit":0,"stdout":"beginend\n","stderr":"","stdout_truncated":7,"stdout_gap":5,"reqid":"r"}"#;

/// Head and tail are never joined within a line, and the gap is said where it is.
#[test]
fn a_gap_is_marked_where_it_is() {
    let root = Root::new();
    let _one = agent(&root, "r1", GAP);
    let line = "[ctrl-exec: 7 bytes are missing here]";
    let dir = root.path("out").display().to_string();
    for (flags, expected) in [
        (&[][..], format!("begin\n{line}\nend\n")),
        (&["--fold"], format!("begin\n{line}\nend\n")),
        (&["--prefix"], format!("r1: begin\nr1: {line}\nr1: end\n")),
        (&["--follow"], format!("r1: begin\nr1: {line}\nr1: end\n")),
        (&["--json"], r#""stdout_gap":5,"#.to_owned()),
        (&["--output-dir", &dir], String::new()),
    ] {
        let ended = root.run(&[&["run", "r1", "s"], flags].concat());
        assert!(ended.stdout.contains(&expected), "{flags:?}: {ended:?}");
        // Where the output is elsewhere, so is the mark.
        assert_eq!(
            ended.stdout.contains("in the middle"),
            flags[..].first() == Some(&"--output-dir"),
            "{flags:?}: {ended:?}"
        );
        // This agent answered at once.
        let late = ended
            .stderr
            .contains("r1: NOTE: its output came at the end");
        assert_eq!(late, flags == ["--follow"], "{flags:?}: {ended:?}");
    }
    let kept = fs::read_to_string(root.path("out/r1.stdout")).unwrap();
    assert_eq!(kept, format!("begin\n{line}\nend\n"));
}

/// An agent that does not know the path of runs with input has run nothing.
#[test]
fn agents_that_give_no_input_are_told_from_others() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("old", 825);
    let old = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(404, r#"{"error":"not found"}"#.into())
    });
    root.register("old", old.address);
    let ended = root.run(&["run", "old", "s", "--stdin", "--json"]);
    assert_eq!(ended.exit, 1);
    assert!(
        ended.stdout.contains("cannot give input to a script"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains(r#""outcome":"refused""#), "{ended:?}");
    assert_eq!(old.seen()[0].path, "/run-input");
    assert!(old.seen()[0].body.contains(r#""stdin_data":"#));
}

#[test]
fn every_line_has_its_host() {
    let root = Root::new();
    let _one = agent(&root, "r1", TWO);
    let _two = agent(&root, "r2", CUT);
    for sort in [&[][..], &["--sort"]] {
        let ended = root.run(&[&["run", "r1", "s", "--prefix"], sort].concat());
        assert_eq!(ended.exit, 0);
        assert_eq!(ended.stdout, "r1: one\nr1: ==> r9\n");
        assert_eq!(ended.stderr, "r1: warn\nr1: more\n");
        let ended = root.run(&[&["run", "r2", "s", "--prefix"], sort].concat());
        assert_eq!(ended.exit, 1);
        assert_eq!(ended.stdout, "r2: x\n");
        assert_eq!(
            ended.stderr,
            "r2: NOTE: 7 bytes are missing in the middle of stdout\nr2: exit 4\n"
        );
    }
    for other in [
        "--json",
        "--fold",
        "--json-lines",
        "--async",
        "--output-dir=/x",
    ] {
        let ended = root.run(&["run", "r1", "s", "--prefix", other]);
        assert_eq!(ended.exit, 3);
        assert!(
            ended.stderr.contains("exclude each other"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn outputs_go_to_files_of_their_hosts() {
    let root = Root::new();
    let one = agent(&root, "r1", TWO);
    let _two = agent(&root, "r2", CUT);
    root.register("gone", "127.0.0.1:1".parse().unwrap());
    let dir = root.path("out/puts");
    fs::create_dir_all(&dir).unwrap();
    let shown = dir.display().to_string();
    let victim = root.path("victim");
    fs::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, dir.join("r1.stdout")).unwrap();
    fs::write(dir.join("gone.stdout"), "of an earlier run").unwrap();
    let ended = root.run(&["run", "--all", "s", "--output-dir", &shown]);
    assert_eq!(ended.exit, 1, "{ended:?}");
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(read("r1.stdout"), "one\n==> r9\n");
    assert_eq!(read("r1.stderr"), "warn\nmore");
    assert_eq!(
        (read("r2.stdout"), read("r2.stderr")),
        ("x".into(), String::new())
    );
    assert_eq!(
        fs::read_dir(&dir).unwrap().count(),
        4,
        "none of a host that was not reached"
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    let mode = fs::metadata(dir.join("r1.stdout"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !ended.stdout.contains("one\n") && ended.stdout.contains("==> r2"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("NOTE: 7 bytes"), "{ended:?}");

    // What cannot be written is told before anything runs, if it is known then.
    let before = one.connections();
    for bad in [victim.join("x"), victim.clone()] {
        let ended = root.run(&["run", "r1", "s", "--output-dir", &bad.display().to_string()]);
        assert_eq!((ended.exit, &*ended.stdout), (3, ""), "{ended:?}");
        assert!(ended.stderr.contains("Error: cannot write "), "{ended:?}");
    }
    assert_eq!(one.connections(), before);
    fs::remove_file(dir.join("r1.stdout")).unwrap();
    fs::create_dir(dir.join("r1.stdout")).unwrap();
    let ended = root.run(&["run", "r1", "s", "--output-dir", &shown]);
    assert_eq!(ended.exit, 3, "{ended:?}");
    assert!(ended.stderr.contains("outputs are missing"), "{ended:?}");
}
