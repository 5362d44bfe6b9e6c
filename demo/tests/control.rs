//! Operators in control of runs, through the real programs: what runs, ending it, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{OK, executor_stage, exits, paired, results, stage, succeed, text};
use ctrl_exec_demo::World;
use ctrl_exec_demo::process::{Running, wait_until};
use ctrl_exec_demo::world::PATIENCE;
use ctrl_exec_testkit::json::{self, Object, Value};
use std::fs;

/// Notes that it began, and its child's end, and would go on for a quarter of an hour.
const SLEEPER: (&str, &str) = (
    "sleeper",
    "#!/bin/sh\necho \"begun $1\" >> \"$2\"\nsleep 900\necho \"ended $1\" >> \"$2\"\n",
);

/// The same; two at once of one script are what the lock here does not let pass.
const OTHER: (&str, &str) = ("other", SLEEPER.1);

fn log(world: &World) -> String {
    fs::read_to_string(world.dir.join("log")).unwrap_or_default()
}

fn log_path(world: &World) -> String {
    world.dir.join("log").display().to_string()
}

/// Begins a run that waits.
fn begin(world: &World, script: &str, name: &str) -> Running {
    let path = log_path(world);
    let words = ["run", "alpha", script, "--json", "--", name, &path];
    let running = Running::start(world.dispatcher().args(words)).unwrap();
    let line = format!("begun {name}\n");
    wait_until("the script", PATIENCE, || log(world).contains(&line)).unwrap();
    running
}

fn object(bytes: &[u8]) -> Object {
    json::parse_object(bytes).unwrap()
}

/// Request ids of what runs on a host, as `ced running` tells.
fn running(world: &World, host: &str) -> Vec<String> {
    let told = succeed(world, &["running", host, "--json"]);
    let result = results(told.as_bytes()).remove(0);
    let Some(Value::Array(runs)) = result.get("runs") else {
        panic!("{told}")
    };
    let runs = runs.iter().map(|run| match run {
        Value::Object(run) => text(run, "reqid"),
        other => panic!("{other:?}"),
    });
    runs.collect()
}

/// Submits an async run and waits until its script has begun.
fn submit(world: &World, name: &str, more: &[&str]) -> String {
    let path = log_path(world);
    let words = ["run", "alpha", "sleeper", "--async", "--json"];
    let words = [&words[..], more, &["--", name, &path]].concat();
    let told = exits(world, &words, 0);
    let line = format!("begun {name}\n");
    wait_until("the script", PATIENCE, || log(world).contains(&line)).unwrap();
    text(&object(&told.stdout), "reqid")
}

/// What both modes have to do.
fn lists_and_cancels(world: &World) {
    // A run that somebody waits for.
    let mut waiting = begin(world, "sleeper", "one");
    let ids = running(world, "alpha");
    assert_eq!(ids.len(), 1, "{ids:?}");
    let cancelled = exits(world, &["cancel", &ids[0], "--json"], 0);
    let result = results(&cancelled.stdout).remove(0);
    assert!(
        String::from_utf8_lossy(&cancelled.stdout)
            .contains(&format!("\"cancelled\":[\"{}\"]", ids[0])),
        "{result:?}"
    );
    assert_eq!(waiting.wait(PATIENCE).unwrap().code(), Some(1));
    let end = results(waiting.output().as_bytes()).remove(0);
    assert_eq!(text(&end, "exit"), "126", "{end:?}");
    assert_eq!(text(&end, "signal"), "15", "{end:?}");
    assert!(
        matches!(end.get("cancelled"), Some(Value::Bool(true))),
        "{end:?}"
    );
    assert!(running(world, "alpha").is_empty());

    // One that nobody waits for.
    let reqid = submit(world, "two", &[]);
    assert_eq!(running(world, "alpha"), [reqid.as_str()]);
    exits(world, &["cancel", &reqid], 0);
    exits(world, &["wait", &reqid, "--timeout", "60"], 1);
    let shown = succeed(world, &["status", &reqid, "--json"]);
    assert!(shown.contains("\"cancelled\":true"), "{shown}");
    let again = exits(world, &["cancel", &reqid], 1);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("has ended on all its hosts"),
        "{again:?}"
    );
    let there = exits(world, &["cancel", &reqid, "alpha"], 1);
    assert!(
        String::from_utf8_lossy(&there.stdout).contains("it has ended, or never began"),
        "{there:?}"
    );

    // All there is.
    let mut waiting = begin(world, "other", "three");
    let reqid = submit(world, "four", &[]);
    assert_eq!(running(world, "alpha").len(), 2);
    let told = succeed(world, &["cancel", "alpha", "--all"]);
    assert!(told.contains(&reqid), "{told}");
    waiting.wait(PATIENCE).unwrap();
    exits(world, &["wait", &reqid, "--timeout", "60"], 1);
    assert!(running(world, "alpha").is_empty());
    let nothing = succeed(world, &["cancel", "alpha", "--all"]);
    assert!(nothing.contains("[nothing ran]"), "{nothing}");

    // Limits.
    let path = log_path(world);
    let words = [
        "run",
        "alpha",
        "sleeper",
        "--time-limit",
        "1s",
        "--json",
        "--",
        "five",
        &path,
    ];
    let limited = exits(world, &words, 1);
    let end = results(&limited.stdout).remove(0);
    assert!(
        matches!(end.get("time_limit"), Some(Value::Bool(true))),
        "{end:?}"
    );
    assert_eq!(text(&end, "exit"), "126");
    let reqid = submit(world, "six", &["--time-limit", "1"]);
    exits(world, &["wait", &reqid, "--timeout", "60"], 1);
    let shown = succeed(world, &["status", &reqid]);
    assert!(shown.contains("ended by its time limit"), "{shown}");
    let log = log(world);
    assert_eq!(log.matches("begun").count(), 6, "{log}");
    assert_eq!(log.matches("ended").count(), 0, "{log}");
}

#[test]
fn runs_are_listed_cancelled_and_limited_in_direct_mode() {
    let mut world = stage("control");
    paired(&mut world, "alpha", &[SLEEPER, OTHER, OK], "");
    lists_and_cancels(&world);
}

#[test]
fn runs_are_listed_cancelled_and_limited_in_executor_mode() {
    let (world, _executor) = executor_stage("control-exec", &[SLEEPER, OTHER, OK]);
    lists_and_cancels(&world);
}

#[test]
fn a_full_agent_is_listed_and_freed_by_the_dispatcher() {
    let mut world = stage("full");
    paired(
        &mut world,
        "alpha",
        &[SLEEPER, OTHER, OK],
        "max_children = 2",
    );
    let mut hung = [begin(&world, "sleeper", "a"), begin(&world, "other", "b")];
    let refused = exits(&world, &["run", "alpha", "ok", "--strict"], 4);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(told.contains("busy: 2 of 2: "), "{told}");
    assert_eq!(running(&world, "alpha").len(), 2);
    succeed(&world, &["ping", "alpha", "--strict"]);
    succeed(&world, &["cancel", "alpha", "--all"]);
    for hung in &mut hung {
        assert_eq!(hung.wait(PATIENCE).unwrap().code(), Some(1));
    }
    succeed(&world, &["run", "alpha", "ok"]);
}
