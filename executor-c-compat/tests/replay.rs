//! Every frame recorded from the reference's C executor as root, replayed (root tests).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use ctrl_exec_testkit::json::{self, Object, Value};
use rustix::fs::Mode;
use support::{PEER, Reply, Server, Site, root_or_skip};

/// The text of a member.
fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    json::str_of(object, key).unwrap()
}

#[test]
fn recorded_frames() {
    if !root_or_skip("recorded_frames") {
        return;
    }
    let recording = include_bytes!("fixtures/transcripts.json");
    let recording = json::parse_object(recording).unwrap();
    let site = Site::new();
    let server = start(&site, &recording);
    let mut replayed = 0;
    let Value::Array(cases) = &recording["cases"] else {
        panic!("no cases")
    };
    for case in cases {
        let Value::Object(case) = case else {
            panic!("{case:?}")
        };
        let name = text(case, "case");
        if name == "rw-rw" && std::env::var_os("CTRL_EXEC_NO_MOUNT_SETATTR").is_some() {
            // An emulator's gap; qemu-tests/lib/suites.py sets this.
            println!("SKIPPED: recorded frame rw-rw, which needs mount_setattr");
            replayed += 1;
            continue;
        }
        let answer = server.raw(&bytes_of(text(case, "request_hex")));
        let Value::Object(recorded) = &case["response"] else {
            assert_eq!(answer, b"", "{name}");
            replayed += 1;
            continue;
        };
        let reply = Reply::of(&answer);
        let mut expected = at(&site, text(recorded, "stdout"));
        if name == "fds" {
            // DEVIATE (executor.md §9.1): the script does not get the connected socket.
            assert_eq!(expected, "0 1 2 3 4 ");
            expected = "0 1 2 3 ".to_owned();
        }
        if name == "status-bare" {
            // With a user come its groups.
            assert!(expected.contains("\nGroups:\t \n"), "{expected}");
            expected = expected.replace("\nGroups:\t \n", "\nGroups:\t0 \n");
        }
        let exit = json::integer(recorded, "exit");
        assert_eq!(Some(reply.exit.into()), exit, "{name}: {}", reply.stderr);
        assert_eq!(reply.stdout, expected, "{name}");
        let mut expected = at(&site, text(recorded, "stderr"));
        if name == "noshebang" {
            // DEVIATE: ours says why as well.
            let why = ": it has no '#!' line and is no program; no shell is guessed (begin a shell script with: #!/bin/sh)\n";
            expected = format!("{}{why}", expected.trim_end());
        }
        assert_eq!(reply.stderr, expected, "{name}");
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

fn start(site: &Site, recording: &Object) -> Server {
    for dir in ["opt/exs", "var/tmp/w"] {
        fs::create_dir_all(site.path(dir)).unwrap();
    }
    let write = |name: &str, text: &str, mode| {
        let path = site.path("opt/exs").join(format!("{name}.sh"));
        fs::write(&path, at(site, text)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let Value::Object(scripts) = &recording["scripts"] else {
        panic!("no scripts")
    };
    for name in scripts.keys() {
        write(name, text(scripts, name), 0o755);
    }
    write("noshebang", "echo hello\n", 0o755);
    write("noexec", "#!/bin/sh\necho hello\n", 0o644);
    // DEVIATE: 0.12.3 runs a profile without run_as as uid 0; ours has to be told.
    let agent = text(recording, "agent.conf")
        .replace("[profile bare]\n", "[profile bare]\nrun_as = root\n")
        .replace("[profile rw]\n", "[profile rw]\nrun_as = root\n");
    site.conf(
        &at(site, &agent),
        &at(site, text(recording, "scripts.conf")),
    );
    let mut command = site.serve(PEER);
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
