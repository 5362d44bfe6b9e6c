//! Floods, slow and half-sent requests, stops and reloads: honest requests are served meanwhile.

use crate::client::{Answer, Api, Kept, PATIENCE};
use crate::support::Root;
use crate::support::agent::{Act, Agent};
use crate::support::fleet;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

type Gate = Arc<(Mutex<bool>, Condvar)>;

/// An agent that answers with this when it is let.
fn gated(root: &Root, name: &str, answer: String) -> (Agent, Gate) {
    let (identity, _) = root.agent_identity(name, 825);
    let gate: Gate = Arc::default();
    let held = Arc::clone(&gate);
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        let mut open = held.0.lock().unwrap();
        while !*open {
            open = held.1.wait(open).unwrap();
        }
        Act::Keep(200, answer.clone())
    });
    root.register(name, agent.address);
    (agent, gate)
}

fn open(gate: &Gate) {
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const ENDED: &str = r#"{"exit":0,"stdout":"","stderr":""}"#;

fn run_request(host: &str, script: &str) -> String {
    let body = format!("{{\"hosts\":[\"{host}\"],\"script\":\"{script}\"}}");
    format!(
        "POST /run HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn beyond_the_limit_is_a_503_and_the_others_go_on() {
    let root = Root::new();
    let (agent, gate) = gated(&root, "a", ENDED.to_owned());
    let api = Api::start(&root, "api_auth_default = allow\napi_max_children = 2\n");
    let mut first = Kept::new(&api);
    first.send(run_request("a", "one").as_bytes());
    let mut second = Kept::new(&api);
    second.send(run_request("a", "two").as_bytes());
    until("both runs are with the agent", || agent.seen().len() == 2);
    let (status, error, detail) = api.get("/health").fault();
    assert_eq!(status, 503);
    assert_eq!(
        (error.as_str(), detail.as_str()),
        ("service unavailable", "too many concurrent requests")
    );
    api.await_log("ACTION=api-overload LIVE=2 PEER=127.0.0.1");
    open(&gate);
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
    assert_eq!(api.get("/health").status, 200);
}

#[test]
fn idle_connections_give_way() {
    let root = Root::new();
    let api = Api::start(
        &root,
        "api_auth_default = allow\napi_max_connections = 16\n",
    );
    let flood: Vec<_> = (0..60).map(|_| api.connect()).collect();
    let halves: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = api.connect();
            let _ = stream.write_all(b"POST /run HTTP/1.1\r\nContent-Le");
            stream
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(api.get("/health").status, 200);
    }
    drop((flood, halves));
}

#[test]
fn who_does_not_go_on_is_cut() {
    let root = Root::new();
    let api = Api::open(&root);
    let begun = Instant::now();
    let mut silent = api.connect();
    let mut half_head = api.connect();
    half_head.write_all(b"GET /health HTTP/1.1\r\nX").unwrap();
    // A body may take longer than a head.
    let mut half_body = api.connect();
    half_body
        .write_all(b"POST /ping HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"ho")
        .unwrap();
    for stream in [&mut silent, &mut half_head] {
        let read = stream.read(&mut [0; 16]);
        assert!(matches!(read, Ok(0)), "{read:?}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(9));
    half_body.write_all(b"sts\"}").unwrap();
    let mut text = [0; 12];
    half_body.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"HTTP/1.1 400");
}

#[test]
fn a_slow_reader_costs_the_others_nothing() {
    let root = Root::new();
    let output = "x".repeat(3 << 20);
    let answer = format!(r#"{{"exit":0,"stdout":"{output}","stderr":""}}"#);
    let (_agent, gate) = gated(&root, "a", answer);
    open(&gate);
    let api = Api::open(&root);
    let slow: Vec<_> = (0..8)
        .map(|n| {
            let mut kept = Kept::new(&api);
            kept.send(run_request("a", &format!("s{n}")).as_bytes());
            kept
        })
        .collect();
    until("all runs have ended", || {
        api.get("/runs?result=ok").json()["runs"]
            .as_array()
            .unwrap()
            .len()
            == 8
    });
    for _ in 0..20 {
        assert_eq!(api.get("/health").status, 200);
    }
    // One who reads in the end still gets everything.
    let mut last = slow.into_iter().next().unwrap();
    let got: Answer = last.answer();
    assert!(got.body.len() > 3 << 20);
    assert!(api.resident() < 300 << 10, "{} KiB", api.resident());
}

#[test]
fn a_stop_lets_what_is_under_way_end() {
    let root = Root::new();
    let (agent, gate) = gated(&root, "a", ENDED.to_owned());
    let mut api = Api::open(&root);
    let mut idle = Kept::new(&api);
    idle.send(b"GET /health HTTP/1.1\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    let mut client = Kept::new(&api);
    client.send(run_request("a", "s").as_bytes());
    until("the run is with the agent", || agent.seen().len() == 1);
    api.signal("-TERM");
    assert!(idle.is_closed());
    until("nobody listens", || {
        std::net::TcpStream::connect(api.address).is_err()
    });
    open(&gate);
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Connection"), None, "no further request");
    assert_eq!(api.ended(), 0);
    assert!(api.log().contains("ACTION=api-stop"));
}

#[test]
fn told_twice_it_ends_at_once() {
    let root = Root::new();
    let (agent, _gate) = gated(&root, "a", ENDED.to_owned());
    let mut api = Api::open(&root);
    let mut client = Kept::new(&api);
    client.send(run_request("a", "s").as_bytes());
    until("the run is with the agent", || agent.seen().len() == 1);
    api.signal("-TERM");
    until("nobody listens", || {
        std::net::TcpStream::connect(api.address).is_err()
    });
    api.signal("-INT");
    assert_eq!(api.ended(), 0);
}

#[test]
fn the_configuration_is_read_again() {
    let root = Root::new();
    let api = Api::start(&root, "");
    let mut kept = Kept::new(&api);
    kept.send(b"GET /health HTTP/1.1\r\n\r\n");
    assert_eq!(kept.answer().status, 403);
    root.configure("api_port = 0\napi_auth_default = allow\n");
    api.signal("-HUP");
    api.await_log("ACTION=api-reload RESULT=ok");
    kept.send(b"GET /health HTTP/1.1\r\n\r\n");
    assert_eq!(kept.answer().status, 200);
    root.configure("api_port = 0\napi_max_children = none\n");
    api.signal("-HUP");
    api.await_log("ACTION=api-reload ERROR=");
    kept.send(b"GET /health HTTP/1.1\r\n\r\n");
    assert_eq!(
        kept.answer().status,
        200,
        "what does not do changes nothing"
    );
}

#[test]
fn a_thousand_pings_at_once() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("fleet", 825);
    let fleet = fleet::Fleet::start(&identity, &root.ca_pem(), true, |_, _| {
        (200, r#"{"status":"ok","version":"1"}"#.to_owned())
    });
    for n in 0..1000 {
        root.register(&format!("a{n}"), (fleet::address(n), fleet.port).into());
    }
    let api = Api::start(&root, "api_auth_default = allow\napi_max_children = 2000\n");
    let mut clients: Vec<Kept> = (0..1000).map(|_| Kept::new(&api)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let body = format!("{{\"hosts\":[\"a{n}\"]}}");
        let head = format!(
            "POST /ping HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.send(format!("{head}{body}").as_bytes());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{n}");
        assert_eq!(
            answer.json()["results"][0]["status"],
            "ok",
            "{n}: {answer:?}"
        );
    }
}
