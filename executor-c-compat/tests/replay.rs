//! Every frame recorded from the reference's C executor as root, replayed (root tests).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use miniserde::Deserialize;
use rustix::fs::Mode;
use support::{Reply, Server, Site, root_or_skip};

#[derive(Deserialize)]
struct Recording {
    #[serde(rename = "agent.conf")]
    agent_conf: String,
    #[serde(rename = "scripts.conf")]
    scripts_conf: String,
    scripts: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    request_hex: String,
    response: Option<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    exit: i32,
    stdout: String,
    stderr: String,
}

#[test]
fn recorded_frames() {
    if !root_or_skip("recorded_frames") {
        return;
    }
    let recording: Recording =
        miniserde::json::from_str(include_str!("fixtures/transcripts.json")).unwrap();
    let site = Site::new();
    let server = start(&site, &recording);
    let mut replayed = 0;
    for case in &recording.cases {
        if case.case == "rw-rw" && std::env::var_os("CTRL_EXEC_NO_MOUNT_SETATTR").is_some() {
            // An emulator's gap; qemu-tests/lib/suites.py sets this.
            println!("SKIPPED: recorded frame rw-rw, which needs mount_setattr");
            replayed += 1;
            continue;
        }
        let answer = server.raw(&bytes_of(&case.request_hex));
        let Some(recorded) = &case.response else {
            assert_eq!(answer, b"", "{}", case.case);
            replayed += 1;
            continue;
        };
        let reply = Reply::of(&answer);
        let mut expected = at(&site, &recorded.stdout);
        if case.case == "fds" {
            // DEVIATE (executor.md §9.1): the script does not get the connected socket.
            assert_eq!(expected, "0 1 2 3 4 ");
            expected = "0 1 2 3 ".to_owned();
        }
        assert_eq!(reply.exit, recorded.exit, "{}: {}", case.case, reply.stderr);
        assert_eq!(reply.stdout, expected, "{}", case.case);
        assert_eq!(reply.stderr, at(&site, &recorded.stderr), "{}", case.case);
        replayed += 1;
    }
    assert_eq!(replayed, 24);
}

/// The recorded paths, moved into the test's own directory.
fn at(site: &Site, text: &str) -> String {
    [
        "/opt/exs",
        "/var/tmp/w",
        "/var/tmp/out",
        "/etc/ctrl-exec-agent",
    ]
    .iter()
    .fold(text.to_owned(), |text, path| {
        text.replace(path, &site.text(&format!("@{path}")))
    })
}

fn start(site: &Site, recording: &Recording) -> Server {
    for dir in ["opt/exs", "var/tmp/w"] {
        fs::create_dir_all(site.path(dir)).unwrap();
    }
    let write = |name: &str, text: &str, mode| {
        let path = site.path("opt/exs").join(format!("{name}.sh"));
        fs::write(&path, at(site, text)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, text) in &recording.scripts {
        write(name, text, 0o755);
    }
    write("noshebang", "echo hello\n", 0o755);
    write("noexec", "#!/bin/sh\necho hello\n", 0o644);
    site.conf(
        &at(site, &recording.agent_conf),
        &at(site, &recording.scripts_conf),
    );
    let mut command = site.serve("nobody");
    // As the service manager starts it: no supplementary groups, umask 022.
    let as_a_service = || {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::thread::set_thread_groups(&[])?;
        Ok(())
    };
    // SAFETY: two system calls, nothing that a forked child may not do.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(as_a_service)
    };
    site.start_command(command)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex
        .chars()
        .map(|digit| digit.to_digit(16).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}
