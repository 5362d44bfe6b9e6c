//! The life of a run: its limits, its end and what is told of it (root tests).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]
#![allow(unsafe_code, reason = "code between fork and exec")]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ctrl_exec_protocol::frame::{CANCEL, Ended, Request};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{
    PATIENCE, PEER, Server, Site, before, ended, exists, extended, own_mounts, parent_of,
    processes, request, root_or_skip, wait_for,
};

/// Audit 6: what a script leaves behind lives on purpose, until the time is over.
#[test]
fn background_children_outlive_the_answer_and_not_the_time_limit() {
    if !root_or_skip("background_children_outlive_the_answer_and_not_the_time_limit") {
        return;
    }
    let site = Site::new();
    let delayed = "(sleep 1; touch @/run/$1-rebooted; sleep 300; touch @/run/$1-late) >/dev/null 2>&1 & echo answered";
    site.scripts(
        "[profile own]\nrun_as = root\nprocesses = own\n[profile host]\nrun_as = root\nprocesses = host\n\
         [profile limited]\nrun_as = root\nprocesses = own\ntimeout = 3\n[profile limited-host]\nrun_as = root\nprocesses = host\ntimeout = 3\n",
        &[("own", "own", delayed), ("host", "host", delayed), ("limited", "limited", delayed), ("limited-host", "limited-host", delayed)],
    );
    let server = site.start();
    for script in ["own", "host", "limited", "limited-host"] {
        let started = Instant::now();
        let reply = server.request(&extended(script, &[script]));
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (0, "answered\n"),
            "{}",
            reply.stderr
        );
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(ended(&reply), Ended::default());
    }
    for script in ["own", "host", "limited", "limited-host"] {
        wait_for(script, || {
            exists(&site.path("run").join(format!("{script}-rebooted")))
        });
    }
    let marked = |script: &str| alive(&site.text(&format!("@/run/{script}-")), script);
    wait_for("the limited ones are gone", || {
        !marked("limited") && !marked("limited-host")
    });
    for script in ["own", "host"] {
        assert!(marked(script), "{script} lives on");
    }
    assert!(
        server
            .log()
            .contains("ACTION=background-killed SCRIPT=limited"),
        "{}",
        server.log()
    );
    end_all(&site);
}

/// Whether a process with these words in its command line is there.
fn alive(words: &str, arg: &str) -> bool {
    processes().iter().any(|(_, line)| {
        line.contains(&words[..words.rfind("/run").unwrap()])
            && line.split('\0').any(|word| word == arg)
    })
}

/// Kills what scripts of this site left behind, by its process id.
fn end_all(site: &Site) {
    let dir = site.text("@/opt/");
    for (pid, line) in processes() {
        if line.contains(&dir) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Audit 6 (13 of the review): no session, group or double fork escapes, with or without a
/// namespace.
#[test]
fn a_time_limit_ends_every_descendant() {
    if !root_or_skip("a_time_limit_ends_every_descendant") {
        return;
    }
    let site = Site::new();
    let body = "echo $$ > @/run/$1.0
        setsid sh -c 'echo $$ > @/run/'$1'.1; sleep 300' &
        (setsid sh -c 'trap \"\" TERM HUP; (trap \"\" TERM; setsid sh -c \"trap \\\"\\\" TERM; echo \\$\\$ > @/run/'$1'.2; sleep 300; sleep 300; sleep 300\" &); sleep 1' &)
        sh -c 'kill -STOP $$; sleep 300' &
        sleep 300";
    site.scripts(
        "[profile own]\nrun_as = 54321\ntimeout = 2\n[profile host]\nrun_as = 54321\nprocesses = host\ntimeout = 2\n",
        &[("own", "own", body), ("host", "host", body)],
    );
    fs::set_permissions(site.path("run"), fs::Permissions::from_mode(0o777)).unwrap();
    let server = site.start();
    let started = Instant::now();
    let waiting: Vec<_> = ["own", "host"]
        .map(|script| server.send(&extended(script, &[script])))
        .into();
    for waiting in waiting {
        let reply = waiting.reply();
        assert_eq!(reply.exit, 126, "{}", reply.stderr);
        assert!(
            reply
                .stderr
                .ends_with("executor: script killed after 2 seconds\n"),
            "{}",
            reply.stderr
        );
        let ended = ended(&reply);
        assert!(ended.time_limit && !ended.cancelled, "{ended:?}");
        assert_eq!(ended.signal, Some(15));
    }
    for script in ["own", "host"] {
        for number in 0..3 {
            assert!(
                exists(&site.path("run").join(format!("{script}.{number}"))),
                "{script} {number}"
            );
        }
    }
    let dir = site.text("@/");
    wait_for("everything is gone", || {
        !processes()
            .iter()
            .any(|(_, line)| line.contains(&dir) && !line.contains("ctrl-exec-exec"))
    });
    assert!(started.elapsed() >= Duration::from_secs(2));
}

/// Issue 12.
#[test]
fn a_cancel_reaches_the_script_and_a_closed_connection_does_not() {
    if !root_or_skip("a_cancel_reaches_the_script_and_a_closed_connection_does_not") {
        return;
    }
    let site = Site::new();
    // The trap is set last: a child that has not become its program yet would have it, too. It ends
    // itself first: a second signal may come before the exit.
    let body = "(setsid sleep 300 &) ; sleep 300 & trap 'trap \"\" TERM; echo told; exit 9' TERM; echo started > @/run/$1; wait";
    let stubborn = "trap '' TERM; echo started > @/run/$1; while :; do sleep 300; done";
    let gate = "echo started > @/run/$1; until [ -e @/run/open ]; do sleep 0.05; done; echo through > @/run/$1-through";
    site.scripts(
        "[profile own]\nrun_as = root\nprocesses = own\n[profile host]\nrun_as = root\nprocesses = host\n",
        &[("own", "own", body), ("host", "host", body), ("stubborn", "own", stubborn), ("gate", "own", gate)],
    );
    let server = site.start();
    let started = |script: &str| {
        let waiting = server.send(&extended(script, &[script]));
        wait_for(script, || exists(&site.path("run").join(script)));
        waiting
    };
    for script in ["own", "host"] {
        let mut waiting = started(script);
        // In pieces, and twice.
        waiting.stream.write_all(&CANCEL[..7]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        waiting.stream.write_all(&CANCEL[7..]).unwrap();
        let _ = waiting.stream.write_all(CANCEL);
        let begun = Instant::now();
        let reply = waiting.reply();
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (9, "told\n"),
            "{}",
            reply.stderr
        );
        assert_eq!(reply.stderr, "executor: script cancelled\n");
        let expected = Ended {
            cancelled: true,
            ..Ended::default()
        };
        assert_eq!(ended(&reply), expected);
    }
    let mut waiting = started("stubborn");
    waiting.stream.write_all(CANCEL).unwrap();
    let reply = waiting.reply();
    assert_eq!(reply.exit, 126);
    assert_eq!(ended(&reply).signal, Some(9));
    assert!(ended(&reply).cancelled);
    // What is not a cancel, a half-closed and a closed connection.
    let mut waiting = started("gate");
    waiting.stream.write_all(b"something else").unwrap();
    waiting.stream.write_all(CANCEL).unwrap();
    waiting.stream.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(waiting);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!exists(&site.path("run/gate-through")));
    fs::write(site.path("run/open"), "").unwrap();
    wait_for("the script goes on", || {
        exists(&site.path("run/gate-through"))
    });
}

#[test]
fn the_earlier_time_limit_counts() {
    if !root_or_skip("the_earlier_time_limit_counts") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "script_timeout = 600\n[profile p]\nrun_as = 54321\n[profile short]\nrun_as = 54321\ntimeout = 1\n[profile never]\nrun_as = 54321\ntimeout = 0\n",
        &[("p", "p", "sleep 300"), ("short", "short", "sleep 300"), ("never", "never", "sleep 300"), ("sig", "p", "kill -11 $$")],
    );
    let server = site.start();
    for (script, limit, seconds) in [
        ("p", Some(1), 1),
        ("short", Some(300), 1),
        ("short", None, 1),
        ("never", Some(2), 2),
    ] {
        let request = Request {
            time_limit: limit,
            ..extended(script, &[])
        };
        let reply = server.request(&request);
        assert_eq!(
            reply.stderr,
            format!("executor: script killed after {seconds} seconds\n"),
            "{script}"
        );
        assert!(ended(&reply).time_limit);
    }
    let reply = server.request(&extended("sig", &[]));
    assert_eq!(reply.exit, 126);
    assert_eq!(
        ended(&reply),
        Ended {
            signal: Some(11),
            ..Ended::default()
        }
    );
    assert!(
        server
            .log()
            .contains("EXIT=126 PROFILE=p REQID=r SCRIPT=sig SIGNAL=11"),
        "{}",
        server.log()
    );
}

/// A version 1 control group of `controller`, where this system has it.
fn version_1(controller: &str) -> Option<std::path::PathBuf> {
    let dir = Path::new("/sys/fs/cgroup").join(controller);
    dir.join("cgroup.procs").exists().then_some(dir)
}

#[test]
fn death_for_want_of_memory_is_told() {
    if !root_or_skip("death_for_want_of_memory_is_told") {
        return;
    }
    let Some(base) = version_1("memory") else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED (no version 1 memory controller): death_for_want_of_memory_is_told"
        );
        return;
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let below = own
        .lines()
        .find_map(|line| line.split_once(":memory:"))
        .map_or("/", |(_, path)| path);
    let group = base
        .join(below.trim_start_matches('/'))
        .join(format!("exec-test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    fs::write(group.join("memory.limit_in_bytes"), (48 << 20).to_string()).unwrap();
    let _ = fs::write(group.join("memory.swappiness"), "0");
    let site = Site::new();
    let body = "exec perl -e '$a .= \"x\" x 1000000 while 1'";
    site.scripts(
        "[profile own]\nrun_as = 54321\n[profile host]\nrun_as = root\nprocesses = host\n",
        &[
            ("own", "own", body),
            ("host", "host", body),
            ("killed", "host", "kill -9 $$"),
        ],
    );
    let mut command = site.serve(PEER);
    let procs = group.join("cgroup.procs");
    before(&mut command, move || fs::write(&procs, "0"));
    let server = site.start_command(command);
    for script in ["own", "host"] {
        let reply = server.request(&extended(script, &[]));
        assert_eq!(reply.exit, 126, "{}", reply.stderr);
        assert_eq!(
            ended(&reply),
            Ended {
                signal: Some(9),
                oom: true,
                ..Ended::default()
            },
            "{script}"
        );
    }
    let reply = server.request(&extended("killed", &[]));
    assert_eq!(
        ended(&reply),
        Ended {
            signal: Some(9),
            ..Ended::default()
        },
        "not for want of memory"
    );
    drop(server);
    wait_for("the groups of the runs are removed", || {
        fs::remove_dir(&group).is_ok()
    });
}

/// Issue 12.9.
#[test]
fn files_that_the_kernel_does_not_run_are_explained() {
    if !root_or_skip("files_that_the_kernel_does_not_run_are_explained") {
        return;
    }
    let site = Site::new();
    let elf: Vec<u8> = [
        &b"\x7fELF\x02\x02\x01"[..],
        &[0; 9],
        &[0, 2, 0, 22, 0, 0, 0, 1],
        &[0; 80],
    ]
    .concat();
    let files: [(&str, &[u8], u32, &str); 5] = [
        (
            "crlf",
            b"#!/bin/sh\r\necho hello\r\n",
            0o755,
            "ends in CR LF",
        ),
        (
            "gone",
            b"#!/usr/bin/no-such-thing -w\n",
            0o755,
            "its interpreter '/usr/bin/no-such-thing' does not exist",
        ),
        (
            "foreign",
            &elf,
            0o755,
            "another processor (S/390, 64 bits, big endian)",
        ),
        ("plain", b"echo hello\n", 0o755, "no shell is guessed"),
        ("empty", b"", 0o755, "it is empty"),
    ];
    let mut list = String::new();
    for (name, bytes, mode, _) in files {
        fs::write(site.path("opt").join(name), bytes).unwrap();
        fs::set_permissions(
            site.path("opt").join(name),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
        list += &format!("{name} = @/opt/{name} profile=p\n");
    }
    site.script("unreadable", "echo hello");
    site.script("closed", "echo hello");
    for (name, mode) in [("unreadable", 0o711), ("closed", 0o750)] {
        fs::set_permissions(
            site.path("opt").join(name),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
        list += &format!("{name} = @/opt/{name} profile=p\n");
    }
    site.conf("[profile p]\nrun_as = 54321\n", &list);
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert_eq!(exit, 1);
    let server = site.start();
    for (name, _, _, words) in files {
        let reply = server.call(name);
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (127, ""),
            "{name}: {}",
            reply.stderr
        );
        assert!(reply.stderr.contains(words), "{name}: {}", reply.stderr);
        assert_eq!(reply.stderr.lines().count(), 1, "{}", reply.stderr);
        assert!(
            out.lines()
                .any(|line| line.starts_with(&format!("{name}: FAULT")) && line.contains(words)),
            "{name}: {out}"
        );
    }
    assert!(out.contains("user '54321' may not read it"), "{out}");
    assert!(out.contains("user '54321' may not execute it"), "{out}");
    let reply = server.call("closed");
    assert_eq!(reply.exit, 126);
    assert!(
        reply
            .stderr
            .contains("not executable by the profile's run_as user"),
        "{}",
        reply.stderr
    );
}

/// Memory that an executor and its children hold, in KiB: what several share counts once.
fn memory(server: &Server) -> u64 {
    let executor = i32::try_from(server.child.id()).unwrap();
    let mut sum = 0;
    for (pid, line) in processes() {
        if pid != executor && !(line.contains("ctrl-exec-exec") && parent_of(pid) == Some(executor))
        {
            continue;
        }
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        sum += smaps
            .lines()
            .filter(|line| line.starts_with("Pss_Anon:") || line.starts_with("Pss_Shmem:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    sum
}

/// Audit 21.
#[test]
fn half_sent_frames_hold_little() {
    if !root_or_skip("half_sent_frames_hold_little") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("known", "p", "wc -c")]);
    let mut command = site.serve(PEER);
    command.args(["--frame-timeout", "30"]);
    let server = site.start_command(command);
    assert_eq!(
        server
            .request(&request("known", &[0; 1000], &[]))
            .stdout
            .trim(),
        "1000"
    );
    let idle = memory(&server);
    // A quarter each: not known, known and small enough, known and too large, and a head that has no end.
    let frames = [
        request("unknown", &vec![0; 16_000_000], &[])
            .encode()
            .unwrap(),
        request("known", &vec![0; 1 << 20], &[]).encode().unwrap(),
        request("known", &vec![0; 16_000_000], &[])
            .encode()
            .unwrap(),
        Request {
            reqid: vec![b'r'; 16_000_000],
            ..request("known", b"", &[])
        }
        .encode()
        .unwrap(),
    ];
    let mut held = Vec::new();
    for number in 0..80 {
        let stream = server.connect();
        stream.set_nonblocking(true).unwrap();
        held.push((stream, 0, &frames[number % 4]));
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        for (stream, sent, frame) in &mut held {
            let end = frame.len() - 100;
            if *sent < end {
                if let Ok(count) = stream.write(&frame[*sent..end]) {
                    *sent += count;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent: usize = held.iter().map(|(_, sent, _)| sent).sum();
    let grown = memory(&server).saturating_sub(idle);
    println!(
        "{} MiB sent in 80 unfinished frames; {grown} KiB held",
        sent >> 20
    );
    assert!(sent > 500 << 20, "{sent}");
    assert!(grown < 16 << 10, "{grown} KiB");
    // They are gone, and so is what they held.
    drop(held);
    let answer = server.request(&request("known", &vec![0; 4_000_000], &[]));
    assert_eq!(answer.stdout.trim(), "4000000", "{}", answer.stderr);
    let reply = server.request(&request("known", &vec![0; 4 << 20], &[]));
    assert_eq!(reply.exit, -1);
    assert!(
        reply
            .stderr
            .contains("larger than executor_max_input (4194304)"),
        "{}",
        reply.stderr
    );
    let reply = server.request(&request("unknown", &vec![0; 16_000_000], &[]));
    assert_eq!(reply.stderr, "executor: script not permitted\n");
}

#[test]
fn a_killed_worker_ends_its_run_and_gives_back_what_it_held() {
    if !root_or_skip("a_killed_worker_ends_its_run_and_gives_back_what_it_held") {
        return;
    }
    let site = Site::new();
    let body = "echo $$ > @/run/pid; sleep 300";
    site.scripts(
        "[profile p]\nrun_as = root\nprocesses = host\n",
        &[("p", "p", body), ("wc", "p", "wc -c")],
    );
    let server = site.start();
    let _waiting = server.send(&request("p", &vec![0; 4_000_000], &[]));
    wait_for("it runs", || {
        fs::read_to_string(site.path("run/pid")).is_ok_and(|text| text.ends_with('\n'))
    });
    let pid: i32 = fs::read_to_string(site.path("run/pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let supervisor = parent_of(pid).unwrap();
    let worker = parent_of(supervisor).unwrap();
    assert_eq!(parent_of(worker), i32::try_from(server.child.id()).ok());
    kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    wait_for("the script is ended", || {
        test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
    });
    let reply = server.request(&request("wc", &vec![0; 4_000_000], &[]));
    assert_eq!(reply.stdout.trim(), "4000000", "{}", reply.stderr);
}

#[test]
fn a_killed_supervisor_is_told() {
    if !root_or_skip("a_killed_supervisor_is_told") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile p]\nrun_as = root\nprocesses = host\n",
        &[("p", "p", "kill -9 $PPID; sleep 1; echo alone")],
    );
    let server = site.start();
    let reply = server.request(&extended("p", &[]));
    assert_eq!(reply.exit, 126);
    assert!(
        reply.stderr.contains("supervisor was killed"),
        "{}",
        reply.stderr
    );
}

/// Issue 19.6.
#[test]
fn records_go_to_the_system_log_once_with_the_name() {
    if !root_or_skip("records_go_to_the_system_log_once_with_the_name") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("p", "p", "true")]);
    fs::create_dir(site.path("dev")).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(site.path("dev/log")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = site.start();
    assert_eq!(server.call("p").exit, 0);
    let mut line = [0; 2048];
    let mut next = || {
        let count = socket.recv(&mut line).unwrap();
        String::from_utf8_lossy(&line[..count]).into_owned()
    };
    let run = next();
    // Facility daemon, severity info.
    assert!(run.starts_with("<30>"), "{run}");
    assert_eq!(run.matches("ctrl-exec-exec").count(), 1, "{run}");
    assert!(
        run.contains("ACTION=run DISPATCHER=d EXIT=0 PROFILE=p REQID=r SCRIPT=p"),
        "{run}"
    );
    server.call("other");
    let deny = next();
    assert!(
        deny.starts_with("<28>") && deny.contains("ACTION=deny"),
        "{deny}"
    );
    assert_eq!(server.log(), "", "nothing on standard error");
}

/// Audit 6: a delayed `reboot` signals process 1. The host here is a namespace of the test's own.
#[test]
fn a_reboot_reaches_the_hosts_init_if_the_profile_says_so() {
    if !root_or_skip("a_reboot_reaches_the_hosts_init_if_the_profile_says_so") {
        return;
    }
    let site = Site::new();
    let reboot =
        "(sleep 0.3; kill -$1 1; touch @/run/$2-sent; sleep 60) >/dev/null 2>&1 & echo answered";
    site.scripts(
        "[profile boot]\nrun_as = root\nprocesses = own\ncaps = CAP_SYS_BOOT\n[profile own]\nrun_as = root\nprocesses = own\n\
         [profile host]\nrun_as = root\nprocesses = host\n",
        &[("boot", "boot", reboot), ("own", "own", reboot), ("host", "host", reboot)],
    );
    // Process 1 of the namespace notes what it is told, and ends everything with its input.
    let init = r#"my $dir = shift;
        for my $s (qw(TERM USR1 USR2 INT)) { $SIG{$s} = sub { open(my $f, ">", "$dir/init-$s") } }
        if (!fork) { exec { $ARGV[0] } @ARGV }
        while (1) { my $got = sysread(STDIN, my $byte, 1); last if defined $got && $got == 0 }"#;
    let serve = site.serve(PEER);
    let mut host = Command::new("unshare");
    host.args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["perl", "-e", init])
        .arg(site.path("run"))
        .arg(serve.get_program())
        .args(serve.get_args())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(fs::File::create(site.path("log")).unwrap());
    let server = site.start_command(host);
    let told = |signal: &str| exists(&site.path("run").join(format!("init-{signal}")));
    let call = |script: &str, signal: &str| {
        let reply = server.request(&request(script, b"", &[signal, script]));
        assert_eq!(reply.stdout, "answered\n", "{}", reply.stderr);
        let sent = site.path("run").join(format!("{script}-sent"));
        wait_for("the signal is sent", || exists(&sent));
        fs::remove_file(&sent).unwrap();
    };
    call("own", "USR1");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!told("USR1"), "not without the capability");
    call("host", "USR2");
    call("boot", "TERM");
    wait_for("TERM and USR2 have come", || told("TERM") && told("USR2"));
    assert!(!told("USR1") && !told("INT"));
}

/// The whole answer arrives, however late it is read.
#[test]
fn a_peer_that_reads_late_gets_everything() {
    if !root_or_skip("a_peer_that_reads_late_gets_everything") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "max_output = 4M\n[profile p]\nrun_as = root\n",
        &[("big", "p", "head -c 3000000 /dev/zero; echo the end")],
    );
    let server = site.start();
    let waiting = server.send(&extended("big", &[]));
    std::thread::sleep(Duration::from_millis(1500));
    let reply = waiting.reply_of_at_most(8 << 20);
    let output = &reply.response.stdout;
    assert_eq!((output.bytes().len(), output.dropped), (3_000_008, 0));
    assert!(output.head.ends_with(b"the end\n"));
}

#[test]
fn a_script_that_cannot_be_started_at_all_gives_minus_one() {
    if !root_or_skip("a_script_that_cannot_be_started_at_all_gives_minus_one") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("p", "p", "echo ran")]);
    let mut command = site.serve(PEER);
    command.arg("--unsafe-paths");
    before(&mut command, || {
        let limit = rustix::process::Rlimit {
            current: Some(8),
            maximum: Some(8),
        };
        Ok(rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            limit,
        )?)
    });
    let server = site.start_command(command);
    let reply = server.call("p");
    assert_eq!(
        (reply.exit, reply.stdout.as_str(), reply.stderr.as_str()),
        (-1, "", ""),
        "{}",
        server.log()
    );
    let log = server.log();
    assert!(
        log.contains("cannot start a script: Too many open files"),
        "{log}"
    );
}

/// A user whose id means "leave it as it is", root's, to the system calls.
#[test]
fn a_named_user_with_an_impossible_id_is_refused() {
    if !root_or_skip("a_named_user_with_an_impossible_id_is_refused") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile uid]\nrun_as = uid-user\n[profile gid]\nrun_as = gid-user\n[profile good]\nrun_as = good-user\n",
        &[("uid", "uid", "id"), ("gid", "gid", "id"), ("good", "good", "id -u; id -g")],
    );
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let more = "uid-user:x:4294967295:100::/:/bin/sh\ngid-user:x:54321:4294967295::/:/bin/sh\ngood-user:x:54322:54323::/:/bin/sh\n";
    fs::write(site.path("passwd"), format!("{passwd}{more}")).unwrap();
    let mut command = site.serve(PEER);
    let own = site.path("passwd");
    before(&mut command, move || {
        own_mounts()?;
        Ok(rustix::mount::mount_bind(&own, "/etc/passwd")?)
    });
    let server = site.start_command(command);
    for script in ["uid", "gid"] {
        let reply = server.call(script);
        assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""), "{script}");
        assert!(
            reply.stderr.contains("is not a usable user id"),
            "{}",
            reply.stderr
        );
    }
    assert_eq!(server.call("good").stdout, "54322\n54323\n");
}

#[test]
fn a_writable_path_that_cannot_be_examined_stops_the_run() {
    if !root_or_skip("a_writable_path_that_cannot_be_examined_stops_the_run") {
        return;
    }
    let site = Site::new();
    symlink("loop", site.path("loop")).unwrap();
    site.scripts(
        "[profile p]\nrun_as = root\nwritable = @/absent:@/loop\n[profile absent]\nrun_as = root\nwritable = @/absent\n",
        &[("p", "p", "echo ran"), ("absent", "absent", "echo ran")],
    );
    let server = site.start();
    let reply = server.call("p");
    assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""));
    assert!(
        reply.stderr.contains("cannot look at writable path"),
        "{}",
        reply.stderr
    );
    assert_eq!(server.call("absent").stdout, "ran\n");
}
