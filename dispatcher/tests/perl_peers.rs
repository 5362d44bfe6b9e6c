//! Peers of release 0.12.3, as they behave on the wire: what is learned of them, kept, and done
//! for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::agent::{Act, Agent};
use support::perl::{self, AgentBuilder, Output};
use support::{Root, items, text};

/// Bytes that are UTF-8.
const UTF8: &str = "grün\n";
/// The same word in Latin-1, which is no UTF-8.
const LATIN1: &[u8] = b"gr\xfcn\n";

fn builder(root: &Root) -> AgentBuilder {
    let (identity, _) = root.agent_identity("vm", 825);
    AgentBuilder::new(&identity, &root.ca_pem())
        .script("utf8", |_| said(UTF8.as_bytes()))
        .script("latin1", |_| said(LATIN1))
        .script("quiet", |_| Output::default())
        .volume(None)
}

fn said(stdout: &[u8]) -> Output {
    Output {
        stdout: stdout.to_vec(),
        stderr: "é".into(),
        exit: 0,
    }
}

/// Registers an agent that is known as one of 0.12.3.
fn register(root: &Root, address: SocketAddr) {
    root.register_json(
        "vm",
        &format!(
            r#"{{"hostname":"vm","ip":"{}","port":{},"lookup_by":"ip","agent_version":"0.12","rate":"off","theirs":[1]}}"#,
            address.ip(),
            address.port()
        ),
    );
}

/// Starts it, and registers it.
fn known(root: &Root, builder: AgentBuilder) -> perl::Agent {
    let agent = builder.start();
    register(root, agent.address);
    agent
}

fn serial_of(root: &Root) -> String {
    let pem = std::fs::read_to_string(root.path("etc/ctrl-exec/dispatcher.crt")).unwrap();
    ctrl_exec_protocol::x509::cert::facts_from_pem(&pem)
        .unwrap()
        .serial_hex
}

/// Refused right after the handshake, and closed with the request unread: the reason is heard by
/// who listens first.
#[test]
fn its_refusal_is_heard_before_the_request_is_sent() {
    let root = Root::new();
    let agent = known(&root, builder(&root));
    assert_eq!(root.run(&["ping", "vm"]).exit, 0);
    agent.revoke(&serial_of(&root));
    for command in [
        &["ping", "vm"] as &[&str],
        &["run", "vm", "quiet"],
        &["run", "vm", "quiet", "--async"],
        &["discover", "vm"],
    ] {
        for _ in 0..3 {
            let ended = root.run(command);
            let all = format!("{}{}", ended.stdout, ended.stderr);
            assert!(
                all.contains("certificate revoked") || all.contains("403 Forbidden"),
                "{all}"
            );
            assert!(!all.contains("reset"), "{all}");
        }
    }
    assert_eq!(agent.requests(), ["POST /ping"]);
    assert!(agent.is_alive());
}

/// Where nothing is said at all, the causes are named.
#[test]
fn a_close_without_a_word_names_what_may_have_been_the_cause() {
    let root = Root::new();
    let limit = Some((2, Duration::from_secs(600)));
    let agent = known(&root, builder(&root).volume(limit));
    for _ in 0..2 {
        assert_eq!(root.run(&["run", "vm", "quiet"]).exit, 0);
    }
    for command in ["run", "ping"] {
        let more: &[&str] = if command == "run" { &["quiet"] } else { &[] };
        let mut args = vec![command, "vm"];
        args.extend(more);
        args.push("--json");
        let ended = root.run(&args);
        assert!(
            ended.stdout.contains("revoked") && ended.stdout.contains("rate limit"),
            "{ended:?}"
        );
    }
    // Each call was made again, in vain: its limit says nothing to anybody.
    assert_eq!(agent.connections(), 6);
}

/// What comes in more than one TLS record is cut at the first, so nothing is sent that is longer.
#[test]
fn what_one_read_cannot_take_is_not_sent() {
    let root = Root::new();
    let agent = known(&root, builder(&root));
    let longest = "x".repeat(15_800);
    assert_eq!(root.run(&["run", "vm", "quiet", "--", &longest]).exit, 0);
    assert_eq!(agent.ran()[0], [longest.as_bytes()]);
    let ended = root.run(&["run", "vm", "quiet", "--", &"x".repeat(40_000)]);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    assert!(all.contains("a Perl agent takes at most 16384"), "{all}");
    assert_eq!(agent.ran().len(), 1);
}

/// Behind the executor everything is bytes.
#[test]
fn with_the_executor_arguments_and_output_are_bytes() {
    let root = Root::new();
    let agent = known(&root, builder(&root).executor());
    let run = |script: &str, more: &[&str]| {
        let mut args = vec!["run", "vm", script, "--json"];
        args.extend(more);
        root.json_any(&args, 0)
    };
    let result = run("utf8", &["--", "grün", "€", "\u{1f600}"]);
    let result = items(&result, "results")[0];
    assert_eq!(
        (text(result, "stdout"), text(result, "stderr")),
        (UTF8, "é")
    );
    let expected: Vec<&[u8]> = vec!["grün".as_bytes(), "€".as_bytes(), "\u{1f600}".as_bytes()];
    assert_eq!(agent.ran()[0], expected);
    assert_eq!(text(&root.record("vm"), "executor"), "yes");
    // What is no UTF-8 as bytes is text.
    let result = run("latin1", &[]);
    assert_eq!(text(items(&result, "results")[0], "stdout"), "grün\n");
    // Its refusal of async runs tells the same, also where nothing else has.
    register(&root, agent.address);
    root.run(&["run", "vm", "quiet", "--async"]);
    assert_eq!(text(&root.record("vm"), "executor"), "yes");
    assert!(root.record("vm").contains_key("theirs"));
}

/// Without it everything is text; until an answer has shown that, arguments are sent as bytes, which
/// no mode dies of.
#[test]
fn in_direct_mode_arguments_are_text_once_it_is_known() {
    let root = Root::new();
    let agent = known(&root, builder(&root));
    let twice = "gr\u{c3}\u{bc}n".as_bytes();
    assert_eq!(root.run(&["run", "vm", "quiet", "--", "grün"]).exit, 0);
    assert_eq!(agent.ran()[0], [twice]);
    // It takes an async run: it has no executor.
    let submitted = root.json(&["run", "vm", "utf8", "--async", "--json"]);
    assert_eq!(text(&root.record("vm"), "executor"), "no");
    let done = root.run(&["status", text(&submitted, "reqid"), "--json"]);
    assert!(done.stdout.contains("grün"), "{done:?}");
    let result = root.json_any(&["run", "vm", "utf8", "--json", "--", "grün€"], 0);
    assert_eq!(agent.ran()[2], ["grün€".as_bytes()]);
    assert_eq!(text(items(&result, "results")[0], "stdout"), UTF8);
    // Output that is no UTF-8 kills its child: the call says so, and the record is as it was.
    let ended = root.run(&["run", "vm", "latin1"]);
    assert_eq!(ended.exit, 1, "{ended:?}");
    assert_eq!(text(&root.record("vm"), "executor"), "no");
}

/// `discover` tells what an agent is, and what it has become.
#[test]
fn discover_tells_what_it_is_and_what_it_has_become() {
    let root = Root::new();
    let agent = builder(&root).start();
    root.register("vm", agent.address);
    assert_eq!(root.run(&["discover", "vm"]).exit, 0);
    assert_eq!(text(&root.record("vm"), "agent_version"), "0.12.3");
    let (identity, _) = root.agent_identity("vm", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        let body = r#"{"status":"ok","host":"vm","version":"0.13.0","scripts":[]}"#;
        Act::Answer(200, body.into())
    });
    root.run(&[
        "edit-agent",
        "vm",
        "--agent-port",
        &agent.address.port().to_string(),
    ]);
    assert_eq!(root.run(&["discover", "vm"]).exit, 0);
    assert_eq!(text(&root.record("vm"), "agent_version"), "0.13.0");
}

/// The first answer tells: asked to keep the connection, 0.12.3 closes it. What the answer holds is
/// read accordingly.
#[test]
fn the_first_run_tells_what_it_is() {
    let root = Root::new();
    let agent = builder(&root).executor().start();
    root.register("vm", agent.address);
    let result = root.json(&["run", "vm", "utf8", "--json"]);
    assert_eq!(text(items(&result, "results")[0], "stdout"), UTF8);
    let record = root.record("vm");
    assert_eq!(text(&record, "agent_version"), "0.12");
    assert_eq!(text(&record, "executor"), "yes");
    let ended = root.run(&["run", "vm", "quiet", "--", "grün€"]);
    assert_eq!(ended.exit, 0, "{ended:?} {:?}", root.record("vm"));
    assert_eq!(agent.ran()[1], ["grün€".as_bytes()]);
}

/// Nothing that we do ends its process: each connection brings a handshake.
#[test]
fn no_command_ends_its_process() {
    let root = Root::new();
    let agent = known(&root, builder(&root));
    for command in [
        &["ping", "vm"] as &[&str],
        &["discover", "vm"],
        &["run", "vm", "quiet", "--time-limit", "5"],
        &["doctor"],
        &["maintain"],
        &["runs", "vm"],
        &["cancel", "vm", "--all"],
    ] {
        root.run(command);
        assert!(agent.is_alive(), "{command:?}");
    }
    assert_eq!(root.run(&["ping", "vm"]).exit, 0);
}

#[test]
fn a_pace_can_be_set_and_waiting_is_told() {
    let root = Root::new();
    let agent = builder(&root).start();
    let names: Vec<String> = (0..12).map(|n| format!("vm{n}")).collect();
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &words {
        root.register(name, agent.address);
    }
    let set = |rate: &str| {
        for name in &words {
            assert_eq!(root.run(&["edit-agent", name, "--rate", rate]).exit, 0);
        }
    };
    let ping = || {
        let begun = Instant::now();
        let mut args = vec!["ping"];
        args.extend(&words);
        (root.run(&args), begun.elapsed())
    };
    for bad in ["0/5", "5", "5/0", "5/x", "-1/5", "+1/5", "", "Off"] {
        let ended = root.run(&["edit-agent", "vm0", "--rate", bad]);
        assert_eq!(ended.exit, 3, "{bad}: {ended:?}");
        assert!(ended.stderr.contains("--rate"), "{ended:?}");
    }
    set("off");
    let (ended, _) = ping();
    assert!(
        ended.exit == 0 && !ended.stderr.contains("no more connections"),
        "{ended:?}"
    );
    set("8/3");
    let (ended, took) = ping();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(
        ended.exit == 0
            && ended.stderr.contains(" takes no more connections for")
            && ended.stderr.contains("--rate"),
        "{ended:?}"
    );
    set("default");
    assert!(!root.record("vm0").contains_key("rate"));
}

/// An agent that tells that it does not limit a trusted dispatcher is not waited for: as soon as
/// `discover`, or a ping, has told it. What the operator has set goes before it.
#[test]
fn what_an_agent_tells_of_its_limit_overrides_the_default() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |request| {
        let features = r#""features":["runs","unpaced"]"#;
        Act::Answer(
            200,
            match request.path().as_ref() {
                "/run" => r#"{"script":"s","exit":0,"stdout":"","stderr":""}"#.into(),
                _ => format!(r#"{{"status":"ok","version":"0.13.0","scripts":[],{features}}}"#),
            },
        )
    });
    let words = ["vm0", "vm1", "vm2", "vm3"];
    for name in words {
        root.register(name, agent.address);
    }
    for command in ["discover", "ping"] {
        let mut args = vec![command];
        args.extend(words);
        assert_eq!(root.run(&args).exit, 0);
    }
    let mut args = vec!["run"];
    args.extend(words);
    args.push("s");
    for _ in 0..4 {
        let ended = root.run(&args);
        assert!(
            ended.exit == 0 && !ended.stderr.contains("no more connections"),
            "{ended:?}"
        );
    }
    // The same agents, limited by the operator: a call waits, and says so.
    for name in words {
        root.run(&["edit-agent", name, "--rate", "2/3"]);
    }
    let ended = root.run(&args);
    assert!(
        ended.exit == 0 && ended.stderr.contains(" takes no more connections for"),
        "{ended:?}"
    );
}
