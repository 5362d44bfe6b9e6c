//! Who is meant by the words of a command line, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::io::Write;
use std::process::Stdio;
use support::agent::{Act, Agent};
use support::{Ended, Root};

const OK: &str = r#"{"script":"s","exit":0,"stdout":"out\n","stderr":"","reqid":"r"}"#;

/// Registers these names, all with the address of one agent.
fn fleet(root: &Root, names: &[&str]) -> Agent {
    let (identity, _) = root.agent_identity("vm", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| Act::Answer(200, OK.into()));
    for name in names {
        root.register(name, agent.address);
    }
    agent
}

fn listed(ended: &Ended) -> Vec<String> {
    assert_eq!(ended.exit, 0, "{ended:?}");
    let names = ended.stdout.lines().filter_map(|l| l.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn ranges_lists_files_and_exclusions() {
    let root = Root::new();
    let all: Vec<String> = (1..=12).map(|n| format!("ap{n}")).collect();
    let mut names: Vec<&str> = all.iter().map(String::as_str).collect();
    names.extend(["w01", "w02", "w10", "db"]);
    let agent = fleet(&root, &names);
    let file = root.path("list");
    std::fs::write(
        &file,
        "# the first floor\nap[1-2], db  # and the store\n\nw*\n",
    )
    .unwrap();
    let at = format!("@{}", file.display());
    let path = file.display().to_string();
    for (words, expected) in [
        (&["ap[1-12]"][..], &names[..12]),
        (&["w[01-02,10]"], &["w01", "w02", "w10"]),
        (&["ap[1,3-5]"], &["ap1", "ap3", "ap4", "ap5"]),
        (&["ap2,db,ap1", "ap[1-2]"], &["ap2", "db", "ap1"]),
        (&["ap[1-3]:7600", "ap1"], &["ap1", "ap2", "ap3"]),
        (&["ap1?"], &["ap10", "ap11", "ap12"]),
        (&[&at], &["ap1", "ap2", "db", "w01", "w02", "w10"]),
        (
            &[
                "--hosts-file",
                &path,
                "--exclude",
                "w[01,10]",
                "--exclude=db",
            ],
            &["ap1", "ap2", "w02"],
        ),
        (&["--all", "--exclude", "ap*,w[01-02]"], &["db", "w10"]),
        (
            &["--all", "--exclude", &at, "--exclude", "ap?"],
            &["ap10", "ap11", "ap12"],
        ),
    ] {
        let ended = root.run(&[&["ping", "--list"], words].concat());
        assert_eq!(listed(&ended), expected, "{words:?}");
        let ended = root.run(&[&["run", "--list"], words, &["s"]].concat());
        assert_eq!(listed(&ended), expected, "{words:?}");
        let ended = root.run(&[&["discover", "--list"], words].concat());
        assert_eq!(listed(&ended), expected, "{words:?}");
    }
    assert_eq!(agent.connections(), 0);
}

#[test]
fn a_list_on_standard_input() {
    let root = Root::new();
    let _agent = fleet(&root, &["a1", "a2", "b"]);
    let list = |args: &[&str], input: &str| {
        let mut child = root
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may refuse before it reads.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        (
            out.status.code().unwrap(),
            String::from_utf8(out.stdout).unwrap(),
            String::from_utf8(out.stderr).unwrap(),
        )
    };
    let (exit, out, _) = list(&["run", "-", "s", "--list"], "a[1-2]\r\nb\n");
    assert_eq!((exit, out.lines().count()), (0, 3), "{out}");
    let (exit, _, error) = list(&["run", "-", "s", "--list"], "# nobody\n");
    assert_eq!(exit, 3);
    assert!(error.contains("standard input: names no host"), "{error}");
    let (exit, _, error) = list(&["run", "-", "s", "--exclude", "-"], "b\n");
    assert_eq!(exit, 3);
    assert!(error.contains("only once"), "{error}");
}

#[test]
fn what_names_nobody_or_something_else_is_refused_before_anything_runs() {
    let root = Root::new();
    let agent = fleet(&root, &["ap1", "ap2", "r1"]);
    let nested = root.path("nested");
    std::fs::write(&nested, "r1\n@other\n").unwrap();
    let nested = format!("@{}", nested.display());
    for (words, error) in [
        (&["ap[1-12]"][..], "unknown agent: ap3, ap4"),
        (&["ap[01-02]"], "unknown agent: ap01, ap02"),
        (&["ap[1-2", "r1"], "'[' without ']'"),
        (&["ap[12]"], "one number in brackets"),
        (&["ap[1-12a]"], "neither numbers"),
        (&["ap[2-1]"], "'2-1' holds no number"),
        (&["ap[1-999999999]"], "more than 100000 hosts"),
        (&["r1", "q*"], "no registered agent matches 'q*'"),
        (&["r1,,ap1"], "a name is missing"),
        (&["r1:99999"], "a port is a number from 1 to 65535"),
        (&["r1:0"], "a port is a number from 1 to 65535"),
        (
            &["r1:7001", "r1:7002"],
            "r1 is named with two ports, 7001 and 7002",
        ),
        (
            &["--all", "--exclude", "r2"],
            "--exclude names an unknown agent: r2",
        ),
        (
            &["--all", "--exclude", "q*"],
            "no registered agent matches 'q*'",
        ),
        (&["--all", "--exclude", "*"], "every one meant is excluded"),
        (
            &["--all", "--tags", "site=x"],
            "ctrl-exec-dispatcher discover",
        ),
        (&["@/nowhere/list"], "list of hosts /nowhere/list: "),
        (&["@/dev/zero"], "list of hosts /dev/zero: "),
        (&[&nested], "line 2: a list cannot name another list"),
        (&["@"], "'@' needs the name of a file"),
    ] {
        for verb in [&["run", "s"][..], &["ping"]] {
            let (verb, script) = verb.split_at(1);
            let ended = root.run(&[verb, words, script].concat());
            assert_eq!(
                (ended.exit, &*ended.stdout),
                (3, ""),
                "{words:?}: {ended:?}"
            );
            assert!(ended.stderr.contains(error), "{words:?}: {}", ended.stderr);
        }
    }
    assert_eq!(agent.connections(), 0);
}

#[test]
fn a_host_named_twice_runs_once() {
    let root = Root::new();
    let agent = fleet(&root, &["r1"]);
    let port = agent.address.port();
    let with_port = format!("r1:{port}");
    for words in [
        &["r1", "r1"][..],
        &["r1", &with_port],
        &[&with_port, "r[1-1]", "r*"],
        &["r1,r1"],
    ] {
        let before = agent.connections();
        let ended = root.run(&[&["run"], words, &["s"]].concat());
        assert_eq!(ended.exit, 0, "{ended:?}");
        assert_eq!(ended.stdout.matches("==>").count(), 1, "{words:?}");
        assert_eq!(agent.connections() - before, 1, "{words:?}");
    }
}

#[test]
fn arguments_without_dashes_are_recognised() {
    let root = Root::new();
    let agent = fleet(&root, &["r1", "r2"]);
    for (words, hint) in [
        (&["r1", "hello", "arg"][..], "run r1 hello -- arg"),
        (&["r[1-2]", "hello", "a", "b"], "run r[1-2] hello -- a b"),
        (&["r1", "r2", "hello", "q*", "x"], "run r1 r2 hello -- q* x"),
        (
            &["r1", "hello", "a:99999", "x"],
            "run r1 hello -- a:99999 x",
        ),
    ] {
        let ended = root.run(&[&["run"], words].concat());
        assert_eq!(ended.exit, 3);
        let expected = format!("If 'hello' is the script, its arguments go after --: {hint}\n");
        assert!(ended.stderr.ends_with(&expected), "{}", ended.stderr);
    }
    for words in [
        &["nosuch", "hello"][..],
        &["nosuch", "r1", "hello"],
        &["r1", "nosuch", "s", "--", "x"],
    ] {
        let ended = root.run(&[&["run"], words].concat());
        assert!(
            !ended.stderr.contains("arguments go after"),
            "{}",
            ended.stderr
        );
    }
    assert_eq!(agent.connections(), 0);
}

#[test]
fn what_fold_prints_is_what_run_takes() {
    let root = Root::new();
    let names = ["ap1", "ap2", "ap9", "ap10", "ap11", "w01", "w02", "x"];
    let _agent = fleet(&root, &names);
    let ended = root.run(&["run", "--all", "s", "--fold"]);
    let folded = ended.stdout.split(' ').nth(1).unwrap();
    assert_eq!(folded, "ap[1-2,9-11],w[01-02],x");
    let mut again = listed(&root.run(&["run", folded, "s", "--list"]));
    let mut names = names.map(str::to_owned).to_vec();
    names.sort();
    again.sort();
    assert_eq!(again, names);
}
