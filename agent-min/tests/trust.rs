//! Who is trusted, until when, and by which clock: decided at the moment of effect, whatever was
//! planted, whatever time files bear.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

const MAP: &str = "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers";
const REVOKED: &str = "etc/ctrl-exec-agent/revoked-serials";
const STAGED: &str = "var/lib/ctrl-exec-agent/agent.crt.staged";

/// A hook that waits for the file `go` and then consents.
const SLOW_HOOK: &str = "#!/bin/sh\nd=${0%/*}\ntouch $d/asked\n\
                         while [ -e $0 ] && [ ! -e $d/go ]; do sleep 0.02; done\nexit 0\n";

fn host_with_slow_hook() -> Host {
    let mut host = Host::new(&Ca::new());
    let hook = host.script("hook", SLOW_HOOK);
    host.script("mark", "#!/bin/sh\ntouch ${0%/*}/ran\n");
    host.configure(&format!(
        "auth_hook = {}\nauth_hook_timeout = 30",
        hook.display()
    ));
    host.start();
    host
}

/// What happens between the question to the hook and its consent, and the answer expected.
type Meanwhile = (&'static str, fn(&Host), u16, &'static str);

const MEANWHILE: [Meanwhile; 4] = [
    (
        "revoked",
        |host| host.write(REVOKED, "ab01\n"),
        403,
        "certificate revoked",
    ),
    (
        "no longer trusted",
        |host| host.write(MAP, "cafe other\n"),
        403,
        "serial mismatch",
    ),
    (
        "another's now",
        |host| host.write(MAP, "ab01 other\n"),
        403,
        "serial mismatch",
    ),
    (
        "script removed",
        |host| host.write("etc/ctrl-exec-agent/scripts.conf", ""),
        200,
        "script not permitted",
    ),
];

#[test]
fn a_run_that_waited_for_the_hook_is_judged_again() {
    for run_async in [false, true] {
        for (what, change, status, error) in MEANWHILE {
            let host = host_with_slow_hook();
            let caller = host.caller();
            let body = format!(r#"{{"script":"mark","reqid":"r1","async":{run_async}}}"#);
            let run = std::thread::spawn(move || caller.post("/run", &body));
            wait_for("the hook", || host.path("opt/asked").exists());
            change(&host);
            host.reload();
            host.write("opt/go", "");
            let (got, body) = run.join().unwrap();
            assert_eq!(
                (got, text(&body, "error").as_str()),
                (status, error),
                "{what}"
            );
            assert!(!host.path("opt/ran").exists(), "{what}");
        }
    }
}

#[test]
fn other_requests_that_waited_for_the_hook_are_judged_again() {
    for (method, path, body) in [
        ("GET", "/capabilities", ""),
        ("POST", "/rotate-serial", r#"{"serial":"beef"}"#),
    ] {
        for (what, change, _, _) in &MEANWHILE[..2] {
            let host = host_with_slow_hook();
            let caller = host.caller();
            let call = std::thread::spawn(move || caller.call(method, path, body));
            wait_for("the hook", || host.path("opt/asked").exists());
            change(&host);
            host.reload();
            host.write("opt/go", "");
            assert_eq!(call.join().unwrap().0, 403, "{path} {what}");
            assert!(!host.read(MAP).contains("beef"), "{path} {what}");
        }
    }
}

#[test]
fn padding_hides_nothing_from_a_hook() {
    let mut host = Host::new(&Ca::new());
    let hook = host.script(
        "hook",
        "#!/bin/sh\ncase \" $ENVEXEC_ARGS \" in *\" forbidden \"*) exit 3;; esac\n\
         [ -z \"$ENVEXEC_INHERITED\" ] || exit 4\nexit 0\n",
    );
    host.script("mark", "#!/bin/sh\ntouch ${0%/*}/ran\n");
    host.configure(&format!("auth_hook = {}", hook.display()));
    host.start_with(&[("ENVEXEC_INHERITED", "x"), ("ENVEXEC_ARGS", "safe")]);
    for padding in [10, 66_000, 131_056, 131_072, 500_000] {
        let pad = "x".repeat(padding);
        for args in [
            format!(r#"["forbidden","{pad}"]"#),
            format!(r#"["{pad}","forbidden"]"#),
        ] {
            let body = format!(r#"{{"script":"mark","args":{args}}}"#);
            let (_, answer) = host.caller().post("/run", &body);
            assert!(
                text(&answer, "error").starts_with("not authorised: "),
                "{padding}"
            );
        }
        let body = format!(r#"{{"script":"mark","username":"{pad}","token":"{pad}"}}"#);
        let _ = host.caller().post("/run", &body);
        let body = r#"{"script":"mark","username":"ro\u0000ot"}"#;
        let (_, answer) = host.caller().post("/run", body);
        assert!(text(&answer, "error").contains("NUL"), "{answer}");
    }
    let _ = fs::remove_file(host.path("opt/ran"));
    let (_, answer) = host
        .caller()
        .post("/run", r#"{"script":"mark","args":["fine"]}"#);
    assert_eq!(int(&answer, "exit"), 0, "{answer}");
    assert!(host.path("opt/ran").exists());
}

#[test]
fn a_serial_of_another_dispatcher_cannot_be_taken_over() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.write(MAP, "ab01 disp\nbeef other\n");
    host.start();
    let other = Caller::new(host.port, Some(&ca.leaf("other", &[0xbe, 0xef])));
    let rotate = |caller: &Caller, action: &str, serial: &str| {
        let body = format!(r#"{{"action":"{action}","serial":"{serial}"}}"#);
        text(&caller.post("/rotate-serial", &body).1, "error")
    };
    for spelling in [
        "ab01",
        "AB01",
        "0xab01",
        "00:AB:01",
        "serial=AB01",
        "00ab01",
    ] {
        assert_eq!(
            rotate(&other, "add", spelling),
            "serial belongs to another dispatcher",
            "{spelling}"
        );
        assert!(rotate(&other, "remove", spelling).contains("not owned"));
    }
    assert_eq!(rotate(&other, "add", "cafe"), "");
    assert_eq!(rotate(&other, "add", "beef"), "");
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    assert!(host.read(MAP).contains("ab01 disp\n"));
}

#[test]
fn a_pairing_that_waits_for_root_survives_a_rotation_after_a_reload() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    fs::create_dir(host.path("etc/ctrl-exec-agent/.pairing")).unwrap();
    host.write("etc/ctrl-exec-agent/.pairing/dispatcher", "beef second\n");
    host.start();
    let second = Caller::new(host.port, Some(&ca.leaf("second", &[0xbe, 0xef])));
    let ping = |caller: &Caller| caller.post("/ping", "{}").0;
    host.reload();
    let rotate = |caller: &Caller, body: &str| caller.post("/rotate-serial", body).1;
    assert_eq!(
        text(&rotate(&host.caller(), r#"{"serial":"ab02"}"#), "status"),
        "ok"
    );
    assert_eq!((ping(&host.caller()), ping(&second)), (200, 200));
    let taken = rotate(&host.caller(), r#"{"serial":"beef"}"#);
    assert_eq!(
        text(&taken, "error"),
        "serial belongs to another dispatcher"
    );
    let early = rotate(&second, r#"{"action":"remove","serial":"beef"}"#);
    assert_eq!(text(&early, "status"), "error", "{early}");
    assert_eq!(ping(&second), 200);
    assert!(
        !host.read(MAP).contains("beef"),
        "only root writes it there"
    );
}

#[test]
fn an_agents_certificate_is_not_taken_for_a_dispatchers_twin() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.write(MAP, "f disp\n");
    host.start();
    let call = |host: &Host, serial: u8| {
        Caller::new(host.port, Some(&ca.leaf("x", &[serial])))
            .post("/ping", "{}")
            .0
    };
    assert_eq!((call(&host, 0x0f), call(&host, 0x15)), (200, 403));
    host.wait_log("ACTION=serial-ambiguous ");
    host.write(MAP, "00:15 disp\n");
    host.reload();
    assert_eq!((call(&host, 0x0f), call(&host, 0x15)), (403, 200));
    host.write(MAP, "16 disp\n");
    host.reload();
    assert_eq!((call(&host, 0x10), call(&host, 0x16)), (403, 403));
    host.wait_log("ACTION=config-warn ENTRY=16 ");
    // As openssl prints them.
    host.write(MAP, "00:10 disp\n00:16 disp\n");
    for line in ["16 (0x10)", "00:10", "0x10", "serial=10"] {
        host.write(REVOKED, &format!("{line}\n"));
        host.reload();
        assert_eq!((call(&host, 0x10), call(&host, 0x16)), (403, 200), "{line}");
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn no_time_of_a_file_makes_valid_certificates_look_expired() {
    let ca = Ca::new();
    for file in [
        "etc/ctrl-exec-agent/ca.crt",
        "etc/ctrl-exec-agent/agent.crt",
        "etc/ctrl-exec-agent/agent.key",
        "etc/ctrl-exec-agent/agent.conf",
        MAP,
        REVOKED,
    ] {
        let agent = ca.leaf_valid("agent.example", &[0xaa, 2], 2020, 2050);
        let dispatcher = ca.leaf_valid("ctrl-exec-dispatcher", &[0xab, 1], 2020, 2040);
        let mut host = Host::with(&ca.pem, agent, dispatcher, "ab01 disp\n");
        host.write(REVOKED, "");
        // 2045: after the dispatcher's certificate, before the agent's own; then after both.
        set_time(&host.path(file), 2_367_000_000);
        host.start();
        assert_eq!(host.caller().post("/ping", "{}").0, 200, "{file}");
        set_time(&host.path(file), 4_000_000_000);
        host.reload();
        assert_eq!(host.caller().post("/ping", "{}").0, 200, "{file}");
        host.wait_log("ACTION=clock SOURCE=system ");
    }
}

#[test]
fn the_clock_in_use_is_told() {
    let host = Host::new(&Ca::new());
    set_time(&host.path("etc/ctrl-exec-agent/ca.crt"), 4_000_000_000);
    let output = host.command(&["self-check"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains("Clock:  ") && shown.contains("(system clock); the time of "),
        "{shown}"
    );
    assert!(shown.contains("ca.crt lies in the future"), "{shown}");
}

/// What the device knows when its system clock says 1970 is tried with a certificate that begins
/// in the future: to the agent that is the same.
#[test]
fn a_clock_behind_the_own_certificate_still_serves_who_is_valid_then() {
    let ca = Ca::new();
    let agent = ca.leaf_valid("agent.example", &[0xaa, 2], 2060, 2090);
    // It began after ours, and no file has a time as late as that.
    let dispatcher = ca.leaf_valid("ctrl-exec-dispatcher", &[0xab, 1], 2065, 2070);
    let mut host = Host::with(&ca.pem, agent, dispatcher, "ab01 disp\n");
    host.start();
    host.wait_log("ACTION=clock SOURCE=certificate TIME=2060-01-01");
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    let ended = ca.leaf_valid("ctrl-exec-dispatcher", &[0xab, 1], 2030, 2050);
    let ended = Caller::new(host.port, Some(&ended));
    assert!(
        ended
            .raw(request("POST", "/ping", "{}").as_bytes())
            .map_or(true, |a| a.is_empty())
    );
    let shown = host.command(&["self-check"]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(
        shown.contains("2060-01-01") && shown.contains("system clock says 20"),
        "{shown}"
    );
}

#[test]
fn ping_tells_the_certificate_that_is_served_and_a_reload_serves_the_new_one() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.start();
    let expiry = |host: &Host| text(&host.caller().post("/ping", "{}").1, "expiry");
    assert!(expiry(&host).contains("2100"));
    let renewed = ca.leaf_for(&host.agent.key, "agent.example", &[0xaa, 3], 2020, 2101);
    host.write(STAGED, &renewed.cert);
    let output = host.command(&["promote-cert"]).output().unwrap();
    assert!(output.status.success());
    assert!(!host.path(STAGED).exists());
    assert!(expiry(&host).contains("2100"), "it serves the old one");
    host.reload();
    assert!(expiry(&host).contains("2101"));
    let served = host.caller().connect().unwrap();
    let der = served.conn.peer_certificates().unwrap()[0].to_vec();
    let facts = ctrl_exec_protocol::x509::cert::facts(&der).unwrap();
    assert_eq!(facts.serial_hex, "aa03");
}

/// The end of a command that must not hang.
fn finish(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn mkfifo(path: &Path) {
    let _ = fs::remove_file(path);
    let status = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_fifo_in_the_place_of_a_file_stops_no_command() {
    let ca = Ca::new();
    for file in [
        MAP,
        STAGED,
        REVOKED,
        "etc/ctrl-exec-agent/agent.conf",
        "etc/ctrl-exec-agent/scripts.conf",
        "etc/ctrl-exec-agent/agent.crt",
        "etc/ctrl-exec-agent/agent.key",
        "etc/ctrl-exec-agent/ca.crt",
    ] {
        let host = Host::new(&ca);
        mkfifo(&host.path(file));
        for mode in [
            "promote-cert",
            "cert-staged",
            "pairing-status",
            "paired",
            "self-check",
            "self-ping",
        ] {
            finish(host.command(&[mode]));
        }
        if file == STAGED {
            assert!(!host.path(file).exists(), "promote-cert took it away");
            continue;
        }
        let output = finish(host.command(&["serve"]));
        assert_eq!(output.status.code(), Some(78), "{file}: {output:?}");
        let words = String::from_utf8(output.stderr).unwrap();
        let name = file.rsplit('/').next().unwrap();
        assert!(words.contains(name), "{file}: {words}");
    }
}

#[test]
fn a_fifo_that_replaces_the_map_while_serving_stops_nothing() {
    let mut host = Host::new(&Ca::new());
    host.start();
    mkfifo(&host.path(MAP));
    let (_, answer) = host.caller().post("/rotate-serial", r#"{"serial":"cafe"}"#);
    assert_eq!(text(&answer, "status"), "error", "{answer}");
    host.reload();
    host.wait_log("ACTION=reload ERROR=");
    assert_eq!(
        host.caller().post("/ping", "{}").0,
        200,
        "the old map stays"
    );
}

#[test]
fn links_planted_for_root_are_not_followed() {
    let ca = Ca::new();
    let host = Host::new(&ca);
    let victim = host.path("victim");
    let valid = ca.leaf_for(&host.agent.key, "agent.example", &[0xaa, 3], 2020, 2101);
    fs::write(&victim, &valid.cert).unwrap();
    symlink(&victim, host.path(STAGED)).unwrap();
    let output = finish(host.command(&["promote-cert"]));
    assert!(output.status.success());
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("staged certificate not installed"),
        "{words}"
    );
    assert_eq!(host.read("etc/ctrl-exec-agent/agent.crt"), host.agent.cert);
    assert_eq!(fs::read_to_string(&victim).unwrap(), valid.cert);
    assert!(
        fs::symlink_metadata(host.path(STAGED)).is_err(),
        "the link is gone"
    );

    // A pairing that root completes, into a map that is a link.
    let pending = host.path("etc/ctrl-exec-agent/.pairing");
    fs::create_dir(&pending).unwrap();
    fs::write(pending.join("dispatcher"), "beef second\n").unwrap();
    fs::remove_file(host.path(MAP)).unwrap();
    symlink(&victim, host.path(MAP)).unwrap();
    let output = finish(host.command(&["promote-cert"]));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("completing the pairing"), "{words}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), valid.cert);
    assert!(pending.join("dispatcher").exists(), "nothing is lost");
}

#[test]
fn a_directory_swapped_for_a_link_leads_root_nowhere() {
    if !rustix::process::geteuid().is_root() {
        let mut note = std::io::stderr();
        let _ = writeln!(note, "note: not root, nothing tried");
        return;
    }
    let ca = Ca::new();
    let host = Host::new(&ca);
    let valid = ca.leaf_for(&host.agent.key, "agent.example", &[0xaa, 3], 2020, 2101);
    let (inside, outside) = (
        host.path("var/lib/ctrl-exec-agent/sub"),
        host.path("outside"),
    );
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("agent.crt.staged"), &valid.cert).unwrap();
    std::os::unix::fs::chown(host.path("var/lib/ctrl-exec-agent"), Some(65534), None).unwrap();
    symlink(&outside, &inside).unwrap();
    host.configure(&format!(
        "cert_staging_path = {}/agent.crt.staged",
        inside.display()
    ));
    assert_eq!(
        finish(host.command(&["cert-staged"])).status.code(),
        Some(1)
    );
    assert!(finish(host.command(&["promote-cert"])).status.success());
    assert_eq!(host.read("etc/ctrl-exec-agent/agent.crt"), host.agent.cert);
    assert!(outside.join("agent.crt.staged").exists());
}
