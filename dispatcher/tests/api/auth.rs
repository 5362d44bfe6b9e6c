//! Who may (api.md §5): the hook, and what stands in for it.

use crate::client::Api;
use crate::support::agent::{Act, Agent};
use crate::support::{self, Root};
use ctrl_exec_dispatcher::fleet::EngineOptions;
use ctrl_exec_dispatcher::store::files::tokens::TokenFile;
use ctrl_exec_dispatcher::tasks::auth::{self, Tokens};
use ctrl_exec_dispatcher::tasks::{Dispatcher, Log};
use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::hook::HookRequest;
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

fn create(root: &Root, name: &str, more: &[&str]) -> String {
    let mut args = vec!["token", "create", name, "--json"];
    args.extend(more);
    support::text(&root.json(&args), "token").to_owned()
}

fn with(api: &Api, method: &str, path: &str, token: &str, body: &str) -> u16 {
    let headers = format!("Authorization: Bearer {token}\r\n");
    api.ask(method, path, &headers, body).status
}

#[test]
fn tokens_say_who_may_do_what() {
    let root = Root::new();
    for name in ["ap1", "ap2", "web01"] {
        let (identity, _) = root.agent_identity(name, 825);
        let agent = Agent::start(&identity, &root.ca_pem(), |request| {
            match &*request.path() {
                "/run" => Act::Keep(200, r#"{"exit":0}"#.into()),
                _ => Act::Keep(200, r#"{"status":"ok"}"#.into()),
            }
        });
        root.register(name, agent.address);
    }
    let view = create(&root, "viewer", &["--role", "view"]);
    // Even where everybody was let in: once there is a token, one is needed.
    let api = Api::open(&root);
    let run = create(
        &root,
        "runner",
        &["--role", "run", "--scripts", "check*", "--hosts", "ap*"],
    );
    let admin = create(&root, "boss", &["--role", "admin"]);
    let approve = create(&root, "desk", &["--role", "approve"]);
    let order = |host: &str, script: &str| format!(r#"{{"hosts":["{host}"],"script":"{script}"}}"#);
    let runs = |token: &str, host, script| with(&api, "POST", "/run", token, &order(host, script));
    let looks = |token: &str, path: &str| with(&api, "GET", path, token, "");
    for path in ["/health", "/agents", "/nope"] {
        let answer = api.get(path);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (403, &json!(2)),
            "{path}"
        );
    }
    for wrong in ["ced_x", &view[..view.len() - 1], &view.to_lowercase()] {
        assert_eq!(looks(wrong, "/health"), 403, "{wrong}");
    }
    for path in [
        "/health",
        "/agents",
        "/runs",
        "/discovery",
        "/openapi-live.json",
    ] {
        assert_eq!(looks(&view, path), 200, "{path}");
        assert_eq!(looks(&approve, path), 200, "{path}");
    }
    let limited: Vec<u16> = [
        "/health",
        "/agents",
        "/runs",
        "/discovery",
        "/openapi-live.json",
    ]
    .into_iter()
    .map(|path| looks(&run, path))
    .collect();
    assert_eq!(limited, [200, 403, 403, 403, 403]);
    for token in [&view, &approve] {
        assert_eq!(runs(token, "ap1", "check"), 403);
    }
    assert_eq!(runs(&run, "ap1", "check-disk"), 200);
    assert_eq!(runs(&run, "ap1", "reboot"), 403);
    assert_eq!(runs(&run, "web01", "check"), 403);
    assert_eq!(
        runs(&run, "ap1:7443x", "check"),
        404,
        "what is not registered is nobody's"
    );
    let both = r#"{"hosts":["ap1","web01:7"],"script":"check"}"#;
    assert_eq!(with(&api, "POST", "/run", &run, both), 403);
    assert_eq!(
        with(&api, "POST", "/ping", &run, r#"{"hosts":["ap2"]}"#),
        200
    );
    assert_eq!(
        with(&api, "POST", "/discovery", &run, r#"{"hosts":["web01"]}"#),
        403
    );
    let headers = format!("Authorization: Bearer {admin}\r\n");
    let ran = api
        .ask("POST", "/run", &headers, &order("web01", "reboot"))
        .json();
    let path = format!("/status/{}", ran["reqid"].as_str().unwrap());
    // A run beyond its limits is not there for a token.
    let seen = [&run, &view, &admin].map(|token| looks(token, &path));
    assert_eq!(seen, [404, 200, 200]);
    // The token in the body counts as well.
    let body = format!(r#"{{"hosts":["ap2"],"script":"check","token":"{run}"}}"#);
    assert_eq!(api.post("/run", &body).status, 200);

    let listed = root.run(&["token", "list"]).stdout;
    assert!(!listed.contains("ced_"), "{listed}");
    let used = || {
        support::items(&root.json(&["token", "list", "--json"]), "tokens")
            .iter()
            .any(|token| token.contains_key("used"))
    };
    ctrl_exec_testkit::wait::wait_for("a last use is shown", used);
    assert_eq!(
        root.run(&["token", "create", "boss", "--role", "view"])
            .exit,
        3
    );
    for (name, secret) in [
        ("viewer", &view),
        ("runner", &run),
        ("boss", &admin),
        ("desk", &approve),
    ] {
        assert_eq!(root.run(&["token", "revoke", name]).exit, 0);
        assert_eq!(looks(secret, "/health"), 403, "{name}");
    }
    assert_eq!(
        api.get("/health").status,
        403,
        "without the last token it is not open again"
    );
    std::fs::write(root.path("etc/ctrl-exec/api-tokens.json"), "{").unwrap();
    assert_eq!(api.get("/health").status, 403);
    api.await_log("ACTION=token-fail");
    assert!(!api.log().contains(&admin), "no secret is logged");
}

#[test]
fn a_token_has_an_end() {
    let root = Root::new();
    let token = create(&root, "t", &["--role", "admin", "--expires", "1"]);
    let api = Api::start(&root, "");
    assert_eq!(with(&api, "GET", "/health", &token, ""), 200);
    let path = root.path("etc/ctrl-exec/api-tokens.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("\"expires\":\"").unwrap();
    let text = format!("{before}\"expires\":\"2020-01-01T00:00:00Z{}", &rest[20..]);
    std::fs::write(&path, text).unwrap();
    assert_eq!(with(&api, "GET", "/health", &token, ""), 403);
}

#[test]
fn the_hook_has_the_last_word_on_tokens() {
    let root = Root::new();
    let view = create(&root, "viewer", &["--role", "view"]);
    let line = hook(&root, r#"[ "$ENVEXEC_ACTION" != agents ] || exit 3"#);
    let api = Api::start(&root, &line);
    assert_eq!(with(&api, "GET", "/runs", &view, ""), 200);
    assert_eq!(with(&api, "GET", "/agents", &view, ""), 403);
    // What a token does not allow, no hook is asked for.
    let order = r#"{"hosts":["x"],"script":"s"}"#;
    assert_eq!(with(&api, "POST", "/run", &view, order), 403);
    // Tokens of the site's own are the hook's to judge.
    assert_eq!(with(&api, "POST", "/run", "sites-own", order), 404);
}

#[test]
fn without_hook_and_tokens_only_this_machine_is_served() {
    let root = Root::new();
    let api = Api::open(&root);
    api.await_log("no auth hook and no token: only this machine is served");
    assert_eq!(api.get("/health").status, 200);
    let prefix = ctrl_exec_host::paths::Root::at(root.path("."));
    let config = ctrl_exec_dispatcher::config::Config::load(&prefix, None).unwrap();
    let log_root = prefix.clone();
    let log = Log::new(move || Syslog::open("test", &log_root).socket_only());
    let dispatcher = Dispatcher::new(prefix.clone(), config, log, EngineOptions::default());
    let tokens = Tokens::new(TokenFile::at(&prefix));
    for (source, served) in [
        ("127.0.0.1", true),
        ("::1", true),
        ("192.0.2.7", false),
        ("2001:db8::7", false),
        ("", false),
    ] {
        let request = HookRequest {
            action: "run",
            source_ip: source.to_owned(),
            ..HookRequest::default()
        };
        let verdict = auth::api_question(&dispatcher, &tokens, &request.into());
        assert_eq!(verdict.is_ok(), served, "{source}");
    }
}
