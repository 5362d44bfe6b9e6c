//! Who is kept out, and that nobody can take the place of others (agent.md §1.2, §11).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn ping(caller: &Caller) -> Option<u16> {
    let answer = caller.raw(request("POST", "/ping", "{}").as_bytes()).ok()?;
    (!answer.is_empty()).then(|| split(&answer).0)
}

/// Whether the agent closes the connection without a byte. One that it leaves open is not closed.
fn closed_without_a_word(mut socket: TcpStream) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    is_end(&socket.read(&mut [0; 16]))
}

/// Whether a read tells that the other end is gone; a time-out does not.
fn is_end(read: &std::io::Result<usize>) -> bool {
    match read {
        Ok(count) => *count == 0,
        Err(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
        ),
    }
}

#[test]
fn addresses_outside_the_list_are_closed_before_tls() {
    let mut host = Host::new(&Ca::new());
    host.configure("allowed_ips = 127.0.0.1, 10.0.0.0/8, fe80::/10");
    host.start();
    assert_eq!(ping(&host.caller()), Some(200));
    assert!(closed_without_a_word(
        tcp(host.port, Some(IpAddr::V4(STRANGER))).unwrap()
    ));
    host.wait_log("ACTION=ip-block PEER=127.0.0.2");
    host.configure("allowed_ips = 127.0.0.0/8");
    host.reload();
    assert_eq!(ping(&host.caller().from(STRANGER)), Some(200));
}

#[test]
fn a_list_with_only_bad_entries_lets_nobody_in() {
    let mut host = Host::new(&Ca::new());
    host.configure("allowed_ips = 300.1.1.1, 10.0.0.0/99");
    host.start();
    assert_eq!(ping(&host.caller()), None);
    host.wait_log("ACTION=config-warn ENTRY=300.1.1.1");
    host.wait_log("ACTION=ip-block PEER=127.0.0.1");
}

/// Something that has a certificate of our CA and is not trusted.
fn stranger(ca: &Ca, host: &Host) -> Caller {
    Caller::new(host.port, Some(&ca.leaf("agent", &[0xaa, 9]))).from(STRANGER)
}

fn probe(host: &Host, source: Ipv4Addr) {
    let before = failures(host, source);
    let mut socket = tcp(host.port, Some(IpAddr::V4(source))).unwrap();
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    wait_for("the failure", || failures(host, source) == before + 1);
}

fn failures(host: &Host, source: Ipv4Addr) -> usize {
    let line = format!("ACTION=tls-failure PEER={source} ");
    host.log().matches(&line).count()
}

#[test]
fn the_eleventh_connection_in_a_minute_is_told_and_then_closed_and_others_go_on() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.configure("rate_limit_volume = 10/60/300");
    host.start();
    let caller = stranger(&ca, &host);
    for _ in 0..10 {
        assert_eq!(ping(&caller), Some(403));
    }
    // One may show who it is, and is told; the others are not worth a handshake.
    let (status, body) = caller.post("/ping", "{}");
    assert_eq!(status, 429);
    assert!(
        text(&body, "error").contains("too many connections"),
        "{body}"
    );
    for _ in 0..3 {
        assert_eq!(ping(&caller), None);
    }
    assert_eq!(
        host.log()
            .matches("ACTION=rate-block PEER=127.0.0.2 REASON=volume")
            .count(),
        1
    );
    assert_eq!(ping(&host.caller()), Some(200));
    // A reload forgets.
    host.reload();
    assert_eq!(ping(&caller), Some(403));
}

#[test]
fn three_failed_handshakes_block_the_address() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.configure("rate_limit_probe = 3/600/3600");
    host.start();
    for _ in 0..3 {
        probe(&host, STRANGER);
    }
    host.wait_log("ACTION=rate-block PEER=127.0.0.2 REASON=probe");
    assert_eq!(ping(&stranger(&ca, &host)), Some(429));
    assert_eq!(ping(&stranger(&ca, &host)), None);
    assert_eq!(ping(&host.caller()), Some(200));
}

/// The defaults of a configuration that says nothing.
const RATES: &str = "rate_limit_volume = 10/60/300\nrate_limit_probe = 3/600/3600";

#[test]
fn a_burst_of_honest_calls_locks_nobody_out() {
    let mut host = Host::new(&Ca::new());
    host.configure(RATES);
    host.start();
    // The agent has just started and knows nobody: all at once, then one after the other.
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let caller = host.caller();
            std::thread::spawn(move || ping(&caller))
        })
        .collect();
    for call in calls {
        assert_eq!(call.join().unwrap(), Some(200));
    }
    for _ in 0..40 {
        assert_eq!(ping(&host.caller()), Some(200));
    }
    assert!(!host.log().contains("rate-block"));
}

#[test]
fn a_port_check_on_the_dispatchers_host_does_not_lock_it_out() {
    // Known from before, and just after a start of the agent.
    for known in [true, false] {
        let mut host = Host::new(&Ca::new());
        host.configure(RATES);
        host.start();
        let here = Ipv4Addr::LOCALHOST;
        if known {
            assert_eq!(ping(&host.caller()), Some(200));
        }
        for round in 1..=6 {
            drop(tcp(host.port, Some(IpAddr::V4(here))).unwrap());
            let expected = if known { round } else { round.min(3) };
            wait_for("the failure", || failures(&host, here) >= expected);
        }
        assert_eq!(host.log().contains("rate-block"), !known);
        if !known {
            // The checker may have used the trial that is due now.
            std::thread::sleep(Duration::from_millis(5_100));
        }
        assert_eq!(ping(&host.caller()), Some(200), "known: {known}");
        for _ in 0..20 {
            assert_eq!(ping(&host.caller()), Some(200), "known: {known}");
        }
    }
}

#[test]
fn a_peer_that_finds_the_agents_certificate_expired_is_no_prober() {
    let ca = Ca::new();
    let agent = ca.leaf_valid("agent.example", &[0xaa, 2], 2020, 2021);
    let dispatcher = ca.leaf("ctrl-exec-dispatcher", &[0xab, 1]);
    let mut host = Host::with(&ca.pem, agent, dispatcher, "ab01 disp\n");
    host.configure(RATES);
    host.start();
    let mut round = 0;
    for version in versions_of_agent() {
        let expired = rustls::CertificateError::Expired;
        let mut caller = host.caller();
        caller.config = client_config_that(Some(expired), Some(&host.dispatcher), &[version]);
        for _ in 0..4 {
            round += 1;
            // A dispatcher looks at dates, and says so in an alert before it shows a certificate.
            caller.connect().unwrap_err();
            wait_for("the failure", || {
                failures(&host, Ipv4Addr::LOCALHOST) == round
            });
        }
    }
    assert!(!host.log().contains("rate-block"), "{}", host.log());
    assert_eq!(ping(&host.caller()), Some(200), "renewal is possible");
}

#[test]
fn the_oldest_idle_connection_gives_way_to_a_new_one() {
    let mut host = Host::new(&Ca::new());
    host.configure("max_children = 1");
    host.start();
    let mut buffer = [0; 4096];
    let mut kept: Vec<_> = (0..17)
        .map(|_| {
            let mut stream = host.caller().connect().unwrap();
            let ask =
                b"POST /ping HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(ask).unwrap();
            assert!(stream.read(&mut buffer).unwrap() > 0);
            stream
        })
        .collect();
    assert_eq!(ping(&host.caller()), Some(200));
    let mut gone = 0;
    for stream in &mut kept {
        stream
            .sock
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let waits = matches!(stream.read(&mut [0; 64]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        gone += u32::from(!waits);
    }
    assert_eq!(gone, 1);
}

#[test]
fn scripts_of_callers_that_went_away_still_count() {
    let mut host = Host::new(&Ca::new());
    host.configure("max_children = 2");
    host.script(
        "wait",
        "#!/bin/sh\ntouch ${0%/*}/s$1\nwhile [ -e $0 ] && [ ! -e ${0%/*}/go ]; do sleep 0.02; done\n",
    );
    host.start();
    for n in ["1", "2"] {
        let mut stream = host.caller().connect().unwrap();
        let body = format!(r#"{{"script":"wait","args":["{n}"]}}"#);
        stream
            .write_all(request("POST", "/run", &body).as_bytes())
            .unwrap();
        wait_for("the script", || host.path(&format!("opt/s{n}")).exists());
        stream.sock.shutdown(std::net::Shutdown::Both).unwrap();
    }
    for _ in 0..3 {
        let body = r#"{"script":"wait","args":["3"]}"#;
        let refused = host.log().matches("ACTION=overload").count();
        let answer = host.caller().raw(request("POST", "/run", body).as_bytes());
        // Either it had no place for the connection, or none for the run; both are logged.
        let answer = answer.unwrap_or_default();
        assert!(answer.is_empty() || answer.contains("busy"), "{answer}");
        wait_for("the refusal", || {
            host.log().matches("ACTION=overload").count() > refused
        });
    }
    assert!(!host.path("opt/s3").exists());
    host.write("opt/go", "");
}

/// Half-open connections and garbage by the thousand from one address, honest runs from another.
#[test]
fn two_hundred_honest_runs_beside_a_thousand_hostile_connections() {
    let mut host = Host::new(&Ca::new());
    host.script("echo", "#!/bin/sh\necho \"$1\"\n");
    host.start();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let port = host.port;
    let mut held = Vec::new();
    let attack = move |count: usize| {
        let mut sockets = Vec::new();
        for n in 0..count {
            let Ok(mut socket) = tcp(port, Some(IpAddr::V4(STRANGER))) else {
                continue;
            };
            let _ = match n % 4 {
                0 => Ok(()),
                1 => socket.write_all(b"GARBAGE GARBAGE GARBAGE\r\n\r\n"),
                // The beginning of a ClientHello that never ends.
                2 => socket.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
                _ => socket.write_all(&[22, 3, 1, 0x40, 0]),
            };
            sockets.push(socket);
        }
        sockets
    };
    held.extend(attack(600));
    let attacker = std::thread::spawn(move || attack(400));
    let callers: Vec<_> = (0..4)
        .map(|worker| {
            let caller = host.caller();
            std::thread::spawn(move || {
                for n in 0..50 {
                    let body = format!(r#"{{"script":"echo","args":["{worker}-{n}"]}}"#);
                    let (status, answer) = caller.post("/run", &body);
                    assert_eq!(
                        (status, text(&answer, "stdout")),
                        (200, format!("{worker}-{n}\n"))
                    );
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    held.extend(attacker.join().unwrap());
    assert!(held.len() > 900, "{} held", held.len());
    assert_eq!(ping(&host.caller()), Some(200));
    assert!(host.is_alive());
}

#[test]
fn malformed_requests_are_answered_in_the_references_words() {
    let mut host = Host::new(&Ca::new());
    host.start();
    let many = format!("POST /ping HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(33));
    let fits = format!("POST /ping HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(32));
    for (raw, status, body) in [
        (many.as_str(), 431, r#"{"error":"too many headers"}"#),
        (fits.as_str(), 200, r#""status":"ok""#),
        (
            "POST /run HTTP/1.0\r\nContent-Length: 1048577\r\n\r\n",
            413,
            r#"{"error":"request too large"}"#,
        ),
        (
            "POST /run HTTP/1.0\r\nContent-Length: -1\r\n\r\n",
            400,
            r#"{"error":"#,
        ),
        ("\r\n\r\n", 400, r#"{"error":"empty request"}"#),
        (
            "GET /nope HTTP/1.0\r\n\r\n",
            404,
            r#"{"error":"not found"}"#,
        ),
        (
            "post /ping HTTP/1.0\r\n\r\n",
            404,
            r#"{"error":"not found"}"#,
        ),
        (
            "POST /ping/ HTTP/1.0\r\n\r\n",
            404,
            r#"{"error":"not found"}"#,
        ),
        ("POST /ping\r\n\r\n", 200, r#""status":"ok""#),
    ] {
        let answer = host.caller().raw(raw.as_bytes()).unwrap();
        let (got, text) = split(&answer);
        assert!(got == status && text.contains(body), "{raw:?}: {answer}");
    }
    // A head without an end.
    let mut stream = host.caller().connect().unwrap();
    let _ = stream.write_all(&vec![b'x'; 200_000]);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.0 4"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(ping(&host.caller()), Some(200));
}

/// In QEMU's user mode the process is the emulator, which keeps what it has translated.
fn of_emulator() -> u64 {
    let emulated = std::env::var_os("CTRL_EXEC_EMULATED").is_some();
    if emulated { 4096 } else { 0 }
}

/// Anonymous memory of the agent, kB.
fn anonymous(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_stays_within_the_budget_and_others_go_on() {
    const BUDGET: u64 = 2048;
    let mut host = Host::new(&Ca::new());
    host.configure("memory_budget = 2M\nmax_output = 1M");
    host.script("echo", "#!/bin/sh\necho \"$1\"\n");
    host.script(
        "flood",
        "#!/bin/sh\nhead -c 8000000 /dev/zero | tr '\\0' x\nhead -c 8000000 /dev/zero | tr '\\0' y >&2\n\
         touch ${0%/*}/done$1\nwhile [ -e $0 ] && [ ! -e ${0%/*}/go ]; do sleep 0.02; done\n",
    );
    host.start();
    ping(&host.caller());
    let idle = anonymous(&host);
    let runs: Vec<_> = (0..12)
        .map(|n| {
            let caller = host.caller();
            std::thread::spawn(move || {
                caller
                    .post("/run", &format!(r#"{{"script":"flood","args":["{n}"]}}"#))
                    .1
            })
        })
        .collect();
    wait_for("the floods", || {
        (0..12).all(|n| host.path(&format!("opt/done{n}")).exists())
    });
    // Output takes at most half of the budget, so a large request is answered, whatever it gets.
    let large = format!(r#"{{"script":"echo","args":["{}"]}}"#, "x".repeat(900_000));
    for _ in 0..3 {
        let (status, body) = host.caller().post("/run", &large);
        assert!(
            matches!(status, 200 | 503) && !body.is_empty(),
            "{status} {body}"
        );
    }
    let (_, body) = host
        .caller()
        .post("/run", r#"{"script":"echo","args":["still here"]}"#);
    assert_eq!(text(&body, "stdout"), "still here\n");
    let loaded = anonymous(&host);
    assert!(
        loaded < idle + BUDGET + 1536 + of_emulator(),
        "{idle} kB idle, {loaded} kB with 12 floods"
    );
    host.write("opt/go", "");
    for run in runs {
        let body = run.join().unwrap();
        let kept = text(&body, "stdout").len();
        assert_eq!(
            int(&body, "stdout_truncated"),
            8_000_000 - i64::try_from(kept).unwrap()
        );
        assert!(kept >= 4096, "{kept}");
    }
}

/// Everything that callers with trusted certificates can make the agent hold at once: as many
/// connections as it takes, each with a large body that never ends, whatever it answers to them.
#[test]
fn what_trusted_callers_can_make_the_agent_hold_is_bounded() {
    const MOST: u64 = 12 * 1024;
    let mut host = Host::new(&Ca::new());
    host.configure("memory_budget = 2M\nmax_children = 32");
    host.start();
    ping(&host.caller());
    let idle = anonymous(&host);
    let head = b"POST /run HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n";
    let (mut held, mut most) = (Vec::new(), idle);
    for _ in 0..240 {
        let Ok(mut stream) = host.caller().connect() else {
            continue;
        };
        // What it no longer takes is its own affair.
        let _ = stream
            .write_all(head)
            .and_then(|()| stream.write_all(&[b'x'; 150_000]));
        held.push(stream);
        most = most.max(anonymous(&host));
    }
    println!(
        "{idle} kB idle, at most {most} kB with {} connections",
        held.len()
    );
    assert!(held.len() > 48, "{}", held.len());
    assert!(
        most < idle + MOST + of_emulator(),
        "{idle} kB idle, then {most} kB"
    );
    drop(held);
    wait_for("an answer", || ping(&host.caller()) == Some(200));
}

#[test]
fn a_caller_that_is_not_trusted_gets_its_refusal_but_no_memory() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    let other = Caller::new(host.port, Some(&ca.leaf("another agent", &[0xcc])));
    assert_eq!(other.post("/run", &"x".repeat(16_384)).0, 403);
    let head = "POST /run HTTP/1.0\r\nContent-Length: 16385\r\n\r\n";
    assert_eq!(split(&other.raw(head.as_bytes()).unwrap()).0, 413);
}

#[test]
fn nothing_grows_with_the_number_of_requests() {
    let mut host = Host::new(&Ca::new());
    host.start();
    let ask = |count: usize| {
        let mut stream = host.caller().connect().unwrap();
        let mut buffer = [0; 4096];
        for _ in 0..count {
            stream
                .write_all(
                    b"POST /ping HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
                )
                .unwrap();
            assert!(stream.read(&mut buffer).unwrap() > 0);
        }
    };
    let connect =
        |count: usize| (0..count).for_each(|_| assert_eq!(ping(&host.caller()), Some(200)));
    ask(500);
    connect(50);
    let before = anonymous(&host);
    ask(5000);
    connect(200);
    let after = anonymous(&host);
    assert!(after <= before + 64, "{before} kB, then {after} kB");
}

#[test]
fn a_script_that_does_not_read_its_input_is_not_waited_for() {
    let mut host = Host::new(&Ca::new());
    host.configure("stdin_timeout = 1");
    host.script("deaf", "#!/bin/sh\nsleep 2\necho awake\n");
    host.script("closed", "#!/bin/sh\nexec <&-\necho fine\n");
    host.start();
    let long = "x".repeat(100_000);
    let run = |script: &str| {
        let body = format!(r#"{{"script":"{script}","args":["{long}"]}}"#);
        text(&host.caller().post("/run", &body).1, "stdout")
    };
    assert_eq!(run("deaf"), "awake\n");
    host.wait_log("ACTION=stdin-timeout BYTES=");
    assert_eq!(run("closed"), "fine\n");
}

/// As when one machine plays a whole fleet: many names, one agent.
#[test]
fn sixty_four_handshakes_at_once_from_one_address_are_all_served() {
    let mut host = Host::new(&Ca::new());
    host.script("echo", "#!/bin/sh\necho \"$1\"\n");
    host.start();
    let runs: Vec<_> = (0..64)
        .map(|n| {
            let caller = host.caller();
            std::thread::spawn(move || {
                let body = format!(r#"{{"script":"echo","args":["{n}"]}}"#);
                assert_eq!(
                    text(&caller.post("/run", &body).1, "stdout"),
                    format!("{n}\n")
                );
            })
        })
        .collect();
    for run in runs {
        run.join().unwrap();
    }
    // Half-open connections of this address take their share and no more.
    let half_open: Vec<_> = (0..100)
        .map(|_| tcp(host.port, Some(IpAddr::V4(STRANGER))).unwrap())
        .collect();
    assert_eq!(ping(&host.caller()), Some(200));
    drop(half_open);
    assert_eq!(ping(&host.caller().from(STRANGER)), Some(200));
}
