//! Runs that outlive the request, the agent, and sometimes not the host (agent.md §5).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

const SLOW: &str = "#!/bin/sh\nd=${0%/*}\necho $PPID > $d/parent\necho $$ > $d/pid\ntouch $d/started\n\
                    while [ -e $0 ] && [ ! -e $d/go ]; do sleep 0.02; done\necho \"out $1\"; echo err >&2\nexit 5\n";

fn host_with_slow(extra: &str) -> Host {
    let mut host = Host::new(&Ca::new());
    host.configure(extra);
    host.script("slow", SLOW);
    host.script("quick", "#!/bin/sh\necho quick\n");
    host.start();
    host
}

fn submit(host: &Host, script: &str, reqid: &str) -> (u16, String) {
    let body = format!(r#"{{"script":"{script}","args":["é"],"reqid":"{reqid}","async":true}}"#);
    host.caller().post("/run", &body)
}

fn result(host: &Host, reqid: &str) -> (u16, String) {
    host.caller().get(&format!("/result/{reqid}"))
}

fn wait_done(host: &Host, reqid: &str) -> String {
    let mut body = String::new();
    wait_for("the result", || {
        body = result(host, reqid).1;
        text(&body, "status") == "done"
    });
    body
}

fn wait_started(host: &Host) {
    wait_for("the script", || host.path("opt/started").exists());
}

fn release(host: &Host) {
    fs::write(host.path("opt/go"), "").unwrap();
}

#[test]
fn accepted_running_busy_done() {
    let host = host_with_slow("");
    assert_eq!(
        submit(&host, "slow", "r1"),
        (
            202,
            r#"{"script":"slow","status":"accepted","reqid":"r1"}"#.into()
        )
    );
    wait_started(&host);
    assert_eq!(
        submit(&host, "slow", "r2"),
        (
            409,
            r#"{"script":"slow","status":"busy","reqid":"r2","error":"script already running"}"#
                .into()
        )
    );
    assert_eq!(
        result(&host, "r2"),
        (404, r#"{"status":"unknown","reqid":"r2"}"#.into())
    );
    let (status, body) = result(&host, "r1");
    assert_eq!((status, text(&body, "status").as_str()), (200, "running"));
    assert!(!object(&body).contains_key("exit"));
    assert_eq!(
        submit(&host, "quick", "r3").0,
        202,
        "another script runs beside it"
    );
    release(&host);
    let body = wait_done(&host, "r1");
    assert_eq!(
        (
            int(&body, "exit"),
            text(&body, "stdout"),
            text(&body, "stderr")
        ),
        (5, "out é\n".into(), "err\n".into())
    );
    assert_eq!(
        (text(&body, "owner"), text(&body, "script")),
        ("disp".into(), "slow".into())
    );
    wait_done(&host, "r3");
    wait_for("the lock", || submit(&host, "slow", "r4").0 == 202);
    host.wait_log("ACTION=run-async DISPATCHER=disp PEER=127.0.0.1 REQID=r1 SCRIPT=slow");
    host.wait_log("ACTION=run-async-busy PEER=127.0.0.1 REQID=r2 SCRIPT=slow");
    host.wait_log("ACTION=result DISPATCHER=disp PEER=127.0.0.1 REQID=r1 STATUS=done");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(host.path("var/lib/ctrl-exec-agent/runs/disp/r1.json"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_run_survives_stop_and_death_of_the_agent() {
    for signal in ["-TERM", "-KILL"] {
        let mut host = host_with_slow("");
        assert_eq!(submit(&host, "slow", "r1").0, 202);
        wait_started(&host);
        host.signal(signal);
        host.ended();
        host.start();
        assert_eq!(
            text(&result(&host, "r1").1, "status"),
            "running",
            "{signal}"
        );
        assert_eq!(submit(&host, "slow", "r2").0, 409, "{signal}");
        release(&host);
        let body = wait_done(&host, "r1");
        assert_eq!(
            (int(&body, "exit"), text(&body, "stdout")),
            (5, "out é\n".into())
        );
    }
}

#[test]
fn a_run_whose_supervisor_died_is_lost_not_running_for_ever() {
    let host = host_with_slow("");
    assert_eq!(submit(&host, "slow", "r1").0, 202);
    wait_started(&host);
    wait_for("its parent", || !host.read("opt/parent").is_empty());
    // As when the host went down: supervisor and script are gone, nobody wrote a result.
    for file in ["opt/parent", "opt/pid"] {
        let pid = host.read(file);
        assert!(
            Command::new("kill")
                .arg("-9")
                .arg(pid.trim())
                .status()
                .unwrap()
                .success()
        );
    }
    let body = wait_done(&host, "r1");
    assert_eq!(int(&body, "exit"), -1);
    assert!(text(&body, "stderr").contains("the run was lost"), "{body}");
    assert_eq!(result(&host, "r1").1, body, "and it stays so");
    release(&host);
    assert_eq!(
        submit(&host, "slow", "r2").0,
        202,
        "the script may run again"
    );
    wait_done(&host, "r2");
}

#[test]
fn the_executor_runs_them_too() {
    let mut host = Host::new(&Ca::new());
    let socket = host.path("exec.sock");
    host.configure(&format!("executor_socket = {}", socket.display()));
    host.script("slow", SLOW);
    host.start();
    let listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(submit(&host, "slow", "r1").0, 202);
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(text(&result(&host, "r1").1, "status"), "running");
    assert_eq!(submit(&host, "slow", "r2").0, 409);
    std::io::Write::write_all(&mut peer, b"\0\0\0\x07\0\0\0\x02ok\0\0\0\0").unwrap();
    drop(peer);
    let body = wait_done(&host, "r1");
    assert_eq!(
        (int(&body, "exit"), text(&body, "stdout")),
        (7, "ok".into())
    );
}

#[test]
fn results_belong_to_who_asked() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.write(
        "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers",
        "ab01 disp\nbeef other\n",
    );
    host.script("quick", "#!/bin/sh\necho quick\n");
    host.start();
    let other = Caller::new(host.port, Some(&ca.leaf("other", &[0xbe, 0xef])));
    assert_eq!(submit(&host, "quick", "r1").0, 202);
    wait_done(&host, "r1");
    let unknown = (404, r#"{"status":"unknown","reqid":"r1"}"#.to_owned());
    assert_eq!(other.get("/result/r1"), unknown);
    // A record of somebody else in the caller's directory.
    let runs = host.path("var/lib/ctrl-exec-agent/runs");
    fs::create_dir_all(runs.join("other")).unwrap();
    fs::copy(runs.join("disp/r1.json"), runs.join("other/r1.json")).unwrap();
    assert_eq!(other.get("/result/r1"), unknown);
    host.wait_log("ACTION=result-deny DISPATCHER=other PEER=127.0.0.1 REASON=not-owner REQID=r1");
    let stranger = Caller::new(host.port, Some(&ca.leaf("x", &[0xcc])));
    assert_eq!(stranger.get("/result/r1").0, 403);
    host.wait_log("ACTION=serial-reject PEER=127.0.0.1 PEER_SERIAL=cc REQID=r1");
    for path in [
        "/result/",
        "/result/a.b",
        "/result/../x",
        "/result/a/b",
        "/result/%61",
    ] {
        assert_eq!(
            host.caller().get(path),
            (404, r#"{"error":"not found"}"#.into()),
            "{path}"
        );
    }
    fs::write(runs.join("disp/bad.json"), "{\"status\":\"do").unwrap();
    assert_eq!(result(&host, "bad").0, 404);
    fs::create_dir_all(runs.join("disp")).unwrap();
    fs::copy(
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/reference/aaaa000011112222.json"
        ),
        runs.join("disp/perl.json"),
    )
    .unwrap();
    assert_eq!(result(&host, "perl").0, 404, "the owner in it is perl-disp");
}

#[test]
fn the_store_is_bounded() {
    let host = host_with_slow("async_max_records = 3");
    for n in 0..6 {
        assert_eq!(submit(&host, "quick", &format!("r{n}")).0, 202);
        wait_done(&host, &format!("r{n}"));
        wait_for("the lock", || {
            let lock = fs::File::open(host.path("var/lib/ctrl-exec-agent/runs/.locks/quick.lock"))
                .unwrap();
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok()
        });
    }
    let records = fs::read_dir(host.path("var/lib/ctrl-exec-agent/runs/disp"))
        .unwrap()
        .count();
    assert_eq!(records, 3);
    assert_eq!(result(&host, "r0").0, 404);
    assert_eq!(result(&host, "r5").0, 200);
    // A day later.
    let old = SystemTime::now() - Duration::from_secs(86_500);
    let record = host.path("var/lib/ctrl-exec-agent/runs/disp/r5.json");
    fs::File::open(&record).unwrap().set_modified(old).unwrap();
    assert_eq!(submit(&host, "quick", "r6").0, 202);
    assert!(!record.exists());
}

#[test]
fn a_store_that_cannot_be_written_is_said_so() {
    let mut host = Host::new(&Ca::new());
    host.configure("async_runs_dir = /proc/no/such");
    host.script("quick", "#!/bin/sh\n");
    host.start();
    let (status, body) = submit(&host, "quick", "r1");
    assert_eq!((status, int(&body, "exit")), (200, -1));
    assert!(
        text(&body, "error").starts_with("could not start async job: "),
        "{body}"
    );
    host.wait_log("ACTION=async-store-fail ");
}
