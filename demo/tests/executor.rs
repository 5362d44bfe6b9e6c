//! Dispatcher, agent, executor and script together, at once and asynchronously.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{executor_stage, exits, paired, results, stage, succeed, text};
use std::fs;

/// Tells whom it runs as, what it reads and which variables it sees, and fails.
const WHO: (&str, &str) = (
    "who",
    "#!/bin/sh\nprintf 'uid=%s arg=%s ' \"$(id -u)\" \"$1\"\ncat\nenv\necho trouble >&2\nexit 7\n",
);
/// Waits for a file, so that a run can be caught in the act.
const WAIT: (&str, &str) = (
    "wait",
    "#!/bin/sh\nwhile [ -e \"$0\" ] && [ ! -e \"$1\" ]; do sleep 0.05; done\necho done at last\n",
);

#[test]
fn a_script_runs_through_the_executor_at_once_and_detached() {
    let (mut world, executor) = executor_stage("exec", &[WHO, WAIT]);

    let output = exits(&world, &["run", "alpha", "who", "--json", "--", "ż ó"], 1);
    let result = &results(&output.stdout)[0];
    assert_eq!(text(result, "exit"), "7", "{output:?}");
    assert_eq!(text(result, "stderr"), "trouble\n");
    let stdout = text(result, "stdout");
    assert!(stdout.contains("arg=ż ó {\"script\":\"who\""), "{stdout}");
    assert!(
        !stdout.contains("HOME="),
        "the executor passes PATH only: {stdout}"
    );

    let flag = world.dir.join("flag");
    let path = flag.display().to_string();
    let output = exits(
        &world,
        &["run", "alpha", "wait", "--async", "--json", "--", &path],
        0,
    );
    let reqid = {
        let object = ctrl_exec_testkit::json::parse_object(&output.stdout).unwrap();
        text(&object, "reqid")
    };
    let status = || succeed(&world, &["status", &reqid, "--json"]);
    assert!(status().contains("\"running\""), "{}", status());
    let busy = exits(
        &world,
        &["run", "alpha", "wait", "--async", "--json", "--", &path],
        1,
    );
    assert!(
        String::from_utf8_lossy(&busy.stdout).contains("\"busy\""),
        "{busy:?}"
    );
    fs::write(&flag, "").unwrap();
    exits(&world, &["wait", &reqid, "--timeout", "60"], 0);
    assert!(status().contains("done at last"), "{}", status());

    drop(executor);
    let output = exits(&world, &["run", "alpha", "who", "--json"], 1);
    let result = &results(&output.stdout)[0];
    assert_eq!(text(result, "exit"), "-1");
    assert!(
        text(result, "stderr").contains("executor unreachable"),
        "{output:?}"
    );
    world.stop_agent("alpha");
}

#[test]
fn a_detached_run_survives_a_restart_of_the_agent() {
    let mut world = stage("detached");
    paired(&mut world, "alpha", &[WAIT], "");
    let flag = world.dir.join("flag");
    let path = flag.display().to_string();
    let output = succeed(&world, &["run", "alpha", "wait", "--async", "--", &path]);
    let reqid = output.split("req:").nth(1).unwrap();
    let reqid: String = reqid.chars().take_while(char::is_ascii_hexdigit).collect();
    world.stop_agent("alpha");
    world.start_agent("alpha").unwrap();
    assert!(succeed(&world, &["status", &reqid]).contains("[running]"));
    fs::write(&flag, "").unwrap();
    let waited = exits(&world, &["wait", &reqid, "--timeout", "60"], 0);
    assert!(
        String::from_utf8_lossy(&waited.stdout).contains("done at last"),
        "{waited:?}"
    );
}
