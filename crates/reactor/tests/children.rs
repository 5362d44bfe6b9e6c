//! Real processes, signals and timers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ctrl_exec_reactor::{
    ChildExit, ChildId, ChildResult, ChildSpec, Config, EndedBy, Event, Output, Reactor, Signal,
    SpawnError,
};

struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("children-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn script(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn reactor() -> Reactor {
    Reactor::new(Config::default()).unwrap()
}

fn shell(script: &str) -> ChildSpec {
    ChildSpec {
        args: vec!["-c".into(), script.into()],
        env: [("PATH".into(), "/usr/bin:/bin".into())].into(),
        ..ChildSpec::new("/bin/sh")
    }
}

fn wait(reactor: &mut Reactor, id: ChildId) -> ChildResult {
    loop {
        match reactor
            .next(Some(secs(60)))
            .unwrap()
            .expect("the child ends")
        {
            Event::Child { child, result } if child == id => return *result,
            _ => {}
        }
    }
}

fn run(spec: ChildSpec) -> ChildResult {
    let mut reactor = reactor();
    let child = reactor.spawn(spec).unwrap();
    let result = wait(&mut reactor, child);
    assert_eq!((reactor.live_children(), reactor.buffered_bytes()), (0, 0));
    result
}

fn text(captured: ctrl_exec_reactor::Captured) -> String {
    String::from_utf8(captured.into_bytes()).unwrap()
}

#[test]
fn exit_codes_and_output() {
    let result = run(shell("echo out; echo err >&2; exit 3"));
    assert_eq!(result.exit, ChildExit::Code(3));
    assert_eq!(
        (text(result.stdout), text(result.stderr)),
        ("out\n".into(), "err\n".into())
    );
    assert_eq!((result.stdin_unwritten, result.output_open), (0, false));
}

#[test]
fn death_by_signal() {
    assert_eq!(run(shell("kill -TERM $$")).exit, ChildExit::Signal(15));
    assert_eq!(run(shell("kill -KILL $$")).exit, ChildExit::Signal(9));
}

#[test]
fn environment_is_exactly_what_was_given() {
    let spec = ChildSpec {
        env: [("A".into(), "1".into()), ("B".into(), "x y".into())].into(),
        ..ChildSpec::new("/usr/bin/env")
    };
    assert_eq!(text(run(spec).stdout), "A=1\nB=x y\n");
}

#[test]
fn standard_input_then_its_end() {
    let spec = ChildSpec {
        stdin: b"{\"a\":1}".to_vec(),
        ..shell("cat; echo; echo end")
    };
    assert_eq!(text(run(spec).stdout), "{\"a\":1}\nend\n");
    let spec = shell("cat; echo end");
    assert_eq!(
        text(run(spec).stdout),
        "end\n",
        "without a payload it ends at once"
    );
}

#[test]
fn a_child_that_does_not_want_its_input() {
    // More than a pipe holds, into one that closes it, and into one that ends.
    for script in ["exec 0<&-; sleep 0.1; echo ok", "echo ok"] {
        let result = run(ChildSpec {
            stdin: vec![b'x'; 500_000],
            ..shell(script)
        });
        assert_eq!(
            (result.exit, text(result.stdout)),
            (ChildExit::Code(0), "ok\n".into())
        );
        assert!(result.stdin_unwritten > 0 && !result.stdin_timed_out);
    }
}

#[test]
fn input_timeout_closes_the_pipe_and_lets_it_go_on() {
    let dir = Dir::new();
    let flag = dir.0.join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; wc -c",
        flag.display()
    );
    let mut reactor = reactor();
    let spec = ChildSpec {
        stdin: vec![b'x'; 500_000],
        stdin_timeout: millis(100),
        ..shell(&script)
    };
    let child = reactor.spawn(spec).unwrap();
    assert!(
        reactor.next(Some(millis(500))).unwrap().is_none(),
        "it still runs"
    );
    fs::write(flag, "").unwrap();
    let result = wait(&mut reactor, child);
    assert!(result.stdin_timed_out);
    let taken: usize = text(result.stdout).trim().parse().unwrap();
    assert_eq!(taken + result.stdin_unwritten, 500_000);
}

#[test]
fn both_streams_at_once_keep_head_and_tail() {
    let capture = Output::Capture { head: 10, tail: 6 };
    let spec = ChildSpec {
        stdout: capture,
        stderr: Output::Capture {
            head: 5_000_000,
            tail: 0,
        },
        ..shell(
            "head -c 3000000 /dev/zero | tr '\\0' e >&2; printf 'beginning.'; \
                 head -c 2000000 /dev/zero; echo 'ended'",
        )
    };
    let result = run(spec);
    assert_eq!(result.exit, ChildExit::Code(0));
    assert_eq!(result.stdout.head, b"beginning.");
    assert_eq!(result.stdout.tail, b"ended\n");
    assert_eq!(result.stdout.dropped, 2_000_000);
    assert_eq!(
        (result.stderr.head.len(), result.stderr.dropped),
        (3_000_000, 0)
    );
}

#[test]
fn timeout_kills_the_whole_group() {
    let dir = Dir::new();
    let pid_file = dir.0.join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
    let start = Instant::now();
    let result = run(ChildSpec {
        timeout: Some(millis(300)),
        ..shell(&script)
    });
    assert_eq!(result.exit, ChildExit::TimedOut);
    assert!(start.elapsed() < secs(30));
    assert!(
        !result.output_open,
        "the grandchild held the output open, and is dead too"
    );
    let pid = fs::read_to_string(pid_file).unwrap();
    let dead = || match fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
        Ok(status) => status.contains(") Z "), // until init looks after it
        Err(_) => true,
    };
    // A process that dies closes its files before its state says so.
    while !dead() {
        assert!(start.elapsed() < secs(30), "the grandchild lives");
        std::thread::sleep(millis(10));
    }
}

#[test]
fn kill_on_request() {
    let mut reactor = reactor();
    let child = reactor.spawn(shell("sleep 1000; true")).unwrap();
    assert!(reactor.kill_group(child));
    assert_eq!(wait(&mut reactor, child).exit, ChildExit::Signal(9));
    assert!(!reactor.kill_group(child));
}

#[test]
fn a_descendant_that_keeps_the_output_open_does_not_hold_the_report() {
    let spec = ChildSpec {
        grace: millis(200),
        ..shell("echo $$; sleep 30 & exit 4")
    };
    let start = Instant::now();
    let mut reactor = reactor();
    let child = reactor.spawn(spec).unwrap();
    let result = wait(&mut reactor, child);
    assert!(start.elapsed() < secs(20));
    assert_eq!(result.exit, ChildExit::Code(4));
    let pid: i32 = text(result.stdout).trim().parse().unwrap();
    assert!(result.output_open);
    // The descendant still lives in the child's group; end it.
    let group = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn an_early_end_of_output_is_not_the_end() {
    let result = run(shell("exec >&- 2>&-; sleep 0.2; exit 5"));
    assert_eq!(result.exit, ChildExit::Code(5));
}

#[test]
fn programs_that_cannot_be_executed() {
    let dir = Dir::new();
    let mut reactor = reactor();
    let mut errno = |path: &Path| match reactor.spawn(ChildSpec::new(path)) {
        Err(SpawnError::Exec(error)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    };
    assert_eq!(errno(&dir.0.join("missing")), Some(2));
    assert_eq!(errno(&dir.script("plain", "#!/bin/sh\n", 0o644)), Some(13));
    assert_eq!(
        errno(&dir.script("bad", "#!/nonexistent/interpreter\n", 0o755)),
        Some(2)
    );
    assert_eq!(reactor.live_children(), 0);
}

#[test]
fn no_shell_is_guessed_for_a_script_without_a_first_line() {
    let dir = Dir::new();
    let script = dir.script("plain", "echo ran\n", 0o755);
    let error = reactor().spawn(ChildSpec::new(script)).unwrap_err();
    assert!(matches!(error, SpawnError::Exec(_)), "{error}");
    assert_eq!(error.io().raw_os_error(), Some(8), "ENOEXEC");
}

/// Ways out of a process group and of its parents.
const ESCAPES: [&str; 5] = [
    "sleep 1000 &",
    "setsid sleep 1000 &",
    "(setsid sh -c 'sleep 1000; true' &)",
    "setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 0.2; done' &",
    "env -i /usr/bin/setsid /bin/sh -c '/bin/sleep 1000; true' & sleep 0.2",
];

/// Pids of processes that have this in their command line.
fn alive(mark: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| {
            let of = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let stat = String::from_utf8_lossy(&of("stat")).into_owned();
            let line = String::from_utf8_lossy(&of("cmdline")).into_owned();
            line.contains(mark) && !stat.contains(") Z ")
        })
        .collect()
}

#[test]
fn ending_a_child_ends_all_that_it_has_started() {
    for (number, escape) in ESCAPES.iter().enumerate() {
        for by_timeout in [true, false] {
            let seconds = format!("10{number}{}", u32::from(by_timeout) + 7);
            let escape = escape.replace("1000", &seconds);
            let dir = Dir::new();
            let script = format!("{escape}\ntouch {}/up; wait; sleep 1000", dir.0.display());
            let mut reactor = reactor();
            let start = Instant::now();
            let spec = ChildSpec {
                timeout: by_timeout.then(|| millis(700)),
                patience: Some(millis(400)),
                mark: Some(format!("TEST_MARK={}-{number}", std::process::id())),
                ..shell(&script)
            };
            let child = reactor.spawn(spec).unwrap();
            while !dir.0.join("up").exists() {
                let _ = reactor.next(Some(millis(10))).unwrap();
                assert!(start.elapsed() < secs(30));
            }
            if !by_timeout {
                assert!(reactor.end_child(child));
                assert!(reactor.end_child(child), "it is being ended");
            }
            let result = wait(&mut reactor, child);
            let expected = match by_timeout {
                true => EndedBy::Timeout,
                false => EndedBy::Request,
            };
            assert_eq!(result.ended_by, Some(expected), "{escape}");
            assert!(!reactor.end_child(child), "it has ended");
            assert_eq!(
                alive(&format!("sleep\0{seconds}")),
                Vec::<String>::new(),
                "{escape}"
            );
            assert!(start.elapsed() < secs(20));
        }
    }
}

#[test]
fn a_child_may_use_its_patience() {
    let spec = |script: &str| ChildSpec {
        timeout: Some(millis(300)),
        patience: Some(secs(60)),
        ..shell(script)
    };
    // The trap is set last: a child that has not become its program yet would have it, too.
    let result = run(spec(
        "sleep 1000 & trap 'trap \"\" TERM; echo cleaned; exit 3' TERM; while :; do wait; done",
    ));
    assert_eq!(
        (result.exit, result.ended_by),
        (ChildExit::Code(3), Some(EndedBy::Timeout))
    );
    assert_eq!(result.stdout.head, b"cleaned\n");
    let start = Instant::now();
    let result = run(spec("exec sleep 1000"));
    assert_eq!(result.exit, ChildExit::Signal(15));
    assert!(start.elapsed() < secs(30), "nothing waits for nobody");
    let stubborn = ChildSpec {
        patience: Some(millis(300)),
        ..spec("trap '' TERM; while :; do sleep 0.05; done")
    };
    let result = run(stubborn);
    assert_eq!(
        (result.exit, result.ended_by),
        (ChildExit::Signal(9), Some(EndedBy::Timeout))
    );
    let result = run(ChildSpec {
        patience: Some(secs(5)),
        ..shell("exit 4")
    });
    assert_eq!((result.exit, result.ended_by), (ChildExit::Code(4), None));
}

#[test]
fn output_to_nowhere() {
    let spec = ChildSpec {
        stderr: Output::Null,
        ..shell("echo kept; echo lost >&2")
    };
    let result = run(spec);
    assert_eq!(text(result.stdout), "kept\n");
    assert_eq!(result.stderr, Default::default());
}

#[test]
fn many_children_at_once() {
    let mut reactor = reactor();
    let mut left: Vec<ChildId> = Vec::new();
    for n in 0..40 {
        left.push(
            reactor
                .spawn(shell(&format!("head -c 200000 /dev/zero; exit {n}")))
                .unwrap(),
        );
    }
    let mut codes = Vec::new();
    while !left.is_empty() {
        if let Event::Child { child, result } = reactor.next(Some(secs(60))).unwrap().unwrap() {
            left.retain(|id| *id != child);
            let ChildExit::Code(code) = result.exit else {
                panic!()
            };
            assert_eq!(result.stdout.dropped, 200_000 - 65_536);
            codes.push(code);
        }
    }
    codes.sort_unstable();
    assert_eq!(codes, (0..40).collect::<Vec<_>>());
}

#[test]
fn timers_in_order_and_cancelled() {
    let mut reactor = reactor();
    reactor.set_timer(millis(60), 2);
    let cancelled = reactor.set_timer(millis(40), 9);
    let first = reactor.set_timer(millis(20), 1);
    assert!(reactor.cancel_timer(cancelled) && !reactor.cancel_timer(cancelled));
    let mut tokens = Vec::new();
    while let Some(event) = reactor.next(Some(millis(300))).unwrap() {
        let Event::Timer { token, .. } = event else {
            panic!()
        };
        tokens.push(token);
    }
    assert_eq!(tokens, [1, 2]);
    assert!(!reactor.cancel_timer(first));
}

#[test]
fn signals_become_events() {
    let mut reactor = reactor();
    reactor.watch_signals(&[Signal::Hup, Signal::Hup]).unwrap();
    reactor.watch_signals(&[Signal::Hup]).unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
    assert!(matches!(
        reactor.next(Some(secs(60))).unwrap(),
        Some(Event::Signal(Signal::Hup))
    ));
    assert!(reactor.next(Some(millis(20))).unwrap().is_none());
}

#[test]
fn names_and_wake_ups() {
    let mut reactor = reactor();
    let literal = reactor.resolve("::1").unwrap();
    let name = reactor.resolve("localhost").unwrap();
    let missing = reactor.resolve("no such name!").unwrap();
    let mut answers = std::collections::HashMap::new();
    while answers.len() < 3 {
        if let Event::Resolved { query, result } = reactor.next(Some(secs(60))).unwrap().unwrap() {
            answers.insert(query, result);
        }
    }
    assert_eq!(answers[&literal], Ok(vec!["::1".parse().unwrap()]));
    assert!(
        answers[&name]
            .as_ref()
            .unwrap()
            .iter()
            .all(std::net::IpAddr::is_loopback)
    );
    assert!(answers[&missing].is_err());
    let waker = reactor.waker().unwrap();
    std::thread::spawn(move || waker.wake().unwrap());
    assert!(matches!(
        reactor.next(Some(secs(60))).unwrap(),
        Some(Event::Woken)
    ));
}
