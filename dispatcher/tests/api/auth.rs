//! Who may (api.md §5): the hook, and what stands in for it.

use crate::client::Api;
use crate::support::Root;
use crate::support::agent::{Act, Agent};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A hook with this body; the configuration line that names it.
pub fn hook(root: &Root, body: &str) -> String {
    let path = root.path("hook");
    let fresh = root.path("hook.new");
    std::fs::write(&fresh, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    format!("auth_hook = {}\n", path.display())
}

#[test]
fn everything_is_gated_before_it_is_routed() {
    let root = Root::new();
    for more in [hook(&root, "exit 1"), String::new()] {
        let api = Api::start(&root, &more);
        for path in ["/health", "/", "/nope", "/openapi.json", "/status/abcd"] {
            assert_eq!(api.get(path).status, 403, "{path}");
        }
        assert_eq!(api.post("/run", "").status, 403);
    }
}

#[test]
fn what_the_hook_says_is_passed_on() {
    let root = Root::new();
    let body = r#"case $ENVEXEC_TOKEN in sig) kill -9 $$;; slow) sleep 300;; *) exit "$ENVEXEC_TOKEN";; esac"#;
    let more = format!("{}auth_hook_timeout = 1\n", hook(&root, body));
    let api = Api::start(&root, &more);
    let ask = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\n");
        api.ask("GET", "/health", &headers, "")
    };
    assert_eq!(ask("0").status, 200);
    for (token, error, code) in [
        ("1", "denied", 1),
        ("2", "bad credentials", 2),
        ("3", "insufficient privilege", 3),
        ("7", "hook exited 7", 7),
        ("sig", "denied", 1),
        ("slow", "denied", 1),
    ] {
        let answer = ask(token);
        let expected = json!({"ok": false, "error": error, "code": code});
        assert_eq!((answer.status, answer.json()), (403, expected), "{token}");
    }
    api.await_log("ACTION=auth-hook-timeout");
    drop(api);
    std::fs::remove_file(root.path("hook")).unwrap();
    let api = Api::start(&root, &more);
    let (status, error, _) = api.get("/health").fault();
    assert_eq!(status, 403);
    assert!(
        error.starts_with("auth hook not found or not executable: "),
        "{error}"
    );
}

#[test]
fn denials_can_be_kept_short() {
    let root = Root::new();
    let line = hook(&root, "exit 3");
    for (value, generic) in [("1", true), ("yes", true), ("true", false), ("0", false)] {
        let api = Api::start(&root, &format!("{line}auth_deny_generic = {value}\n"));
        let answer = api.get("/health").json();
        let short = json!({"ok": false, "error": "forbidden"});
        assert_eq!(answer == short, generic, "{value}: {answer}");
    }
}

/// What the hook was given, one question after the other.
fn noting(root: &Root, verdict: &str) -> (String, PathBuf) {
    let out = root.path("asked");
    let body = format!(
        "{{ printf '%s|' \"$ENVEXEC_ACTION\" \"$ENVEXEC_TOKEN\" \"$ENVEXEC_HOSTS\" \
         \"$ENVEXEC_SUBMITTER\"; cat; echo; }} >> {}\n{verdict}",
        out.display()
    );
    (hook(root, &body), out)
}

#[test]
fn the_hook_sees_the_gate_and_then_the_route() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(200, r#"{"exit":0}"#.into())
    });
    root.register("a", agent.address);
    let (line, out) = noting(&root, "exit 0");
    let api = Api::start(&root, &line);
    let order =
        json!({"hosts": ["a"], "script": "s", "args": ["x y"], "token": "t", "username": "u"});
    let run = api.post("/run", &order.to_string());
    assert_eq!(run.status, 200);
    let reqid = run.json()["reqid"].as_str().unwrap().to_owned();
    assert_eq!(
        api.ask(
            "GET",
            &format!("/status/{reqid}"),
            "Authorization: bearer b\r\n",
            ""
        )
        .status,
        200
    );
    assert_eq!(api.get("/discovery").status, 200);
    let text = std::fs::read_to_string(&out).unwrap();
    let heads: Vec<&str> = text
        .lines()
        .map(|line| line.split_once('{').unwrap().0)
        .collect();
    let expected = [
        "api|t|||",
        "run|t|a||",
        "api|b|||",
        "status|b||u|",
        "api||||",
        "ping||a||",
    ];
    assert_eq!(heads, expected);
    let run = text.lines().nth(1).unwrap().split_once('{').unwrap().1;
    let mut given: serde_json::Value = serde_json::from_str(&format!("{{{run}")).unwrap();
    given.as_object_mut().unwrap().remove("timestamp");
    let expected = json!({"action": "run", "script": "s", "hosts": ["a"], "args": ["x y"],
        "username": "u", "token": "t", "source_ip": "127.0.0.1", "dispatcher": "",
        "dispatcher_serial": "", "reqid": "", "submitter": null});
    assert_eq!(given, expected);
    assert!(!api.log().contains("x y"), "arguments are not logged");
}

#[test]
fn a_run_that_may_not_be_seen_is_not_there() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(202, r#"{"status":"accepted"}"#.into())
    });
    root.register("a", agent.address);
    let body = r#"[ "$ENVEXEC_ACTION" != status ] || [ "$ENVEXEC_TOKEN" = "$ENVEXEC_SUBMITTER" ]"#;
    let api = Api::start(&root, &hook(&root, body));
    let order = r#"{"hosts":["a"],"script":"s","async":true,"username":"alice"}"#;
    let reqid = api.post("/run", order).json()["reqid"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/status/{reqid}");
    let denied = api.ask("GET", &path, "Authorization: Bearer eve\r\n", "");
    let unknown = api.get("/status/abcd");
    assert_eq!(denied.status, 404);
    assert_eq!(denied.body.replace(&reqid, "abcd"), unknown.body);
    assert_eq!(
        agent.seen().len(),
        1,
        "agents are asked for those only who may see it"
    );
    assert_eq!(
        api.ask("GET", &path, "Authorization: Bearer alice\r\n", "")
            .status,
        200
    );
    assert_eq!(agent.seen().len(), 2);
}

#[test]
fn what_cannot_be_shown_to_the_hook_is_denied() {
    let root = Root::new();
    let api = Api::start(&root, &hook(&root, "exit 0"));
    let order = |token: &str| json!({"hosts": ["a"], "script": "s", "token": token}).to_string();
    assert_eq!(api.post("/run", &order("a\0b")).status, 403);
    assert_eq!(api.post("/run", &order(&"x".repeat(140_000))).status, 403);
    let args = json!({"hosts": ["a"], "script": "s", "args": ["x".repeat(140_000)]});
    assert_eq!(api.post("/run", &args.to_string()).status, 403);
}
