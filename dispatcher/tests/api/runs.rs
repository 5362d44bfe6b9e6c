//! Pings, runs and their records, with agents.

use crate::client::Api;
use crate::support::agent::{Act, Agent};
use crate::support::ports;
use crate::support::{Root, object};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

fn agent(root: &Root, name: &str, answer: &'static str) -> Agent {
    let (identity, _) = root.agent_identity(name, 825);
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        Act::Answer(200, answer.to_owned())
    });
    root.register(name, agent.address);
    agent
}

const ENDED: &str = r#"{"script":"s","exit":0,"stdout":"out","stderr":""}"#;

#[test]
fn which_fault_is_told_first() {
    let root = Root::new();
    let _a = agent(&root, "a", ENDED);
    let api = Api::open(&root);
    let detail = |path: &str, body: &str| {
        let (status, error, detail) = api.post(path, body).fault();
        format!("{status} {error}: {detail}")
    };
    let script = "400 bad request: script name required (alphanumeric and hyphens only)";
    for (body, expected) in [
        ("", "400 bad request: request body required"),
        ("0", "400 bad request: request body required"),
        ("[]", "400 bad request: invalid JSON body"),
        ("null", "400 bad request: invalid JSON body"),
        (
            "{\"hosts\":[\"\u{0}\"]}",
            "400 bad request: invalid JSON body",
        ),
        ("{}", "400 bad request: hosts must be a non-empty array"),
        (
            r#"{"hosts":"a"}"#,
            "400 bad request: hosts must be a non-empty array",
        ),
        (
            r#"{"hosts":[1]}"#,
            "400 bad request: hosts must be an array of strings",
        ),
        (r#"{"hosts":["x"]}"#, script),
        (r#"{"hosts":["x"],"script":"a b","args":1}"#, script),
        (r#"{"hosts":["x"],"script":"é","args":1}"#, script),
        (r#"{"hosts":["x"],"script":"s\n","args":1}"#, script),
        (
            r#"{"hosts":["x"],"script":"s","args":1}"#,
            "400 bad request: args must be an array",
        ),
        (
            r#"{"hosts":["x"],"script":"s","args":[{}]}"#,
            "400 bad request: args must be an array of strings",
        ),
        (
            r#"{"hosts":["x"],"script":"s","async":"false"}"#,
            "400 bad request: async must be true or false",
        ),
        (
            r#"{"hosts":["x"],"script":"s","username":1}"#,
            "400 bad request: username must be a string",
        ),
        (
            r#"{"hosts":["a","x","y:7","../runs/1"],"script":"s"}"#,
            "404 unknown agent: not a registered agent: x, y:7, ../runs/1",
        ),
    ] {
        assert_eq!(detail("/run", body), expected, "{body}");
    }
    let many = format!("{{\"hosts\":[{}\"x\"]}}", "\"x\",".repeat(20_000));
    let expected = "400 bad request: too many hosts (max 20000)";
    assert_eq!(detail("/ping", &many), expected);
    // Discovery takes a body that makes no sense for none, as the reference does.
    for body in ["", "0", "{", "[]", "null", r#"{"hosts":"x"}"#] {
        assert_eq!(api.post("/discovery", body).status, 200, "{body}");
    }
    let expected = "404 unknown agent: not a registered agent: x";
    assert_eq!(detail("/discovery", r#"{"hosts":["x"]}"#), expected);
    let locks = root.path("var/lib/ctrl-exec/locks");
    let made = std::fs::read_dir(locks).unwrap().flatten();
    let names: Vec<_> = made.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["a--s.lock"], "no lock for what is not there");
}

#[test]
fn a_run_is_recorded_and_can_be_asked_for() {
    let root = Root::new();
    let a = agent(&root, "a", ENDED);
    let closed = SocketAddr::from(([127, 0, 0, 1], ports::claim().unwrap()));
    root.register("gone", closed);
    let api = Api::open(&root);
    let order = json!({"hosts": ["a", "gone"], "script": "s", "args": ["x", 1.5],
        "username": "alice", "token": "t"});
    let answer = api.post("/run", &order.to_string());
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let results = body["results"].as_array().unwrap();
    let of = |host: &str| results.iter().find(|one| one["host"] == host).unwrap();
    assert_eq!(
        (of("a")["exit"].as_i64(), &of("a")["stdout"]),
        (Some(0), &json!("out"))
    );
    assert_eq!(
        (of("gone")["exit"].as_i64(), &of("gone")["outcome"]),
        (Some(-1), &json!("unreached"))
    );
    let sent: Value = serde_json::from_str(&a.seen()[0].body).unwrap();
    assert_eq!(sent["args"], json!(["x", "1.5"]));
    assert_eq!(
        (&sent["username"], &sent["token"]),
        (&json!("alice"), &json!("t"))
    );

    let reqid = body["reqid"].as_str().unwrap();
    let file = root.path(&format!("var/lib/ctrl-exec/runs/{reqid}.json"));
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let submitter = json!({"username": "alice", "source_ip": "127.0.0.1"});
    assert_eq!(kept["submitter"], submitter);
    let status = api.get(&format!("/status/{reqid}"));
    let shown = status.json();
    assert_eq!(
        (&shown["complete"], &shown["mode"]),
        (&json!(true), &json!("sync"))
    );
    assert_eq!(shown["hosts"], json!(["a", "gone"]));
    for private in ["submitter", "by", "args"] {
        assert!(shown.get(private).is_none(), "{shown}");
    }
    // The command line sees the same record.
    assert_eq!(root.run(&["status", reqid, "--json"]).exit, 0);
    for unknown in ["abcd", "0123456789abcdef"] {
        let fault = api.get(&format!("/status/{unknown}")).fault();
        let detail = format!("no result for reqid {unknown}");
        assert_eq!(fault, (404, "not found".into(), detail));
    }
}

#[test]
fn an_async_run_is_followed() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let done = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&done);
    let slow = Agent::start(&identity, &root.ca_pem(), move |request| {
        let body = match (&*request.path(), *seen.lock().unwrap()) {
            ("/run", _) => return Act::Answer(202, r#"{"status":"accepted","script":"s"}"#.into()),
            (_, false) => r#"{"status":"running"}"#,
            (_, true) => r#"{"status":"done","exit":4,"stdout":"o","stderr":"e","owner":"x"}"#,
        };
        Act::Answer(200, body.into())
    });
    root.register("slow", slow.address);
    let busy = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(
            409,
            r#"{"error":"script already running","status":"busy"}"#.into(),
        )
    });
    root.register("busy", busy.address);
    let refusing = agent(
        &root,
        "refusing",
        r#"{"exit":-1,"error":"not with the executor"}"#,
    );
    let api = Api::open(&root);
    let order = r#"{"hosts":["slow","busy","refusing"],"script":"s","async":1}"#;
    let answer = api.post("/run", order);
    assert_eq!(answer.status, 202, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["async"], true);
    let path = format!("/status/{}", body["reqid"].as_str().unwrap());
    let first = api.get(&path).json();
    assert_eq!(first["hosts"]["slow"], json!({"status": "running"}));
    let expected = json!({"status": "busy", "error": "script already running"});
    assert_eq!(first["hosts"]["busy"], expected);
    assert_eq!(first["hosts"]["refusing"]["status"], "error");
    assert_eq!(
        (&first["pending"], &first["complete"]),
        (&json!(["slow"]), &json!(false))
    );
    // Polls right after it are answered from the record: agents shut out who asks too often.
    for _ in 0..20 {
        assert_eq!(api.get(&path).json()["hosts"]["slow"]["status"], "running");
    }
    assert!(slow.seen().len() < 6, "{}", slow.seen().len());
    *done.lock().unwrap() = true;
    let limit = Instant::now() + Duration::from_secs(60);
    let last = loop {
        let now = api.get(&path).json();
        if now["complete"] == true {
            break now;
        }
        assert!(Instant::now() < limit, "{now}");
        std::thread::sleep(Duration::from_millis(200));
    };
    let expected = json!({"status": "done", "exit": 4, "stdout": "o", "stderr": "e"});
    assert_eq!(last["hosts"]["slow"], expected);
    assert_eq!(refusing.seen().len(), 1);
}

/// An agent that answers when it is let.
fn gated(root: &Root, name: &str) -> (Agent, Arc<(Mutex<bool>, Condvar)>) {
    let (identity, _) = root.agent_identity(name, 825);
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
        let mut open = held.0.lock().unwrap();
        while !*open {
            open = held.1.wait(open).unwrap();
        }
        Act::Answer(200, ENDED.to_owned())
    });
    root.register(name, agent.address);
    (agent, gate)
}

fn open(gate: &(Mutex<bool>, Condvar)) {
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[test]
fn a_run_holds_its_locks_and_survives_its_client() {
    let root = Root::new();
    let (slow, gate) = gated(&root, "slow");
    let api = Api::open(&root);
    let order = r#"{"hosts":["slow"],"script":"s"}"#;
    let mut client = api.connect();
    let head = format!(
        "POST /run HTTP/1.1\r\nContent-Length: {}\r\n\r\n{order}",
        order.len()
    );
    std::io::Write::write_all(&mut client, head.as_bytes()).unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while slow.seen().is_empty() {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(10));
    }
    let locked = api.post("/run", order);
    assert_eq!(locked.status, 409);
    let body = locked.json();
    let expected = json!({"ok": false, "error": "locked", "code": 4, "conflicts": ["slow:s"]});
    assert_eq!(body, expected);
    // A held lock is told before an unknown host, and does not keep other scripts off.
    assert_eq!(
        api.post("/run", r#"{"hosts":["x","slow"],"script":"s"}"#)
            .status,
        409
    );
    assert_eq!(
        root.run(&["run", "slow", "s"]).exit,
        1,
        "the command line is kept off too"
    );
    drop(client);
    open(&gate);
    let records = || {
        // The locks come first, then the record.
        let dir = std::fs::read_dir(root.path("var/lib/ctrl-exec/runs"));
        let paths = dir
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let records = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
        records
            .map(|path| object(&std::fs::read_to_string(path).unwrap()))
            .collect::<Vec<_>>()
    };
    while !records().iter().any(|record| {
        matches!(
            record["complete"],
            ctrl_exec_testkit::json::Value::Bool(true)
        )
    }) {
        assert!(Instant::now() < limit, "{:?}", records());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The API's user cannot read the CA's key; nothing it does needs it.
#[test]
fn the_key_of_the_ca_is_not_needed() {
    let root = Root::new();
    let _a = agent(&root, "a", r#"{"status":"ok","exit":0}"#);
    std::fs::remove_file(root.path("etc/ctrl-exec/ca.key")).unwrap();
    let api = Api::open(&root);
    for path in ["/ping", "/discovery"] {
        let answer = api.post(path, r#"{"hosts":["a"]}"#);
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("\"outcome\":\"ok\""), "{answer:?}");
    }
    let ran = api.post("/run", r#"{"hosts":["a"],"script":"s"}"#).json();
    assert_eq!(ran["results"][0]["exit"], 0);
}

#[test]
fn what_the_machine_refuses_is_an_answer() {
    let root = Root::new();
    let _a = agent(&root, "a", ENDED);
    let api = Api::open(&root);
    // A file where the directory of locks belongs; even root cannot write into it.
    std::fs::create_dir_all(root.path("var/lib/ctrl-exec")).unwrap();
    std::fs::write(root.path("var/lib/ctrl-exec/locks"), "").unwrap();
    let fault = api.post("/run", r#"{"hosts":["a"],"script":"s"}"#).fault();
    assert_eq!(
        (fault.0, fault.1.as_str()),
        (500, "server error"),
        "{fault:?}"
    );
    // A record that is damaged is not there, as in the reference.
    std::fs::create_dir_all(root.path("var/lib/ctrl-exec/runs")).unwrap();
    std::fs::write(root.path("var/lib/ctrl-exec/runs/abc.json"), "{").unwrap();
    assert_eq!(api.get("/status/abc").status, 404);
}

#[test]
fn the_live_document_tells_hosts_and_scripts() {
    let root = Root::new();
    let api = Api::open(&root);
    let empty = api.get("/openapi-live.json").json();
    assert!(empty.get("x-ctrl-exec-scripts").is_none());
    let script = |version: &str| {
        let more = match version {
            "" => String::new(),
            version => format!(r#","schema":{{"v":"{version}"}},"schema_version":"{version}""#),
        };
        format!(r#"{{"status":"ok","scripts":[{{"name":"s","executable":true{more}}}]}}"#)
    };
    for (name, version) in [("a", ""), ("b", "2"), ("c", "2"), ("d", "1")] {
        let (identity, _) = root.agent_identity(name, 825);
        let body = script(version);
        let agent = Agent::start(&identity, &root.ca_pem(), move |_| {
            Act::Answer(200, body.clone())
        });
        root.register(name, agent.address);
    }
    root.register(
        "gone",
        SocketAddr::from(([127, 0, 0, 1], ports::claim().unwrap())),
    );
    let live = api.get("/openapi-live.json").json();
    let schemas = &live["components"]["schemas"];
    for schema in ["PingRequest", "RunRequest", "DiscoveryRequest"] {
        let hosts = &schemas[schema]["properties"]["hosts"]["items"]["enum"];
        assert_eq!(hosts, &json!(["a", "b", "c", "d", "gone"]));
    }
    assert_eq!(
        schemas["RunRequest"]["properties"]["script"]["enum"],
        json!(["s"])
    );
    let expected = json!({"s": [
        {"hosts": ["a"]},
        {"hosts": ["d"], "schema": {"v": "1"}, "schema_version": "1"},
        {"hosts": ["b", "c"], "schema": {"v": "2"}, "schema_version": "2"},
    ]});
    assert_eq!(live["x-ctrl-exec-scripts"], expected);
    let version = live["info"]["version"].as_str().unwrap();
    let (base, stamp) = version.split_once('+').unwrap();
    assert_eq!(base, api.get("/openapi.json").json()["info"]["version"]);
    assert!(stamp.parse::<u64>().unwrap() > 1_700_000_000);
}

#[test]
fn lists_come_in_pages() {
    let root = Root::new();
    let closed = SocketAddr::from(([127, 0, 0, 1], ports::claim().unwrap()));
    for name in ["a", "b", "c"] {
        root.register(name, closed);
    }
    let path = root.path("var/lib/ctrl-exec/agents/b.json");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("{}", r#"{"site":"x"}"#);
    std::fs::write(&path, text).unwrap();
    std::fs::write(root.path("var/lib/ctrl-exec/agents/d.json"), "{").unwrap();
    let api = Api::open(&root);
    let names = |list: &Value, key: &str, name: &str| {
        let items = list[key].as_array().unwrap();
        items
            .iter()
            .map(|item| item[name].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = api.get("/agents?limit=2").json();
    assert_eq!(names(&first, "agents", "name"), ["a", "b"]);
    assert_eq!(first["next"], "b");
    let rest = api.get("/agents?limit=2&cursor=b").json();
    assert_eq!(names(&rest, "agents", "name"), ["c", "d"]);
    assert_eq!(
        (&rest["agents"][1]["state"], rest.get("next")),
        (&json!("damaged"), None)
    );
    assert_eq!(
        names(&api.get("/agents?tags=site%3Dx").json(), "agents", "name"),
        ["b"]
    );
    for bad in [
        "/agents?limit=0",
        "/agents?limit=x",
        "/agents?tags=x",
        "/agents?x=1",
        "/runs?result=x",
    ] {
        assert_eq!(api.get(bad).status, 400, "{bad}");
    }
    assert_eq!(api.get("/runs").json()["runs"], json!([]));
    let mut ids = Vec::new();
    for (host, script) in [("a", "s"), ("b", "s"), ("c", "t")] {
        let order = json!({"hosts": [host], "script": script, "args": ["secret"], "username": "u"});
        let ran = api.post("/run", &order.to_string()).json();
        ids.push(ran["reqid"].as_str().unwrap().to_owned());
    }
    let all = api.get("/runs");
    assert!(
        !all.body.contains("secret") && !all.body.contains("\"u\""),
        "{all:?}"
    );
    let mut listed = names(&all.json(), "runs", "reqid");
    listed.sort();
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    assert_eq!(
        names(&api.get("/runs?script=t").json(), "runs", "reqid"),
        [ids[2].as_str()]
    );
    assert_eq!(
        names(&api.get("/runs?host=b*").json(), "runs", "reqid"),
        [ids[1].as_str()]
    );
    assert_eq!(api.get("/runs?result=ok").json()["runs"], json!([]));
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/runs?limit=1{cursor}")).json();
        seen.extend(names(&page, "runs", "reqid"));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, sorted);
    assert_eq!(api.get("/runs?cursor=abcd").status, 400);
}
