//! Agents that do not answer: they cost the others nothing, and little themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket_with};
use rustix::net::{SocketAddrV4, SocketFlags, ipproto};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use support::agent::{Act, Agent};
use support::{Root, object, text};

/// A port on every loopback address whose queue is full: who connects hears nothing.
fn silent_port() -> (u16, Vec<OwnedFd>) {
    let port = support::ports::claim().unwrap();
    let tcp = || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            flags,
            Some(ipproto::TCP),
        )
        .unwrap()
    };
    let listener = tcp();
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).unwrap();
    listen(&listener, 0).unwrap();
    let mut held = vec![listener];
    for _ in 0..8 {
        let socket = tcp();
        let _ = connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        held.push(socket);
    }
    (port, held)
}

fn honest(root: &Root, name: &str) -> Agent {
    let (identity, _) = root.agent_identity(name, 400);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Answer(200, r#"{"status":"ok","exit":0}"#.to_owned())
    });
    root.register(name, agent.address);
    agent
}

/// Twice as many silent agents as calls may be made at once, and one that answers behind them: it
/// is asked before the silent ones are given up.
#[test]
fn silent_agents_keep_nobody_waiting() {
    let root = Root::new();
    let (port, _held) = silent_port();
    let mut names = Vec::new();
    for n in 0..40u8 {
        let name = format!("s{n:02}");
        root.register(&name, SocketAddr::from(([127, 0, 7, n + 1], port)));
        names.push(name);
    }
    let agent = honest(&root, "z");
    names.push("z".to_owned());
    let mut args = vec![
        "ping",
        "--json-lines",
        "--timeout",
        "60",
        "--parallel",
        "20",
    ];
    args.extend(names.iter().map(String::as_str));
    let ended = root.run(&args);
    let first = object(ended.stdout.lines().next().unwrap());
    assert_eq!(text(&first, "host"), "z", "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 41);
    assert_eq!(agent.seen().len(), 1);
}

/// In a rolling run so many hosts are under way and never more.
#[test]
fn a_rolling_run_goes_beyond_its_number_for_nobody() {
    let root = Root::new();
    let (port, _held) = silent_port();
    for n in 0..2u8 {
        let address = SocketAddr::from(([127, 0, 8, n + 1], port));
        root.register(&format!("s{n}"), address);
    }
    let _agent = honest(&root, "z");
    let args = [
        "run",
        "--json-lines",
        "--timeout",
        "4",
        "--batch",
        "2",
        "s0",
        "s1",
        "z",
        "x",
    ];
    let ended = root.run(&args);
    let last = object(ended.stdout.lines().next_back().unwrap());
    assert_eq!(text(&last, "host"), "z", "{ended:?}");
}

/// What was silent in the first pass of maintenance is not asked a second time, and with `--quick`
/// not at all after three times.
#[test]
fn maintenance_does_not_wait_twice() {
    let root = Root::new();
    let _agent = honest(&root, "up");
    let closed = support::ports::claim().unwrap();
    root.register("down", SocketAddr::from(([127, 0, 0, 1], closed)));
    let failed = |args: &[&str], exit| {
        let report = root.json_any(args, exit);
        support::items(&report, "failed")
            .iter()
            .map(|failure| {
                let words = ["phase", "host", "error"].map(|key| text(failure, key));
                words.join(" ")
            })
            .collect::<Vec<String>>()
    };
    root.run(&["rotate-cert"]);
    for times in 1..=3 {
        let failures = failed(&["maintain", "--json"], 1);
        assert!(failures[0].starts_with("ping down "), "{failures:?}");
        assert!(
            failures[1].starts_with("broadcast down it was silent a moment ago"),
            "{failures:?}"
        );
        assert_eq!(text(&root.record("down"), "silent"), times.to_string());
    }
    let failures = failed(&["maintain", "--quick", "--json"], 1);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(text(&root.record("down"), "silent"), "3");
    // It is back: asked without --quick, and its count is gone.
    let (identity, _) = root.agent_identity("down", 400);
    let _back = Agent::start_at(
        &format!("127.0.0.1:{closed}"),
        &identity,
        &root.ca_pem(),
        |_, _| Act::Answer(200, r#"{"status":"ok"}"#.to_owned()),
    );
    assert!(failed(&["maintain", "--json"], 0).is_empty());
    assert_eq!(text(&root.record("down"), "silent"), "");
}
