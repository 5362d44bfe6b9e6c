//! The recordings of the reference, replayed: each request gets the answer that the reference gave,
//! but where DEVIATE says why not.

use crate::auth::hook;
use crate::client::Api;
use crate::support::agent::{Act, Agent};
use crate::support::{Root, fixture};
use ctrl_exec_protocol::tls::Identity;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Case {
    name: String,
    config: String,
    request: String,
    status: u16,
    body: Value,
}

fn recordings() -> Vec<Value> {
    let text = std::fs::read_to_string(fixture("api-transcripts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn cases() -> Vec<Case> {
    let text = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let all = recordings();
    let requests = all.iter().filter(|case| case.get("request").is_some());
    requests
        .map(|case| {
            let response = text(case, "response");
            let (head, body) = response
                .split_once("\r\n\r\n")
                .unwrap_or((&response, "null"));
            Case {
                name: text(case, "case"),
                config: text(case, "config"),
                request: text(case, "request"),
                status: head
                    .split(' ')
                    .nth(1)
                    .and_then(|s| s.parse().ok())
                    .unwrap_or(200),
                body: serde_json::from_str(body).unwrap(),
            }
        })
        .collect()
}

/// Without what is ours alone and what differs from run to run.
fn comparable(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for own in ["outcome", "phase"] {
                    members.remove(own);
                }
                for changing in ["rtt", "reqid", "created", "version"] {
                    if members.contains_key(changing) {
                        members.insert(changing.to_owned(), json!("*"));
                    }
                }
                // DEVIATE: a number is written as one. (api.md §15.8)
                if let Some(code) = members.get("code").and_then(Value::as_str) {
                    let code: i64 = code.parse().unwrap();
                    members.insert("code".to_owned(), json!(code));
                }
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

/// The reference's agent as it was recorded: what it answers to each path.
fn agent(root: &Root, finished: Arc<AtomicBool>) -> Agent {
    let etc = fixture("reference-agent/etc/ctrl-exec-agent");
    let identity = Identity::from_pem(
        &std::fs::read_to_string(etc.join("agent.crt")).unwrap(),
        &std::fs::read_to_string(etc.join("agent.key")).unwrap(),
    )
    .unwrap();
    let body_of = |name: &str| {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        case.body
    };
    let ping = body_of("ping")["results"][0].clone();
    let run = body_of("run")["results"][0].clone();
    let offers = body_of("discovery get")["hosts"]["vm"].clone();
    let without = |mut value: Value| {
        for ours in ["host", "rtt"] {
            value.as_object_mut().unwrap().remove(ours);
        }
        value
    };
    let (ping, run, offers) = (without(ping), without(run), without(offers));
    let agent = Agent::start(&identity, &root.ca_pem(), move |request| {
        let order: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let script = order["script"].as_str().unwrap_or_default();
        let (status, body) = match (&*request.path(), script) {
            ("/ping", _) => (200, ping.clone()),
            ("/capabilities", _) => (200, offers.clone()),
            ("/run", "slow") => (202, json!({"script": "slow", "status": "accepted"})),
            ("/run", "hello") => (200, run.clone()),
            ("/run", "true") => (
                200,
                json!({"script": "true", "exit": 0, "stdout": "", "stderr": ""}),
            ),
            ("/run", other) => (
                200,
                json!({"script": other, "exit": -1, "error": "script not permitted"}),
            ),
            _ if finished.load(Ordering::SeqCst) => (
                200,
                json!({"status": "done", "exit": 0, "stdout": "done\n", "stderr": ""}),
            ),
            _ => (200, json!({"status": "running"})),
        };
        // A connection a call would be more of them in a minute than an agent takes.
        Act::Keep(status, body.to_string())
    });
    root.register("vm", agent.address);
    agent
}

/// DEVIATE, each with its reason; what the answer is instead.
fn deviation(name: &str) -> Option<u16> {
    match name {
        // A known path with another method is told which methods it has.
        "wrong method" | "options" => Some(405),
        // Nothing was asked, which is no request for "/".
        "empty" => Some(400),
        // A hook that a signal ended has agreed to nothing.
        "hook killed by a signal (must be denied by us)" => Some(403),
        _ => None,
    }
}

const HOOK: &str = r#"[ "$ENVEXEC_ACTION" = api ] && exit 0
case $ENVEXEC_TOKEN in good) exit 0;; seven) exit 7;; die) kill -9 $$;; *) exit 2;; esac"#;

fn recorded_ids(text: &str, reqid: &str) -> String {
    match reqid {
        "" => text.to_owned(),
        reqid => text.replace(reqid, "d5eeae6f595f6027"),
    }
}

#[test]
fn every_recording() {
    let root = Root::of_reference();
    let finished = Arc::new(AtomicBool::new(false));
    let _agent = agent(&root, Arc::clone(&finished));
    let mut reqid = String::new();
    let mut config = String::new();
    let mut api: Option<Api> = None;
    let mut replayed = 0;
    for case in cases() {
        if config != case.config {
            drop(api.take());
            config.clone_from(&case.config);
            let more = if config.starts_with("auth_hook") {
                hook(&root, HOOK)
            } else {
                format!("{config}\n")
            };
            root.configure(&format!("dispatcher_id = perl-disp\napi_port = 0\n{more}"));
            api = Some(Api::spawn(crate::client::command(&root)));
        }
        let api = api.as_ref().unwrap();
        if case.name == "status done" {
            finished.store(true, Ordering::SeqCst);
        }
        let request = case.request.replace("d5eeae6f595f6027", &reqid);
        // The recorded client closes after one answer.
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let mut answer = api.raw(request.as_bytes());
        let limit = std::time::Instant::now() + crate::client::PATIENCE;
        // Agents are not asked at every poll.
        while case.name == "status done" && answer.json()["complete"] != true {
            assert!(std::time::Instant::now() < limit, "{answer:?}");
            std::thread::sleep(std::time::Duration::from_millis(200));
            answer = api.raw(request.as_bytes());
        }
        replayed += 1;
        let mut words = case.request.split_whitespace();
        let (method, path) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
        api.check(method, &path.replace("d5eeae6f595f6027", &reqid), &answer);
        if let Some(status) = deviation(&case.name) {
            assert_eq!(answer.status, status, "{}", case.name);
            continue;
        }
        assert_eq!(answer.status, case.status, "{}: {answer:?}", case.name);
        if case.name == "run async" {
            answer.json()["reqid"]
                .as_str()
                .unwrap()
                .clone_into(&mut reqid);
        }
        if case.body.is_null() {
            continue;
        }
        let ours = comparable(serde_json::from_str(&recorded_ids(&answer.body, &reqid)).unwrap());
        let mut theirs = comparable(case.body);
        if case.name == "index" {
            // Ours has these and more.
            let listed = theirs["endpoints"].take();
            for endpoint in listed.as_array().unwrap() {
                assert!(
                    ours["endpoints"].as_array().unwrap().contains(endpoint),
                    "{endpoint}"
                );
            }
            theirs["endpoints"] = ours["endpoints"].clone();
        }
        assert_eq!(ours, theirs, "{}", case.name);
    }
    assert_eq!(replayed, 35, "recordings were added: look at them");
    // The record on disk has what the reference's has.
    let kept = recordings()
        .into_iter()
        .find(|case| case["case"] == "run record on disk");
    let file = root.path(&format!("var/lib/ctrl-exec/runs/{reqid}.json"));
    let text = std::fs::read_to_string(file).unwrap();
    let ours = comparable(serde_json::from_str(&text).unwrap());
    for (key, value) in comparable(kept.unwrap()["file"].clone())
        .as_object()
        .unwrap()
    {
        assert_eq!(&ours[key], value, "{key}");
    }
}
