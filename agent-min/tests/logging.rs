//! The log and standard error: what a reader that does not read may cost, and what `RUST_LOG` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A pipe that holds as much as it can.
fn full_pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let flags = fcntl_getfl(&write).unwrap();
    fcntl_setfl(&write, flags | OFlags::NONBLOCK).unwrap();
    let mut write = File::from(write);
    while write.write(&[b'.'; 4096]).is_ok() {}
    while write.write(b".").is_ok() {}
    fcntl_setfl(&write, flags).unwrap();
    (File::from(read), write)
}

fn ends_after_term(child: &mut Child) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(15) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("deaf to SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    let host = Host::new(&Ca::new());
    let (mut read, write) = full_pipe();
    let held = write.try_clone().unwrap();
    let mut command = host.command(&["serve"]);
    let mut child = command.stderr(write).spawn().unwrap();
    drop(command);
    wait_for("the agent to listen", || tcp(host.port, None).is_ok());
    for n in 0..20 {
        let (status, _) = host
            .caller()
            .post("/ping", &format!("{{\"reqid\":\"r{n}\"}}"));
        assert_eq!(status, 200);
    }
    // The reader comes back: the next line tells how many were lost, and nothing else is.
    let mut filler = vec![0; 1 << 16];
    let n = read.read(&mut filler).unwrap();
    assert!(
        filler[..n].iter().all(|byte| *byte == b'.'),
        "a line got in"
    );
    assert_eq!(host.caller().post("/ping", "{\"reqid\":\"last\"}").0, 200);
    ends_after_term(&mut child);
    drop(held);
    let mut rest = String::new();
    read.read_to_string(&mut rest).unwrap();
    let lines: Vec<&str> = rest.lines().collect();
    let note = lines[0].trim_start_matches('.');
    let lost: u32 = note
        .strip_prefix('(')
        .and_then(|note| note.strip_suffix(" lines were dropped here)"))
        .unwrap_or_else(|| panic!("{rest}"))
        .parse()
        .unwrap();
    // An answer may be out before its line is written.
    assert!(lost >= 20, "{rest}");
    assert!(
        rest.contains("ACTION=ping DISPATCHER=disp PEER=127.0.0.1 REQID=last\n"),
        "{rest}"
    );
}

#[test]
fn what_is_said_on_standard_error_follows_rust_log() {
    for (wish, shown) in [(None, false), (Some("debug"), true), (Some("error"), false)] {
        let host = Host::new(&Ca::new());
        let mut command = host.command(&["serve"]);
        command.stderr(Stdio::piped()).env_remove("RUST_LOG");
        if let Some(wish) = wish {
            command.env("RUST_LOG", wish);
        }
        let mut child = command.spawn().unwrap();
        wait_for("the agent to listen", || tcp(host.port, None).is_ok());
        assert_eq!(host.caller().post("/ping", "{}").0, 200);
        ends_after_term(&mut child);
        let mut text = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let debug = "debug: ctrl_exec_agent::serve::conns: \"POST\" \"/ping\" from 127.0.0.1";
        assert_eq!(text.contains(debug), shown, "{text}");
        assert!(
            text.contains("ACTION=ping"),
            "records are not diagnostics: {text}"
        );
    }
}
