//! Who ran what, where and when, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_testkit::json as jval;
use std::fs;
use std::time::{Duration, SystemTime};
use support::agent::{Act, Agent};
use support::{Root, items, object, text};

fn agent(root: &Root, name: &str, exit: i32) -> Agent {
    let (identity, _) = root.agent_identity(name, 825);
    let body = format!(r#"{{"exit":{exit},"stdout":"o\n","stderr":""}}"#);
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        Act::Answer(200, body.clone())
    });
    root.register(name, agent.address);
    agent
}

fn ids(root: &Root, flags: &[&str]) -> Vec<String> {
    let ended = root.run(&[&["runs", "--json"], flags].concat());
    assert_eq!(ended.exit, 0, "{ended:?}");
    let wrapped = object(&format!(r#"{{"runs":{}}}"#, ended.stdout.trim()));
    let scripts = items(&wrapped, "runs");
    let mut scripts: Vec<_> = scripts
        .iter()
        .map(|r| text(r, "script").to_owned())
        .collect();
    scripts.sort();
    scripts
}

#[test]
fn runs_are_listed_with_who_and_what() {
    let root = Root::new();
    let _good = agent(&root, "r1", 0);
    let _bad = agent(&root, "w2", 4);
    assert_eq!(root.run(&["runs", "--json"]).stdout, "[]\n");
    let ann = root
        .command(&["run", "r1", "one", "--", "a b", "\u{1b}[2J"])
        .env("SUDO_USER", "ann")
        .output()
        .unwrap();
    assert_eq!(ann.status.code(), Some(0));
    root.run(&["run", "r1", "w2", "two", "--username", "bob"]);
    root.run(&["run", "w2", "three", "--async"]);
    for (flags, scripts) in [
        (&[][..], &["one", "three", "two"][..]),
        (&["--user", "ann"], &["one"]),
        (&["--user", "bob"], &["two"]),
        (&["--user", "an"], &[]),
        (&["--script", "two"], &["two"]),
        (&["--host", "r1"], &["one", "two"]),
        (&["--host", "w*", "--script", "three"], &["three"]),
        (
            &["--since", "1h", "--host", "r1", "--user", "ann"],
            &["one"],
        ),
    ] {
        assert_eq!(ids(&root, flags), scripts, "{flags:?}");
    }
    assert!(ids(&root, &["--failed"]).contains(&"two".to_owned()));
    assert!(!ids(&root, &["--failed"]).contains(&"one".to_owned()));
    for bad in ["", "7", "d", "-1d", "+1d", "1w", "1.5h", "99999999999d"] {
        let ended = root.run(&["runs", &format!("--since={bad}")]);
        assert_eq!(ended.exit, 3, "{bad}: {ended:?}");
        assert!(ended.stderr.contains("is no age"), "{}", ended.stderr);
    }
    let table = root.run(&["runs", "--script", "one"]).stdout;
    let line = table.lines().nth(1).unwrap();
    assert!(
        line.contains("ann") && line.contains("ok") && line.ends_with("r1"),
        "{line}"
    );
    let reqid = line.split(' ').next().unwrap();
    let shown = root.run(&["show", reqid]);
    assert_eq!(shown.exit, 0);
    for part in [
        "User       ann\n",
        "Arguments  [\"a b\",",
        "==> r1  [OK  exit:0",
        "\no\n",
        "When  ",
    ] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    assert!(!shown.stdout.contains('\u{1b}'));
    let record = object(&root.run(&["show", reqid, "--json"]).stdout);
    assert_eq!(
        text(jval::sub_object(&record, "by").unwrap(), "sudo_user"),
        "ann"
    );
    assert_eq!(jval::texts_of(&record, "args"), ["a b", "\u{1b}[2J"]);
    assert_eq!(root.run(&["show", "nosuch"]).exit, 1);
}

#[test]
fn records_without_the_new_members_and_damaged_ones() {
    let root = Root::new();
    let runs = root.path("var/lib/ctrl-exec/runs");
    fs::create_dir_all(&runs).unwrap();
    fs::write(
        runs.join("old.json"),
        r#"{"mode":"async","script":"slow","created":1795354413,"complete":true,"reqid":"old","hosts":{"vm":{"status":"error"}}}"#,
    )
    .unwrap();
    let ended = root.run(&["runs", "--failed"]);
    assert_eq!(ended.exit, 0);
    assert!(
        ended.stdout.contains("old") && ended.stdout.contains("vm"),
        "{ended:?}"
    );
    fs::write(runs.join("cut.json"), r#"{"mode":"as"#).unwrap();
    let ended = root.run(&["runs"]);
    assert_eq!(ended.exit, 1, "{ended:?}");
    assert!(
        ended.stdout.contains("old") && ended.stderr.contains("cut.json"),
        "{ended:?}"
    );
}

#[test]
fn maintenance_keeps_what_is_configured() {
    let root = Root::new();
    let runs = root.path("var/lib/ctrl-exec/runs");
    fs::create_dir_all(&runs).unwrap();
    let write = |name: &str, hours: u64, size: usize| {
        let path = runs.join(format!("{name}.json"));
        let body = format!(
            r#"{{"mode":"sync","complete":true,"x":"{}"}}"#,
            "x".repeat(size)
        );
        fs::write(&path, body).unwrap();
        let then = SystemTime::now() - Duration::from_secs(hours * 3_600);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(then)
            .unwrap();
    };
    let left = || {
        let mut names: Vec<String> = fs::read_dir(&runs)
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().into_string().ok())
            .filter_map(|n| n.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        names
    };
    write("month", 24 * 29, 1);
    write("older", 24 * 31, 1);
    write("large", 48, 1 << 20);
    write("new", 0, 1 << 20);
    root.run(&["maintain"]);
    assert_eq!(left(), ["large", "month", "new"]);
    root.configure("run_retention_size = 1\n");
    root.run(&["maintain"]);
    assert_eq!(
        left(),
        ["new"],
        "the oldest go first, what may be under way stays"
    );
    write("week", 24 * 7, 1);
    root.configure("run_retention = 0\n");
    let ended = root.run(&["maintain"]);
    assert_eq!(ended.exit, 1, "{ended:?}");
    assert!(ended.stderr.contains("run_retention"), "{ended:?}");
    assert_eq!(left(), ["new", "week"]);
}
