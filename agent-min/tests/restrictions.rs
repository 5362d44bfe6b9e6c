//! What the agent gives up once it listens, as the kernel sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

/// A field of `/proc/<pid>/status`.
fn status(text: &str, field: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(field));
    let line = line.unwrap_or_else(|| panic!("{field} in {text}"));
    line[field.len()..]
        .trim_matches([':', '\t', ' '])
        .to_owned()
}

fn of_agent(host: &Host, field: &str) -> String {
    let path = format!("/proc/{}/status", host.pid());
    status(&fs::read_to_string(path).unwrap(), field)
}

/// What a script sees of itself.
fn of_script(host: &Host) -> String {
    let body = "{\"script\":\"status\",\"reqid\":\"r\"}";
    let (code, answer) = host.caller().post("/run", body);
    assert_eq!(code, 200);
    text(&answer, "stdout")
}

const SCRIPT: &str = "#!/bin/sh\ncat /proc/self/status\n";

#[test]
fn with_an_executor_everything_goes() {
    let mut host = Host::new(&Ca::new());
    host.configure("executor_socket = /nowhere/exec.sock\n");
    host.script("status", SCRIPT);
    host.start();
    assert_eq!(of_agent(&host, "NoNewPrivs"), "1");
    assert_eq!(of_agent(&host, "Seccomp"), "2");
    if rustix::process::geteuid().is_root() {
        assert_eq!(of_agent(&host, "CapBnd"), "0000000000000000");
    }
    // It still does its work: pings, and async runs, for which it starts itself.
    assert_eq!(host.caller().post("/ping", "{}").0, 200);
    let body = "{\"script\":\"status\",\"reqid\":\"a1\",\"async\":1}";
    assert_eq!(host.caller().post("/run", body).0, 202);
    wait_for("the result", || {
        let (_, answer) = host.caller().get("/result/a1");
        text(&answer, "status") == "done"
    });
    let (_, answer) = host.caller().get("/result/a1");
    assert!(
        text(&answer, "stderr").contains("executor unreachable"),
        "{answer}"
    );
}

#[test]
fn in_direct_mode_scripts_are_as_they_were() {
    let mut host = Host::new(&Ca::new());
    host.script("status", SCRIPT);
    host.start();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let script = of_script(&host);
    for field in ["NoNewPrivs", "Seccomp", "CapBnd"] {
        assert_eq!(status(&script, field), status(&own, field), "{field}");
    }
}

#[test]
fn memory_is_protected_from_processes_of_the_same_user() {
    const NOBODY: u32 = 65534;
    let host = Host::new(&Ca::new());
    let mut command = host.command(&["serve"]);
    if rustix::process::geteuid().is_root() {
        give(host.dir.path(), NOBODY);
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut agent = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for("the agent to listen", || tcp(host.port, None).is_ok());
    // The kernel gives these files of a protected process to root.
    let owner = fs::metadata(format!("/proc/{}/environ", agent.id()))
        .unwrap()
        .uid();
    let _ = agent.kill();
    let _ = agent.wait();
    assert_eq!(owner, 0);
}

fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

#[test]
fn a_setting_lets_scripts_inherit_it() {
    let mut host = Host::new(&Ca::new());
    host.configure("restrict_scripts = yes\n");
    host.script("status", SCRIPT);
    host.script(
        "enter",
        "#!/bin/sh\nunshare -U true && echo made a namespace\n",
    );
    host.start();
    let script = of_script(&host);
    assert_eq!(status(&script, "NoNewPrivs"), "1");
    assert_eq!(status(&script, "Seccomp"), "2");
    let (_, answer) = host
        .caller()
        .post("/run", "{\"script\":\"enter\",\"reqid\":\"r\"}");
    assert!(!text(&answer, "stdout").contains("made"), "{answer}");
}

#[test]
fn self_check_says_what_is_given_up() {
    let host = Host::new(&Ca::new());
    let said = |host: &Host| {
        let output = host.command(&["self-check"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let line = "Given up:    not dumpable (direct mode; restrict_scripts = yes adds more)\n";
    assert!(said(&host).contains(line), "{}", said(&host));
    host.configure("executor_socket = /nowhere/exec.sock\n");
    let text = said(&host);
    assert!(text.contains("Given up:    not dumpable, "), "{text}");
    assert!(
        text.contains("no_new_privs, system-call filter\n"),
        "{text}"
    );
}
