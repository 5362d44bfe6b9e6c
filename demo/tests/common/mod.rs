//! What the end-to-end tests share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod perl;

use ctrl_exec_demo::process::{Running, wait_until};
use ctrl_exec_demo::world::{PATIENCE, Script};
use ctrl_exec_demo::{Binaries, World};
use ctrl_exec_testkit::json::{self, Object, Value};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A script that prints its arguments, its context and something on standard error, and fails.
pub const TELL: Script<'static> = (
    "tell",
    "#!/bin/sh\nprintf 'args:'\nfor a in \"$@\"; do printf ' [%s]' \"$a\"; done\nprintf '\\ncontext:'\ncat\nprintf '\\n'\necho problem >&2\nexit 3\n",
);
/// A script that succeeds.
pub const OK: Script<'static> = ("ok", "#!/bin/sh\necho fine\n");

/// The programs, built once for all tests of one test program.
pub fn binaries() -> Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES
        .get_or_init(|| Binaries::build().expect("the programs build"))
        .clone()
}

/// A stage whose dispatcher has its CA and certificate.
pub fn stage(label: &str) -> World {
    let world = World::new(binaries(), label).unwrap();
    succeed(&world, &["setup-ca"]);
    succeed(&world, &["setup-ctrl-exec"]);
    world
}

/// Adds an agent, pairs it and starts it.
pub fn paired(world: &mut World, name: &str, scripts: &[Script<'_>], extra: &str) {
    world.add_agent(name, scripts, extra).unwrap();
    let listener = world.start_pairing_mode().unwrap();
    let pairing = world.pair(name, &mut |_, _| ()).unwrap();
    assert_eq!(pairing.agent_code, pairing.dispatcher_code);
    drop(listener);
    world.start_agent(name).unwrap();
}

/// Runs a dispatcher command that must exit 0 and returns its standard output.
pub fn succeed(world: &World, args: &[&str]) -> String {
    let output = world.dispatch(args).unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a dispatcher command that must exit with `code`.
pub fn exits(world: &World, args: &[&str], code: i32) -> Output {
    let output = world.dispatch(args).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    output
}

/// The result objects of a command with `--json`, sorted by host.
pub fn results(output: &[u8]) -> Vec<Object> {
    let object = json::parse_object(output)
        .unwrap_or_else(|| panic!("no JSON object: {}", String::from_utf8_lossy(output)));
    let Some(Value::Array(items)) = object.get("results") else {
        panic!("no results: {}", String::from_utf8_lossy(output))
    };
    let mut results: Vec<Object> = items
        .iter()
        .map(|item| {
            let Value::Object(object) = item else {
                panic!("a result is no object")
            };
            object.clone()
        })
        .collect();
    results.sort_by_key(|result| json::text_of(result, "host"));
    results
}

/// A member of a result as text.
pub fn text(object: &Object, key: &str) -> String {
    json::text_of(object, key)
}

/// A stage with one agent in executor mode and its executor; without root, in the executor's test
/// mode.
pub fn executor_stage(label: &str, scripts: &[Script<'_>]) -> (World, Running) {
    let mut world = stage(label);
    let socket = world.dir.join("exec.sock");
    let extra = format!("executor_socket = {}", socket.display());
    paired(&mut world, "alpha", scripts, &extra);
    let executor = start_executor(&world);
    (world, executor)
}

/// Starts the executor of such a stage.
pub fn start_executor(world: &World) -> Running {
    let socket = world.dir.join("exec.sock");
    let etc = world.agent_dir("alpha").join("etc/ctrl-exec-agent");
    let user = Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap();
    let executor = Running::start(
        Command::new(&world.binaries.executor)
            // The stage is below /tmp, where everybody may write.
            .args(["--root", "alpha", "--unsafe-paths", "serve"])
            .args([&socket, &etc.join("agent.conf"), &etc.join("scripts.conf")])
            .arg(user.trim())
            .current_dir(&world.dir)
            .env("CTRL_EXEC_EXEC_ALLOW_UNPRIV", "1"),
    )
    .unwrap();
    wait_until("the executor's socket", PATIENCE, || socket.exists()).unwrap();
    executor
}
