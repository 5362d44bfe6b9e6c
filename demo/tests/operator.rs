//! An operator loses patience, a terminal or the whole machine, while a run goes on: what is
//! known stays known, and nothing runs twice. Through the real programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{OK, exits, paired, results, stage, succeed, text};
use ctrl_exec_demo::World;
use ctrl_exec_demo::process::{Running, wait_until};
use ctrl_exec_demo::world::PATIENCE;
use ctrl_exec_testkit::json;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// Notes that it began, and goes on until its flag is there.
const WAITER: (&str, &str) = (
    "waiter",
    "#!/bin/sh\necho \"begun $1\" >> \"$2/log\"\nwhile [ -e \"$0\" ] && [ ! -e \"$2/go-$1\" ]; do sleep 0.05; done\necho \"ended $1\" >> \"$2/log\"\n",
);

fn world(label: &str, agents: &[&str]) -> World {
    let mut world = stage(label);
    for name in agents {
        paired(&mut world, name, &[WAITER, OK], "");
        // An agent answers for runs that began after it did, counted in seconds.
        let serves = || {
            let told = world.dispatch(&["running", name, "--json"]).unwrap();
            let result = results(&told.stdout).remove(0);
            text(&result, "serving")
                .parse::<u32>()
                .is_ok_and(|seconds| seconds >= 2)
        };
        wait_until("the agent to have served", PATIENCE, serves).unwrap();
    }
    world
}

fn log(world: &World) -> String {
    fs::read_to_string(world.dir.join("log")).unwrap_or_default()
}

fn go(world: &World, name: &str) {
    fs::write(world.dir.join(format!("go-{name}")), "").unwrap();
}

/// Begins a run and waits until its script has begun on so many hosts.
fn begin(world: &World, words: &[&str], name: &str, hosts: usize) -> Running {
    let dir = world.dir.display().to_string();
    let words = [&["run"], words, &["waiter", "--", name, &dir]].concat();
    let running = Running::start(world.dispatcher().args(words)).unwrap();
    begun(world, name, hosts);
    running
}

fn begun(world: &World, name: &str, hosts: usize) {
    let line = format!("begun {name}\n");
    wait_until("the script", PATIENCE, || {
        log(world).matches(&line).count() == hosts
    })
    .unwrap();
}

/// The request id of the newest run.
fn newest(world: &World) -> String {
    let table = succeed(world, &["runs"]);
    table
        .lines()
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until the agent runs nothing more.
fn idle(world: &World, host: &str) {
    wait_until("the end", PATIENCE, || {
        let told = world.dispatch(&["running", host, "--json"]).unwrap();
        String::from_utf8_lossy(&told.stdout).contains("\"runs\":[]")
    })
    .unwrap();
}

#[test]
fn a_lock_stays_until_the_agent_says_that_the_run_is_over() {
    let world = world("unknown", &["alpha"]);
    let dir = world.dir.display().to_string();
    let one = [
        "run",
        "alpha",
        "waiter",
        "--timeout",
        "1",
        "--",
        "one",
        &dir,
    ];
    let given_up = exits(&world, &one, 1);
    assert!(
        String::from_utf8_lossy(&given_up.stdout).contains("[may still be running]"),
        "{given_up:?}"
    );
    begun(&world, "one", 1);
    let reqid = newest(&world);

    // Nobody starts a second copy, whoever asks.
    let two = ["run", "alpha", "waiter", "--", "two", &dir];
    let told = stderr(&exits(&world, &two, 1));
    assert!(
        told.contains("Locked: alpha:waiter") && told.contains(&reqid),
        "{told}"
    );
    assert!(told.contains("its end is not known"), "{told}");
    let json = exits(&world, &["run", "alpha", "waiter", "--json"], 1);
    let json = json::parse_object(&json.stdout).unwrap();
    assert_eq!(text(&json, "error"), "locked");
    assert!(json.contains_key("holders"));
    let listed = succeed(&world, &["list-locks"]);
    assert!(listed.contains(&reqid), "{listed}");
    let repeated = exits(&world, &["run", "--failed-of", &reqid, "waiter"], 3);
    assert!(
        stderr(&repeated).contains("it may still go on"),
        "{repeated:?}"
    );
    let asked = ["run", "--failed-of", &reqid, "--with-unknown", "waiter"];
    assert!(
        stderr(&exits(&world, &asked, 1)).contains("Locked"),
        "asked for, and yet"
    );
    assert_eq!(log(&world), "begun one\n");
    // Another script is not meant.
    succeed(&world, &["run", "alpha", "ok"]);

    go(&world, "one");
    idle(&world, "alpha");
    go(&world, "two");
    succeed(&world, &two);
    assert_eq!(log(&world), "begun one\nended one\nbegun two\nended two\n");
    assert_eq!(
        succeed(&world, &["list-locks"]),
        "No locks currently held.\n"
    );
}

/// The lock ends by itself when the run's limit has passed, also if the agent is never heard of.
#[test]
fn a_lock_is_overridden_on_demand() {
    let mut world = world("override", &["alpha"]);
    let mut killed = begin(&world, &["alpha"], "one", 1);
    killed.signal(Signal::KILL).unwrap();
    killed.wait(PATIENCE).unwrap();
    world.stop_agent("alpha");
    // The agent is gone and cannot be asked.
    let dir = world.dir.display().to_string();
    let told = exits(&world, &["run", "alpha", "waiter", "--", "two", &dir], 1);
    assert!(stderr(&told).contains("its end is not known"), "{told:?}");
    let text = stderr(&told);
    let reqid = text.split("(run ").nth(1).unwrap()[..16].to_owned();
    let despite = |id: &str, code| {
        let words = [
            "run",
            "alpha",
            "waiter",
            "--despite-unknown",
            id,
            "--strict",
        ];
        exits(&world, &words, code);
    };
    // Only the run that was named is passed over.
    despite("0123456789abcdef", 1);
    despite(&reqid, 5);
    go(&world, "one");
}

#[test]
fn a_killed_command_leaves_its_record_and_its_locks() {
    let world = world("killed", &["alpha", "beta"]);
    let mut killed = begin(&world, &["alpha", "beta"], "one", 2);
    // One has ended, and that is recorded.
    let reqid = newest(&world);
    killed.signal(Signal::KILL).unwrap();
    killed.wait(PATIENCE).unwrap();
    let shown = succeed(&world, &["status", &reqid]);
    assert!(
        shown.contains("PENDING") && shown.contains("2 host(s) have not ended"),
        "{shown}"
    );
    let again = exits(&world, &["run", "alpha", "waiter"], 1);
    assert!(stderr(&again).contains("Locked: alpha:waiter"), "{again:?}");
    succeed(&world, &["cancel", &reqid]);
    idle(&world, "alpha");
    idle(&world, "beta");
    exits(&world, &["wait", &reqid, "--timeout", "60"], 1);
    let shown = succeed(&world, &["status", &reqid]);
    assert!(shown.contains("COMPLETE"), "{shown}");
    assert_eq!(shown.matches("its end was not seen").count(), 2, "{shown}");
    assert_eq!(log(&world).matches("begun").count(), 2);
    assert_eq!(log(&world).matches("ended").count(), 0);
    go(&world, "two");
    let dir = world.dir.display().to_string();
    succeed(&world, &["run", "alpha", "waiter", "--", "two", &dir]);
}

#[test]
fn a_closed_terminal_leaves_the_run_or_ends_it_as_was_chosen() {
    let world = world("hangup", &["alpha"]);
    for words in [&["alpha"][..], &["alpha", "--on-hangup", "leave"]] {
        let name = format!("left{}", words.len());
        let mut running = begin(&world, words, &name, 1);
        running.signal(Signal::HUP).unwrap();
        go(&world, &name);
        assert_eq!(
            running.wait(PATIENCE).unwrap().code(),
            Some(0),
            "{}",
            running.output()
        );
        let shown = succeed(&world, &["status", &newest(&world)]);
        assert!(
            shown.contains("COMPLETE") && shown.contains("[OK"),
            "{shown}"
        );
    }
    let mut running = begin(&world, &["alpha", "--on-hangup=cancel"], "ended", 1);
    running.signal(Signal::HUP).unwrap();
    assert_eq!(running.wait(PATIENCE).unwrap().code(), Some(1));
    let shown = succeed(&world, &["status", &newest(&world)]);
    assert!(shown.contains("NOTE: cancelled"), "{shown}");
    assert!(!log(&world).contains("ended ended"));
    let both = exits(
        &world,
        &["run", "alpha", "ok", "--async", "--on-hangup=leave"],
        3,
    );
    assert!(stderr(&both).contains("exclude each other"), "{both:?}");
}

#[test]
fn the_first_interrupt_starts_nothing_more() {
    let world = world("first", &["alpha", "beta"]);
    let mut running = begin(
        &world,
        &["alpha", "beta", "--batch", "1", "--json"],
        "one",
        1,
    );
    running.signal(Signal::INT).unwrap();
    running
        .wait_for(PATIENCE, |out| {
            out.contains("1 not started, and none will be")
                .then_some(())
        })
        .unwrap();
    assert!(
        running.output().contains("1 still running: alpha"),
        "{}",
        running.output()
    );
    go(&world, "one");
    assert_eq!(running.wait(PATIENCE).unwrap().code(), Some(1));
    let output = running.output();
    let json = output.lines().find(|line| line.starts_with('{')).unwrap();
    let results = results(json.as_bytes());
    assert_eq!(text(&results[0], "outcome"), "ok");
    assert_eq!(text(&results[1], "outcome"), "skipped");
    assert_eq!(log(&world), "begun one\nended one\n");
    // What was not started left no lock.
    assert_eq!(
        succeed(&world, &["list-locks"]),
        "No locks currently held.\n"
    );
}

/// A command on a terminal of its own.
struct Terminal {
    master: fs::File,
    child: std::process::Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn start(world: &World, words: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = std::path::PathBuf::from(name.into_string().unwrap());
        let open = || {
            fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let child = world
            .dispatcher()
            .args(words)
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .unwrap();
        let master = fs::File::from(master);
        let mut reader = master.try_clone().unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                written.lock().unwrap().push_str(&text);
            }
        });
        Self {
            master,
            child,
            seen,
        }
    }

    fn sees(&self, text: &str) {
        let seen = wait_until(text, PATIENCE, || self.seen.lock().unwrap().contains(text));
        seen.unwrap_or_else(|error| panic!("{error}: {}", self.seen.lock().unwrap()));
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::INT).unwrap();
    }

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        let child = Mutex::new(&mut self.child);
        wait_until("the end of the command", PATIENCE, || {
            matches!(child.lock().unwrap().try_wait(), Ok(Some(_)))
        })
        .unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_second_interrupt_offers_to_cancel_and_the_third_leaves() {
    let world = world("terminal", &["alpha"]);
    let dir = world.dir.display().to_string();
    let start = |name: &str| {
        let terminal = Terminal::start(&world, &["run", "alpha", "waiter", "--", name, &dir]);
        begun(&world, name, 1);
        terminal
    };
    // Yes: they are ended there.
    let mut terminal = start("yes");
    terminal.interrupt();
    terminal.sees("Interrupt again to end them on the agents");
    terminal.interrupt();
    terminal.sees("End them on the agents? [y/N]");
    terminal.types("y\n");
    terminal.sees("1 told to end");
    terminal.sees("NOTE: cancelled");
    assert_eq!(terminal.ends(), Some(1));
    // No: they are waited for.
    let mut terminal = start("no");
    terminal.interrupt();
    terminal.sees("Interrupt again");
    terminal.interrupt();
    terminal.sees("[y/N]");
    terminal.types("n\n");
    terminal.sees("They go on");
    go(&world, "no");
    assert_eq!(terminal.ends(), Some(0));
    // No word: the third leaves, and it goes on.
    let mut terminal = start("third");
    terminal.interrupt();
    terminal.sees("Interrupt again");
    terminal.interrupt();
    terminal.sees("[y/N]");
    terminal.interrupt();
    terminal.sees("Leaving");
    assert_eq!(terminal.ends(), Some(1));
    let shown = succeed(&world, &["running", "alpha"]);
    assert!(shown.contains("waiter"), "{shown}");
    go(&world, "third");
    idle(&world, "alpha");
    let log = log(&world);
    assert!(!log.contains("ended yes"), "{log}");
    assert!(
        log.contains("ended no") && log.contains("ended third"),
        "{log}"
    );
}

#[test]
fn a_record_that_cannot_be_kept_is_said_before_anything_runs() {
    let world = world("norecord", &["alpha"]);
    let runs = world.dir.join("server/var/lib/ctrl-exec/runs");
    let _ = fs::remove_dir_all(&runs);
    fs::create_dir_all(runs.parent().unwrap()).unwrap();
    fs::write(&runs, "").unwrap();
    for more in [&[][..], &["--async"]] {
        let dir = world.dir.display().to_string();
        let words = [&["run", "alpha", "waiter"], more, &["--", "x", &dir]].concat();
        let refused = exits(&world, &words, 3);
        assert!(stderr(&refused).contains("nothing was sent"), "{refused:?}");
    }
    assert_eq!(log(&world), "");
    assert_eq!(
        succeed(&world, &["list-locks"]),
        "No locks currently held.\n"
    );
}
