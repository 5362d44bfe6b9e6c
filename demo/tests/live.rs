//! Output that is shown while scripts run, and input for them, through the real programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{executor_stage, exits, paired, results, stage, succeed, text};
use ctrl_exec_demo::World;
use ctrl_exec_demo::process::wait_until;
use ctrl_exec_demo::world::PATIENCE;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Stdio};

/// Goes on from line to line only when the file named by its argument is there.
const STEPS: (&str, &str) = (
    "steps",
    "#!/bin/sh\nfor n in 1 2 3; do\n echo out $n; echo err $n >&2\n \
     while [ -e $0 ] && [ ! -e $1$n ]; do sleep 0.02; done\ndone\nprintf 'no newline'\nexit 4\n",
);
/// Writes 100 MB, and then the file named by its argument.
const FLOOD: (&str, &str) = (
    "flood",
    "#!/bin/sh\necho first\nhead -c 100000000 /dev/zero | tr '\\0' '\\n'\necho last\necho > $1\n",
);
/// Hands back what it reads behind its context, and the context on standard error.
const BACK: (&str, &str) = (
    "back",
    "#!/bin/sh\nread -r context\necho \"$context\" >&2\nexec cat\n",
);
/// Sleeps.
const SLEEPER: (&str, &str) = ("sleeper", "#!/bin/sh\necho begun\nexec sleep ${1:-1000}\n");
const ALL: [(&str, &str); 4] = [STEPS, FLOOD, BACK, SLEEPER];

fn direct(label: &str) -> World {
    let mut world = stage(label);
    paired(&mut world, "alpha", &ALL, "");
    world
}

/// A command whose standard output is read by the test.
fn follow(world: &World, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = world
        .dispatcher()
        .args(["run", "alpha"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn line(stdout: &mut impl BufRead) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line
}

fn lines_come_as_they_are_written(world: &World) {
    let flag = world.dir.join("flag");
    let flag = flag.to_str().unwrap();
    let (mut child, mut stdout) = follow(world, &["steps", "--follow", "--", flag]);
    for n in 1..=3 {
        // The script waits for the file, so that its line came before its end.
        assert_eq!(line(&mut stdout), format!("alpha: out {n}\n"));
        fs::write(format!("{flag}{n}"), "").unwrap();
    }
    assert_eq!(line(&mut stdout), "alpha: no newline\n");
    assert_eq!(line(&mut stdout), "");
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let told: Vec<&str> = stderr.lines().collect();
    assert_eq!(
        told,
        [
            "alpha: err 1",
            "alpha: err 2",
            "alpha: err 3",
            "alpha: exit 4"
        ]
    );
    // The record has it as a run that was not followed has it.
    let runs = world.dir.join("server/var/lib/ctrl-exec/runs");
    let record = fs::read_dir(runs).unwrap().flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        text.contains("\"steps\"").then_some(text)
    });
    let record = record.expect("a record");
    assert!(
        record.contains(r#""stdout":"out 1\nout 2\nout 3\nno newline""#),
        "{record}"
    );
    assert!(
        record.contains(r#""stderr":"err 1\nerr 2\nerr 3\n""#),
        "{record}"
    );
}

#[test]
fn a_run_is_followed_directly() {
    lines_come_as_they_are_written(&direct("follow"));
}

#[test]
fn a_run_is_followed_through_the_executor() {
    let (world, _executor) = executor_stage("follow-exec", &ALL);
    lines_come_as_they_are_written(&world);
}

/// Nobody reads what `ced` writes, as on a terminal that was stopped: the script ends all the same,
/// and what was missed is said in its place.
fn a_slow_terminal_holds_nobody_up(world: &World) {
    let done = world.dir.join("done");
    let (mut child, mut stdout) =
        follow(world, &["flood", "--follow", "--", done.to_str().unwrap()]);
    assert_eq!(line(&mut stdout), "alpha: first\n");
    wait_until("the script", PATIENCE, || done.exists()).unwrap();
    let (mut lines, mut missing, mut last) = (0u64, 0u64, String::new());
    loop {
        let text = line(&mut stdout);
        if text.is_empty() {
            break;
        }
        match text.strip_prefix("alpha: [ctrl-exec: ") {
            Some(rest) => {
                let count = rest.split(' ').next().unwrap();
                missing += count.parse::<u64>().unwrap();
            }
            None => lines += 1,
        }
        last = text;
    }
    assert_eq!(last, "alpha: last\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(missing > 0, "{lines} lines came");
    assert_eq!(
        lines - 1 + missing,
        100_000_000,
        "each is shown or said to be missing"
    );
}

#[test]
fn a_slow_terminal_holds_nobody_up_directly() {
    a_slow_terminal_holds_nobody_up(&direct("slow"));
}

#[test]
fn a_slow_terminal_holds_nobody_up_with_the_executor() {
    let (world, _executor) = executor_stage("slow-exec", &ALL);
    a_slow_terminal_holds_nobody_up(&world);
}

fn a_limit_ends_what_is_followed(world: &World) {
    succeed(world, &["ping", "alpha"]);
    let output = exits(
        world,
        &["run", "alpha", "sleeper", "--follow", "--time-limit", "1s"],
        1,
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "alpha: begun\n");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("alpha: NOTE: ended by its time limit\n"),
        "{stderr}"
    );
    // Killed at the first line: the script goes on, and the agent is well.
    let (mut child, mut stdout) = follow(world, &["sleeper", "--follow", "--", "3"]);
    assert_eq!(line(&mut stdout), "alpha: begun\n");
    child.kill().unwrap();
    child.wait().unwrap();
    succeed(world, &["ping", "alpha"]);
}

#[test]
fn a_limit_and_a_killed_dispatcher_directly() {
    a_limit_ends_what_is_followed(&direct("limit"));
}

#[test]
fn a_limit_and_a_killed_dispatcher_with_the_executor() {
    let (world, _executor) = executor_stage("limit-exec", &ALL);
    a_limit_ends_what_is_followed(&world);
}

fn with_input(world: &World, input: &[u8], more: &[&str]) -> std::process::Output {
    let mut child = world
        .dispatcher()
        .args(["run", "alpha", "back", "--stdin"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that refuses what is too large reads no further.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn input_reaches_the_script(world: &World) {
    let long = "0123456789\n".repeat(47_000);
    for input in ["", "one", "a\nb\n", &long] {
        let output = with_input(world, input.as_bytes(), &["--json"]);
        assert!(output.status.success(), "{output:?}");
        let result = &results(&output.stdout)[0];
        let stdout = text(result, "stdout");
        let gap = text(result, "stdout_gap").parse().unwrap_or(stdout.len());
        let missing = text(result, "stdout_truncated").parse().unwrap_or(0);
        assert_eq!(stdout.len() + missing, input.len());
        assert!(input.starts_with(&stdout[..gap]) && input.ends_with(&stdout[gap..]));
        let context = text(result, "stderr");
        let bytes = format!("\"stdin_bytes\":{}}}", input.len());
        assert!(context.ends_with(&format!("{bytes}\n")), "{context}");
    }
    // Bytes of any kind, followed: what comes back is what a terminal can have of them.
    let output = with_input(world, b"\0\xffbin\n", &["--follow"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "alpha: \0\u{fffd}bin\n"
    );
    let too_much = vec![b'x'; 524_289];
    let output = with_input(world, &too_much, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("more than 524288 bytes") && error.contains("nothing ran"),
        "{error}"
    );
}

#[test]
fn input_reaches_the_script_directly() {
    let world = direct("stdin");
    input_reaches_the_script(&world);
    // Not given at all: as it ever was.
    let result = &results(&exits(&world, &["run", "alpha", "back", "--json"], 0).stdout)[0];
    assert!(!text(result, "stderr").contains("stdin_bytes"));
    let output = exits(&world, &["run", "-", "back", "--stdin"], 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not both"));
}

#[test]
fn input_reaches_the_script_through_the_executor() {
    let (world, _executor) = executor_stage("stdin-exec", &ALL);
    input_reaches_the_script(&world);
}

#[test]
fn lines_of_json_tell_output_from_results() {
    let world = direct("json-lines");
    let output = exits(
        &world,
        &[
            "run",
            "alpha",
            "sleeper",
            "--follow",
            "--json-lines",
            "--",
            "0",
        ],
        0,
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"event":"output","host":"alpha","stream":"stdout","text":"begun\n"}"#
    );
    assert!(lines[1].contains(r#""stdout":"begun\n""#), "{}", lines[1]);
    assert_eq!(lines.len(), 2);
    for other in ["--fold", "--json", "--sort", "--async"] {
        let output = exits(&world, &["run", "alpha", "sleeper", "--follow", other], 3);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("exclude each other"), "{error}");
    }
}
