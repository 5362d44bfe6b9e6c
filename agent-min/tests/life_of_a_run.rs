//! What becomes of a run when something goes wrong: it hangs, somebody loses patience, the agent
//! restarts, the disk is full.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use ctrl_exec_protocol::wire::messages::{CancelReply, RunningScript, RunsReply};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Answer = JoinHandle<(u16, String)>;

/// Says that it began, and sleeps.
const SLEEPER: &str = "#!/bin/sh\ntouch ${0%/*}/s$1\nexec sleep ${2:-1000}\n";

fn host_with_sleeper(extra: &str) -> Host {
    let mut host = Host::new(&Ca::new());
    host.configure(extra);
    host.script("sleeper", SLEEPER);
    host.script("hello", "#!/bin/sh\necho hello\n");
    host.start();
    host
}

fn run(caller: &Caller, script: &str, reqid: &str, more: &str) -> Answer {
    let caller = caller.clone();
    let body = format!(r#"{{"script":"{script}","args":["{reqid}"],"reqid":"{reqid}"{more}}}"#);
    std::thread::spawn(move || caller.post("/run", &body))
}

fn started(host: &Host, reqid: &str) {
    wait_for("the script", || {
        host.path(&format!("opt/s{reqid}")).exists()
    });
}

fn runs(caller: &Caller) -> Vec<RunningScript> {
    let (status, body) = caller.get("/runs");
    assert_eq!(status, 200, "{body}");
    let mut runs = RunsReply::parse(body.as_bytes()).unwrap().runs;
    runs.sort_by(|a, b| a.reqid.cmp(&b.reqid));
    runs
}

fn ids(caller: &Caller) -> Vec<String> {
    runs(caller).into_iter().map(|run| run.reqid).collect()
}

fn cancel(caller: &Caller, body: &str) -> (u16, Vec<String>) {
    let (status, body) = caller.post("/cancel", body);
    let mut ids = CancelReply::parse(body.as_bytes()).unwrap().cancelled;
    ids.sort();
    (status, ids)
}

fn is_true(body: &str, member: &str) -> bool {
    body.contains(&format!(r#""{member}":true"#))
}

fn result(host: &Host, reqid: &str) -> String {
    let mut body = String::new();
    wait_for("the result", || {
        body = host.caller().get(&format!("/result/{reqid}")).1;
        text(&body, "status") == "done"
    });
    body
}

#[test]
fn hung_scripts_lock_nobody_out() {
    let host = host_with_sleeper("max_children = 3");
    let hung: Vec<Answer> = ["a", "b", "c"]
        .iter()
        .map(|reqid| {
            let answer = run(&host.caller(), "sleeper", reqid, "");
            started(&host, reqid);
            answer
        })
        .collect();
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    assert_eq!(host.caller().get("/capabilities").0, 200);
    let (status, body) = run(&host.caller(), "hello", "d", "").join().unwrap();
    assert_eq!((status, int(&body, "exit")), (200, -1));
    assert_eq!(text(&body, "code"), "busy");
    let error = text(&body, "error");
    assert!(error.starts_with("busy: 3 of 3: sleeper for "), "{error}");
    assert_eq!(error.matches("sleeper for ").count(), 3, "{error}");
    host.wait_log("ACTION=overload LIVE=3 PEER=127.0.0.1");
    let listed = runs(&host.caller());
    assert_eq!(listed.len(), 3);
    assert!(
        listed
            .iter()
            .all(|run| run.script == "sleeper" && !run.run_async)
    );
    assert_eq!(
        cancel(&host.caller(), r#"{"reqid":"b"}"#),
        (200, vec!["b".into()])
    );
    wait_for("the end of b", || ids(&host.caller()) == ["a", "c"]);
    let (_, body) = run(&host.caller(), "hello", "e", "").join().unwrap();
    assert_eq!(text(&body, "stdout"), "hello\n");
    assert_eq!(
        cancel(&host.caller(), r#"{"all":true}"#),
        (200, vec!["a".into(), "c".into()])
    );
    for answer in hung {
        let (status, body) = answer.join().unwrap();
        assert_eq!((status, int(&body, "exit")), (200, 126));
        assert!(
            is_true(&body, "cancelled") && body.contains(r#""signal":15"#),
            "{body}"
        );
        assert!(text(&body, "stderr").contains("script cancelled"), "{body}");
    }
    assert!(runs(&host.caller()).is_empty());
    assert_eq!(cancel(&host.caller(), r#"{"all":true}"#), (200, vec![]));
}

#[test]
fn as_many_sleepers_run_as_are_allowed() {
    let host = host_with_sleeper("max_children = 100\nmax_output = 1M");
    let hung: Vec<Answer> = (0..100)
        .map(|n| run(&host.caller(), "sleeper", &format!("r{n}"), ""))
        .collect();
    wait_for("all of them", || ids(&host.caller()).len() == 100);
    (0..100).for_each(|n| started(&host, &format!("r{n}")));
    let (_, body) = run(&host.caller(), "hello", "x", "").join().unwrap();
    let error = text(&body, "error");
    assert!(
        error.starts_with("busy: 100 of 100: ") && error.ends_with(", ..."),
        "{error}"
    );
    assert_eq!(cancel(&host.caller(), r#"{"all":true}"#).1.len(), 100);
    for answer in hung {
        assert!(is_true(&answer.join().unwrap().1, "cancelled"));
    }
}

#[test]
fn only_the_owner_sees_and_cancels_a_run() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.write(
        "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers",
        "ab01 disp\nbeef other\n",
    );
    host.script("sleeper", SLEEPER);
    host.start();
    let other = Caller::new(host.port, Some(&ca.leaf("other", &[0xbe, 0xef])));
    let stranger = Caller::new(host.port, Some(&ca.leaf("x", &[0xcc])));
    for more in ["", r#","async":true"#] {
        let reqid = if more.is_empty() { "sync" } else { "async" };
        let answer = run(&host.caller(), "sleeper", reqid, more);
        started(&host, reqid);
        if !more.is_empty() {
            answer.join().unwrap();
        }
        assert_eq!(ids(&host.caller()), [reqid]);
        assert!(runs(&other).is_empty());
        assert_eq!(stranger.get("/runs").0, 403);
        let one = format!(r#"{{"reqid":"{reqid}"}}"#);
        let gone = (404, r#"{"error":"no such run"}"#.to_owned());
        assert_eq!(other.post("/cancel", &one), gone, "another's");
        assert_eq!(
            other.post("/cancel", r#"{"reqid":"none"}"#),
            gone,
            "none at all"
        );
        assert_eq!(cancel(&other, r#"{"all":true}"#), (200, vec![]));
        assert_eq!(stranger.post("/cancel", &one).0, 403);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"reqid":""}"#,
            r#"{"reqid":"a","all":true}"#,
        ] {
            let (status, body) = host.caller().post("/cancel", bad);
            assert_eq!(
                (status, text(&body, "status").as_str()),
                (200, "error"),
                "{bad}"
            );
        }
        assert_eq!(cancel(&host.caller(), &one), (200, vec![reqid.into()]));
        wait_for("its end", || runs(&host.caller()).is_empty());
        assert_eq!(host.caller().post("/cancel", &one), gone, "it has ended");
    }
}

#[test]
fn a_cancel_may_come_twice_while_the_script_takes_its_leave() {
    let mut host = Host::new(&Ca::new());
    host.script(
        "slow",
        // The trap is set after the fork: a child that is not its program yet would have it, too.
        "#!/bin/sh\nsleep 1000 &\n\
         trap 'trap \"\" TERM; while [ ! -e ${0%/*}/go ]; do sleep 0.02; done; echo bye; exit 7' TERM\n\
         touch ${0%/*}/s$1\nwait\n",
    );
    host.start();
    let answer = run(&host.caller(), "slow", "r1", "");
    started(&host, "r1");
    for _ in 0..2 {
        let ended = cancel(&host.caller(), r#"{"reqid":"r1"}"#);
        assert_eq!(ended, (200, vec!["r1".into()]));
    }
    assert_eq!(ids(&host.caller()), ["r1"], "it is still there");
    host.write("opt/go", "");
    let (_, body) = answer.join().unwrap();
    assert_eq!(
        (int(&body, "exit"), text(&body, "stdout")),
        (7, "bye\n".into())
    );
    assert!(
        is_true(&body, "cancelled") && !body.contains("signal"),
        "{body}"
    );
}

#[test]
fn a_time_limit_ends_the_script_with_all_that_it_started() {
    for more in [r#","time_limit":1"#, r#","time_limit":1,"async":true"#] {
        let mut host = Host::new(&Ca::new());
        host.script(
            "tree",
            "#!/bin/sh\nd=${0%/*}\nsetsid sh -c \"trap '' TERM; sleep 7; touch $d/survived\" &\n\
             (setsid sh -c \"sleep 7; touch $d/survived\" &)\necho began\ntouch $d/s$1\nsleep 1000\n",
        );
        host.start();
        let start = Instant::now();
        let answer = run(&host.caller(), "tree", "r1", more).join().unwrap().1;
        let body = if more.contains("async") {
            result(&host, "r1")
        } else {
            answer
        };
        assert_eq!(int(&body, "exit"), 126, "{body}");
        assert!(
            is_true(&body, "time_limit") && !is_true(&body, "cancelled"),
            "{body}"
        );
        assert_eq!(text(&body, "stdout"), "began\n");
        assert!(
            text(&body, "stderr").contains("after 1 s, its time limit"),
            "{body}"
        );
        let left = Duration::from_secs(9).saturating_sub(start.elapsed());
        std::thread::sleep(left);
        assert!(!host.path("opt/survived").exists());
    }
}

#[test]
fn the_earlier_limit_counts_and_nonsense_is_refused() {
    let host = host_with_sleeper("script_timeout = 1");
    let (_, body) = run(&host.caller(), "sleeper", "r1", r#","time_limit":500"#)
        .join()
        .unwrap();
    assert!(is_true(&body, "time_limit"), "{body}");
    for limit in ["0", "-1", "1.5", "true", "[]"] {
        let more = format!(r#","time_limit":{limit}"#);
        let (_, body) = run(&host.caller(), "sleeper", "r2", &more).join().unwrap();
        assert!(
            text(&body, "error").contains("time_limit"),
            "{limit}: {body}"
        );
    }
    assert!(!host.path("opt/sr2").exists());
}

#[test]
fn a_detached_run_is_listed_and_cancelled_even_by_the_next_agent() {
    let mut host = host_with_sleeper("");
    assert_eq!(
        run(&host.caller(), "sleeper", "r1", r#","async":true"#)
            .join()
            .unwrap()
            .0,
        202
    );
    started(&host, "r1");
    let listed = runs(&host.caller());
    assert_eq!((listed.len(), listed[0].reqid.as_str()), (1, "r1"));
    assert!(listed[0].run_async && listed[0].script == "sleeper" && listed[0].seconds < 60);
    host.signal("-KILL");
    host.ended();
    host.start();
    assert_eq!(ids(&host.caller()), ["r1"]);
    assert_eq!(
        cancel(&host.caller(), r#"{"all":true}"#),
        (200, vec!["r1".into()])
    );
    let body = result(&host, "r1");
    assert!(
        is_true(&body, "cancelled") && body.contains(r#""signal":15"#),
        "{body}"
    );
    assert_eq!(int(&body, "exit"), 126);
    wait_for("the lock", || runs(&host.caller()).is_empty());
    // A run that was accepted can be cancelled at once.
    for n in 0..10 {
        let reqid = format!("q{n}");
        wait_for("the start", || {
            run(&host.caller(), "sleeper", &reqid, r#","async":true"#)
                .join()
                .unwrap()
                .0
                == 202
        });
        let one = format!(r#"{{"reqid":"{reqid}"}}"#);
        assert_eq!(cancel(&host.caller(), &one), (200, vec![reqid.clone()]));
        assert!(is_true(&result(&host, &reqid), "cancelled"));
    }
}

#[test]
fn a_run_that_waits_for_a_hook_is_cancelled_before_it_begins() {
    for more in ["", r#","async":true"#] {
        let mut host = Host::new(&Ca::new());
        let hook = host.script("hook", "#!/bin/sh\ntouch ${0%/*}/asked\nsleep 20\nexit 0\n");
        host.script("sleeper", SLEEPER);
        host.configure(&format!(
            "auth_hook = {}\nauth_hook_timeout = 30",
            hook.display()
        ));
        host.start();
        let answer = run(&host.caller(), "sleeper", "r1", more);
        wait_for("the hook", || host.path("opt/asked").exists());
        assert_eq!(ids(&host.caller()), ["r1"]);
        assert_eq!(
            cancel(&host.caller(), r#"{"reqid":"r1"}"#),
            (200, vec!["r1".into()])
        );
        let (status, body) = answer.join().unwrap();
        assert_eq!((status, int(&body, "exit")), (200, -1));
        assert!(text(&body, "error").contains("nothing ran"), "{body}");
        assert_eq!(cancel(&host.caller(), r#"{"reqid":"r1"}"#).0, 404);
        assert!(!host.path("opt/sr1").exists());
    }
}

/// An executor that has taken a request: the connection.
fn executor(host: &Host) -> UnixListener {
    UnixListener::bind(host.path("exec.sock")).unwrap()
}

const CANCEL: &[u8] = b"\0\0\0\x10ctrl-exec/cancel";

/// exit 126 without output, then the long form: signal 15, cancelled.
fn cancelled_answer() -> Vec<u8> {
    let mut answer = vec![0, 0, 0, 126, 0, 0, 0, 0, 0, 0, 0, 0];
    answer.extend([0; 24]);
    answer.extend([0, 0, 0, 15, 0, 0, 0, 4]);
    answer
}

#[test]
fn the_executor_is_told_of_limits_and_cancels() {
    for more in [r#","time_limit":77"#, r#","time_limit":77,"async":true"#] {
        let mut host = Host::new(&Ca::new());
        let listener = executor(&host);
        host.configure(&format!(
            "executor_socket = {}",
            host.path("exec.sock").display()
        ));
        host.script("sleeper", SLEEPER);
        host.start();
        let answer = run(&host.caller(), "sleeper", "r1", more);
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        while !request.windows(4).any(|four| four == b"1=77") {
            let count = peer.read(&mut piece).unwrap();
            assert!(count > 0, "{:?}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&piece[..count]);
        }
        assert_eq!(ids(&host.caller()), ["r1"]);
        assert_eq!(
            cancel(&host.caller(), r#"{"reqid":"r1"}"#),
            (200, vec!["r1".into()])
        );
        let mut told = [0; 20];
        peer.read_exact(&mut told).unwrap();
        assert_eq!(told, CANCEL);
        peer.write_all(&cancelled_answer()).unwrap();
        drop(peer);
        let answer = answer.join().unwrap().1;
        let body = if more.contains("async") {
            result(&host, "r1")
        } else {
            answer
        };
        assert_eq!(int(&body, "exit"), 126);
        assert!(
            is_true(&body, "cancelled") && body.contains(r#""signal":15"#),
            "{body}"
        );
    }
}

/// The queue of the executor's socket is full: the agent waits to connect.
#[test]
fn a_run_that_waits_for_the_executor_is_judged_again_and_can_be_cancelled() {
    for (change, words) in [
        (Some(("revoked-serials", "ab01\n")), "nothing ran"),
        (Some(("scripts.conf", "")), "nothing ran"),
        (None, "nothing ran"),
    ] {
        let mut host = Host::new(&Ca::new());
        let listener = executor(&host);
        rustix::net::listen(&listener, 0).unwrap();
        let fill: Vec<_> = (0..8)
            .map_while(|_| {
                let socket = rustix::net::socket_with(
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::SocketType::STREAM,
                    rustix::net::SocketFlags::NONBLOCK,
                    None,
                )
                .unwrap();
                let address = rustix::net::SocketAddrUnix::new(host.path("exec.sock")).unwrap();
                rustix::net::connect(&socket, &address)
                    .ok()
                    .map(|()| socket)
            })
            .collect();
        host.configure(&format!(
            "executor_socket = {}",
            host.path("exec.sock").display()
        ));
        host.script("sleeper", SLEEPER);
        host.start();
        let answer = run(&host.caller(), "sleeper", "r1", "");
        wait_for("the run", || ids(&host.caller()) == ["r1"]);
        match change {
            Some((file, text)) => {
                host.write(&format!("etc/ctrl-exec-agent/{file}"), text);
                host.reload();
            }
            None => {
                assert_eq!(cancel(&host.caller(), r#"{"reqid":"r1"}"#).0, 200);
            }
        }
        let (_, body) = answer.join().unwrap();
        assert!(text(&body, "error").contains(words), "{body}");
        drop(fill);
    }
}

#[test]
fn deaths_are_told() {
    let mut host = Host::new(&Ca::new());
    host.script("dies", "#!/bin/sh\necho out\nkill -$1 $$\n");
    host.script("lives", "#!/bin/sh\nexit 9\n");
    host.start();
    for signal in [9, 11, 15] {
        let body = format!(r#"{{"script":"dies","args":["{signal}"],"reqid":"r"}}"#);
        let (_, body) = host.caller().post("/run", &body);
        assert_eq!((int(&body, "exit"), int(&body, "signal")), (126, signal));
        assert_eq!(text(&body, "stdout"), "out\n");
        assert!(
            !body.contains("time_limit") && !body.contains("cancelled"),
            "{body}"
        );
        let body =
            format!(r#"{{"script":"dies","args":["{signal}"],"reqid":"a{signal}","async":true}}"#);
        wait_for("the start", || host.caller().post("/run", &body).0 == 202);
        assert_eq!(int(&result(&host, &format!("a{signal}")), "signal"), signal);
    }
    let (_, body) = host
        .caller()
        .post("/run", r#"{"script":"lives","reqid":"r"}"#);
    assert!(
        int(&body, "exit") == 9 && !body.contains("signal"),
        "{body}"
    );
}

#[test]
fn files_that_the_kernel_does_not_run_are_explained() {
    let mut host = Host::new(&Ca::new());
    let foreign = if cfg!(target_arch = "mips") { 62 } else { 8 };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 2, 1];
    elf.resize(18, 0);
    elf.extend([0, foreign]);
    elf.resize(200, 0);
    let dos = host.script("dos", "#!/bin/sh\r\necho hi\r\n");
    host.script("none", "#!/no/such/interpreter\n");
    host.script("bare", "echo ran\n");
    host.script("empty", "");
    host.script("foreign", "");
    fs::write(host.path("opt/foreign"), &elf).unwrap();
    host.start();
    for (script, words) in [
        ("dos", "CR LF"),
        ("none", "interpreter '/no/such/interpreter' does not exist"),
        ("bare", "no shell is guessed"),
        ("empty", "it is empty"),
        ("foreign", "another processor"),
    ] {
        let (_, body) = host
            .caller()
            .post("/run", &format!(r#"{{"script":"{script}"}}"#));
        assert_eq!(int(&body, "exit"), 127, "{script}: {body}");
        assert!(text(&body, "stderr").contains(words), "{script}: {body}");
        assert_eq!(text(&body, "stdout"), "", "{script}");
    }
    let shown = host.command(&["self-check"]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    for words in [
        "CR LF",
        "does not exist",
        "no shell is guessed",
        "another processor",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(
        !shown.contains(&format!("{} profile=default [ok]", dos.display())),
        "{shown}"
    );
}

#[test]
fn a_run_that_a_stop_cuts_leaves_a_line() {
    let mut host = host_with_sleeper("");
    let answer = run(&host.caller(), "sleeper", "cut1", "");
    started(&host, "cut1");
    host.signal("-TERM");
    host.ended();
    assert!(answer.join().is_err(), "no answer is invented");
    let log = host.log();
    let line = log
        .lines()
        .find(|line| line.contains("ACTION=run-cut"))
        .unwrap();
    assert!(
        line.contains("REQID=cut1") && line.contains("SCRIPT=sleeper"),
        "{line}"
    );
}
