//! The running agent over TLS: endpoints, their order of checks, hooks, executor, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use ctrl_exec_protocol::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Instant;

#[test]
fn ping_tells_who_the_agent_is() {
    let mut host = Host::new(&Ca::new());
    host.start();
    let (status, body) = host.caller().post("/ping", r#"{"reqid":"abc"}"#);
    assert_eq!(status, 200);
    assert_eq!(text(&body, "status"), "ok");
    assert_eq!(text(&body, "reqid"), "abc");
    assert_eq!(text(&body, "version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&body, "expiry"), "Jan  1 00:00:00 2100 GMT");
    assert!(body.contains("\"staged\":false"));
    host.write("var/lib/ctrl-exec-agent/agent.crt.staged", "x");
    assert!(
        host.caller()
            .post("/ping", "{}")
            .1
            .contains("\"staged\":true")
    );
    host.wait_log("ACTION=ping DISPATCHER=disp PEER=127.0.0.1 REQID=abc");
}

#[test]
fn each_tls_version_is_spoken_and_a_foreign_ca_is_not() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    let spoken = versions_of_agent();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut caller = host.caller();
        caller.config = client_config(Some(&host.dispatcher), &[version]);
        if spoken.contains(&version) {
            assert_eq!(caller.post("/ping", "{}").0, 200);
        } else {
            caller.connect().unwrap_err();
        }
    }
    let stranger = Ca::new().leaf("ctrl-exec-dispatcher", &[0xab, 1]);
    for leaf in [
        Some(&stranger),
        Some(&ca.leaf_valid("old", &[0xab, 1], 2000, 2001)),
        Some(&ca.leaf_valid("new", &[0xab, 1], 2090, 2091)),
        None,
    ] {
        let answer = Caller::new(host.port, leaf).raw(request("POST", "/ping", "{}").as_bytes());
        assert!(answer.as_ref().map_or(true, String::is_empty), "{answer:?}");
    }
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    host.wait_log("ACTION=tls-failure PEER=127.0.0.1 REASON=");
}

#[test]
fn a_script_gets_arguments_context_and_a_clean_environment() {
    let mut host = Host::new(&Ca::new());
    host.script(
        "show",
        "#!/bin/sh\nfor a in \"$@\"; do echo \"<$a>\"; done\ncat\necho; env | sort\n",
    );
    host.start();
    let (status, body) = host.caller().post(
        "/run",
        r#"{"script":"show","args":["a b","","é","$HOME;id","--x=\"'"],"reqid":"r1","username":"op","token":"t"}"#,
    );
    assert_eq!((status, int(&body, "exit")), (200, 0), "{body}");
    let stdout = text(&body, "stdout");
    assert!(
        stdout.starts_with("<a b>\n<>\n<é>\n<$HOME;id>\n<--x=\"'>\n{\"script\":\"show\""),
        "{stdout}"
    );
    for part in [
        "\"peer_ip\":\"127.0.0.1\"",
        "\"dispatcher\":\"disp\"",
        "\"username\":\"op\"",
        "\"token\":\"t\"",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    let allowed = [
        "PATH=",
        "HOME=",
        "LANG=",
        "LC_ALL=",
        "TZ=",
        "TERM=",
        "USER=",
        "LOGNAME=",
        "PWD=",
        "CTRL_EXEC_RUN=",
        "SHLVL=",
        "_=",
        "OLDPWD=",
    ];
    for line in stdout.lines().skip(6).filter(|line| !line.is_empty()) {
        assert!(allowed.iter().any(|name| line.starts_with(name)), "{line}");
    }
    host.wait_log("ACTION=run DISPATCHER=disp EXIT=0 PEER=127.0.0.1 REQID=r1 SCRIPT=show");
}

#[test]
fn both_streams_are_drained_at_once_and_cut_in_the_middle() {
    let mut host = Host::new(&Ca::new());
    host.configure("max_output = 1024");
    let text_of = "#!/bin/sh\necho first\ni=0\nwhile [ $i -lt 3000 ]; do echo 0123456789abcdef; \
                   echo 0123456789abcdef >&2; i=$((i+1)); done\necho last\n";
    host.script("loud", text_of);
    host.start();
    let (_, body) = host
        .caller()
        .post("/run", r#"{"script":"loud","reqid":"r"}"#);
    let stdout = text(&body, "stdout");
    assert!(
        stdout.starts_with("first\n") && stdout.ends_with("last\n"),
        "{stdout}"
    );
    assert_eq!(stdout.len(), 1024);
    assert_eq!(int(&body, "stdout_truncated"), 3000 * 17 + 11 - 1024);
    assert_eq!(int(&body, "stderr_truncated"), 3000 * 17 - 1024);
}

#[test]
fn megabytes_come_back_whole_when_allowed() {
    let mut host = Host::new(&Ca::new());
    host.configure("max_output = 4M\nmemory_budget = 64M");
    host.script("big", "#!/bin/sh\nhead -c 1048576 /dev/zero | tr '\\0' x\nhead -c 1048576 /dev/zero | tr '\\0' y >&2\n");
    host.start();
    let (_, body) = host.caller().post("/run", r#"{"script":"big"}"#);
    assert_eq!(text(&body, "stdout").len(), 1 << 20);
    assert_eq!(text(&body, "stderr").len(), 1 << 20);
    assert!(!body.contains("truncated"));
}

#[test]
fn large_requests_arrive_whole() {
    let mut host = Host::new(&Ca::new());
    host.script("count", "#!/bin/sh\nwc -c\n");
    host.start();
    let args: Vec<String> = (0..60)
        .map(|n| format!("\"{}\"", "x".repeat(10_000 + n)))
        .collect();
    let body = format!("{{\"script\":\"count\",\"args\":[{}]}}", args.join(","));
    let (_, answer) = host.caller().post("/run", &body);
    assert!(
        text(&answer, "stdout").trim().parse::<usize>().unwrap() > 600_000,
        "{answer}"
    );
}

#[test]
fn refusals_of_run_in_their_order() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.script("ok", "#!/bin/sh\n");
    host.start();
    let stranger = Caller::new(host.port, Some(&ca.leaf("other", &[0xcc])));
    let (status, body) = stranger.post("/run", "{nope");
    assert_eq!(
        (status, body.as_str()),
        (403, r#"{"error":"serial mismatch","status":"forbidden"}"#)
    );
    host.wait_log("ACTION=serial-reject PEER=127.0.0.1 PEER_SERIAL=cc REQID=(none)");
    for (body, error) in [
        ("{nope", "invalid JSON"),
        (
            r#"{"args":5,"script":"nope","reqid":"r"}"#,
            "args must be an array",
        ),
        (r#"{"script":"nope","reqid":"r"}"#, "script not permitted"),
        (r#"{"script":"../ok","reqid":"r"}"#, "script not permitted"),
        (
            r#"{"script":"ok","reqid":"a/b","async":1}"#,
            "async run requires a valid reqid",
        ),
        (
            r#"{"script":"ok","async":1}"#,
            "async run requires a valid reqid",
        ),
    ] {
        let (status, answer) = host.caller().post("/run", body);
        assert_eq!(
            (status, text(&answer, "error").as_str()),
            (200, error),
            "{body}"
        );
        assert_eq!(int(&answer, "exit"), -1);
    }
}

#[test]
fn a_revoked_certificate_is_told_so_before_it_asks() {
    let mut host = Host::new(&Ca::new());
    host.write("etc/ctrl-exec-agent/revoked-serials", "# lost\n00:AB:01\n");
    host.start();
    // Nothing is sent, and the answer comes all the same.
    let answer = host.caller().raw(b"").unwrap();
    assert_eq!(
        split(&answer),
        (403, r#"{"error":"certificate revoked"}"#.to_owned())
    );
    host.wait_log("ACTION=revoked-cert PEER=127.0.0.1 SERIAL=ab01");
}

#[test]
fn capabilities_show_scripts_tags_and_schemas() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.configure("[tags]\nenv = prod\nrack = 7");
    let path = host.script("hello", "#!/bin/sh\n");
    host.write(
        "opt/hello.schema.json",
        r#"{"description":"x","arguments":{"type":"object"}}"#,
    );
    host.script("bad", "#!/bin/sh\n");
    host.write("opt/bad.schema.json", "[1]");
    host.start();
    let (status, body) = host.caller().get("/capabilities");
    assert_eq!(status, 200);
    assert!(
        body.contains(r#""tags":{"env":"prod","rack":"7"}"#),
        "{body}"
    );
    let entry = format!(
        "{{\"name\":\"hello\",\"path\":\"{}\",\"executable\":true,\"profile\":\"default\",\
         \"schema\":{{\"arguments\":{{\"type\":\"object\"}},\"description\":\"x\"}},\
         \"schema_version\":\"sha256:aae5c09d0346\"}}",
        path.display()
    );
    assert!(body.contains(&entry), "{body}");
    host.wait_log("ACTION=schema-skip REASON=\"not a JSON object\" SCRIPT=bad");
    let stranger = Caller::new(host.port, Some(&ca.leaf("other", &[0xcc])));
    assert_eq!(
        stranger.get("/capabilities"),
        (403, r#"{"error":"forbidden"}"#.into())
    );
    host.wait_log("ACTION=capabilities-deny PEER=127.0.0.1 PEER_SERIAL=cc REASON=serial-mismatch");
}

#[test]
fn the_hook_decides_and_its_death_denies() {
    let mut host = Host::new(&Ca::new());
    let hook = host.script(
        "hook",
        "#!/bin/sh\nd=${0%/*}\ncat > $d/stdin\nenv | grep ENVEXEC > $d/env\n\
         case \"$ENVEXEC_TOKEN\" in\nkill) kill -9 $$;;\nslow) sleep 60 & sleep 60;;\n\
         [0-9]*) exit $ENVEXEC_TOKEN;;\nesac\n[ \"$ENVEXEC_ACTION\" = discovery ] && exit 1\nexit 0\n",
    );
    host.script("ok", "#!/bin/sh\necho ran\n");
    host.configure(&format!(
        "auth_hook = {}\nauth_hook_timeout = 1",
        hook.display()
    ));
    host.start();
    let run = |token: &str| {
        let body = format!(r#"{{"script":"ok","args":["a b"],"username":"op","token":"{token}"}}"#);
        host.caller().post("/run", &body).1
    };
    assert_eq!(text(&run(""), "stdout"), "ran\n");
    let stdin = host.read("opt/stdin");
    assert!(
        stdin.contains(r#""action":"run","script":"ok","hosts":[],"args":["a b"]"#),
        "{stdin}"
    );
    assert!(
        stdin.contains(r#""dispatcher_serial":"ab01""#) && stdin.contains(r#""submitter":null"#)
    );
    let env = host.read("opt/env");
    for line in [
        "ENVEXEC_ARGS_JSON=[\"a b\"]\n",
        "ENVEXEC_DISPATCHER=disp\n",
        "ENVEXEC_SOURCE_IP=127.0.0.1\n",
    ] {
        assert!(env.contains(line), "{env}");
    }
    for (token, error) in [
        ("1", "not authorised: denied"),
        ("2", "not authorised: bad credentials"),
        ("3", "not authorised: insufficient privilege"),
        ("9", "not authorised: hook exited 9"),
        ("kill", "not authorised: denied"),
    ] {
        assert_eq!(text(&run(token), "error"), error);
    }
    let start = Instant::now();
    assert_eq!(text(&run("slow"), "error"), "not authorised: denied");
    assert!(start.elapsed().as_secs() < 20, "the whole group is killed");
    host.wait_log("ACTION=auth-hook-timeout TIMEOUT=1");
    host.wait_log("ACTION=auth AUTHACTION=run IP=127.0.0.1 RESULT=pass USER=op");
    let (status, body) = host.caller().get("/capabilities");
    assert_eq!(
        (status, body.as_str()),
        (403, r#"{"error":"not authorised"}"#)
    );
    let (status, body) = host
        .caller()
        .post("/rotate-serial", r#"{"serial":"cafe","token":"3"}"#);
    assert_eq!(
        (status, text(&body, "error").as_str()),
        (403, "not authorised: insufficient privilege")
    );
    assert!(host.read("opt/stdin").contains(r#""args":["add","cafe"]"#));
    fs::remove_file(&hook).unwrap();
    assert!(text(&run(""), "error").contains("auth hook not found or not executable: "));
}

#[test]
fn the_executor_is_asked_and_its_failures_are_named() {
    let mut host = Host::new(&Ca::new());
    let socket = host.path("exec.sock");
    host.configure(&format!(
        "executor_socket = {}\nmax_output = 2K",
        socket.display()
    ));
    host.script("ok", "#!/bin/sh\n");
    host.start();
    let run = || {
        host.caller()
            .post("/run", r#"{"script":"ok","args":["é"],"reqid":"r"}"#)
            .1
    };
    assert!(text(&run(), "stderr").starts_with("executor unreachable: No such file"));
    let listener = UnixListener::bind(&socket).unwrap();
    let long = [
        vec![0, 0, 0, 0, 0, 0, 0x40, 0],
        vec![b'x'; 0x4000],
        vec![0; 4],
    ]
    .concat();
    let answers: Vec<(Vec<u8>, i64, String, &str)> = vec![
        (
            b"\0\0\0\x03\0\0\0\x03\xc3\xa9\n\0\0\0\x01e".to_vec(),
            3,
            "é\n".into(),
            "e",
        ),
        (
            b"\xff\xff\xff\xff\0\0\0\0\0\0\0\0".to_vec(),
            -1,
            String::new(),
            "",
        ),
        (
            Vec::new(),
            -1,
            String::new(),
            "executor closed before responding",
        ),
        (
            b"\0\0\0\0\0\0\0\x09abc".to_vec(),
            -1,
            String::new(),
            "truncated executor response",
        ),
        (long, 0, "x".repeat(2048), ""),
    ];
    for (bytes, exit, stdout, stderr) in answers {
        let server = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                let (mut peer, _) = listener.accept().unwrap();
                let mut total = [0; 4];
                peer.read_exact(&mut total).unwrap();
                let mut frame = vec![0; u32::from_be_bytes(total) as usize];
                peer.read_exact(&mut frame).unwrap();
                peer.write_all(&bytes).unwrap();
                frame
            }
        });
        let body = run();
        let frame = server.join().unwrap();
        assert!(
            frame.windows(2).any(|pair| pair == "é".as_bytes()),
            "arguments travel as UTF-8"
        );
        assert_eq!(
            (
                int(&body, "exit"),
                text(&body, "stdout"),
                text(&body, "stderr")
            ),
            (exit, stdout, stderr.to_owned()),
            "{body}"
        );
    }
}

#[test]
fn rotation_changes_map_and_trust_at_once() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.write(
        "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers",
        "ab01 disp\nfeed other\n",
    );
    host.start();
    let next = Caller::new(
        host.port,
        Some(&ca.leaf("ctrl-exec-dispatcher", &[0xbc, 2])),
    );
    assert_eq!(next.post("/ping", "{}").0, 403);
    let (status, body) = host.caller().post("/rotate-serial", r#"{"serial":"bc02"}"#);
    assert_eq!(
        (status, body.as_str()),
        (
            200,
            r#"{"status":"ok","action":"add","serial":"bc02","dispatcher":"disp"}"#
        )
    );
    assert_eq!(next.post("/ping", "{}").0, 200);
    let (_, body) = next.post("/rotate-serial", r#"{"serial":"AB:01","action":"remove"}"#);
    assert_eq!(text(&body, "status"), "ok");
    assert_eq!(host.caller().post("/ping", "{}").0, 403);
    let (_, body) = next.post("/rotate-serial", r#"{"serial":"feed","action":"remove"}"#);
    assert_eq!(text(&body, "error"), "serial not owned by 'disp'");
    let map = host.read("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers");
    assert!(map.ends_with("\nbc02 disp\nfeed other\n"), "{map}");
    assert!(host.is_alive());
}

#[test]
fn a_certificate_is_renewed_staged_promoted_and_adopted() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    let (_, body) = host.caller().post("/renew", r#"{"reqid":"n"}"#);
    let cert = ca.sign_csr(&text(&body, "csr"), &[0xdd, 9]);
    let complete = |cert: &str| {
        let body = ctrl_exec_protocol::json::Fields::with_room(2)
            .text("cert", cert)
            .text("reqid", "n")
            .finish();
        host.caller().post("/renew-complete", &body).1
    };
    assert_eq!(text(&complete(""), "error"), "cert required");
    for bad in ["junk", &Ca::new().sign_csr(&text(&body, "csr"), &[1])] {
        assert_eq!(
            text(&complete(bad), "error"),
            "renewed cert does not verify against the agent CA"
        );
    }
    let foreign = ca.leaf("agent.example", &[0xdd, 1]).cert;
    assert_eq!(
        text(&complete(&foreign), "error"),
        "renewed cert public key does not match the agent key"
    );
    assert!(!host.command(&["cert-staged"]).status().unwrap().success());
    assert_eq!(
        complete(&cert),
        r#"{"status":"ok","reqid":"n","staged":true}"#
    );
    assert!(host.command(&["cert-staged"]).status().unwrap().success());
    // A connection that is open stays open while the certificate is exchanged.
    let mut open = host.caller().connect().unwrap();
    assert!(host.command(&["promote-cert"]).status().unwrap().success());
    assert_eq!(host.read("etc/ctrl-exec-agent/agent.crt"), cert);
    assert!(
        !host
            .path("var/lib/ctrl-exec-agent/agent.crt.staged")
            .exists()
    );
    host.reload();
    let stream = host.caller().connect().unwrap();
    let shown = stream.conn.peer_certificates().unwrap()[0].to_vec();
    assert_eq!(
        ctrl_exec_protocol::x509::cert::facts(&shown)
            .unwrap()
            .serial_hex,
        "dd09"
    );
    open.write_all(request("POST", "/ping", "{}").as_bytes())
        .unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert_eq!(split(&answer).0, 200);
}

#[test]
fn a_kept_connection_answers_many_requests() {
    let mut host = Host::new(&Ca::new());
    host.start();
    let mut stream = host.caller().connect().unwrap();
    let body = r#"{"reqid":"k"}"#;
    let request = format!(
        "POST /ping HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut seen = Vec::new();
    for round in 1..=50 {
        stream.write_all(request.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        while String::from_utf8_lossy(&seen)
            .matches("\"reqid\":\"k\"}")
            .count()
            < round
        {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "closed after {round}");
            seen.extend_from_slice(&buffer[..count]);
        }
    }
}

#[test]
fn tls_sessions_are_resumed_and_still_checked() {
    let mut host = Host::new(&Ca::new());
    host.start();
    let caller = host.caller();
    for round in 0..3 {
        let mut stream = caller.connect().unwrap();
        stream
            .write_all(request("POST", "/ping", "{}").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(split(&answer).0, 200);
        let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        assert_eq!(resumed, round > 0);
    }
    host.write("etc/ctrl-exec-agent/revoked-serials", "ab01\n");
    host.reload();
    assert_eq!(caller.post("/ping", "{}").0, 403);
}

/// What a dispatcher of 0.12.3 sends for an argument reaches a script behind the executor as the
/// bytes that an agent of 0.12.3 passes, sync and async, unless `argument_text` says otherwise.
#[test]
fn arguments_of_a_dispatcher_of_0_12_3_are_bytes_for_the_executor() {
    let bytes: &[u8] = b"gr\xc3\xbcn";
    let text: &[u8] = b"gr\xc3\x83\xc2\xbcn";
    for (setting, of_perl, expected) in [
        ("", true, bytes),
        ("", false, text),
        ("argument_text = utf8", true, text),
        ("argument_text = bytes", false, bytes),
    ] {
        for more in ["", r#""async":true"#] {
            let mut host = Host::new(&Ca::new());
            let socket = host.path("exec.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            host.configure(&format!(
                "executor_socket = {}\n{setting}",
                socket.display()
            ));
            host.script("ok", "#!/bin/sh\n");
            host.start();
            let server = std::thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                let mut total = [0; 4];
                peer.read_exact(&mut total).unwrap();
                let mut frame = vec![0; u32::from_be_bytes(total) as usize];
                peer.read_exact(&mut frame).unwrap();
                peer.write_all(&[0; 12]).unwrap();
                frame
            });
            let answer = if of_perl {
                perl::Dispatcher::new(host.port, &host.dispatcher).run("ok", &[bytes], "r1", more)
            } else {
                let args = json::array_of(&[perl::bytes_as_text(bytes)]);
                let comma = if more.is_empty() { "" } else { "," };
                let body = format!(r#"{{"script":"ok","args":{args},"reqid":"r1"{comma}{more}}}"#);
                let (status, body) = host.caller().post("/run", &body);
                perl::Answer { status, body }
            };
            assert_eq!(answer.status / 100, 2, "{answer:?}");
            let frame = server.join().unwrap();
            let length = u32::try_from(expected.len()).unwrap().to_be_bytes();
            let field = [&length[..], expected].concat();
            assert!(
                frame.windows(field.len()).any(|window| window == field),
                "{setting} {of_perl}: {:?}",
                String::from_utf8_lossy(&frame)
            );
        }
    }
}
