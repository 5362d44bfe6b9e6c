//! Runs as they go on, their end before their time, and requests to be paired.

use crate::client::{Answer, Api};
use crate::support::agent::{Act, Agent};
use crate::support::fleet::{self, Fleet};
use crate::support::{Root, ports};
use ctrl_exec_dispatcher::pairing::{DIR, Identified, Queue, Queued};
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::PairRequest;
use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};
use ctrl_exec_testkit::wait::wait_for;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};

type Gate = Arc<(Mutex<bool>, Condvar)>;

fn open(gate: &Gate) {
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

/// An agent that ends its runs when it is let.
fn gated(root: &Root, name: &str, answer: &'static str) -> (Agent, Gate) {
    let (identity, _) = root.agent_identity(name, 825);
    let gate: Gate = Arc::default();
    let held = Arc::clone(&gate);
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        let mut open = held.0.lock().unwrap();
        while !*open {
            open = held.1.wait(open).unwrap();
        }
        Act::Answer(200, answer.to_owned())
    });
    root.register(name, agent.address);
    (agent, gate)
}

/// One who follows.
struct Reader {
    stream: TcpStream,
    text: String,
}

/// An event: id, kind and data.
type Told = (String, String, Value);

impl Reader {
    fn new(api: &Api, request: &str) -> Self {
        let mut stream = api.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    fn get(api: &Api, path: &str, headers: &str) -> Self {
        Self::new(api, &format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
    }

    fn run(api: &Api, body: &str) -> Self {
        let length = body.len();
        let head = format!("Accept: text/event-stream\r\nContent-Length: {length}\r\n");
        Self::new(api, &format!("POST /run HTTP/1.1\r\n{head}\r\n{body}"))
    }

    fn read(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        let read = self.stream.read(&mut chunk).unwrap();
        self.text
            .push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        read > 0
    }

    /// Reads until these words have come.
    fn until(&mut self, words: &str) {
        while !self.text.contains(words) {
            assert!(self.read(), "{words} does not come: {}", self.text);
        }
    }

    /// Reads to the end; the head is checked.
    fn all(mut self, api: &Api, method: &str, path: &str) -> Vec<Told> {
        while self.read() {}
        let (head, body) = self.text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
        for line in [
            "Content-Type: text/event-stream",
            "Cache-Control: no-store",
            "X-Accel-Buffering: no",
        ] {
            assert!(head.contains(line), "{head}");
        }
        let answer = Answer {
            status: 200,
            head: head.to_owned(),
            body: String::new(),
        };
        api.check(method, path, &answer);
        told(body)
    }
}

fn told(text: &str) -> Vec<Told> {
    let events = text.split("\n\n").filter(|event| event.contains("data: "));
    events
        .map(|event| {
            let field = |name: &str| {
                let value = event.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap_or_default().to_owned()
            };
            let data = serde_json::from_str(&field("data: ")).unwrap();
            (field("id: "), field("event: "), data)
        })
        .collect()
}

fn kinds(told: &[Told]) -> Vec<&str> {
    told.iter().map(|(_, kind, _)| kind.as_str()).collect()
}

#[test]
fn a_run_is_told_as_it_goes_on() {
    let root = Root::new();
    let (_a, gate) = gated(&root, "a", r#"{"exit":3,"stdout":"o\n","stderr":""}"#);
    root.register("gone", ([127, 0, 0, 1], ports::claim().unwrap()).into());
    let api = Api::open(&root);
    let mut reader = Reader::run(&api, r#"{"hosts":["a","gone"],"script":"s"}"#);
    // What is known is told before the run is over.
    reader.until("unreached");
    assert!(!reader.text.contains("event: done"));
    open(&gate);
    let told = reader.all(&api, "POST", "/run");
    let mut sorted = kinds(&told);
    assert_eq!((sorted[0], *sorted.last().unwrap()), ("run", "done"));
    sorted.sort_unstable();
    assert_eq!(sorted, ["begun", "begun", "done", "ended", "ended", "run"]);
    let reqid = told[0].2["reqid"].as_str().unwrap();
    let expected = json!({"reqid": reqid, "script": "s", "hosts": ["a", "gone"]});
    assert_eq!(told[0].2, expected);
    let of_a = |(_, kind, data): &&Told| kind == "ended" && data["host"] == "a";
    assert_eq!(told.iter().find(of_a).unwrap().2["exit"], 3);
    let done = json!({"reqid": reqid, "complete": true, "failed": 2});
    assert_eq!(told.last().unwrap().2, done);
    // The same again, from the beginning and from the middle, for those who come back.
    let path = format!("/status/{reqid}/events");
    let again = Reader::get(&api, &path, "").all(&api, "GET", &path);
    assert_eq!(again, told);
    let last = format!("Last-Event-ID: {}\r\n", told[2].0);
    let rest = Reader::get(&api, &path, &last).all(&api, "GET", &path);
    assert_eq!(rest, told[3..]);
    // What keeps a run from beginning is an answer as ever.
    let order = r#"{"hosts":["x"],"script":"s"}"#;
    let refused = api.ask("POST", "/run", "Accept: text/event-stream\r\n", order);
    assert_eq!(refused.status, 404);
    assert_eq!(api.get("/status/abcd/events").status, 404);
}

#[test]
fn a_run_of_somebody_else_is_followed_by_its_record() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let finished = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&finished);
    let agent = Agent::start(&identity, &root.ca_pem(), move |request| {
        let body = match (&*request.path(), *seen.lock().unwrap()) {
            ("/run", _) => return Act::Keep(202, r#"{"status":"accepted"}"#.into()),
            (_, false) => r#"{"status":"running"}"#,
            (_, true) => r#"{"status":"done","exit":0,"stdout":"o","stderr":""}"#,
        };
        Act::Keep(200, body.into())
    });
    root.register("a", agent.address);
    let ran = root.json(&["run", "a", "s", "--async", "--json"]);
    let reqid = crate::support::text(&ran, "reqid").to_owned();
    let api = Api::open(&root);
    let path = format!("/status/{reqid}/events");
    let mut reader = Reader::get(&api, &path, "");
    reader.until("\"running\"");
    *finished.lock().unwrap() = true;
    let told = reader.all(&api, "GET", &path);
    let last = &told[told.len() - 2];
    assert_eq!(last.1, "state");
    let expected = json!({"host": "a", "status": "done", "exit": 0, "stdout": "o", "stderr": ""});
    assert_eq!(last.2, expected);
    assert_eq!(told.last().unwrap().2["complete"], true);
}

#[test]
fn many_follow_and_some_do_not_read() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("fleet", 825);
    let output = "x".repeat(30_000);
    let answer = format!(r#"{{"exit":0,"stdout":"{output}","stderr":""}}"#);
    let fleet = Fleet::start(&identity, &root.ca_pem(), true, move |_, _| {
        (200, answer.clone())
    });
    let names: Vec<String> = (0..60).map(|n| format!("h{n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        root.register(name, (fleet::address(n), fleet.port).into());
    }
    let (_slow, gate) = gated(&root, "slow", r#"{"exit":0}"#);
    let api = Api::start(&root, "api_auth_default = allow\napi_max_children = 400\n");
    let hosts: Vec<&str> = names.iter().map(String::as_str).chain(["slow"]).collect();
    let order = json!({"hosts": hosts, "script": "s"}).to_string();
    let mut first = Reader::run(&api, &order);
    first.until("event: begun");
    let reqid = first.text.split("\"reqid\":\"").nth(1).unwrap()[..16].to_owned();
    let path = format!("/status/{reqid}/events");
    let stalled: Vec<Reader> = (0..20).map(|_| Reader::get(&api, &path, "")).collect();
    let readers: Vec<Reader> = (0..100).map(|_| Reader::get(&api, &path, "")).collect();
    let before = api.resident();
    open(&gate);
    for reader in readers {
        let told = reader.all(&api, "GET", &path);
        let ended = told.iter().filter(|(_, kind, _)| kind == "ended").count();
        assert_eq!((ended, kinds(&told).last()), (61, Some(&"done")));
    }
    // Each has a piece on its way and no copy of the rest, which would be 210 MiB for all of them.
    let after = api.resident();
    assert!(
        after < before + (120 << 10),
        "{before} KiB, then {after} KiB"
    );
    drop(stalled);
}

#[test]
fn a_run_is_ended_before_its_time() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |request| {
        let ended = r#"{"status":"done","exit":126,"stdout":"","stderr":"","cancelled":true}"#;
        match &*request.path() {
            "/run" => Act::Keep(202, r#"{"status":"accepted"}"#.into()),
            "/cancel" => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                let ids = json!({"status": "ok", "cancelled": [body["reqid"]]});
                Act::Keep(200, ids.to_string())
            }
            _ => Act::Keep(200, ended.into()),
        }
    });
    root.register("a", agent.address);
    let api = Api::open(&root);
    let order = r#"{"hosts":["a"],"script":"s","async":true}"#;
    let ran = api.post("/run", order).json();
    let reqid = ran["reqid"].as_str().unwrap();
    let order = json!({"reqid": reqid}).to_string();
    let ended = api.post("/cancel", &order);
    assert_eq!(ended.status, 200, "{ended:?}");
    let result = &ended.json()["results"][0];
    let expected = (&json!("ok"), &json!([reqid]));
    assert_eq!((&result["outcome"], &result["cancelled"]), expected);
    let path = format!("/status/{reqid}");
    wait_for("the run is over", || {
        api.get(&path).json()["complete"] == true
    });
    assert_eq!(api.post("/cancel", &order).status, 409);
    assert_eq!(api.post("/cancel", r#"{"reqid":"abcd"}"#).status, 404);
    for bad in [
        "",
        "{}",
        r#"{"reqid":"../x"}"#,
        r#"{"reqid":1}"#,
        r#"{"reqid":"a","hosts":[]}"#,
    ] {
        assert_eq!(api.post("/cancel", bad).status, 400, "{bad}");
    }
}

/// A request to be paired that waits for its decision.
pub fn queued(root: &Root, name: &str) -> Queued {
    let queue = Queue::new(root.path(DIR.trim_start_matches('/')));
    let key = PrivateKey::from_pem(&keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    let request = PairRequest {
        hostname: name.to_owned(),
        csr: csr::create(&key, name).unwrap(),
        nonce: "n0".to_owned(),
        ..PairRequest::default()
    };
    let nobody = Identified::default();
    queue
        .add(&request, "192.0.2.9", &nobody, Utc::now())
        .unwrap()
}

#[test]
fn requests_to_be_paired_are_seen_and_decided() {
    let root = Root::new();
    let (good, bad) = (queued(&root, "ap1"), queued(&root, "ap2"));
    let api = Api::open(&root);
    let listed = api.get("/pairing").json();
    let requests = listed["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 2);
    let shown = requests
        .iter()
        .find(|one| one["hostname"] == "ap1")
        .unwrap();
    assert_eq!(shown["code"], good.code.as_str());
    let decide = |id: &str, body: Value| api.post(&format!("/pairing/{id}"), &body.to_string());
    // Only with the code that was compared.
    assert_eq!(decide(&good.id, json!({"decision": "approve"})).status, 400);
    let other = json!({"decision": "approve", "code": "000000x"});
    assert_eq!(decide(&good.id, other).status, 409);
    let approve = json!({"decision": "approve", "code": good.code});
    let approved = decide(&good.id, approve.clone());
    assert_eq!(approved.json()["decision"], "approved", "{approved:?}");
    assert!(root.record("ap1").contains_key("cert_serial"));
    assert_eq!(decide(&good.id, approve).status, 409);
    let denied = decide(&bad.id, json!({"decision": "deny"}));
    assert_eq!(denied.json()["decision"], "denied");
    assert_eq!(
        decide("0123456789abcdef", json!({"decision": "deny"})).status,
        404
    );
    assert_eq!(decide(&bad.id, json!({"decision": "maybe"})).status, 400);
    assert_eq!(api.get("/pairing").json()["requests"], json!([]));
}
