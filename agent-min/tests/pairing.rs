//! `request-pairing` against a scripted dispatcher, and against recordings of the reference's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use ctrl_exec_protocol::tls::{Identity, pairing_server_config};
use ctrl_exec_protocol::wire::pairing::{Approval, Outcome, code};
use ctrl_exec_protocol::x509::{cert, verify};
use ctrl_exec_testkit::json::{self, Value};
use rustls::{ServerConnection, StreamOwned};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the dispatcher says after it has read the request: complete responses, each sent after
/// the delay before it.
type Script = Box<dyn FnOnce(&str) -> Vec<(Duration, String)> + Send>;

/// A dispatcher in pairing mode for one request. The result of the thread is the request's body.
fn dispatcher(leaf: &Leaf, script: Script) -> (u16, JoinHandle<String>) {
    let identity = Identity::from_pem(&leaf.cert, &leaf.key).unwrap();
    let config = pairing_server_config(&identity, &verify::system_clock()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = Arc::new(std::sync::Mutex::new(Some(script)));
    let (answered, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let (mut socket, _) = listener.accept().unwrap();
            let (config, script) = (Arc::clone(&config), Arc::clone(&script));
            let answered = answered.clone();
            std::thread::spawn(move || {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut conn = ServerConnection::new(config).unwrap();
                while conn.is_handshaking() {
                    if conn.complete_io(&mut socket).is_err() {
                        return;
                    }
                }
                let mut stream = StreamOwned::new(conn, socket);
                // A connection may only look at the key of the certificate.
                let Some(body) = body_of_request(&mut stream) else {
                    return;
                };
                let script = script.lock().unwrap().take().unwrap();
                for (delay, response) in script(&body) {
                    std::thread::sleep(delay);
                    let _ = stream.write_all(response.as_bytes());
                }
                stream.conn.send_close_notify();
                let _ = stream.flush();
                let _ = stream.read(&mut [0; 64]);
                let _ = answered.send(body);
            });
        }
    });
    let thread = std::thread::spawn(move || done.recv().unwrap());
    (port, thread)
}

fn body_of_request(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> Option<String> {
    let mut text = Vec::new();
    let mut buffer = [0; 20_000];
    loop {
        let seen = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = seen.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))?;
            if body.len() >= length.parse().unwrap() {
                assert!(head.starts_with("POST /pair HTTP/1."), "{head}");
                return Some(body.to_owned());
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => text.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

fn response(body: &str) -> (Duration, String) {
    let text = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    (Duration::ZERO, text)
}

const PENDING: &str = r#"{"status":"pending","reqid":"00112233aabbccdd"}"#;

fn approval(ca: &Ca, request: &str, serial: &[u8]) -> Approval {
    Approval {
        cert: ca.sign_csr(&text(request, "csr"), serial),
        ca: ca.pem.clone(),
        nonce: text(request, "nonce"),
        dispatcher_serial: "ab01".into(),
        dispatcher_id: "disp".into(),
    }
}

type Change = fn(&mut Approval);

fn approve(ca: &Arc<Ca>, change: Change) -> Script {
    let ca = Arc::clone(ca);
    Box::new(move |request| {
        let mut approval = approval(&ca, request, &[0xaa, 7]);
        change(&mut approval);
        vec![
            response(PENDING),
            response(&Outcome::Approved(approval).render()),
        ]
    })
}

/// A host with nothing but its directories and a configuration.
fn unpaired(ca: &Ca) -> Host {
    let host = Host::new(ca);
    for file in ["agent.crt", "agent.key", "ca.crt"] {
        fs::remove_file(host.path(&format!("etc/ctrl-exec-agent/{file}"))).unwrap();
    }
    fs::remove_file(host.path("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers")).unwrap();
    host
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn pair(host: &Host, port: u16, options: &[&str]) -> Ran {
    let port = port.to_string();
    let mut arguments = vec![
        "request-pairing",
        "--dispatcher",
        "127.0.0.1",
        "--port",
        &port,
    ];
    arguments.extend_from_slice(options);
    run(&mut host.command(&arguments))
}

fn run(command: &mut Command) -> Ran {
    let out = command.output().unwrap();
    Ran {
        code: out.status.code(),
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

#[test]
fn an_approved_host_is_an_agent() {
    let ca = Arc::new(Ca::new());
    let mut host = unpaired(&ca);
    assert_eq!(run(&mut host.command(&["paired"])).code, Some(1));
    let status = run(&mut host.command(&["pairing-status"]));
    assert!(status.code == Some(1) && status.stdout.starts_with("Not paired. Reason: "));
    let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, |_| ()));
    let ran = pair(&host, port, &["--lookup-by", "ip"]);
    let request = thread.join().unwrap();
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(text(&request, "lookup_by"), "ip");
    assert_eq!(text(&request, "port"), host.port.to_string());
    assert_eq!(text(&request, "ip"), "127.0.0.1");
    assert_eq!(text(&request, "nonce").len(), 32);
    let facts = Asked::of(&text(&request, "csr"));
    assert_eq!(facts.key, cert::KeyKind::EcP256);
    assert_eq!(facts.cn, text(&request, "hostname"));
    let code = code(&text(&request, "csr"));
    assert!(
        ran.stdout.contains(&format!("Pairing code: {code}\n")),
        "{}",
        ran.stdout
    );
    for (file, mode) in [
        ("agent.crt", 0o640),
        ("agent.key", 0o640),
        ("ca.crt", 0o644),
    ] {
        let meta = fs::metadata(host.path(&format!("etc/ctrl-exec-agent/{file}"))).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{file}");
    }
    assert_eq!(run(&mut host.command(&["paired"])).code, Some(0));
    let status = run(&mut host.command(&["pairing-status"]));
    assert_eq!(
        status.stdout,
        "Paired. Certificate expires: Jan  1 00:00:00 2100 GMT\n"
    );
    host.start();
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    let ping = run(&mut host.command(&["self-ping"]));
    assert_eq!(ping.code, Some(0), "{}", ping.stderr);
    assert!(
        ran.stderr
            .contains("ACTION=pair-complete DISPATCHER=disp DISPATCHER_HOST=127.0.0.1")
    );
}

/// The listener of 0.12.3 dies when a probe of its key closes before both session tickets are
/// written, and signs RSA keys only.
#[test]
fn a_listener_of_0_12_3_survives_and_pairs_every_agent_that_it_can() {
    let ca = Arc::new(Ca::new());
    let rsa = ca.leaf_for(
        &fixture("reference/dispatcher.key"),
        "perl",
        &[9],
        2020,
        2100,
    );
    for (leaf, options, signs) in [
        (Some(&rsa), &[] as &[&str], true),
        (None, &["--key-type", "rsa2048"], true),
        // A dispatcher of 0.12.3 with an EC key of ours: its own kind of key is no use.
        (None, &[], false),
        (Some(&rsa), &["--key-type", "p384"], false),
    ] {
        let host = unpaired(&ca);
        let listener = perl::Listener::start(leaf.unwrap_or(&host.dispatcher), &ca);
        let ran = pair(&host, listener.port, options);
        let request = listener.next();
        assert!(request.is_ok(), "{options:?}: {request:?}; {}", ran.stderr);
        let said = format!("{options:?}: {}{}", ran.stdout, ran.stderr);
        if signs {
            assert_eq!(ran.code, Some(0), "{said}");
        } else {
            assert_eq!(ran.code, Some(3), "{said}");
            assert!(said.contains("ended the connection undecided"), "{said}");
            // It lives: with another key it is served.
            let ran = pair(&host, listener.port, &["--key-type", "rsa2048"]);
            assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        }
    }
}

#[test]
fn the_ca_a_host_has_is_not_replaced_unasked() {
    let (mine, other) = (Arc::new(Ca::new()), Arc::new(Ca::new()));
    let theirs = other.leaf("other", &[0xbb, 1]);
    // Paired with one dispatcher, then a second one with a CA of its own is tried by mistake.
    let host = Host::new(&mine);
    let before = host.read("etc/ctrl-exec-agent/ca.crt");
    let (port, _thread) = dispatcher(&theirs, approve(&other, |_| ()));
    let ran = pair(&host, port, &[]);
    assert_eq!(ran.code, Some(3), "{}", ran.stdout);
    assert!(ran.stderr.contains("--replace-ca"), "{}", ran.stderr);
    assert!(
        !ran.stdout.contains("is waiting for approval"),
        "nothing may be queued: {}",
        ran.stdout
    );
    // One that shows a certificate of the CA, and answers with another CA.
    let shown = mine.leaf("disp", &[0xab, 2]);
    let (port, thread) = dispatcher(&shown, approve(&other, |_| ()));
    let ran = pair(&host, port, &[]);
    thread.join().unwrap();
    assert_eq!(ran.code, Some(3), "{}", ran.stdout);
    assert!(ran.stderr.contains("--replace-ca"), "{}", ran.stderr);
    assert_eq!(host.read("etc/ctrl-exec-agent/ca.crt"), before);
    // The same CA pairs again, and another one when that is meant.
    let (port, thread) = dispatcher(&shown, approve(&mine, |_| ()));
    assert_eq!(pair(&host, port, &[]).code, Some(0));
    thread.join().unwrap();
    let (port, thread) = dispatcher(&theirs, approve(&other, |_| ()));
    let ran = pair(&host, port, &["--replace-ca"]);
    thread.join().unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(host.read("etc/ctrl-exec-agent/ca.crt"), other.pem);
}

#[test]
fn an_rsa_dispatcher_gets_an_rsa_key_unless_told_otherwise() {
    let ca = Arc::new(Ca::new());
    let host = unpaired(&ca);
    let read = |name: &str| fixture(&format!("reference/{name}"));
    let reference = Leaf {
        cert: read("dispatcher.crt"),
        key: read("dispatcher.key"),
    };
    for (options, kind) in [
        (&[][..], cert::KeyKind::Rsa { bits: 2048 }),
        (&["--key-type", "p256"], cert::KeyKind::EcP256),
        (&["--key-type", "p384"], cert::KeyKind::EcP384),
    ] {
        let (port, thread) = dispatcher(&reference, approve(&ca, |_| ()));
        let ran = pair(&host, port, options);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let request = thread.join().unwrap();
        assert_eq!(Asked::of(&text(&request, "csr")).key, kind);
    }
}

/// An attacker in the dispatcher's place needs no code: whoever answers is believed, unless the
/// CA's certificate was carried here beforehand.
#[test]
fn with_the_ca_at_hand_an_impostor_gets_nothing() {
    let (ca, impostor) = (Arc::new(Ca::new()), Arc::new(Ca::new()));
    let host = unpaired(&ca);
    let file = host.path("ca-carried-here.crt");
    fs::write(&file, &ca.pem).unwrap();
    let option = ["--ca", file.to_str().unwrap()];

    // The impostor's certificate is refused in the handshake, so it never sees a request.
    let leaf = impostor.leaf("ctrl-exec-dispatcher", &[0xab, 1]);
    let (port, _unfinished) = dispatcher(&leaf, approve(&impostor, |_| ()));
    let ran = pair(&host, port, &option);
    assert_eq!(ran.code, Some(3), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("invalid peer certificate"),
        "{}",
        ran.stderr
    );
    assert_eq!(run(&mut host.command(&["paired"])).code, Some(1));

    let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, |_| ()));
    let ran = pair(&host, port, &option);
    thread.join().unwrap();
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);

    fs::write(&file, "junk").unwrap();
    let ran = pair(&host, port, &option);
    assert_eq!(ran.code, Some(3));
    assert!(
        ran.stderr.contains("ca-carried-here.crt: no PEM block"),
        "{}",
        ran.stderr
    );
}

#[test]
fn unusable_answers_store_nothing() {
    let ca = Arc::new(Ca::new());
    let host = unpaired(&ca);
    let cases: [(Change, &str); 7] = [
        (
            |a| a.nonce = "0".repeat(32),
            "nonce mismatch in pairing result",
        ),
        (|a| a.cert = "junk".into(), "certificate: "),
        (|a| a.ca = Ca::new().pem, "unusable"),
        (|a| a.ca = String::new(), "unusable"),
        (
            |a| a.cert = Ca::new().leaf("x", &[1]).cert,
            "not for our key",
        ),
        (
            |a| a.dispatcher_serial = "what?".into(),
            "invalid dispatcher serial",
        ),
        (|a| a.cert = String::new(), "certificate: "),
    ];
    for (change, reason) in cases {
        let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, change));
        let ran = pair(&host, port, &[]);
        thread.join().unwrap();
        assert_eq!(ran.code, Some(3));
        assert!(
            ran.stderr.contains("Pairing failed: ") && ran.stderr.contains(reason),
            "{}",
            ran.stderr
        );
        assert_eq!(
            run(&mut host.command(&["paired"])).code,
            Some(1),
            "{reason}"
        );
    }
    let left: Vec<_> = fs::read_dir(host.path("etc/ctrl-exec-agent"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 2, "only the configuration: {left:?}");
}

#[test]
fn the_references_answers_are_understood() {
    let ca = Ca::new();
    let host = unpaired(&ca);
    let text = fixture("pairing-transcripts.json");
    let Value::Array(cases) = json::parse_value(text.as_bytes()).unwrap() else {
        panic!("not an array")
    };
    let mut replayed = 0;
    for case in &cases {
        let Value::Object(case) = case else {
            panic!("not an object")
        };
        let get = |key: &str| json::text_of(case, key);
        let (name, first, second) = (get("case"), get("first_response"), get("second_response"));
        if !first.starts_with("HTTP/") {
            continue;
        }
        let pending = first.contains("pending");
        let answers = [first, second]
            .into_iter()
            .filter(|text| text.starts_with("HTTP/"));
        let answers: Vec<_> = answers.map(|text| (Duration::ZERO, text)).collect();
        let (port, thread) = dispatcher(&host.dispatcher, Box::new(move |_| answers));
        let ran = pair(&host, port, &[]);
        thread.join().unwrap();
        let expected = match name.as_str() {
            // Its nonce was another client's; our client stores nothing then.
            "approved" => "nonce mismatch in pairing result",
            "denied" => "rejected by operator",
            "invalid hostname" => "invalid hostname",
            "missing csr" | "not json" => "invalid request",
            "P-256 CSR, approve" => "the dispatcher ended the connection undecided",
            other => panic!("unknown case {other}"),
        };
        assert!(
            ran.stderr.contains(&format!("Pairing failed: {expected}")),
            "{name}: {}",
            ran.stderr
        );
        assert_eq!(ran.code, Some(3));
        assert_eq!(
            ran.stdout.contains("is waiting for approval"),
            pending,
            "{name}"
        );
        replayed += 1;
    }
    assert_eq!(replayed, 6);
    // What the reference's client sends has the members that ours sends.
    let theirs = cases.iter().rev().find_map(|case| match case {
        Value::Object(case) => match case.get("connections")? {
            Value::Array(list) => list
                .iter()
                .find_map(json::scalar_text)
                .and(list.last())
                .and_then(json::scalar_text),
            _ => None,
        },
        _ => None,
    });
    let theirs = split(&theirs.unwrap()).1;
    for member in ["hostname", "csr", "nonce", "port", "ip"] {
        assert!(object(&theirs).contains_key(member), "{member}");
    }
}

#[test]
fn failures_say_what_to_do() {
    let ca = Ca::new();
    let host = unpaired(&ca);
    let closed = ports::claim().unwrap();
    for (arguments, code, message) in [
        (vec!["request-pairing"], 3, "needs --dispatcher HOST"),
        (
            vec!["request-pairing", "--dispatcher", "d", "--lookup-by", "mac"],
            3,
            "--lookup-by must be",
        ),
        (
            vec!["request-pairing", "--dispatcher", "d", "--key-type", "dsa"],
            3,
            "--key-type must be",
        ),
        (
            vec![
                "request-pairing",
                "--dispatcher",
                "d",
                "--background",
                "--timeout",
                "601",
            ],
            3,
            "1 to 600",
        ),
        (
            vec!["request-pairing", "--dispatcher", "no.such.host.invalid"],
            3,
            "cannot resolve 'no.such.host.invalid'",
        ),
    ] {
        let ran = run(&mut host.command(&arguments));
        assert!(
            ran.code == Some(code) && ran.stderr.contains(message),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
    let ran = pair(&host, closed, &[]);
    assert!(ran.stderr.contains("pairing mode"), "{}", ran.stderr);
    fs::remove_dir_all(host.path("etc/ctrl-exec-agent")).unwrap();
    let ran = pair(&host, closed, &[]);
    assert!(
        ran.code == Some(3) && ran.stderr.contains("does not exist"),
        "{}",
        ran.stderr
    );
}

#[test]
fn in_the_background_only_the_request_id_is_printed_and_nothing_is_held_open() {
    let ca = Arc::new(Ca::new());
    let host = unpaired(&ca);
    let slow = {
        let ca = Arc::clone(&ca);
        Box::new(move |request: &str| {
            let approved = Outcome::Approved(approval(&ca, request, &[0xaa, 8])).render();
            vec![
                response(PENDING),
                (Duration::from_secs(1), response(&approved).1),
            ]
        })
    };
    let (port, thread) = dispatcher(&host.dispatcher, slow);
    // `output` returns when the pipe is closed by everybody: that is what `X=$(…)` waits for.
    let start = Instant::now();
    let ran = pair(&host, port, &["--background", "--timeout", "20"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "00112233aabbccdd\n"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("Pairing code: "), "{}", ran.stderr);
    assert_eq!(
        run(&mut host.command(&["paired"])).code,
        Some(1),
        "not yet decided {:?}",
        start.elapsed()
    );
    thread.join().unwrap();
    wait_for("the background process", || {
        run(&mut host.command(&["paired"])).code == Some(0)
    });
}

#[test]
fn the_background_process_ends_with_the_references_codes() {
    let ca = Arc::new(Ca::new());
    let host = unpaired(&ca);
    let denied = r#"{"status":"denied","reason":"rejected by operator"}"#;
    let cases: [(Script, i32); 3] = [
        (approve(&ca, |_| ()), 0),
        (
            Box::new(move |_| vec![response(PENDING), response(denied)]),
            3,
        ),
        (
            Box::new(|_| vec![response(PENDING), (Duration::from_secs(3), String::new())]),
            2,
        ),
    ];
    for (script, code) in cases {
        let (port, thread) = dispatcher(&host.dispatcher, script);
        let port = port.to_string();
        let arguments = [
            "__pair-wait",
            "--dispatcher",
            "127.0.0.1",
            "--port",
            &port,
            "--timeout",
            "1",
        ];
        let ran = run(&mut host.command(&arguments));
        assert_eq!(ran.code, Some(code), "{}{}", ran.stdout, ran.stderr);
        thread.join().unwrap();
    }
}

#[test]
fn refused_in_the_first_phase_the_background_command_fails() {
    let ca = Ca::new();
    let host = unpaired(&ca);
    let full = r#"{"status":"error","reason":"pairing queue full"}"#;
    let (port, thread) = dispatcher(&host.dispatcher, Box::new(move |_| vec![response(full)]));
    let ran = pair(&host, port, &["--background"]);
    thread.join().unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
    assert!(
        ran.stderr.contains("Pairing failed: pairing queue full"),
        "{}",
        ran.stderr
    );
}

#[test]
fn killed_at_any_moment_the_host_has_its_old_identity_or_the_new_one() {
    let ca = Arc::new(Ca::new());
    let host = unpaired(&ca);
    let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, |_| ()));
    assert_eq!(pair(&host, port, &[]).code, Some(0));
    thread.join().unwrap();
    for round in 0..40u64 {
        let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, |_| ()));
        let port = port.to_string();
        let arguments = [
            "request-pairing",
            "--dispatcher",
            "127.0.0.1",
            "--port",
            &port,
        ];
        let mut child = host
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From the moment the answer was sent, in steps of a quarter of a millisecond.
        drop(thread.join());
        std::thread::sleep(Duration::from_micros(round * 250));
        let _ = child.kill();
        child.wait().unwrap();
        // Readers that may not write see a whole identity, and whoever may completes it.
        let check = run(&mut host.command(&["self-check"]));
        assert!(
            check.stdout.contains("Certificate: expires "),
            "round {round}: {}",
            check.stdout
        );
        let status = run(&mut host.command(&["pairing-status"]));
        assert_eq!(status.code, Some(0), "round {round}: {}", status.stdout);
        assert!(!host.path("etc/ctrl-exec-agent/.pairing").exists());
        let map = host.read("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers");
        assert!(map.ends_with("ab01 disp\n"), "round {round}: {map}");
    }
}

/// The same, with the signal injected by strace at every call that changes a file.
#[test]
fn killed_at_every_step_of_storing_the_identity() {
    let ca = Arc::new(Ca::new());
    let host = unpaired(&ca);
    let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, |_| ()));
    assert_eq!(pair(&host, port, &[]).code, Some(0));
    thread.join().unwrap();
    let works = Command::new("strace")
        .args([
            "-o",
            "/dev/null",
            "-e",
            "inject=fsync:signal=KILL:when=99",
            "true",
        ])
        .status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no strace that may trace here");
        return;
    }
    let mut crashes = 0;
    for call in [
        "mkdir", "fchmod", "fsync", "rename", "unlink", "unlinkat", "rmdir",
    ] {
        for step in 1..40 {
            let (port, thread) = dispatcher(&host.dispatcher, approve(&ca, |_| ()));
            let port = port.to_string();
            let command = host.command(&[
                "request-pairing",
                "--dispatcher",
                "127.0.0.1",
                "--port",
                &port,
            ]);
            let status = Command::new("strace")
                .args([
                    "-f",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    &format!("trace={call}"),
                    "-e",
                ])
                .arg(format!("inject={call}:signal=KILL:when={step}"))
                .arg(command.get_program())
                .args(command.get_args())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            drop(thread.join());
            let check = run(&mut host.command(&["self-check"]));
            let whole = check.stdout.contains("Certificate: expires ");
            assert!(whole, "{call} {step}: {}", check.stdout);
            let status_of = run(&mut host.command(&["pairing-status"]));
            assert_eq!(
                status_of.code,
                Some(0),
                "{call} {step}: {}",
                status_of.stdout
            );
            assert!(!host.path("etc/ctrl-exec-agent/.pairing").exists());
            if status.success() {
                break;
            }
            crashes += 1;
        }
    }
    assert!(crashes > 15, "only {crashes} crashes");
}

/// What a hostile answer may try to put on the device's screen or into its log.
const TRICKS: [&str; 6] = [
    "6c95a3629eb6c58d\\u001b7\\u001b[4A\\rPairing code: 777777\\u001b[K\\u001b8",
    "x\\nPaired with 'primary'. Certificate valid until tomorrow.",
    "x\\r\\nPaired with 'primary'.",
    "\\u202e771418\\u2028Paired with 'primary'",
    "\\u009b2J\\u0007",
    "R00112233aabbccdd\\nR00112233aabbccdd",
];

/// Nothing but text, in lines that this program begins.
fn assert_harmless(output: &str) {
    for c in output.chars() {
        let bad = (c.is_control() && c != '\n') || "\u{202e}\u{2028}\u{2029}".contains(c);
        assert!(!bad, "{c:?} in {output:?}");
    }
    for line in output.lines() {
        assert!(!line.starts_with("Paired with"), "{output}");
        assert!(!line.starts_with("Pairing code: 777777"), "{output}");
    }
}

#[test]
fn what_an_unauthenticated_peer_says_cannot_move_the_cursor_or_fake_a_line() {
    let ca = Arc::new(Ca::new());
    let leaf = ca.leaf("ctrl-exec-dispatcher", &[0xab, 1]);
    for trick in TRICKS {
        let answers: [Vec<String>; 4] = [
            vec![format!(r#"{{"status":"pending","reqid":"{trick}"}}"#)],
            vec![format!(r#"{{"status":"error","reason":"{trick}"}}"#)],
            vec![
                PENDING.to_owned(),
                format!(r#"{{"status":"denied","reason":"{trick}"}}"#),
            ],
            vec![PENDING.to_owned(), format!(r#"{{"status":"{trick}"}}"#)],
        ];
        for answer in answers {
            for background in [false, true] {
                let host = Host::new(&ca);
                let answer = answer.clone();
                let (port, thread) = dispatcher(
                    &leaf,
                    Box::new(move |_| answer.iter().map(|body| response(body)).collect()),
                );
                let mut arguments = vec!["request-pairing", "--dispatcher", "127.0.0.1", "--port"];
                let port = port.to_string();
                arguments.extend([port.as_str(), "--timeout", "20"]);
                if background {
                    arguments.push("--background");
                }
                let log = host.path("dev/log");
                let log = std::os::unix::net::UnixDatagram::bind(log).unwrap();
                log.set_nonblocking(true).unwrap();
                let output = host.command(&arguments).output().unwrap();
                thread.join().unwrap();
                for stream in [&output.stdout, &output.stderr] {
                    assert_harmless(&String::from_utf8(stream.clone()).unwrap());
                }
                if !background {
                    assert_eq!(output.status.code(), Some(3));
                }
                let mut buffer = [0; 4096];
                while let Ok(count) = log.recv(&mut buffer) {
                    let line = String::from_utf8(buffer[..count].to_vec()).unwrap();
                    assert_harmless(&line);
                }
            }
        }
    }
}

#[test]
fn only_the_certificate_shown_tells_which_twin_is_meant() {
    // "15" on the wire is "f" (0x0f has the same canonical form).
    for (serial, trusted, other) in [
        (&[0x15_u8][..], "00:15 disp", "f disp"),
        (&[0x0f], "f disp", "00:15 disp"),
    ] {
        let ca = Arc::new(Ca::new());
        let leaf = ca.leaf("ctrl-exec-dispatcher", serial);
        let host = Host::new(&ca);
        host.write("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers", "");
        let change: Change = |approval| approval.dispatcher_serial = "f".into();
        let (port, thread) = dispatcher(&leaf, approve(&ca, change));
        let output = host
            .command(&["request-pairing", "--dispatcher", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .output()
            .unwrap();
        thread.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let map = host.read("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers");
        assert!(map.contains(&format!("\n{trusted}\n")), "{map}");
        assert!(!map.contains(&format!("\n{other}\n")), "{map}");
    }
}
