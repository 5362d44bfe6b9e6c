//! The bridge on standard input and output, against an API whose answers the test decides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use support::{Bridge, FakeApi, Reply, fleet, program, today};

fn ended(host: &str, exit: i64, stdout: &str) -> (&'static str, Value) {
    (
        "end",
        json!({"host": host, "script": "load", "exit": exit, "stdout": stdout, "stderr": "", "reqid": "1f"}),
    )
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
}

/// An API that runs everything at once.
fn prompt_api() -> FakeApi {
    FakeApi::start(|asked| match asked.line.as_str() {
        "POST /discovery" => Reply::Json(200, fleet()),
        "POST /run" => {
            let hosts: Vec<String> = serde_json::from_value(asked.body["hosts"].clone()).unwrap();
            let mut events = vec![("start", json!({"reqid": "1f", "hosts": hosts}))];
            for host in &hosts {
                events.push(("end", json!({"host": host, "exit": 0, "stdout": format!("{host} is fine\n"), "stderr": ""})));
            }
            events.push(("done", json!({"ok": true, "reqid": "1f"})));
            Reply::Events(events, None)
        }
        "GET /status/1f" => Reply::Json(
            200,
            json!({"ok": true, "reqid": "1f", "complete": true, "results": [{"host": "r1", "exit": 3, "stdout": "", "stderr": "x"}]}),
        ),
        "GET /agents" => Reply::Json(200, json!({"ok": true, "agents": [{"name": "r1"}]})),
        _ => Reply::Json(
            404,
            json!({"ok": false, "error": "not found", "detail": "no route"}),
        ),
    })
}

#[test]
fn every_revision_lists_and_calls() {
    for revision in ["2025-06-18", "2025-11-25", "2026-07-28"] {
        let api = prompt_api();
        let mut bridge = Bridge::start(
            &api.url(),
            &[("CTRLEXEC_TOKEN", "secret-1"), ("CTRLEXEC_USERNAME", "ann")],
        );
        let stateless = revision == "2026-07-28";
        let wrap = |params: Value| {
            if stateless {
                today(params, json!({}))
            } else {
                params
            }
        };
        let opened = if stateless {
            bridge.ask("server/discover", wrap(json!({})))
        } else {
            bridge.initialize(revision)
        };
        let opened = &opened["result"];
        if stateless {
            assert!(
                opened["supportedVersions"]
                    .as_array()
                    .unwrap()
                    .contains(&json!(revision)),
                "{opened}"
            );
        } else {
            assert_eq!(opened["protocolVersion"], json!(revision));
            assert_eq!(opened["serverInfo"]["name"], json!("ctrl-exec-mcp"));
        }
        let listed = bridge.ask("tools/list", wrap(json!({})));
        let tools = listed["result"]["tools"].as_array().unwrap();
        let names: Vec<_> = tools.iter().map(|t| t["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["load", "plain", "run_status"]);
        let load = &tools[0];
        assert_eq!(load["annotations"]["readOnlyHint"], json!(true));
        assert_eq!(load["annotations"]["destructiveHint"], json!(false));
        assert_eq!(
            load["inputSchema"]["properties"]["ctrl_exec_hosts"]["items"]["enum"],
            json!(["r1", "r2"])
        );
        let called = bridge.ask("tools/call", wrap(json!({"name": "load", "arguments": {"minutes": 5, "hosts": "word", "ctrl_exec_hosts": ["r2"]}})));
        assert!(text(&called).starts_with("run 1f\n"), "{called}");
        assert!(text(&called).contains("r2 is fine"));
        assert_eq!(called["result"]["isError"], json!(false));
        assert_eq!(
            called["result"]["structuredContent"]["hosts"]["r2"]["exit"],
            json!(0)
        );
        assert_eq!(
            called["result"].get("resultType").is_some(),
            stateless,
            "{called}"
        );
        let sent = &api.bodies("/run")[0];
        assert_eq!(sent["args"], json!(["-m", "5", "word"]));
        assert_eq!(sent["hosts"], json!(["r2"]));
        assert_eq!(
            (&sent["token"], &sent["username"]),
            (&json!("secret-1"), &json!("ann"))
        );
        let tokens: Vec<_> = api
            .asked
            .lock()
            .unwrap()
            .iter()
            .map(|a| a.token.clone())
            .collect();
        assert!(
            tokens
                .iter()
                .all(|t| t.as_deref() == Some("Bearer secret-1")),
            "{tokens:?}"
        );
        assert!(bridge.end().success());
    }
}

#[test]
fn what_the_schema_refuses_is_not_sent() {
    let api = prompt_api();
    let mut bridge = Bridge::start(&api.url(), &[]);
    bridge.initialize("2025-11-25");
    for (name, arguments, expected) in [
        ("load", json!({"minutes": 0}), "/minutes"),
        ("load", json!({"minutes": "5"}), "/minutes"),
        ("load", json!({"nonsense": 1}), "nonsense"),
        (
            "load",
            json!({"ctrl_exec_hosts": ["r3"]}),
            "not hosts with this script: r3",
        ),
        ("load", json!({"ctrl_exec_hosts": []}), "an empty list"),
        ("load", json!({"tags": ["site=moon"]}), "no host has"),
        ("load", json!({"tags": "site=lab"}), "tags: not a list"),
        ("plain", json!({"args": [1]}), "args: not a list"),
        ("plain", json!({"args": ["a\u{0}b"]}), "NUL"),
        ("plain", json!({"other": 1}), "takes only args"),
        ("run_status", json!({"reqid": "../etc"}), "reqid"),
        ("run_status", json!({}), "reqid"),
    ] {
        let answer = bridge.ask("tools/call", json!({"name": name, "arguments": arguments}));
        assert_eq!(answer["result"]["isError"], json!(true), "{answer}");
        assert!(text(&answer).contains(expected), "{answer}");
    }
    let unknown = bridge.ask(
        "tools/call",
        json!({"name": "no\u{1b}such", "arguments": {}}),
    );
    assert_eq!(unknown["error"]["code"], json!(-32602));
    assert_eq!(
        unknown["error"]["message"],
        json!("unknown tool: no\\u{1b}such")
    );
    assert!(api.bodies("/run").is_empty());
}

#[test]
fn a_tool_added_since_the_list_can_be_called_and_refusals_are_results() {
    let later = Mutex::new(false);
    let api = FakeApi::start(move |asked| match asked.line.as_str() {
        "POST /discovery" => {
            let mut fleet = fleet();
            let mut later = later.lock().unwrap();
            if *later {
                let new = json!({"name": "new", "executable": true});
                fleet["hosts"]["r1"]["scripts"]
                    .as_array_mut()
                    .unwrap()
                    .push(new);
            }
            *later = true;
            Reply::Json(200, fleet)
        }
        "POST /run" => Reply::Json(
            409,
            json!({"ok": false, "error": "locked", "conflicts": ["r1:new"]}),
        ),
        _ => Reply::Json(
            403,
            json!({"ok": false, "error": "denied\u{1b}[2J", "code": 1}),
        ),
    });
    let mut bridge = Bridge::start(&api.url(), &[]);
    bridge.initialize("2025-06-18");
    bridge.ask("tools/list", json!({}));
    // A catalogue is taken as it is for two seconds.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let called = bridge.ask(
        "tools/call",
        json!({"name": "new", "arguments": {"args": ["x"]}}),
    );
    assert_eq!(called["result"]["isError"], json!(true));
    assert!(
        text(&called).contains("409") && text(&called).contains("r1:new"),
        "{called}"
    );
    let status = bridge.ask(
        "tools/call",
        json!({"name": "run_status", "arguments": {"reqid": "1f"}}),
    );
    assert!(
        text(&status).contains("(403): denied\\u{1b}[2J"),
        "{status}"
    );
}

#[test]
fn progress_is_told_and_a_cancelled_call_is_cancelled_on_the_agents() {
    let (open, gate) = channel();
    let gate = Mutex::new(Some(gate));
    let open = Mutex::new(open);
    let api = FakeApi::start(move |asked| match asked.line.as_str() {
        "POST /discovery" => Reply::Json(200, fleet()),
        "POST /run" => {
            let events = vec![
                ("start", json!({"reqid": "1f"})),
                ended("r1", 0, "first\n"),
                ended("r2", 0, "second\n"),
            ];
            Reply::Events(events, gate.lock().unwrap().take())
        }
        "POST /cancel" => {
            let _ = open.lock().unwrap().send(());
            Reply::Json(200, json!({"ok": true, "cancelled": ["1f"]}))
        }
        _ => Reply::Json(404, json!({})),
    });
    let mut bridge = Bridge::start(&api.url(), &[]);
    bridge.initialize("2025-11-25");
    let id = bridge.send(
        "tools/call",
        json!({"name": "load", "arguments": {}, "_meta": {"progressToken": "p"}}),
    );
    let progress = bridge.receive();
    assert_eq!(
        progress["method"],
        json!("notifications/progress"),
        "{progress}"
    );
    assert_eq!(progress["params"]["progress"].as_f64(), Some(1.0));
    assert_eq!(progress["params"]["total"].as_f64(), Some(2.0));
    // Others are served meanwhile.
    assert!(bridge.ask("ping", json!({})).get("result").is_some());
    bridge.notify(
        "notifications/cancelled",
        json!({"requestId": id, "reason": "enough"}),
    );
    let begun = std::time::Instant::now();
    while api.bodies("/cancel").is_empty() {
        assert!(begun.elapsed() < support::PATIENCE, "no cancel");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(api.bodies("/cancel")[0]["reqid"], json!("1f"));
}

#[test]
fn a_long_run_becomes_a_task_or_is_left_to_run_status() {
    let (open, gate) = channel::<()>();
    let gates = Mutex::new(vec![Some(gate)]);
    let (second, gate) = channel::<()>();
    gates.lock().unwrap().push(Some(gate));
    let api = FakeApi::start(move |asked| match asked.line.as_str() {
        "POST /discovery" => Reply::Json(200, fleet()),
        "POST /run" => {
            let nth = asked.body["args"][1] == json!("2");
            let reqid = if nth { "2f" } else { "1f" };
            let events = vec![
                ("start", json!({"reqid": reqid})),
                ended("r1", 0, "part\n"),
                ended("r2", 0, "rest\n"),
            ];
            Reply::Events(events, gates.lock().unwrap()[usize::from(nth)].take())
        }
        _ => Reply::Json(404, json!({"error": "not found"})),
    });
    let mut bridge = Bridge::start(&api.url(), &[]);
    let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    bridge.ask("server/discover", today(json!({}), tasks.clone()));
    let with = bridge.send(
        "tools/call",
        today(
            json!({"name": "load", "arguments": {"minutes": 1}}),
            tasks.clone(),
        ),
    );
    let without = bridge.send(
        "tools/call",
        today(
            json!({"name": "load", "arguments": {"minutes": 2}}),
            json!({}),
        ),
    );
    let mut answers: Vec<Value> = Vec::new();
    while answers.len() < 2 {
        answers.push(bridge.receive());
    }
    let find = |id: u64| answers.iter().find(|a| a["id"] == json!(id)).unwrap();
    let task = &find(with)["result"];
    assert_eq!(
        (&task["resultType"], &task["taskId"], &task["status"]),
        (&json!("task"), &json!("1f"), &json!("working")),
        "{task}"
    );
    let left = find(without);
    assert!(
        text(left).contains("call run_status with reqid 2f") && text(left).contains("part"),
        "{left}"
    );
    assert_eq!(left["result"]["isError"], json!(false));
    let working = bridge.ask("tasks/get", today(json!({"taskId": "1f"}), tasks.clone()));
    assert_eq!(working["result"]["status"], json!("working"), "{working}");
    let strange = bridge.ask("tasks/get", today(json!({"taskId": "77"}), tasks.clone()));
    assert_eq!(strange["error"]["code"], json!(-32602));
    open.send(()).unwrap();
    second.send(()).unwrap();
    let begun = std::time::Instant::now();
    let done = loop {
        let answer = bridge.ask("tasks/get", today(json!({"taskId": "1f"}), tasks.clone()));
        if answer["result"]["status"] == json!("completed") {
            break answer;
        }
        assert!(begun.elapsed() < support::PATIENCE, "{answer}");
    };
    let result = &done["result"]["result"];
    assert!(
        result["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("rest"),
        "{done}"
    );
    let status = bridge.ask(
        "tools/call",
        today(
            json!({"name": "run_status", "arguments": {"reqid": "2f"}}),
            json!({}),
        ),
    );
    assert!(text(&status).contains("rest"), "{status}");
}

#[test]
fn an_api_without_events_serves_too() {
    let api = FakeApi::start(|asked| match asked.line.as_str() {
        "POST /discovery" => Reply::Json(200, fleet()),
        _ => Reply::Json(
            200,
            json!({"ok": true, "reqid": "ab", "results": [
            {"host": "r2", "exit": -1, "error": "script not permitted", "script": "load"},
            {"host": "r1", "exit": 0, "stdout": "x".repeat(100_000), "stderr": "\u{1b}]0;title\u{7}", "script": "load"}]}),
        ),
    });
    let mut bridge = Bridge::start(&api.url(), &[]);
    bridge.initialize("2025-06-18");
    let called = bridge.ask("tools/call", json!({"name": "load", "arguments": {}}));
    assert_eq!(called["result"]["isError"], json!(false), "one host did it");
    let said = text(&called);
    assert!(
        said.starts_with("run ab\n") && said.chars().count() < 21_500,
        "{}",
        said.len()
    );
    assert!(
        said.contains("characters left out")
            && said.contains("script not permitted")
            && !said.contains('\u{1b}')
    );
}

#[test]
fn a_large_fleet_has_two_tools_for_all() {
    let api = prompt_api();
    let mut bridge = Bridge::start(&api.url(), &[("CTRLEXEC_MCP_TOOLS", "1")]);
    bridge.initialize("2025-11-25");
    let listed = bridge.ask("tools/list", json!({}));
    let names: Vec<_> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].clone())
        .collect();
    assert_eq!(names, ["list_scripts", "run_script", "run_status"]);
    let scripts = bridge.ask(
        "tools/call",
        json!({"name": "list_scripts", "arguments": {"query": "LOAD"}}),
    );
    let scripts = &scripts["result"]["structuredContent"]["scripts"];
    assert_eq!(
        (scripts.as_array().unwrap().len(), &scripts[0]["script"]),
        (1, &json!("load"))
    );
    let called = bridge.ask("tools/call", json!({"name": "run_script", "arguments": {"script": "load", "tags": ["site=hill"], "arguments": {"minutes": 2, "hosts": "w"}}}));
    assert!(
        text(&called).contains("r2 is fine") && !text(&called).contains("r1 is fine"),
        "{called}"
    );
    assert_eq!(api.bodies("/run")[0]["args"], json!(["-m", "2", "w"]));
    let wrong = bridge.ask(
        "tools/call",
        json!({"name": "run_script", "arguments": {"script": "nothing"}}),
    );
    assert!(text(&wrong).contains("no script nothing"), "{wrong}");
}

#[test]
fn resources_and_what_is_none() {
    let api = prompt_api();
    let mut bridge = Bridge::start(&api.url(), &[]);
    bridge.initialize("2025-11-25");
    let listed = bridge.ask("resources/list", json!({}));
    assert_eq!(listed["result"]["resources"].as_array().unwrap().len(), 3);
    let fleet = bridge.ask("resources/read", json!({"uri": "ctrl-exec://fleet"}));
    assert!(
        fleet["result"]["contents"][0]["text"]
            .as_str()
            .unwrap()
            .contains("\"r1\""),
        "{fleet}"
    );
    let none = bridge.ask("resources/read", json!({"uri": "file:///etc/passwd"}));
    assert_eq!(none["error"]["code"], json!(-32002));
    let runs = bridge.ask("resources/read", json!({"uri": "ctrl-exec://runs"}));
    assert!(
        runs["error"]["message"].as_str().unwrap().contains("(404)"),
        "{runs}"
    );
}

#[test]
fn changed_tools_are_told() {
    let changed = std::sync::Arc::new(Mutex::new(false));
    let switch = std::sync::Arc::clone(&changed);
    let api = FakeApi::start(move |_| {
        let mut fleet = fleet();
        if *switch.lock().unwrap() {
            fleet["hosts"]["r3"]["scripts"] = json!([{"name": "fresh", "executable": true}]);
        }
        Reply::Json(200, fleet)
    });
    let mut bridge = Bridge::start(&api.url(), &[("CTRLEXEC_MCP_REFRESH", "1")]);
    let opened = bridge.initialize("2025-11-25");
    assert_eq!(
        opened["result"]["capabilities"]["tools"]["listChanged"],
        json!(true)
    );
    bridge.ask("tools/list", json!({}));
    while api.lines().len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    *changed.lock().unwrap() = true;
    assert_eq!(
        bridge.receive()["method"],
        json!("notifications/tools/list_changed")
    );
}

#[test]
fn broken_messages_and_an_unreachable_api() {
    let closed = ctrl_exec_testkit::ports::claim().unwrap();
    let mut bridge = Bridge::start(&format!("http://127.0.0.1:{closed}"), &[]);
    bridge.initialize("2025-11-25");
    let listed = bridge.ask("tools/list", json!({}));
    assert!(
        listed["error"]["message"]
            .as_str()
            .unwrap()
            .contains("cannot be reached"),
        "{listed}"
    );
    let called = bridge.ask("tools/call", json!({"name": "load", "arguments": {}}));
    assert!(text(&called).contains("cannot be reached"), "{called}");
    for junk in [
        "{",
        "[]",
        "null",
        "{\"jsonrpc\":\"2.0\",\"id\":5}",
        "\u{0}\u{1}",
    ] {
        bridge.line(junk);
    }
    let unknown = bridge.ask("no/such", json!({}));
    assert_eq!(unknown["error"]["code"], json!(-32601), "{unknown}");
}

#[test]
fn a_wrong_environment_ends_with_three() {
    for (name, value) in [
        ("CTRLEXEC_TIMEOUT", "soon"),
        ("CTRLEXEC_CA", "/nonexistent"),
        ("CTRLEXEC_API_URL", "nowhere"),
    ] {
        let output = program().env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with(&format!("Error: {name}: ")), "{error}");
    }
}
