//! The front-end reaches the decisions that the executor's table asks for, through its real binary:
//! what the executor would run gets as far as the executor, what it would deny does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{paired, results, stage, text};
use ctrl_exec_demo::World;
use std::fs;

/// The executor's own table (executor.md §8.1, §9).
const TABLE: &str = include_str!("../../executor-c-compat/tests/fixtures/conformance.txt");
const AGENT: &str = "alpha";

struct Case {
    name: String,
    agent: Vec<String>,
    scripts: Vec<String>,
    expect: Vec<(String, String)>,
}

#[test]
fn the_front_end_decides_as_the_executor_does() {
    let mut world = stage("decide");
    paired(&mut world, AGENT, &[], "");
    world.stop_agent(AGENT);
    let conf = world
        .agent_dir(AGENT)
        .join("etc/ctrl-exec-agent/agent.conf");
    let required: Vec<String> = fs::read_to_string(&conf)
        .unwrap()
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with("script_dirs"))
        .map(str::to_owned)
        .collect();
    let cases = cases();
    assert!(cases.len() >= 7, "the table is there");
    let mut decisions = 0;
    for case in &cases {
        decisions += check(&mut world, &required, case);
    }
    assert!(decisions >= 20, "{decisions} decisions compared");
}

/// Compares one case; returns how many decisions were compared.
fn check(world: &mut World, required: &[String], case: &Case) -> usize {
    let invalid = case
        .expect
        .iter()
        .any(|(_, decision)| decision.contains("CONFIG-ERROR"));
    write_files(world, required, case, &[]);
    if invalid {
        refuses_to_serve(world, "configuration error", &case.name);
        return 1;
    }
    let refused = refused_scripts(world);
    for (script, decision) in &case.expect {
        let listed = refused.contains(script);
        // It looks at every script's profile before it serves, also of those outside script_dirs.
        let fits = if listed {
            decision.starts_with("DENY ")
        } else {
            decision != "DENY undefined-profile"
        };
        assert!(fits, "{}: {script}: {decision}: {refused:?}", case.name);
    }
    write_files(world, required, case, &refused);
    world.start_agent(AGENT).unwrap();
    for (script, decision) in &case.expect {
        if refused.contains(script) {
            continue;
        }
        let output = world.dispatch(&["run", AGENT, script, "--json"]).unwrap();
        let result = &results(&output.stdout)[0];
        let reached = text(result, "stderr").contains("executor unreachable");
        let denied = text(result, "error") == "script not permitted";
        // Who a script runs as is the executor's to judge.
        let passed_on = decision.starts_with("OK ") || decision == "DENY no-run-as";
        assert_eq!(
            (reached, denied),
            (passed_on, !passed_on),
            "{}: {script}: {decision}: {output:?}",
            case.name
        );
    }
    world.stop_agent(AGENT);
    case.expect.len()
}

fn refuses_to_serve(world: &World, wanted: &str, case: &str) {
    let output = world.agent(AGENT).arg("serve").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{case}: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(wanted),
        "{case}: '{wanted}' is not in: {said}"
    );
}

/// The scripts on whose account the front-end does not serve: their profile is not there.
fn refused_scripts(world: &World) -> Vec<String> {
    let output = world.agent(AGENT).arg("self-check").output().unwrap();
    let said = ctrl_exec_demo::world::both(&output);
    said.lines()
        .filter_map(|line| line.strip_prefix("Undefined profile: ")?.split_once(" -> "))
        .map(|(script, _)| script.to_owned())
        .collect()
}

fn write_files(world: &World, required: &[String], case: &Case, without: &[String]) {
    let etc = world.agent_dir(AGENT).join("etc/ctrl-exec-agent");
    let mut conf: Vec<String> = required.to_vec();
    conf.push(format!("executor_socket = {}/no.sock", world.dir.display()));
    conf.extend(case.agent.iter().filter(|line| *line != "REQ").cloned());
    fs::write(etc.join("agent.conf"), conf.join("\n") + "\n").unwrap();
    let names = |line: &&String| {
        let name = line.split('=').next().unwrap_or_default().trim();
        !without.iter().any(|script| script == name)
    };
    let scripts: Vec<String> = case.scripts.iter().filter(names).cloned().collect();
    fs::write(etc.join("scripts.conf"), scripts.join("\n") + "\n").unwrap();
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut part = "";
    for line in TABLE.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            let name = name.to_owned();
            cases.push(Case {
                name,
                agent: vec![],
                scripts: vec![],
                expect: vec![],
            });
            part = "";
        } else if let Some(name) = line.strip_prefix("-- ") {
            part = name;
        } else if let Some(case) = cases.last_mut() {
            let line = line.strip_suffix('~').unwrap_or(line).to_owned();
            match part {
                "agent" => case.agent.push(line),
                "scripts" => case.scripts.push(line),
                "expect" => {
                    if let Some((script, decision)) = line.split_once(": ") {
                        case.expect.push((script.to_owned(), decision.to_owned()));
                    }
                }
                _ => {}
            }
        }
    }
    cases
}
