//! The programs killed at every system call that changes a file: afterwards the host has the old
//! content or the new, never something between. Needs `strace`, which injects the signal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::fs;
use std::process::{Command, Stdio};

/// Calls at which a file replacement can be cut short.
const CALLS: [&str; 9] = [
    "write",
    "fchmod",
    "fchown",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
];

fn have_strace() -> bool {
    let works = Command::new("strace")
        .args([
            "-o",
            "/dev/null",
            "-e",
            "inject=fsync:signal=KILL:when=99",
            "true",
        ])
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        eprintln!("SKIPPED: no strace that may trace here");
    }
    works
}

/// The command under strace, killed at its `step`th call of `call`.
fn killed_at(call: &str, step: u32, command: &Command) -> Command {
    let mut traced = Command::new("strace");
    traced
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
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    traced
}

/// Temporary files may be left behind by a crash; they never have the name of a real one.
fn visible(host: &Host, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(host.path(dir)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn promotion_killed_at_every_step() {
    if !have_strace() {
        return;
    }
    let ca = Ca::new();
    let host = Host::new(&ca);
    let old = host.read("etc/ctrl-exec-agent/agent.crt");
    let staged = host.path("var/lib/ctrl-exec-agent/agent.crt.staged");
    let new = ca
        .leaf_for(&host.agent.key, "agent.example", &[0xdd], 2020, 2090)
        .cert;
    let (mut kept, mut replaced) = (0, 0);
    for call in CALLS {
        for step in 1.. {
            assert!(step < 100, "never ended by itself");
            host.write("etc/ctrl-exec-agent/agent.crt", &old);
            fs::write(&staged, &new).unwrap();
            let status = killed_at(call, step, &host.command(&["promote-cert"]))
                .status()
                .unwrap();
            let now = host.read("etc/ctrl-exec-agent/agent.crt");
            assert!(now == old || now == new, "{call} {step}: {now:?}");
            assert!(
                now == new || staged.exists(),
                "{call} {step}: the new certificate is lost"
            );
            if now == old {
                kept += 1;
            } else {
                replaced += 1;
            }
            // The next start completes what was begun.
            let next = host
                .command(&["promote-cert"])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(next.success());
            assert_eq!(
                host.read("etc/ctrl-exec-agent/agent.crt"),
                new,
                "{call} {step}"
            );
            assert!(!staged.exists());
            if status.success() {
                break;
            }
        }
    }
    assert!(kept >= 3 && replaced >= 9, "{kept} {replaced}");
}

#[test]
fn the_agent_killed_at_every_step_of_a_rotation() {
    if !have_strace() {
        return;
    }
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    let map = "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers";
    let (old, new) = ("ab01 disp\n", "bc02 disp\n");
    for call in ["fchmod", "fsync", "rename"] {
        for step in 1.. {
            assert!(step < 20, "never succeeded");
            host.write(map, old);
            host.start();
            let answered = rotate_killed_at(&mut host, call, step);
            let now = host.read(map);
            let whole = now == old || now.ends_with(&format!("{old}{new}"));
            assert!(whole, "{call} {step}: {now:?}");
            // "serving" tells `reload` what the agent last read.
            let mut left = visible(&host, "var/lib/ctrl-exec-agent");
            left.retain(|name| name != "serving");
            assert_eq!(left, ["ctrl-exec-dispatchers"]);
            // Whatever happened, it starts again.
            host.start();
            assert_eq!(host.caller().post("/ping", "{}").0, 200);
            host.signal("-KILL");
            host.ended();
            if answered {
                break;
            }
        }
    }
}

/// Asks for a rotation; true when the agent answered before it was killed.
fn rotate_killed_at(host: &mut Host, call: &str, step: u32) -> bool {
    let mut strace = Command::new("strace")
        .args(["-f", "-p", &host.pid().to_string(), "-o", "/dev/null", "-e"])
        .args([
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:signal=KILL:when={step}"),
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // That it is attached is the first thing it says.
    let mut said = [0; 8];
    std::io::Read::read_exact(strace.stderr.as_mut().unwrap(), &mut said).unwrap();
    let answer = host
        .caller()
        .raw(request("POST", "/rotate-serial", r#"{"serial":"bc02"}"#).as_bytes());
    let answered = answer.is_ok_and(|text| text.contains("\"status\":\"ok\""));
    if answered {
        host.signal("-KILL");
    }
    host.ended();
    let _ = strace.wait();
    answered
}
