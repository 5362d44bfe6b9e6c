//! Every recording of the reference agent, replayed against ours with the reference's own
//! certificates (X.509 version 1, RSA-4096). Answers are compared as JSON. Where we mean to
//! answer differently, [`deviation`] says how and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use ctrl_exec_testkit::json::{self, Object, Value};
use std::fs;

struct Case {
    name: String,
    client: String,
    request: String,
    response: String,
}

enum Expect {
    /// As recorded.
    Same,
    /// As recorded, but for these members.
    Except(&'static [&'static str]),
    /// The handshake is refused.
    NoHandshake,
    /// This status, and a body that contains this.
    Answer(u16, &'static str),
}

/// DEVIATE: where the answer differs, with the reason.
fn deviation(case: &str) -> Expect {
    match case {
        // A client certificate is required (agent.md §15 Q-2).
        "ping without client certificate" | "renew without client certificate" => {
            Expect::NoHandshake
        }
        // The reference's process dies without an answer (Q-13, Q-9).
        "run array body" => Expect::Answer(200, r#"{"exit":-1,"error":"invalid JSON"#),
        "run invalid utf-8 output" => Expect::Answer(200, "caf\u{fffd}"),
        // No Perl warning; the context's arguments are the strings that the script gets.
        "run numbers and booleans as args" => {
            Expect::Answer(200, r#"args: 1 1 0  1.5\n","stderr":"err\n""#)
        }
        // Our diagnostic instead of Perl's.
        "run missing file" | "run not executable" => Expect::Except(&["stderr"]),
        // The values are this machine's.
        "run prints environment" => Expect::Answer(
            200,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\\n",
        ),
        // An empty first line is no request; the reference waits for more without a limit.
        "empty request" => Expect::Answer(400, r#"{"error":"empty request"}"#),
        // The reference does not say what ended the script.
        "run killed by signal" => Expect::Except(&["stderr"]),
        // The reference hands a file without `#!` to a shell in one mode and not in the other.
        "run without shebang" => Expect::Answer(200, "no shell is guessed"),
        // The CSR is ours; `renewal_request_is_for_the_same_key` looks into it.
        "renew" => Expect::Except(&["csr"]),
        // The reference stores `nan` for what is no serial, and dies.
        "rotate bad serial" => Expect::Answer(
            200,
            r#"{"status":"error","error":"invalid dispatcher serial"#,
        ),
        _ => Expect::Same,
    }
}

fn reference_host() -> Host {
    let read = |name: &str| fixture(&format!("reference/{name}"));
    let agent = Leaf {
        cert: read("agent.crt"),
        key: read("agent.key"),
    };
    let dispatcher = Leaf {
        cert: read("dispatcher.crt"),
        key: read("dispatcher.key"),
    };
    let map = read("ctrl-exec-dispatchers");
    let mut host = Host::with(&read("ca.crt"), agent, dispatcher, &map);
    let etc = host.path("etc/ctrl-exec-agent").display().to_string();
    let conf = read("agent.conf").replace("/etc/ctrl-exec-agent", &etc);
    let conf = conf.replace("7443", &host.port.to_string());
    host.write(
        "etc/ctrl-exec-agent/agent.conf",
        &format!("bind = 127.0.0.1\nallow_root = yes\n{conf}"),
    );
    host.script(
        "hello",
        "#!/bin/sh\ncat\necho\necho \"args: $*\"\necho err >&2\nexit 3\n",
    );
    host.write(
        "opt/hello.schema.json",
        "{\"description\": \"Say hello\", \"version\": \"2\", \"read_only\": true,\n\
         \"arguments\": {\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}}},\n\
         \"argv\": [{\"arg\": \"name\"}]}",
    );
    host.script("suicide", "#!/bin/sh\nkill -9 $$\n");
    host.script("latin1", "#!/bin/sh\nprintf 'caf\\351\\n'\n");
    host.script(
        "slow",
        "#!/bin/sh\nwhile [ -e \"$0\" ] && [ ! -e \"${0%/*}/go\" ]; do sleep 0.05; done\necho done\n",
    );
    host.script("noshebang", "echo noshebang \"$1\"\n");
    host.write("opt/noexec", "#!/bin/sh\n");
    let opt = host.path("opt").display().to_string();
    host.allow(&format!("ghost = {opt}/ghost\nnoexec = {opt}/noexec"));
    host.allow("true = /bin/true\nprintenv = /usr/bin/printenv");
    host.start();
    host
}

#[test]
fn every_recording_is_answered_in_the_same_sense() {
    let host = reference_host();
    let text = fixture("agent-transcripts.json");
    let recorded = json::parse_value(text.as_bytes()).unwrap();
    let Value::Array(cases) = recorded else {
        panic!("not an array")
    };
    assert_eq!(cases.len(), 54);
    for case in &cases {
        let Value::Object(case) = case else {
            panic!("not an object")
        };
        let text = |key: &str| json::text_of(case, key);
        let case = Case {
            name: text("case"),
            client: text("client"),
            request: text("request"),
            response: text("response"),
        };
        if case.name == "result done" {
            fs::write(host.path("opt/go"), "").unwrap();
            let path = "var/lib/ctrl-exec-agent/runs/perl-disp/aaaa000011112222.json";
            wait_for("the async run", || host.read(path).contains("\"done\""));
        }
        replay(&host, &case);
    }
}

#[test]
fn renewal_request_is_for_the_same_key() {
    let host = reference_host();
    let (status, body) = host.caller().post("/renew", "{}");
    assert_eq!(status, 200);
    let facts = Asked::of(&text(&body, "csr"));
    assert_eq!(facts.cn, "vm");
    let agent = ctrl_exec_protocol::x509::cert::facts_from_pem(&host.agent.cert).unwrap();
    assert_eq!(facts.spki_der, agent.spki_der);
}

fn replay(host: &Host, case: &Case) {
    let identity = match case.client.as_str() {
        "dispatcher" => Some(&host.dispatcher),
        "agent certificate" => Some(&host.agent),
        _ => None,
    };
    let answer = Caller::new(host.port, identity).raw(case.request.as_bytes());
    let name = &case.name;
    let (status, body, except): (u16, String, &[&str]) = match deviation(name) {
        Expect::NoHandshake => {
            assert!(
                answer.as_ref().map_or(true, String::is_empty),
                "{name}: {answer:?}"
            );
            return;
        }
        Expect::Answer(status, part) => {
            let answer = answer.unwrap();
            let (got, body) = split(&answer);
            assert!(got == status && body.contains(part), "{name}: {answer}");
            return;
        }
        Expect::Same => (split(&case.response).0, split(&case.response).1, &[]),
        Expect::Except(members) => (split(&case.response).0, split(&case.response).1, members),
    };
    let answer = answer.unwrap();
    let (got_status, got_body) = split(&answer);
    assert_eq!(got_status, status, "{name}: {answer}");
    let head = |response: &str| {
        let head = response
            .split("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_owned();
        head.lines()
            .filter(|line| !line.starts_with("Content-Length"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(head(&answer), head(&case.response), "{name}");
    let opt = host.path("opt").display().to_string();
    let expected = body
        .replace("/opt/ctrl-exec-scripts", &opt)
        .replace(".sh\"", "\"");
    assert_eq!(
        meaning(&got_body, except),
        meaning(&expected, except),
        "{name}"
    );
}

/// The body with members in order, without what differs between two runs.
fn meaning(body: &str, except: &[&str]) -> String {
    let mut object: Object = object(body);
    // What this agent tells beyond the reference; a reader of 0.12.3 ignores it.
    for key in ["ca", "code", "crl", "features", "signal"] {
        object.remove(key);
    }
    for key in except
        .iter()
        .chain(&["host", "version", "started", "finished"])
    {
        if let Some(value) = object.get_mut(*key) {
            *value = Value::String("*".into());
        }
    }
    // A script that prints its context: compare that as JSON, without the time.
    if let Some(Value::String(stdout)) = object.get_mut("stdout") {
        if let Some((line, rest)) = stdout.split_once('\n') {
            if let Some(mut context) = json::parse_object(line.as_bytes()) {
                context.remove("timestamp");
                *stdout = format!("{}\n{rest}", json::line(&Value::Object(context)));
            }
        }
    }
    json::line(&Value::Object(object))
}
