//! Many agents at once: broken ones among honest ones, one agent under many names, huge results,
//! rolling runs, selection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_testkit::json as jval;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::agent::{Act, Agent};
use support::fleet::{self, Fleet};
use support::{Root, items, object, text};

fn honest(root: &Root, keep_alive: bool) -> Fleet {
    let (identity, _) = root.agent_identity("fleet", 825);
    Fleet::start(&identity, &root.ca_pem(), keep_alive, |called, request| {
        let body = object(&String::from_utf8_lossy(&request.body));
        let reqid = text(&body, "reqid");
        match &*request.path() {
            "/ping" => (
                200,
                format!(
                    r#"{{"status":"ok","host":"{called}","version":"0.13.0","expiry":"Feb 24 13:29:34 2099 GMT","staged":false,"reqid":"{reqid}"}}"#
                ),
            ),
            "/run" => {
                let exit = usize::from(text(&body, "script") == "fail");
                (
                    200,
                    format!(
                        r#"{{"script":"s","exit":{exit},"stdout":"on {called}\n","stderr":"","reqid":"{reqid}"}}"#
                    ),
                )
            }
            _ => (404, "{}".to_owned()),
        }
    })
}

fn register(root: &Root, n: usize, port: u16) -> String {
    let name = format!("a{n:05}");
    root.register(&name, SocketAddr::from((fleet::address(n), port)));
    name
}

#[test]
fn every_host_is_accounted_for_within_one_timeout() {
    let root = Root::new();
    root.configure("read_timeout = 5\n");
    let fleet = honest(&root, false);
    let ports = [
        support::ports::claim().unwrap(),
        fleet::hanging_port(),
        fleet::garbage_port(),
    ];
    for n in 0..300 {
        let port = ports.get(n % 10).copied().unwrap_or(fleet.port);
        register(&root, n, port);
    }
    let begun = Instant::now();
    let ended = root.run(&["run", "--all", "s", "--json", "--parallel", "300"]);
    let took = begun.elapsed();
    assert_eq!(ended.exit, 1, "{}", ended.stderr);
    let results = object(&ended.stdout);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for result in items(&results, "results") {
        let kind = format!("{} {}", text(result, "outcome"), text(result, "phase"));
        *kinds.entry(kind).or_default() += 1;
        if text(result, "outcome") == "ok" {
            let n: usize = text(result, "host")[1..].parse().unwrap();
            assert_eq!(
                text(result, "stdout"),
                format!("on {}\n", fleet::address(n))
            );
        }
    }
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, count)| (kind.as_str(), *count))
        .collect();
    assert_eq!(
        kinds,
        [
            ("ok ", 210),
            ("unreached connect", 30),
            ("unreached tls", 60)
        ]
    );
    // One time-out, and room for a busy machine.
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(
        root.run(&[
            "run",
            "--all",
            "s",
            "--strict",
            "--quiet",
            "--parallel",
            "300"
        ])
        .exit,
        5
    );
}

#[test]
fn one_agent_under_many_names_keeps_its_connection() {
    let root = Root::new();
    let fleet = honest(&root, true);
    for n in 0..60 {
        root.register(
            &format!("name{n}"),
            SocketAddr::from(([127, 0, 0, 1], fleet.port)),
        );
    }
    let results = root.json(&["ping", "--all", "--json"]);
    assert_eq!(items(&results, "results").len(), 60);
    assert!(
        items(&results, "results")
            .iter()
            .all(|result| text(result, "status") == "ok")
    );
    // An agent takes ten connections a minute from one address.
    assert!(
        fleet.connections() <= 9,
        "{} connections",
        fleet.connections()
    );
}

#[test]
fn a_host_given_twice_is_called_once() {
    let root = Root::new();
    let fleet = honest(&root, false);
    register(&root, 1, fleet.port);
    let results = root.json(&["run", "a00001", "a00001", "s", "--json"]);
    assert_eq!(items(&results, "results").len(), 1);
    assert_eq!(fleet.connections(), 1);
}

#[test]
fn results_of_megabytes_arrive_whole() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("big", 825);
    let big = "0123456789abcde\n".repeat(10 << 16);
    let stdout = big.clone();
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        let body = jval::line(&jval::Object::of([
            ("exit", jval::number(0)),
            ("stdout", jval::string(stdout.as_str())),
            ("stderr", jval::string("e".repeat(1 << 20))),
        ]));
        Act::Answer(200, body)
    });
    root.register("big", agent.address);
    let refused = root.json_any(&["run", "big", "s", "--json"], 1);
    let error = text(items(&refused, "results")[0], "error").to_owned();
    assert!(error.contains("max_answer"), "{error}");
    root.configure("max_answer = 64M\n");
    // How it ended is not known, and this agent cannot be asked.
    let reqid = text(items(&refused, "results")[0], "reqid");
    let results = root.json(&["run", "big", "s", "--json", "--despite-unknown", reqid]);
    assert!(text(items(&results, "results")[0], "stdout") == big);
    let printed = root.run(&["run", "big", "s"]);
    assert!(printed.stdout.contains(&big));
    // A large request goes out too.
    let argument = "x".repeat(100_000);
    assert_eq!(root.run(&["run", "big", "s", "--", &argument]).exit, 0);
    assert!(agent.seen().last().unwrap().body.contains(&argument));
}

#[test]
fn a_rolling_run_stops_after_failures() {
    let root = Root::new();
    let fleet = honest(&root, false);
    for n in 0..40 {
        register(&root, n, fleet.port);
    }
    let ended = root.run(&[
        "run",
        "--all",
        "fail",
        "--batch",
        "2",
        "--max-failures",
        "5%",
        "--json",
    ]);
    assert_eq!(ended.exit, 1);
    assert!(ended.stderr.contains("no further host"), "{}", ended.stderr);
    let results = object(&ended.stdout);
    let skipped = items(&results, "results")
        .iter()
        .filter(|r| text(r, "outcome") == "skipped")
        .count();
    let failed = items(&results, "results")
        .iter()
        .filter(|r| text(r, "outcome") == "failed")
        .count();
    assert_eq!(skipped + failed, 40);
    // Two may be under way when the second one fails; nothing begins after it.
    assert!((2..=3).contains(&failed), "{failed} failed");
    for _ in 0..10 {
        let ended = root.run(&[
            "run",
            "--all",
            "fail",
            "--batch",
            "1",
            "--max-failures",
            "1",
            "--json",
        ]);
        let results = object(&ended.stdout);
        let failed: Vec<_> = items(&results, "results")
            .into_iter()
            .filter(|result| text(result, "outcome") != "skipped")
            .map(|result| text(result, "host"))
            .collect();
        assert_eq!(failed, ["a00000"], "one host, and the first");
    }
    let bad = root.run(&["run", "--all", "s", "--batch", "0"]);
    assert_eq!(bad.exit, 3);
    assert!(bad.stderr.contains("--batch"));
}

#[test]
fn selection_list_fold_sort_and_lines() {
    let root = Root::new();
    let fleet = honest(&root, false);
    for (name, site) in [("r1", "lab"), ("r2", "roof"), ("s1", "lab")] {
        root.register_json(
            name,
            &format!(
                r#"{{"hostname":"{name}","ip":"127.0.0.1","port":{},"lookup_by":"ip","tags":{{"site":"{site}"}},"serial_status":"current"}}"#,
                fleet.port
            ),
        );
    }
    let names = |args: &[&str]| -> Vec<String> {
        let ended = root.run(args);
        assert_eq!(ended.exit, 0, "{ended:?}");
        ended
            .stdout
            .lines()
            .map(|line| text(&object(line), "host").to_owned())
            .collect()
    };
    let mut lab = names(&["run", "--tags", "site=lab", "s", "--json-lines"]);
    lab.sort();
    assert_eq!(lab, ["r1", "s1"]);
    let mut globbed = names(&["ping", "r*", "--json-lines"]);
    globbed.sort();
    assert_eq!(globbed, ["r1", "r2"]);

    let listed = root.run(&["run", "--all", "s", "--list"]);
    assert_eq!(listed.stdout.lines().count(), 3);
    assert!(listed.stdout.contains(&format!("127.0.0.1:{}", fleet.port)));
    let before = fleet.connections();
    root.run(&["run", "--all", "s", "--list", "--json"]);
    assert_eq!(fleet.connections(), before, "nobody is called");

    let folded = root.run(&["run", "--all", "s", "--fold"]);
    assert_eq!(
        folded.stdout,
        "==> r[1-2],s1  (3 host(s))  [OK  exit:0]\non 127.0.0.1\n"
    );
    let sorted = root.json(&["run", "s1", "r2", "r1", "s", "--sort", "--json"]);
    let hosts: Vec<_> = items(&sorted, "results")
        .iter()
        .map(|r| text(r, "host"))
        .collect();
    assert_eq!(hosts, ["r1", "r2", "s1"]);

    for args in [
        &["run", "--all", "r1", "s"][..],
        &["run", "x*", "s"],
        &["run", "--tags", "site=sea", "s"],
    ] {
        let ended = root.run(args);
        assert_eq!((ended.exit, ended.stdout.as_str()), (3, ""), "{args:?}");
    }
}

#[test]
fn what_failed_is_run_again() {
    let root = Root::new();
    let fleet = honest(&root, false);
    register(&root, 1, fleet.port);
    register(&root, 2, support::ports::claim().unwrap());
    let results = object(&root.run(&["run", "--all", "s", "--json"]).stdout);
    let reqid = items(&results, "results")
        .iter()
        .find(|result| text(result, "outcome") == "unreached")
        .map(|result| text(result, "reqid").to_owned())
        .unwrap();
    register(&root, 2, fleet.port);
    let again = root.json(&["run", "--failed-of", &reqid, "s", "--json"]);
    let again = items(&again, "results");
    assert_eq!(again.len(), 1);
    assert_eq!(text(again[0], "host"), "a00002");
    // The record of the first run is a sync one: status prints it, wait tells that it failed.
    assert!(root.run(&["status", &reqid]).stdout.contains("[COMPLETE]"));
    assert_eq!(root.run(&["wait", &reqid]).exit, 1);
    assert_eq!(
        root.run(&["run", "--failed-of", text(again[0], "reqid"), "s"])
            .exit,
        3
    );
}

#[test]
fn many_agents_are_listed_quickly() {
    let root = Root::new();
    for n in 0..4_000 {
        register(&root, n, 7443);
    }
    root.run(&["list-agents"]);
    let begun = Instant::now();
    let ended = root.run(&["list-agents"]);
    let took = begun.elapsed();
    assert_eq!(ended.stdout.lines().count(), 4_002);
    println!("4,000 agents listed in {took:?}");
    // The benchmark lists 50,000 with a release build in less than a second.
    assert!(took < Duration::from_secs(20), "{took:?}");
}
