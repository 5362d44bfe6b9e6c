//! The handlers called as functions: no socket, no process.

use super::*;
use crate::config::{Loaded, Notes};
use ctrl_exec_host::Root;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Loaded serials of the fixtures: the dispatcher's, the agent's.
const TRUSTED: &str = "02";
const STRANGER: &str = "03";

struct Bench {
    dir: PathBuf,
    state: State,
}

impl Bench {
    /// State as `serve` has it, from the reference's own files.
    fn new(name: &str, extra: &str) -> Bench {
        let dir = std::env::temp_dir().join(format!("ctrl-exec-h-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let paths = Paths::new(Root::at(&dir), None, None);
        fs::create_dir_all(paths.etc()).expect("etc");
        fs::create_dir_all(paths.var()).expect("var");
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/reference");
        for file in ["agent.crt", "agent.key", "ca.crt"] {
            fs::copy(format!("{fixtures}/{file}"), paths.etc().join(file)).expect("fixture");
        }
        fs::copy(
            format!("{fixtures}/ctrl-exec-dispatchers"),
            paths.default_map(),
        )
        .expect("map");
        let etc = paths.etc().display().to_string();
        let conf = format!(
            "port = 1\ncert = {etc}/agent.crt\nkey = {etc}/agent.key\nca = {etc}/ca.crt\n{extra}\n\
             [profile default]\n"
        );
        fs::write(&paths.config, conf).expect("conf");
        fs::write(&paths.allowlist, "ok = /bin/true\ngone = /no/such\n").expect("scripts");
        let loaded = Loaded::load(&paths, &mut Notes::default()).expect("loads");
        Bench {
            dir,
            state: State {
                paths,
                host: "host".into(),
                started: 0,
                loaded,
                lines: Vec::new(),
            },
        }
    }

    fn call(&mut self, serial: &str, method: &str, path: &str, body: &str) -> Step {
        let call = Call {
            method,
            path,
            body: body.as_bytes(),
            from_perl: false,
        };
        handle(&mut self.state, &peer(serial), call)
    }

    fn reply(&mut self, serial: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        reply_of(self.call(serial, method, path, body))
    }

    fn logged(&mut self) -> Vec<String> {
        let lines = std::mem::take(&mut self.state.lines);
        lines
            .into_iter()
            .map(|(level, line)| format!("{level:?} {line}"))
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn peer(serial: &str) -> Peer {
    Peer {
        ip: Ipv4Addr::new(10, 0, 0, 1).into(),
        serial: serial.into(),
    }
}

fn reply_of(step: Step) -> (u16, String) {
    match step {
        Step::Reply(reply) => (reply.status, reply.body),
        other => panic!("not a reply: {other:?}"),
    }
}

#[test]
fn who_may_call_what() {
    let mut bench = Bench::new("who", "");
    let mismatch = (
        403,
        r#"{"error":"serial mismatch","status":"forbidden"}"#.to_owned(),
    );
    for (method, path) in [
        ("POST", "/run"),
        ("POST", "/ping"),
        ("GET", "/result/x"),
        ("POST", "/rotate-serial"),
        ("POST", "/renew"),
        ("POST", "/renew-complete"),
    ] {
        for serial in [STRANGER, ""] {
            assert_eq!(
                bench.reply(serial, method, path, "{nope"),
                mismatch,
                "{path}"
            );
            let reqid = if path.starts_with("/result") {
                "x"
            } else {
                "(none)"
            };
            let line = format!(
                "Warning ACTION=serial-reject PEER=10.0.0.1 PEER_SERIAL={serial} REQID={reqid}"
            );
            assert_eq!(bench.logged(), [line]);
        }
    }
    let forbidden = (403, r#"{"error":"forbidden"}"#.to_owned());
    assert_eq!(bench.reply(STRANGER, "GET", "/capabilities", ""), forbidden);
    bench.state.loaded.trusted = crate::trust::TrustMap::default();
    assert_eq!(bench.reply(TRUSTED, "GET", "/capabilities", ""), forbidden);
    assert_eq!(
        bench.logged(),
        [
            "Warning ACTION=capabilities-deny PEER=10.0.0.1 PEER_SERIAL=03 REASON=serial-mismatch",
            "Warning ACTION=capabilities-deny PEER=10.0.0.1 PEER_SERIAL=02 \
             REASON=\"no trusted dispatchers stored\"",
        ]
    );
}

#[test]
fn what_is_no_endpoint_is_not_found() {
    let mut bench = Bench::new("routes", "");
    for (method, path) in [
        ("GET", "/run"),
        ("post", "/ping"),
        ("POST", "/ping?x"),
        ("POST", "/ping/"),
        ("POST", "/capabilities"),
        ("POST", "/result/x"),
        ("GET", "/result/a.b"),
        ("GET", "/"),
        ("", ""),
    ] {
        let not_found = (404, r#"{"error":"not found"}"#.to_owned());
        assert_eq!(
            bench.reply(TRUSTED, method, path, ""),
            not_found,
            "{method} {path}"
        );
    }
    assert!(bench.logged().is_empty());
}

#[test]
fn revocation_comes_before_everything() {
    let mut bench = Bench::new("revoked", "");
    bench.state.loaded.revoked = crate::trust::Revoked::parse("02\n");
    for path in ["/ping", "/nowhere"] {
        let revoked = (403, r#"{"error":"certificate revoked"}"#.to_owned());
        assert_eq!(bench.reply(TRUSTED, "POST", path, "{}"), revoked);
        assert_eq!(
            bench.logged(),
            ["Warning ACTION=revoked-cert PEER=10.0.0.1 SERIAL=02"]
        );
    }
}

#[test]
fn a_run_becomes_a_step() {
    let mut bench = Bench::new("run", "");
    let body = r#"{"script":"ok","args":[1,"x"],"reqid":"r","username":"u","token":"t"}"#;
    let Step::Run(run) = bench.call(TRUSTED, "POST", "/run", body) else {
        panic!("not a run")
    };
    assert_eq!(
        (PathBuf::from(&run.path), run.dispatcher.as_str()),
        // The path that was judged, without links.
        (fs::canonicalize("/bin/true").expect("exists"), "perl-disp")
    );
    assert_eq!(
        run.clone()
            .take_stdin(ctrl_exec_protocol::time::Utc(0)),
        br#"{"script":"ok","args":["1","x"],"reqid":"r","peer_ip":"10.0.0.1","username":"u","token":"t","dispatcher":"perl-disp","timestamp":"1970-01-01T00:00:00Z"}"#
    );
    let outcome = crate::runs::outcome::Outcome {
        exit: 3,
        stdout: "o".into(),
        dropped: (0, 5),
        gaps: (0, 2),
        ..Default::default()
    };
    let reply = run_outcome(&mut bench.state, &run, outcome);
    assert_eq!(
        reply.body,
        r#"{"script":"ok","exit":3,"stdout":"o","stderr":"","stderr_truncated":5,"stderr_gap":2,"reqid":"r"}"#
    );
    assert_eq!(
        bench.logged(),
        ["Info ACTION=run DISPATCHER=perl-disp EXIT=3 PEER=10.0.0.1 REQID=r SCRIPT=ok"]
    );
    let body = r#"{"script":"ok","reqid":"r","async":"yes"}"#;
    assert!(matches!(
        bench.call(TRUSTED, "POST", "/run", body),
        Step::RunAsync(_)
    ));
    for (started, status, log) in [
        (
            Ok(true),
            202,
            "Info ACTION=run-async DISPATCHER=perl-disp PEER=10.0.0.1 REQID=r SCRIPT=ok",
        ),
        (
            Ok(false),
            409,
            "Warning ACTION=run-async-busy PEER=10.0.0.1 REQID=r SCRIPT=ok",
        ),
        (
            Err("full".to_owned()),
            200,
            "Err ACTION=async-store-fail ERROR=full REQID=r",
        ),
    ] {
        assert_eq!(
            async_outcome(&mut bench.state, &run, started).status,
            status
        );
        assert_eq!(bench.logged(), [log]);
    }
    let body = r#"{"script":"no\nACTION=run","reqid":"r"}"#;
    bench.reply(TRUSTED, "POST", "/run", body);
    assert_eq!(
        bench.logged(),
        ["Warning ACTION=deny PEER=10.0.0.1 REQID=r SCRIPT=\"no ACTION=run\""],
        "nobody forges a line"
    );
}

#[test]
fn scripts_outside_script_dirs_do_not_run_but_are_shown() {
    let mut bench = Bench::new("dirs", "script_dirs = /opt/none");
    let (_, body) = bench.reply(TRUSTED, "POST", "/run", r#"{"script":"ok"}"#);
    assert_eq!(
        body,
        r#"{"script":"ok","exit":-1,"error":"script not permitted","reqid":""}"#
    );
    let (_, body) = bench.reply(TRUSTED, "GET", "/capabilities", "");
    let entry = r#"{"name":"ok","path":"/bin/true","executable":true,"profile":"default"}"#;
    assert!(body.contains(entry), "{body}");
    assert!(
        body.contains(r#"{"name":"gone","path":"/no/such","executable":false"#),
        "{body}"
    );
}

#[test]
fn the_hook_is_asked_and_its_verdict_is_final() {
    let mut bench = Bench::new("hook", "auth_hook = /bin/true\nauth_hook_timeout = 7");
    let run = |bench: &mut Bench| {
        let body = r#"{"script":"ok","username":"u","reqid":"r"}"#;
        match bench.call(TRUSTED, "POST", "/run", body) {
            Step::AskHook(hook, intent) => (hook, intent),
            other => panic!("{other:?}"),
        }
    };
    let (hook, intent) = run(&mut bench);
    assert_eq!(
        (
            hook.action,
            hook.dispatcher_serial.as_str(),
            hook.reqid.as_str()
        ),
        ("run", "02", "")
    );
    let step = hook_done(&mut bench.state, &peer(TRUSTED), intent, HookEnd::Exited(0));
    assert!(matches!(step, Step::Run(_)));
    assert_eq!(
        bench.logged(),
        ["Info ACTION=auth AUTHACTION=run IP=10.0.0.1 RESULT=pass USER=u"]
    );
    for (end, reason) in [
        (HookEnd::Exited(2), "bad credentials"),
        (HookEnd::Signalled, "denied"),
        (HookEnd::TimedOut, "denied"),
        (HookEnd::NotStarted, "denied"),
    ] {
        let (_, intent) = run(&mut bench);
        let step = hook_done(&mut bench.state, &peer(TRUSTED), intent, end);
        assert!(
            reply_of(step)
                .1
                .contains(&format!("\"error\":\"not authorised: {reason}\""))
        );
        let logged = bench.logged();
        assert_eq!(
            logged[0] == "Warning ACTION=auth-hook-timeout TIMEOUT=7",
            end == HookEnd::TimedOut
        );
        assert!(
            logged
                .last()
                .is_some_and(|line| line.starts_with("Warning ACTION=deny DISPATCHER=perl-disp"))
        );
    }
    let (_, intent) = run(&mut bench);
    let step = hook_missing(&mut bench.state, &peer(TRUSTED), intent);
    assert!(
        reply_of(step)
            .1
            .contains("auth hook not found or not executable: /bin/true")
    );
    assert_eq!(
        bench.logged()[0],
        "Err ACTION=auth HOOK=/bin/true REASON=hook-not-executable RESULT=error"
    );
    let Step::AskHook(hook, intent) = bench.call(TRUSTED, "GET", "/capabilities", "") else {
        panic!("no hook")
    };
    assert_eq!(hook.action, "discovery");
    let step = hook_done(&mut bench.state, &peer(TRUSTED), intent, HookEnd::Exited(1));
    assert_eq!(
        reply_of(step),
        (403, r#"{"error":"not authorised"}"#.into())
    );
    let body = r#"{"serial":"cafe","token":"t"}"#;
    let Step::AskHook(hook, intent) = bench.call(TRUSTED, "POST", "/rotate-serial", body) else {
        panic!("no hook")
    };
    assert_eq!(
        (hook.args.join(" "), hook.token.as_str()),
        ("add cafe".into(), "t")
    );
    let step = hook_done(&mut bench.state, &peer(TRUSTED), intent, HookEnd::Exited(1));
    assert_eq!(
        reply_of(step),
        (403, r#"{"error":"not authorised: denied"}"#.into())
    );
    assert!(
        bench
            .logged()
            .contains(&"Warning ACTION=rotate-deny DISPATCHER=perl-disp REASON=denied".into())
    );
}

#[test]
fn a_dispatcher_may_lock_itself_out_while_the_hook_thinks() {
    let mut bench = Bench::new("race", "auth_hook = /bin/true");
    let body = r#"{"serial":"cafe"}"#;
    let Step::AskHook(_, intent) = bench.call(TRUSTED, "POST", "/rotate-serial", body) else {
        panic!("no hook")
    };
    bench.state.loaded.trusted = crate::trust::TrustMap::default();
    let step = hook_done(&mut bench.state, &peer(TRUSTED), intent, HookEnd::Exited(0));
    assert_eq!(reply_of(step).0, 403);
}

#[test]
fn rotation_failures_are_reported_and_change_nothing() {
    let mut bench = Bench::new("rotate", "");
    let before = bench.state.loaded.trusted.clone();
    for (body, error) in [
        ("{nope", "serial required"),
        (r#"{"serial":""}"#, "serial required"),
        (r#"{"serial":"x","action":"drop"}"#, "invalid action 'drop'"),
        (r#"{"serial":"zz zz"}"#, "invalid dispatcher serial"),
    ] {
        let (status, answer) = bench.reply(TRUSTED, "POST", "/rotate-serial", body);
        assert_eq!((status, answer), (200, messages::status_error(error)));
    }
    assert_eq!(
        bench.logged(),
        ["Err ACTION=rotate-fail DISPATCHER=perl-disp ERROR=\"invalid dispatcher serial\""]
    );
    assert_eq!(bench.state.loaded.trusted, before);
    fs::remove_dir_all(bench.state.paths.var()).expect("remove");
    let (_, answer) = bench.reply(TRUSTED, "POST", "/rotate-serial", r#"{"serial":"cafe"}"#);
    assert!(answer.contains("\"status\":\"error\""), "{answer}");
    assert_eq!(
        bench.state.loaded.trusted, before,
        "memory follows the disk"
    );
}

#[test]
fn renewal_needs_the_key() {
    let mut bench = Bench::new("renew", "");
    fs::remove_file(bench.state.paths.etc().join("agent.key")).expect("remove");
    let (_, answer) = bench.reply(TRUSTED, "POST", "/renew", r#"{"reqid":"n"}"#);
    assert_eq!(answer, messages::status_error("agent key not available"));
    assert_eq!(
        bench.logged(),
        ["Err ACTION=renew ERROR=\"key file is missing\" PEER=10.0.0.1 REQID=n"]
    );
    let (_, answer) = bench.reply(TRUSTED, "POST", "/renew-complete", r#"{"cert":"x"}"#);
    assert!(answer.contains("agent key not found at '"), "{answer}");
    fs::remove_file(bench.state.paths.etc().join("ca.crt")).expect("remove");
    let (_, answer) = bench.reply(TRUSTED, "POST", "/renew-complete", r#"{"cert":"x"}"#);
    assert!(answer.contains("CA cert not found at '"), "{answer}");
    fs::remove_file(bench.state.paths.etc().join("agent.crt")).expect("remove");
    let (_, answer) = bench.reply(TRUSTED, "POST", "/ping", "{}");
    assert!(
        answer.contains(r#""expiry":"Feb 24 13:29:34 2029 GMT""#),
        "what is served, whatever becomes of its file: {answer}"
    );
}
