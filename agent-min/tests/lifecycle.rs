//! Start, reload, stop, and the commands (agent.md §7.6, §12, §13).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::{Duration, Instant};

fn run(host: &Host, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = host.command(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn configuration_faults_end_with_78_and_name_the_fault() {
    let host = Host::new(&Ca::new());
    let good = host.read("etc/ctrl-exec-agent/agent.conf");
    let hook = host.path("opt/no-hook").display().to_string();
    for (conf, scripts, fault) in [
        (
            good.replace("port = ", "#"),
            "",
            "Missing required config key 'port'",
        ),
        (
            good.replace("cert = ", "#"),
            "",
            "Missing required config key 'cert'",
        ),
        (format!("port = x\n{good}"), "", "port"),
        (format!("what is this\n{good}"), "", "line 1"),
        (format!("auth_hook = {hook}\n{good}"), "", "auth_hook"),
        (
            format!("{good}caps = CAP_X,nope\n"),
            "",
            "invalid capability",
        ),
        (format!("{good}writable = tmp\n"), "", "writable"),
        (format!("{good}run_as = a b\n"), "", "run_as"),
        (format!("{good}[profile]\n"), "", "profile"),
        (
            good.clone(),
            "x = /bin/true profile=strict\n",
            "undefined profile:\n    x -> strict",
        ),
        (
            good.replace("allow_root = yes", ""),
            "",
            "refusing to serve as root",
        ),
    ] {
        if fault.contains("root") && !rustix::process::geteuid().is_root() {
            continue;
        }
        host.write("etc/ctrl-exec-agent/agent.conf", &conf);
        host.write("etc/ctrl-exec-agent/scripts.conf", scripts);
        let (code, _, stderr) = run(&host, &["serve"]);
        assert_eq!(code, Some(78), "{fault}: {stderr}");
        assert!(
            stderr.contains("configuration error") && stderr.contains(fault),
            "{fault}: {stderr}"
        );
    }
    fs::remove_file(host.path("etc/ctrl-exec-agent/scripts.conf")).unwrap();
    host.write("etc/ctrl-exec-agent/agent.conf", &good);
    let (code, _, stderr) = run(&host, &["serve"]);
    assert!(
        code == Some(78) && stderr.contains("scripts.conf: cannot open"),
        "{stderr}"
    );
}

#[test]
fn an_unpaired_agent_stays_down_and_says_how_to_pair() {
    let host = Host::new(&Ca::new());
    for file in ["agent.crt", "agent.key", "ca.crt"] {
        let path = host.path(&format!("etc/ctrl-exec-agent/{file}"));
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (code, _, stderr) = run(&host, &["serve"]);
        assert_eq!(code, Some(78));
        for part in [
            "not been paired",
            "request-pairing --dispatcher",
            "pairing-status",
            file,
        ] {
            assert!(stderr.contains(part), "{stderr}");
        }
        assert_eq!(run(&host, &["paired"]).0, Some(1));
        let (code, stdout, _) = run(&host, &["pairing-status"]);
        assert!(
            code == Some(1) && stdout.starts_with("Not paired. Reason: "),
            "{stdout}"
        );
        fs::write(&path, text).unwrap();
    }
    assert_eq!(
        run(&host, &["paired"]),
        (Some(0), String::new(), String::new())
    );
    host.write(
        "etc/ctrl-exec-agent/agent.key",
        &Ca::new().leaf("x", &[1]).key,
    );
    let (code, _, stderr) = run(&host, &["serve"]);
    assert!(
        code == Some(78) && stderr.contains("does not belong to the certificate"),
        "{stderr}"
    );
}

#[test]
fn the_command_line_is_strict_and_helpful() {
    let host = Host::new(&Ca::new());
    let version = format!("ctrl-exec-agent {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        run(&host, &["--version"]),
        (Some(0), version.clone(), String::new())
    );
    assert_eq!(run(&host, &["serve", "--version"]).1, version);
    for arguments in [&[][..], &["--help"], &["serve", "-h"]] {
        let (code, stdout, _) = run(&host, arguments);
        assert_eq!(code, Some(0));
        assert!(
            stdout.starts_with("usage: ") && stdout.lines().count() <= 30,
            "{stdout}"
        );
        assert!(stdout.lines().all(|line| line.chars().count() <= 80));
    }
    for arguments in [
        &["dance"][..],
        &["serve", "--frobnicate"],
        &["serve", "--timeout", "3"],
        &["serve", "x"],
    ] {
        let (code, stdout, stderr) = run(&host, arguments);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{arguments:?}");
        assert!(stderr.starts_with("ctrl-exec-agent: "), "{stderr}");
    }
    assert_eq!(
        run(&host, &["cert-staged"]),
        (Some(1), String::new(), String::new())
    );
    assert_eq!(run(&host, &["promote-cert"]).0, Some(0));
    let (code, _, stderr) = run(&host, &["self-ping"]);
    assert!(
        code == Some(1) && stderr.starts_with("self-ping failed: "),
        "{stderr}"
    );
}

#[test]
fn self_check_shows_the_state_and_fails_when_serve_would() {
    let host = Host::new(&Ca::new());
    host.script("ok", "#!/bin/sh\n");
    host.allow("gone = /no/such profile=nowhere");
    let (code, stdout, _) = run(&host, &["self-check"]);
    assert_eq!(code, Some(1), "an undefined profile: {stdout}");
    for part in [
        &format!("Port:        {}\n", host.port),
        "Scripts:     2\n",
        "Dispatcher:  ",
        " (serial ",
        "Certificate: expires Jan  1 00:00:00 2100 GMT\n",
        "/opt/ok profile=default [ok]\n",
        "gone = /no/such profile=nowhere [NOT EXECUTABLE]\n",
        "Undefined profile: gone -> nowhere",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    host.write("etc/ctrl-exec-agent/agent.conf", "nonsense\n");
    let (code, _, stderr) = run(&host, &["self-check"]);
    assert!(
        code == Some(1) && stderr.contains("configuration error"),
        "{stderr}"
    );
}

#[test]
fn promotion_refuses_what_is_not_ours_and_never_fails() {
    let ca = Ca::new();
    let host = Host::new(&ca);
    let staged = host.path("var/lib/ctrl-exec-agent/agent.crt.staged");
    let old = host.read("etc/ctrl-exec-agent/agent.crt");
    for bad in [
        "junk".to_owned(),
        ca.leaf("x", &[9]).cert,
        Ca::new().leaf("x", &[9]).cert,
    ] {
        fs::write(&staged, bad).unwrap();
        let (code, _, stderr) = run(&host, &["promote-cert"]);
        assert_eq!(code, Some(0));
        assert!(stderr.contains("ACTION=cert-promote ERROR="), "{stderr}");
        assert!(!staged.exists());
        assert_eq!(host.read("etc/ctrl-exec-agent/agent.crt"), old);
    }
    let renewed = ca
        .leaf_for(&host.agent.key, "agent.example", &[0xdd], 2020, 2090)
        .cert;
    fs::write(&staged, &renewed).unwrap();
    let (_, _, stderr) = run(&host, &["promote-cert"]);
    assert!(
        stderr.contains("ACTION=cert-promote STATUS=installed"),
        "{stderr}"
    );
    assert_eq!(host.read("etc/ctrl-exec-agent/agent.crt"), renewed);
    let mode = fs::metadata(host.path("etc/ctrl-exec-agent/agent.crt"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_reload_takes_everything_and_a_bad_one_nothing() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.script("one", "#!/bin/sh\necho one\n");
    host.start();
    let run = |host: &Host, script: &str| {
        text(
            &host
                .caller()
                .post("/run", &format!(r#"{{"script":"{script}"}}"#))
                .1,
            "stdout",
        )
    };
    let mut open = host.caller().connect().unwrap();
    host.script("two", "#!/bin/sh\necho two\n");
    host.configure("[tags]\ncolour = red");
    host.reload();
    assert_eq!(
        (run(&host, "one"), run(&host, "two")),
        ("one\n".into(), "two\n".into())
    );
    assert!(
        host.caller()
            .get("/capabilities")
            .1
            .contains("\"colour\":\"red\"")
    );

    // One bad line anywhere and nothing changes: neither the scripts, nor the map, nor the tags.
    host.configure("[tags]\ncolour = blue\nnonsense here");
    host.write("etc/ctrl-exec-agent/scripts.conf", "");
    host.write("var/lib/ctrl-exec-agent/ctrl-exec-dispatchers", "");
    host.reload();
    host.wait_log("ACTION=reload ERROR=");
    assert_eq!(run(&host, "two"), "two\n");
    assert!(
        host.caller()
            .get("/capabilities")
            .1
            .contains("\"colour\":\"red\"")
    );

    // The connection from before the reloads is still served, by what is valid now.
    open.write_all(request("POST", "/ping", "{}").as_bytes())
        .unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert_eq!(split(&answer).0, 200);

    // A new CA: its dispatchers are accepted, those of the old one are not.
    let other = Ca::new();
    let agent = other
        .leaf_for(&host.agent.key, "agent.example", &[0xee], 2020, 2100)
        .cert;
    host.write("etc/ctrl-exec-agent/agent.crt", &agent);
    host.write("etc/ctrl-exec-agent/ca.crt", &other.pem);
    host.write(
        "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers",
        "ab01 disp\n",
    );
    host.configure("");
    host.reload();
    let new = Caller::new(host.port, Some(&other.leaf("d", &[0xab, 1])));
    assert_eq!(new.post("/ping", "{}").0, 200);
    assert!(
        host.caller()
            .raw(b"x")
            .map_or(true, |answer| answer.is_empty())
    );
}

#[test]
fn a_storm_of_hangups_disturbs_nobody() {
    let mut host = Host::new(&Ca::new());
    host.script("nap", "#!/bin/sh\nsleep 0.2\necho rested\n");
    host.start();
    let caller = host.caller();
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let caller = caller.clone();
            std::thread::spawn(move || caller.post("/run", r#"{"script":"nap"}"#).1)
        })
        .collect();
    for _ in 0..100 {
        host.signal("-HUP");
    }
    for run in runs {
        assert_eq!(text(&run.join().unwrap(), "stdout"), "rested\n");
    }
    assert!(host.is_alive());
}

#[test]
fn a_stop_lets_runs_finish_and_takes_no_new_ones() {
    let mut host = Host::new(&Ca::new());
    host.script(
        "nap",
        "#!/bin/sh\ntouch ${0%/*}/started\nsleep 1\necho rested\n",
    );
    host.start();
    let caller = host.caller();
    let idle = host.caller().connect().unwrap();
    let run = std::thread::spawn(move || caller.post("/run", r#"{"script":"nap"}"#).1);
    wait_for("the script", || host.path("opt/started").exists());
    let start = Instant::now();
    host.signal("-TERM");
    wait_for("the listener to close", || tcp(host.port, None).is_err());
    assert_eq!(text(&run.join().unwrap(), "stdout"), "rested\n");
    assert_eq!(host.ended().code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    drop(idle);
}

#[test]
fn a_stop_does_not_cut_answers_short() {
    let mut host = Host::new(&Ca::new());
    host.configure("max_output = 8M\nmemory_budget = 64M");
    host.script(
        "big",
        "#!/bin/sh\ntouch ${0%/*}/started\nsleep 0.5\nhead -c 8000000 /dev/zero | tr '\\0' x\n",
    );
    host.start();
    let caller = host.caller();
    let run = std::thread::spawn(move || caller.post("/run", r#"{"script":"big"}"#).1);
    wait_for("the script", || host.path("opt/started").exists());
    host.signal("-TERM");
    assert_eq!(text(&run.join().unwrap(), "stdout").len(), 8_000_000);
    assert_eq!(host.ended().code(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut host = Host::new(&Ca::new());
    host.script("long", "#!/bin/sh\ntouch ${0%/*}/started\nexec sleep 30\n");
    host.start();
    let caller = host.caller();
    let run = std::thread::spawn(move || {
        caller.raw(request("POST", "/run", r#"{"script":"long"}"#).as_bytes())
    });
    wait_for("the script", || host.path("opt/started").exists());
    let start = Instant::now();
    host.signal("-TERM");
    host.signal("-TERM");
    assert_eq!(host.ended().code(), Some(0));
    // procd kills after 5 s; a loaded test machine gets some more.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    assert!(run.join().unwrap().map_or(true, |answer| answer.is_empty()));
}

#[test]
fn a_router_in_1970_believes_its_own_certificate() {
    // For certificates of 2090 our present is as distant a past as 1970 is for ours.
    let ca = Ca::new();
    let agent = ca.leaf_valid("agent.example", &[0xaa], 2090, 2095);
    let dispatcher = ca.leaf_valid("d", &[0xab, 1], 2090, 2095);
    let mut host = Host::with(&ca.pem, agent, dispatcher, "ab01 disp\n");
    host.start();
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    let later = Caller::new(host.port, Some(&ca.leaf_valid("d", &[0xab, 1], 2091, 2095)));
    assert!(
        later.raw(b"x").map_or(true, |answer| answer.is_empty()),
        "not yet valid"
    );
}

#[test]
fn a_file_of_overrides_takes_the_place_of_its_keys_and_nothing_else() {
    let mut host = Host::new(&Ca::new());
    let written = host.port;
    let uci = host.path("uci.conf").display().to_string();
    let conf = host.read("etc/ctrl-exec-agent/agent.conf");
    host.write(
        "etc/ctrl-exec-agent/agent.conf",
        &format!("overrides = {uci}\n{conf}"),
    );
    // Not there: nothing is overridden, and nothing said about it.
    let (code, stdout, stderr) = run(&host, &["self-check"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains(&format!("{uci} (not there)")), "{stdout}");

    host.port = ports::claim().unwrap();
    host.write(
        "uci.conf",
        &format!("port = {}\nhostname = r-17\n", host.port),
    );
    let (_, stdout, _) = run(&host, &["self-check"]);
    assert!(stdout.contains(&format!("{uci} (in force)")), "{stdout}");
    assert!(stdout.contains(&format!("Port:        {}\n", host.port)));
    host.start();
    assert!(tcp(written, None).is_err());
    let (_, body) = host.caller().post("/ping", "{\"reqid\":\"a\"}");
    assert_eq!(text(&body, "host"), "r-17");

    // A reload takes in a change; a bad file leaves everything as it is.
    host.write(
        "uci.conf",
        &format!("port = {}\nhostname = r-18\n", host.port),
    );
    host.reload();
    let (_, body) = host.caller().post("/ping", "{\"reqid\":\"b\"}");
    assert_eq!(text(&body, "host"), "r-18");
    host.write("uci.conf", "hostname = r-19\nallow_root = yes\n");
    host.reload();
    host.wait_log("'allow_root' cannot be overridden");
    let (_, body) = host.caller().post("/ping", "{\"reqid\":\"c\"}");
    assert_eq!(text(&body, "host"), "r-18");
}

#[test]
fn the_least_log_level_leaves_out_the_ordinary_course() {
    let mut host = Host::new(&Ca::new());
    let conf = host.read("etc/ctrl-exec-agent/agent.conf");
    host.start();
    host.caller().post("/ping", "{\"reqid\":\"loud-1\"}");
    host.wait_log("loud-1");
    host.write(
        "etc/ctrl-exec-agent/agent.conf",
        &format!("log_level = warning\nfrobnicate = yes\n{conf}"),
    );
    host.signal("-HUP");
    host.wait_log("ACTION=config-warn KEY=frobnicate");
    host.caller().post("/ping", "{\"reqid\":\"quiet-1\"}");
    host.signal("-TERM");
    host.ended();
    let log = host.log();
    assert!(!log.contains("quiet-1"), "{log}");
}

#[test]
fn a_setting_beyond_what_the_tables_hold_is_said_to_act_as_their_size() {
    let mut host = Host::new(&Ca::new());
    host.configure("max_children = 5000\n");
    host.start();
    let log = host.log();
    assert!(
        log.contains("warning: ") && log.contains("max_children: 5000 acts as 512"),
        "{log}"
    );
    assert!(log.contains("ACTION=config-warn KEY=max_children"), "{log}");
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
}

#[test]
fn a_port_that_is_taken_is_named_and_waited_for_without_a_flood() {
    let mut host = Host::new(&Ca::new());
    let taken = std::net::TcpListener::bind(("127.0.0.1", host.port)).unwrap();
    let (code, _, stderr) = run(&host, &["serve"]);
    assert_eq!(code, Some(3));
    let named = format!("cannot listen on 127.0.0.1:{}: Address", host.port);
    assert!(stderr.contains(&named), "{stderr}");

    let log = fs::File::create(host.path("agent.log")).unwrap();
    let child = host
        .command(&["serve", "--wait-for-port"])
        .stderr(log)
        .spawn()
        .unwrap();
    host.running = Some(child);
    host.wait_log("ACTION=listen-wait");
    drop(taken);
    host.wait_log("ACTION=start");
    assert_eq!(host.log().matches("listen").count(), 1, "{}", host.log());
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
}

#[test]
fn a_revocation_list_that_was_never_there_is_not_mentioned_at_each_reload() {
    let mut host = Host::new(&Ca::new());
    host.start();
    host.reload();
    host.reload();
    let said = |host: &Host| host.log().matches("revoked-serials-absent").count();
    assert_eq!(said(&host), 1, "{}", host.log());
    host.write("etc/ctrl-exec-agent/revoked-serials", "");
    host.reload();
    assert_eq!(said(&host), 1);
    fs::remove_file(host.path("etc/ctrl-exec-agent/revoked-serials")).unwrap();
    host.reload();
    assert_eq!(said(&host), 2, "one that is gone now is worth a word");
}
