//! Checks that mean what they say: `reload` waits for the verdict, `self-check` fails whenever `serve`
//! would, `self-ping` is no attack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::fs;

const CONF: &str = "etc/ctrl-exec-agent/agent.conf";
const MAP: &str = "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers";

fn run(host: &Host, mode: &str) -> (Option<i32>, String, String) {
    let output = host.command(&[mode]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_reload_waits_for_its_verdict() {
    let mut host = Host::new(&Ca::new());
    let (code, _, stderr) = run(&host, "reload");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no agent serves here"), "{stderr}");
    host.start();
    host.script("late", "#!/bin/sh\necho late\n");
    assert_eq!(
        run(&host, "reload"),
        (Some(0), String::new(), String::new())
    );
    let ran = host
        .caller()
        .post("/run", r#"{"script":"late","reqid":"a"}"#)
        .1;
    assert!(
        ran.contains("late\\n"),
        "it is in force when the command ends: {ran}"
    );

    let good = host.read(CONF);
    for (file, content, fault) in [
        (CONF, "nonsense\n".to_owned(), "agent.conf"),
        (CONF, good.replacen("port = ", "port = 9999", 1), "port"),
        ("etc/ctrl-exec-agent/agent.key", "x".to_owned(), "agent.key"),
        (
            "etc/ctrl-exec-agent/ca.crt",
            "x\u{1b}[31m".to_owned(),
            "ca.crt",
        ),
    ] {
        let before = host.read(file);
        host.write(file, &content);
        for _ in 0..3 {
            let (code, _, stderr) = run(&host, "reload");
            assert_eq!(code, Some(1), "{file}: {stderr}");
            assert!(
                stderr.contains("the old configuration stays: ") && stderr.contains(fault),
                "{file}: {stderr}"
            );
            assert!(
                !stderr.contains('\u{1b}') && stderr.lines().count() == 1,
                "{stderr}"
            );
        }
        host.write(file, &before);
        assert_eq!(run(&host, "reload").0, Some(0), "{file}");
    }
    // A reload that somebody else asked for does no harm to this one.
    for _ in 0..5 {
        host.signal("-HUP");
        assert_eq!(run(&host, "reload").0, Some(0));
    }
    host.signal("-KILL");
    host.ended();
    assert_eq!(run(&host, "reload").0, Some(1));
    // What a killed agent left does not name the next one wrongly.
    host.start();
    assert_eq!(run(&host, "reload").0, Some(0));
}

/// What keeps the agent from starting, and a word of the reason.
type Sabotage = (&'static str, fn(&Host), &'static str);

const SABOTAGE: [Sabotage; 12] = [
    (
        "syntax",
        |host| host.write(CONF, "nonsense\n"),
        "agent.conf",
    ),
    (
        "no configuration",
        |host| fs::remove_file(host.path(CONF)).unwrap(),
        "agent.conf",
    ),
    (
        "hook",
        |host| host.configure("auth_hook = /no/such"),
        "/no/such",
    ),
    (
        "profile",
        |host| host.allow("x = /bin/true profile=nowhere"),
        "nowhere",
    ),
    (
        "no certificate",
        |host| fs::remove_file(host.path("etc/ctrl-exec-agent/agent.crt")).unwrap(),
        "agent.crt",
    ),
    (
        "no CA",
        |host| fs::remove_file(host.path("etc/ctrl-exec-agent/ca.crt")).unwrap(),
        "ca.crt",
    ),
    (
        "bad CA",
        |host| host.write("etc/ctrl-exec-agent/ca.crt", "x"),
        "ca.crt",
    ),
    (
        "bad key",
        |host| host.write("etc/ctrl-exec-agent/agent.key", "x"),
        "agent.key",
    ),
    (
        "another's key",
        |host| {
            let other = Ca::new().leaf("x", &[1]);
            host.write("etc/ctrl-exec-agent/agent.key", &other.key);
        },
        "does not belong",
    ),
    (
        "trust map",
        |host| {
            fs::remove_file(host.path(MAP)).unwrap();
            fs::create_dir(host.path(MAP)).unwrap();
        },
        "ctrl-exec-dispatchers",
    ),
    (
        "revocation list",
        |host| {
            host.write(
                "etc/ctrl-exec-agent/revoked-serials",
                &"4a\n".repeat(100_000),
            )
        },
        "revoked-serials",
    ),
    (
        "list of a dispatcher",
        |host| host.write("var/lib/ctrl-exec-agent/revoked-by-disp.crl", "x"),
        "revoked-by-disp.crl",
    ),
];

#[test]
fn self_check_fails_whenever_serve_would() {
    let ca = Ca::new();
    let good = Host::new(&ca);
    assert_eq!(run(&good, "self-check").0, Some(0));
    for (name, sabotage, reason) in SABOTAGE {
        let host = Host::new(&ca);
        sabotage(&host);
        let (code, stdout, stderr) = run(&host, "self-check");
        assert_eq!(code, Some(1), "{name}: {stdout}{stderr}");
        let (served, _, told) = run(&host, "serve");
        assert_eq!(served, Some(78), "{name}: {told}");
        let said = format!("{stdout}{stderr}");
        assert!(
            said.contains(reason) && told.contains(reason),
            "{name}: {said} {told}"
        );
    }
}

#[test]
fn a_self_ping_is_not_logged_as_an_attack() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    assert_eq!(run(&host, "self-ping").0, Some(0));
    host.wait_log("ACTION=self-ping PEER=127.0.0.1");
    assert!(!host.log().contains("serial-reject"), "{}", host.log());
    // Another agent's certificate, though from this host, is one.
    let other = Caller::new(host.port, Some(&ca.leaf("other", &[0xaa, 3])));
    assert_eq!(other.post("/ping", "{}").0, 403);
    host.wait_log("ACTION=serial-reject ");
}
