//! The socket without root: round trips, malformed frames, limits of one connection
//! (executor.md §8.2, §8.3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{PATIENCE, Reply, Server, Site, exists, is_root, request, status};

/// An ordinary user without any power, when the tests run as root.
const PLAIN_UID: u32 = 65_534;

/// Seconds that tests wait for what does not come.
const FRAME_TIMEOUT: &str = "2";

/// The executor in its unprivileged mode: as another user when the tests run as root.
fn unprivileged(site: &Site) -> Server {
    site.start_command(plain(site))
}

fn plain(site: &Site) -> Command {
    if !is_root() {
        let user = users_own_name();
        let mut command = site.serve(&user);
        command.args(["--frame-timeout", FRAME_TIMEOUT]);
        command.env("CTRL_EXEC_EXEC_ALLOW_UNPRIV", "");
        return command;
    }
    for dir in ["run", "log", "etc/ctrl-exec-agent/agent.conf"] {
        let _ = chown(site.path(dir), Some(PLAIN_UID), Some(PLAIN_UID));
    }
    let command = site.serve("nobody");
    // The build directory may be closed to that user.
    let copy = site.path("run/ctrl-exec-exec");
    // By another process: a test that forks meanwhile would hold a copy of ours open for writing, and
    // the kernel runs no such file.
    let copying = Command::new("cp")
        .arg(command.get_program())
        .arg(&copy)
        .status();
    assert!(copying.unwrap().success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let mut copied = Command::new(copy);
    copied
        .args(command.get_args())
        .args(["--frame-timeout", FRAME_TIMEOUT])
        .current_dir("/")
        .uid(PLAIN_UID)
        .gid(PLAIN_UID);
    copied.stderr(fs::File::create(site.path("log")).unwrap());
    copied.env("CTRL_EXEC_EXEC_ALLOW_UNPRIV", "");
    copied
}

fn users_own_name() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn site() -> Site {
    let site = Site::new();
    let uid = if is_root() {
        PLAIN_UID
    } else {
        rustix::process::geteuid().as_raw()
    };
    let me = format!("run_as = {uid}\n");
    site.scripts(
        &format!(
            "max_output = 64K\n[profile default]\n{me}[profile run-as]\nrun_as = daemon\n[profile caps]\n{me}caps = CAP_KILL\n\
             [profile net]\n{me}no_network = yes\n[profile quick]\n{me}timeout = 1\n"
        ),
        &[
            ("ok", "default", "read l; echo \"$l:$1\"; echo err >&2; exit 7"),
            ("alive", "default", "echo alive"),
            ("user", "run-as", "id"),
            ("caps", "caps", "id"),
            ("net", "net", "id"),
            ("slow", "quick", "sleep 300 & sleep 300"),
            ("daemon", "default", "sleep 300 & echo $! started"),
            ("deaf", "default", "head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2; echo end"),
            ("closes", "default", "exec <&-; sleep 0.1; echo fine"),
            ("cat", "default", "cat"),
            ("gate", "default", "until [ -e @/run/open ]; do sleep 0.05; done; echo through"),
            ("signals", "default", "grep -E '^Sig(Blk|Ign)' /proc/self/status"),
            ("args", "default", "echo $#; for a; do echo \"<$a>\"; done"),
        ],
    );
    site
}

#[test]
fn round_trip_and_refusals() {
    let site = site();
    let server = unprivileged(&site);
    let reply = server.request(&request("ok", b"world\n", &["hello"]));
    assert_eq!(
        (reply.exit, reply.stdout, reply.stderr),
        (7, "world:hello\n".into(), "err\n".into())
    );
    let reply = server.request(&request("args", b"", &["", "a b", "$(id)", "é"]));
    assert_eq!(reply.stdout, "4\n<>\n<a b>\n<$(id)>\n<é>\n");
    let reply = server.call("nope");
    assert_eq!(
        (reply.exit, reply.stderr),
        (-1, "executor: script not permitted\n".into())
    );
    for script in ["user", "caps", "net"] {
        let reply = server.call(script);
        assert_eq!(reply.exit, 126, "{script}");
        assert!(
            reply.stderr.contains("needs an executor that runs as root"),
            "{}",
            reply.stderr
        );
    }
    let reply = server.call("signals");
    for key in ["SigBlk", "SigIgn"] {
        let mask = u64::from_str_radix(status(&reply.stdout, key), 16).unwrap();
        // Beyond 31 are the C library's own, which a test environment may have changed.
        assert_eq!(mask & 0x7fff_ffff, 0, "{}", reply.stdout);
    }
    assert!(
        server
            .log()
            .contains("ACTION=run DISPATCHER=d EXIT=7 PROFILE=default REQID=r SCRIPT=ok")
    );
    let denied = "ACTION=deny DISPATCHER=d REASON=\"script not permitted\" REQID=r SCRIPT=nope";
    assert!(server.log().contains(denied), "{}", server.log());
}

#[test]
fn malformed_frames() {
    let site = site();
    let server = unprivileged(&site);
    let framed = |body: &[u8]| {
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    };
    let head = b"\0\0\0\x05reqid\0\0\0\x04disp\0\0\0\x02ok\0\0\0\0";
    for silent in [
        b"".to_vec(),
        b"\0\0".to_vec(),
        0u32.to_be_bytes().to_vec(),
        17_000_000u32.to_be_bytes().to_vec(),
        [&100u32.to_be_bytes()[..], b"abcd"].concat(),
    ] {
        let started = Instant::now();
        assert_eq!(server.raw(&silent), b"", "{silent:x?}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    for malformed in [
        framed(b"\0\0\x03\xe8abcd"),
        framed(&[&head[..], b"\0\0\x27\x0f"].concat()),
        framed(&[&head[..], b"\0\0\0\x01\0\0\0\x32ab"].concat()),
        framed(head),
        framed(b"x"),
    ] {
        let reply = Reply::of(&server.raw(&malformed));
        let expected = (-1, "", "executor: malformed request\n");
        assert_eq!(
            (reply.exit, reply.stdout.as_str(), reply.stderr.as_str()),
            expected
        );
    }
    let reply = server.call("alive");
    assert_eq!((reply.exit, reply.stdout.as_str()), (0, "alive\n"));
}

#[test]
fn a_descendant_that_keeps_stdout_open_does_not_hold_the_answer() {
    let site = site();
    let server = unprivileged(&site);
    let started = Instant::now();
    let reply = server.call("daemon");
    assert_eq!(reply.exit, 0);
    let pid: i32 = reply
        .stdout
        .strip_suffix(" started\n")
        .unwrap()
        .parse()
        .unwrap();
    assert!(started.elapsed() < PATIENCE);
    // Still there: answering is no reason to kill what a script left behind on purpose.
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn neither_side_blocks_the_other() {
    let site = site();
    let server = unprivileged(&site);
    let input = vec![b'x'; (4 << 20) - 64];
    // Reads nothing of a large stdin while it fills both outputs.
    let reply = server.request(&request("deaf", &input, &[]));
    assert_eq!(reply.exit, 0);
    assert!(reply.stdout.ends_with("end\n"));
    assert!(
        reply.stdout.contains("[ctrl-exec: 134468 bytes dropped]"),
        "{}",
        reply.stdout.len()
    );
    assert!(reply.stderr.contains("[ctrl-exec: 134464 bytes dropped]"));
    let reply = server.request(&request("closes", &input, &[]));
    assert_eq!((reply.exit, reply.stdout.as_str()), (0, "fine\n"));
    let reply = server.request(&request("cat", &input[..60_000], &[]));
    assert_eq!(reply.stdout.len(), 60_000);
    let mut extended = request("cat", &input, &[]);
    extended.extended = true;
    let output = server.request(&extended).response.stdout;
    assert_eq!((output.head.len(), output.tail.len()), (32 << 10, 32 << 10));
    assert_eq!(output.dropped, (4 << 20) - 64 - (64 << 10));
}

#[test]
fn a_script_that_takes_too_long_is_killed_with_its_descendants() {
    let site = site();
    let server = unprivileged(&site);
    let started = Instant::now();
    let reply = server.call("slow");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(reply.exit, 126);
    assert_eq!(reply.stderr, "executor: script killed after 1 seconds\n");
}

#[test]
fn only_so_many_scripts_run_at_once() {
    let site = site();
    let text = fs::read_to_string(site.agent_conf()).unwrap();
    fs::write(
        site.agent_conf(),
        format!("executor_max_children = 2\n{text}"),
    )
    .unwrap();
    let server = unprivileged(&site);
    let running: Vec<_> = (0..2)
        .map(|_| server.send(&request("gate", b"", &[])))
        .collect();
    let reply = server.call("alive");
    let expected = (-1, "executor: too many scripts running\n".to_owned());
    assert_eq!((reply.exit, reply.stderr), expected);
    fs::write(site.path("run/open"), "").unwrap();
    for pending in running {
        assert_eq!(pending.reply().stdout, "through\n");
    }
    // The places are free as soon as the processes are reaped.
    let started = Instant::now();
    while server.call("alive").exit != 0 {
        assert!(started.elapsed() < PATIENCE);
    }
}

#[test]
fn sigterm_ends_the_server_and_not_what_it_runs() {
    let site = site();
    let mut server = unprivileged(&site);
    let mut pending = server.send(&request("gate", b"", &[]));
    // The next answer proves that the first connection has its process.
    assert_eq!(server.call("alive").exit, 0);
    server.signal(Signal::HUP);
    assert_eq!(
        server.call("alive").exit,
        0,
        "SIGHUP only forgets the configuration"
    );
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(!exists(&site.socket()));
    fs::write(site.path("run/open"), "").unwrap();
    let mut answer = Vec::new();
    pending.stream.read_to_end(&mut answer).unwrap();
    assert_eq!(Reply::of(&answer).stdout, "through\n");
}

#[test]
fn a_silent_peer_is_dropped_and_does_not_block_others() {
    let site = site();
    let server = unprivileged(&site);
    let started = Instant::now();
    let mut silent = server.connect();
    silent.write_all(b"\0\0\0\x50").unwrap();
    assert_eq!(server.call("alive").exit, 0);
    // To the end, since one read of a socket with a timeout may be interrupted (signal(7)).
    assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn every_request_sees_the_configuration_of_the_moment() {
    let site = site();
    let server = unprivileged(&site);
    let list = |line: &str| fs::write(site.scripts_conf(), site.text(line)).unwrap();
    for round in 0..5 {
        // Same length, most likely within one tick of the file system's clock.
        list("one = @/opt/alive\n");
        assert_eq!(
            (server.call("one").exit, server.call("two").exit),
            (0, -1),
            "{round}"
        );
        list("two = @/opt/alive\n");
        assert_eq!(
            (server.call("one").exit, server.call("two").exit),
            (-1, 0),
            "{round}"
        );
    }
    let good = fs::read(site.agent_conf()).unwrap();
    fs::write(site.agent_conf(), "[profile x]\ncaps = NOTCAP\n").unwrap();
    let reply = server.call("two");
    assert_eq!(
        (reply.exit, reply.stderr.as_str()),
        (-1, "executor: config error\n")
    );
    assert!(
        server.log().contains("invalid capability 'NOTCAP'"),
        "{}",
        server.log()
    );
    fs::remove_file(site.agent_conf()).unwrap();
    assert_eq!(server.call("two").stderr, "executor: config error\n");
    fs::write(site.agent_conf(), &good).unwrap();
    assert_eq!(server.call("two").exit, 0);
    fs::remove_file(site.scripts_conf()).unwrap();
    assert_eq!(
        server.call("two").stderr,
        "executor: script not permitted\n"
    );
}

#[test]
fn a_change_while_a_peer_dawdles_counts() {
    let site = site();
    let server = unprivileged(&site);
    let frame = request("alive", b"", &[]).encode().unwrap();
    let mut stream = server.connect();
    stream.write_all(&frame[..10]).unwrap();
    // This answer proves that the first connection has its process.
    assert_eq!(server.call("alive").exit, 0);
    fs::write(site.scripts_conf(), "").unwrap();
    stream.write_all(&frame[10..]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(
        Reply::of(&answer).stderr,
        "executor: script not permitted\n"
    );
}

#[test]
fn serve_refuses_to_start_without_what_it_needs() {
    let site = site();
    let start = |mut command: Command| {
        let status = command.status().unwrap();
        (
            status.code().unwrap(),
            fs::read_to_string(site.path("log")).unwrap(),
        )
    };
    let mut no_leave = plain(&site);
    no_leave.env_remove("CTRL_EXEC_EXEC_ALLOW_UNPRIV");
    let (exit, log) = start(no_leave);
    assert_eq!(exit, 1);
    assert!(log.contains("serve must run as root"), "{log}");

    let mut nobody = site.serve("no-such-user-x");
    nobody.env("CTRL_EXEC_EXEC_ALLOW_UNPRIV", "");
    let (exit, log) = start(nobody);
    assert_eq!(exit, 1);
    assert!(log.contains("no such user: 'no-such-user-x'"), "{log}");

    let long = site.path("run").join("s".repeat(108));
    let mut command = site.exec();
    command.arg("serve").arg(&long).args(["a", "b", "root"]);
    command.env("CTRL_EXEC_EXEC_ALLOW_UNPRIV", "");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("too long"));
}
