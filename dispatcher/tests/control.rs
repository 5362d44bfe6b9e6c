//! Operators in control, through the real binary: what runs, ending it, limits, and the name in an
//! agent's certificate. Agents are made up here; the real ones are in `demo/tests/control.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use support::agent::{Act, Agent};
use support::{Root, items, text};

const FEATURES: &str = r#"{"status":"ok","features":["runs","cancel","time_limit"]}"#;

/// An agent as release 0.12.3 is: it knows neither `/runs` nor `/cancel`.
fn old(root: &Root, name: &str) -> Agent {
    agent(root, name, |path| match path {
        "/ping" => (200, r#"{"status":"ok","version":"0.12.3"}"#),
        "/run" => (200, r#"{"exit":0,"stdout":"","stderr":""}"#),
        _ => (404, r#"{"error":"not found"}"#),
    })
}

fn new(root: &Root, name: &str) -> Agent {
    agent(root, name, |path| match path {
        "/ping" => (200, FEATURES),
        "/runs" => (
            200,
            r#"{"status":"ok","runs":[{"reqid":"a1","script":"sl\u001b[2Jeep","seconds":9,"async":true}]}"#,
        ),
        "/cancel" => (404, r#"{"error":"no such run"}"#),
        _ => (200, r#"{"exit":0,"stdout":"","stderr":""}"#),
    })
}

fn agent(root: &Root, name: &str, answer: fn(&str) -> (u16, &'static str)) -> Agent {
    let (identity, _) = root.agent_identity(name, 825);
    let agent = Agent::start(&identity, &root.ca_pem(), move |request| {
        let (status, body) = answer(&request.path());
        Act::Answer(status, body.to_owned())
    });
    root.register(name, agent.address);
    agent
}

fn paths(agent: &Agent) -> Vec<String> {
    agent.seen().into_iter().map(|seen| seen.path).collect()
}

#[test]
fn what_an_old_agent_cannot_do_is_said() {
    let root = Root::new();
    let _old = old(&root, "p1");
    let _new = new(&root, "r1");
    let running = root.run(&["running"]);
    assert_eq!(running.exit, 1, "{running:?}");
    assert!(
        running.stdout.contains("cannot tell what it runs"),
        "{running:?}"
    );
    assert!(running.stdout.contains("sl\\u{1b}[2Jeep"), "{running:?}");
    assert!(
        running.stderr.contains("1 run(s) on 2 host(s)"),
        "{running:?}"
    );
    let json = root.json_any(&["running", "--json", "--sort"], 1);
    let results = items(&json, "results");
    assert_eq!(text(results[0], "code"), "unsupported");
    assert_eq!(text(items(results[1], "runs")[0], "reqid"), "a1");
    assert_eq!(root.run(&["running", "r1"]).exit, 0);
    assert_eq!(root.run(&["running", "p1", "--strict"]).exit, 4);
    let cancel = root.run(&["cancel", "p1", "--all"]);
    assert_eq!(cancel.exit, 1);
    assert!(
        cancel.stdout.contains("NOT CANCELLED") && cancel.stdout.contains("goes on"),
        "{cancel:?}"
    );
    let gone = root.json_any(&["cancel", "abc", "r1", "--json"], 1);
    assert_eq!(text(items(&gone, "results")[0], "code"), "no-such-run");
}

#[test]
fn what_is_to_be_cancelled_has_to_be_said() {
    let root = Root::new();
    let _new = new(&root, "r1");
    for (words, exit, told) in [
        (&["cancel"][..], 3, "needs more words"),
        (&["cancel", "r1"], 3, "'ced cancel r1 --all'"),
        (&["cancel", "nosuch"], 3, "no record of run 'nosuch'"),
        (&["cancel", "nosuch", "--all"], 3, "unknown agent"),
        (&["cancel", "a1", "nosuch"], 3, "unknown agent"),
        (&["cancel", "r1", "--all", "--exclude", "r1"], 3, ""),
    ] {
        let ended = root.run(words);
        assert_eq!(ended.exit, exit, "{words:?} {ended:?}");
        assert!(ended.stderr.contains(told), "{words:?} {ended:?}");
    }
    root.run(&["run", "r1", "s"]);
    let table = root.run(&["runs"]).stdout;
    let reqid = table.lines().nth(1).unwrap().split(' ').next().unwrap();
    let ended = root.run(&["cancel", reqid]);
    assert_eq!(ended.exit, 1, "{ended:?}");
    assert!(
        ended.stderr.contains("has ended on all its hosts"),
        "{ended:?}"
    );
}

#[test]
fn a_time_limit_goes_only_to_agents_that_keep_it() {
    let root = Root::new();
    let (old, new) = (old(&root, "p1"), new(&root, "r1"));
    for _ in 0..2 {
        let ended = root.run(&["run", "p1", "r1", "s", "--time-limit", "2m", "--sort"]);
        assert_eq!(ended.exit, 1, "{ended:?}");
        assert!(
            ended.stdout.contains("cannot end a script after a time"),
            "{ended:?}"
        );
        assert!(ended.stdout.contains("==> r1  [OK"), "{ended:?}");
    }
    // Both were asked once, and what they told is kept.
    assert_eq!(paths(&old), ["/ping"]);
    assert_eq!(paths(&new), ["/ping", "/run", "/run"]);
    assert!(new.seen()[1].body.contains(r#""time_limit":120"#));
    assert_eq!(
        text(&root.record("r1"), "features"),
        "runs cancel time_limit"
    );
    let strict = root.run(&["run", "p1", "s", "--time-limit", "5", "--strict"]);
    assert_eq!(strict.exit, 4);
    assert_eq!(
        root.run(&["run", "p1", "s"]).exit,
        0,
        "without a limit it runs"
    );
    let ended = root.run(&["run", "r1", "s", "--async", "--time-limit=5s"]);
    assert!(
        new.seen()
            .last()
            .unwrap()
            .body
            .contains(r#""time_limit":5"#),
        "{ended:?}"
    );
    for bad in [
        "0",
        "",
        "s",
        "-1",
        "+5",
        "1.5m",
        "31d",
        "99999999999",
        "5x",
        "4294967295h",
    ] {
        let ended = root.run(&["run", "r1", "s", &format!("--time-limit={bad}")]);
        assert_eq!(ended.exit, 3, "{bad}");
        assert!(ended.stderr.contains("--time-limit"), "{bad} {ended:?}");
    }
    // One that does not answer is not trusted to keep it.
    let closed = ctrl_exec_testkit::ports::claim().unwrap();
    root.register("r2", std::net::SocketAddr::from(([127, 0, 0, 1], closed)));
    let ended = root.run(&["run", "r2", "s", "--time-limit", "5", "--strict"]);
    assert_eq!(ended.exit, 4, "{ended:?}");
    assert!(ended.stdout.contains("did not answer a ping"), "{ended:?}");
}

/// The address of r1 has come to r2.
#[test]
fn the_name_in_the_certificate_is_the_one_paired() {
    let root = Root::new();
    let r2 = new(&root, "r2");
    let record = |cn: &str| {
        format!(
            r#"{{"hostname":"r1","ip":"127.0.0.1","port":{},"lookup_by":"ip","serial_status":"current"{cn}}}"#,
            r2.address.port()
        )
    };
    // Paired here, or taken over from a release that does not note the name: r2 is registered.
    for cn in [r#","paired_cn":"r1""#, ""] {
        root.register_json("r1", &record(cn));
        for verb in [
            &["run", "r1", "s"][..],
            &["ping", "r1", "--strict"],
            &["discover", "r1", "--strict"],
            &["running", "r1"],
            &["cancel", "x", "r1"],
            &["run", "r1", "s", "--async"],
        ] {
            let ended = root.run(verb);
            assert_ne!(ended.exit, 0, "{verb:?} {ended:?}");
            assert!(
                ended.stdout.contains("shows the certificate of 'r2'"),
                "{verb:?} {ended:?}"
            );
            assert!(!ended.stdout.contains("may still be running"), "{ended:?}");
        }
        let doctor = root.run(&["doctor"]);
        assert!(
            doctor.stdout.contains("shows the certificate of 'r2'"),
            "{doctor:?}"
        );
    }
    let sent = r2
        .seen()
        .into_iter()
        .filter(|seen| seen.path != "/ping")
        .count();
    assert_eq!(sent, 0, "nothing was sent");
    let failed = root.run(&["run", "r1", "s", "--strict"]);
    assert_eq!(failed.exit, 5, "{failed:?}");
    let once = root.run(&["run", "r1", "s", "--accept-name"]);
    assert_eq!(once.exit, 0, "{once:?}");
    assert_eq!(root.run(&["run", "r1", "s"]).exit, 1, "for that once");
    let edited = root.run(&["edit-agent", "r1", "--cert-name", "r2"]);
    assert!(
        edited.exit == 0 && edited.stdout.contains("cert-name:    r2"),
        "{edited:?}"
    );
    assert_eq!(root.run(&["run", "r1", "s"]).exit, 0);
    // The same certificate under two names, at one address: no copy.
    assert!(
        !root
            .run(&["ping", "r1", "r2"])
            .stderr
            .contains("one certificate")
    );
    // A record of 0.12.3 whose agent was renamed: nobody else has that name.
    root.register_json("attic", &record("").replace("\"r1\"", "\"attic\""));
    let unpaired = root.run(&["unpair", "r2"]);
    assert_eq!(unpaired.exit, 0, "{unpaired:?}");
    let ended = root.run(&["run", "attic", "s"]);
    assert_eq!(ended.exit, 0, "{ended:?}");
}

#[test]
fn a_copied_router_is_noticed() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("r1", 825);
    let start = || {
        Agent::start(&identity, &root.ca_pem(), |_| {
            Act::Answer(200, FEATURES.to_owned())
        })
    };
    let (first, second) = (start(), start());
    for (name, agent) in [("r1", &first), ("r2", &second)] {
        root.register_json(
            name,
            &format!(
                r#"{{"hostname":"{name}","ip":"127.0.0.1","port":{},"lookup_by":"ip","paired_cn":"{name}","serial_status":"current"}}"#,
                agent.address.port()
            ),
        );
    }
    let ping = root.run(&["ping", "--all"]);
    assert!(
        ping.stdout.contains("shows the certificate of 'r1'"),
        "{ping:?}"
    );
    assert!(
        ping.stderr.contains("one certificate at 2 addresses: 'r1'"),
        "{ping:?}"
    );
    // Accepted under both names, the registry shows it.
    root.run(&["edit-agent", "r2", "--cert-name", "r1"]);
    root.run(&["ping", "--all"]);
    let doctor = root.run(&["doctor", "--offline"]);
    assert!(
        doctor.stdout.contains("'r1' and 'r2' show one certificate"),
        "{doctor:?}"
    );
}
