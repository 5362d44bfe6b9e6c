//! Agents of release 0.12.3, as they behave on the wire: what is learned of them, kept, and done
//! for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_protocol::http::render_response;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::agent::{Act, Agent};
use support::{Root, items, text};

/// An agent of 0.12.3 with these answers to `/run`, known as such.
fn perl_agent(root: &Root, answers: Vec<(u16, &str)>) -> Agent {
    let (identity, _) = root.agent_identity("vm", 825);
    let acts = answers
        .into_iter()
        .map(|(status, body)| Act::Answer(status, body.to_owned()))
        .collect();
    let agent = Agent::scripted(&identity, &root.ca_pem(), acts);
    register(root, agent.address);
    agent
}

fn register(root: &Root, address: SocketAddr) {
    root.register_json(
        "vm",
        &format!(
            r#"{{"hostname":"vm","ip":"{}","port":{},"lookup_by":"ip","agent_version":"0.12","theirs":[1]}}"#,
            address.ip(),
            address.port()
        ),
    );
}

/// An agent that refuses after the handshake, as 0.12.3 does where a dispatcher is revoked or calls
/// too often: it reads no request. With `says` it tells why first.
fn refuser(root: &Root, says: Option<&'static str>) -> SocketAddr {
    let (identity, _) = root.agent_identity("vm", 825);
    let trust = Arc::new(ChainVerifier::from_pem(&root.ca_pem()).unwrap());
    let config = tls::agent_server_config(&identity, trust, &system_clock()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            while tls.is_handshaking() {
                if tls.complete_io(&mut tcp).is_err() {
                    break;
                }
            }
            if let Some(body) = says {
                let answer = render_response(403, body, false);
                let _ = tls.writer().write_all(&answer);
                tls.send_close_notify();
                let _ = tls.complete_io(&mut tcp);
            } else {
                // The request is there, unread: closing resets.
                let mut first = [0; 1];
                tcp.read_exact(&mut first).unwrap();
            }
        }
    });
    address
}

#[test]
fn its_refusal_is_heard_before_the_request_is_sent() {
    let root = Root::new();
    register(
        &root,
        refuser(&root, Some(r#"{"error":"certificate revoked"}"#)),
    );
    for _ in 0..8 {
        let ended = root.run(&["ping", "vm"]);
        let all = format!("{}{}", ended.stdout, ended.stderr);
        assert!(all.contains("certificate revoked"), "{all}");
    }
}

#[test]
fn a_reset_names_what_may_have_been_the_cause() {
    let root = Root::new();
    register(&root, refuser(&root, None));
    let result = root.json_any(&["run", "vm", "s", "--json"], 1);
    let text = text(items(&result, "results")[0], "error");
    assert!(
        text.contains("revoked") && text.contains("rate limit"),
        "{text}"
    );
}

#[test]
fn output_and_arguments_follow_the_mode_it_shows() {
    let root = Root::new();
    let agent = perl_agent(
        &root,
        vec![
            (
                200,
                r#"{"script":"s","exit":0,"stdout":"gr\u00c3\u00bcn\n","stderr":"\u00c3\u00a9","reqid":"r"}"#,
            ),
            (
                200,
                r#"{"script":"s","exit":0,"stdout":"gr\u00fcn","stderr":"","reqid":"r"}"#,
            ),
            (202, r#"{"script":"s","status":"accepted","reqid":"r"}"#),
            (
                200,
                r#"{"script":"s","exit":0,"stdout":"","stderr":"","reqid":"r"}"#,
            ),
        ],
    );
    let run = |args: &[&str]| root.run(args);
    // Nothing is known: bytes, which no mode dies of.
    let first = root.json_any(&["run", "vm", "s", "--json", "--", "grün€"], 0);
    let result = items(&first, "results")[0];
    assert_eq!(
        (text(result, "stdout"), text(result, "stderr")),
        ("grün\n", "é")
    );
    assert_eq!(text(&root.record("vm"), "executor"), "yes");
    // What is no UTF-8 as bytes is text.
    let second = root.json_any(&["run", "vm", "s", "--json"], 0);
    assert_eq!(text(items(&second, "results")[0], "stdout"), "grün");
    // It takes an async run: it has no executor.
    assert_eq!(run(&["run", "vm", "s", "--async"]).exit, 0);
    assert_eq!(text(&root.record("vm"), "executor"), "no");
    assert!(root.record("vm").contains_key("theirs"));
    assert_eq!(run(&["run", "vm", "s", "--", "grün€"]).exit, 0);
    let seen = agent.seen();
    let args = |n: usize| {
        let body = support::object(&seen[n].body);
        let Some(ctrl_exec_dispatcher::model::json::Value::Array(args)) = body.get("args") else {
            panic!("{}", seen[n].body)
        };
        match &args[0] {
            ctrl_exec_dispatcher::model::json::Value::String(arg) => arg.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(args(0), "gr\u{c3}\u{bc}n\u{e2}\u{82}\u{ac}");
    assert_eq!(args(3), "grün€");
}

#[test]
fn an_async_refusal_shows_the_executor_and_results_are_mapped() {
    let root = Root::new();
    perl_agent(
        &root,
        vec![
            (202, r#"{"script":"s","status":"accepted","reqid":"r"}"#),
            (
                200,
                r#"{"status":"done","exit":0,"stdout":"gr\u00c3\u00bcn","stderr":""}"#,
            ),
            (
                200,
                r#"{"script":"s","exit":-1,"reqid":"r","error":"async runs are not yet supported with the executor (privilege separation); run synchronously"}"#,
            ),
        ],
    );
    let submitted = root.json(&["run", "vm", "s", "--async", "--json"]);
    let done = root.run(&["status", text(&submitted, "reqid"), "--json"]);
    assert!(done.stdout.contains("grün"), "{done:?}");
    root.run(&["run", "vm", "s", "--async"]);
    assert_eq!(text(&root.record("vm"), "executor"), "yes");
}

#[test]
fn discover_tells_what_it_is_and_what_it_has_become() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 825);
    let capabilities = |version: &str| {
        let body = format!(r#"{{"status":"ok","host":"vm","version":"{version}","scripts":[]}}"#);
        Act::Answer(200, body)
    };
    let acts = vec![capabilities("0.12.3"), capabilities("0.13.0")];
    let agent = Agent::scripted(&identity, &root.ca_pem(), acts);
    root.register("vm", agent.address);
    for version in ["0.12.3", "0.13.0"] {
        assert_eq!(root.run(&["discover", "vm"]).exit, 0);
        assert_eq!(text(&root.record("vm"), "agent_version"), version);
    }
}

#[test]
fn a_pace_can_be_set_and_waiting_is_told() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(200, r#"{"status":"ok","version":"0.12.3"}"#.into())
    });
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
    let (ended, took) = ping();
    assert!(
        took < Duration::from_secs(20) && !ended.stderr.contains("pace"),
        "{took:?} {ended:?}"
    );
    set("8/3");
    let (ended, took) = ping();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(
        ended.stderr.contains(" takes no more connections for") && ended.stderr.contains("--rate"),
        "{ended:?}"
    );
    set("default");
    assert!(!root.record("vm0").contains_key("rate"));
}
