//! The tool bridge, through the real HTTP API, to three real agents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{paired, stage, succeed};
use ctrl_exec_demo::World;
use ctrl_exec_demo::process::{Running, wait_until};
use ctrl_exec_demo::world::{PATIENCE, Script};
use ctrl_exec_testkit::ports;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

const GREET: Script<'static> = (
    "greet",
    "#!/bin/sh\nprintf 'hello %s %s\\n' \"$1\" \"$2\"\n",
);
const FLOOD: Script<'static> = (
    "flood",
    "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x\n",
);
const SLEEPER: Script<'static> = (
    "sleeper",
    "#!/bin/sh\ntouch \"${0%/*}/began\"\nsleep 600 &\ntrap 'touch \"${0%/*}/ended\"; exit 9' TERM\nwait\n",
);

/// A program that `cargo test` has built beside the dispatcher.
fn beside(world: &World, name: &str) -> PathBuf {
    let path = world.binaries.dispatcher.with_file_name(name);
    if !path.is_file() {
        let mut cargo = Command::new(env!("CARGO"));
        let cargo = cargo.args(["build", "--quiet", "--locked", "--bin", name]);
        assert!(cargo.status().unwrap().success(), "{name} is not built");
    }
    path
}

struct Bridge {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    next: u32,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bridge {
    fn start(world: &World, port: u16, token: &str) -> Self {
        let mut child = Command::new(beside(world, "ctrl-exec-mcp"))
            .env("CTRLEXEC_API_URL", format!("http://127.0.0.1:{port}"))
            .env("CTRLEXEC_TOKEN", token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let input = child.stdin.take().unwrap();
        let mut bridge = Self {
            child,
            input,
            output,
            next: 0,
        };
        bridge.ask("initialize", r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#);
        bridge.line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        bridge
    }

    fn line(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
    }

    fn send(&mut self, method: &str, params: &str) -> u32 {
        self.next += 1;
        let id = self.next;
        self.line(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#
        ));
        id
    }

    fn receive(&mut self) -> String {
        self.output.recv_timeout(PATIENCE).expect("a message")
    }

    fn ask(&mut self, method: &str, params: &str) -> String {
        let id = format!("\"id\":{},", self.send(method, params));
        loop {
            let line = self.receive();
            if line.contains(&id) {
                return line;
            }
        }
    }

    fn call(&mut self, name: &str, arguments: &str) -> String {
        self.ask(
            "tools/call",
            &format!(r#"{{"name":"{name}","arguments":{arguments}}}"#),
        )
    }
}

#[test]
fn an_assistant_lists_runs_is_refused_and_cancels() {
    let mut world = stage("bridge");
    for name in ["r1", "r2", "r3"] {
        paired(&mut world, name, &[GREET, FLOOD, SLEEPER], "");
        world.stop_agent(name);
        let sidecar = world
            .agent_dir(name)
            .join("opt/ctrl-exec-scripts/greet.sh.schema.json");
        std::fs::write(
            sidecar,
            r#"{"version":"1","description":"Greets","read_only":true,"arguments":{"type":"object","properties":{"who":{"type":"string"},"times":{"type":"integer","minimum":1}},"required":["who"],"additionalProperties":false},"argv":[{"arg":"who"},{"arg":"times","flag":"-n"}]}"#,
        )
        .unwrap();
        world.start_agent(name).unwrap();
    }
    let port = ports::claim().unwrap();
    let conf = world.dir.join("server/etc/ctrl-exec/ctrl-exec.conf");
    let mut text = std::fs::read_to_string(&conf).unwrap();
    text += &format!("api_port = {port}\n");
    std::fs::write(&conf, text).unwrap();
    let token = |args: &[&str]| {
        let said = succeed(&world, args);
        let word = said.split_whitespace().max_by_key(|word| word.len());
        word.unwrap().to_owned()
    };
    let good = token(&["token", "create", "assistant", "--role", "run"]);
    let only_view = token(&["token", "create", "watcher", "--role", "view"]);
    let mut command = Command::new(beside(&world, "ctrl-exec-api"));
    command.args(["--root", "server"]).current_dir(&world.dir);
    let mut api = Running::start(&mut command).unwrap();
    api.wait_for(PATIENCE, |_| TcpStream::connect(("127.0.0.1", port)).ok())
        .unwrap();

    let mut bridge = Bridge::start(&world, port, &good);
    let tools = bridge.ask("tools/list", "{}");
    for name in ["greet", "flood", "sleeper", "run_status"] {
        assert!(tools.contains(&format!("\"name\":\"{name}\"")), "{tools}");
    }
    let greeted = bridge.call("greet", r#"{"who":"world","times":2}"#);
    for host in ["r1", "r2", "r3"] {
        assert!(greeted.contains(&format!("{host}: ")), "{greeted}");
    }
    assert!(greeted.contains("hello world -n"), "{greeted}");
    assert!(greeted.contains("\"isError\":false"), "{greeted}");
    let refused = bridge.call("greet", r#"{"who":"world","times":0}"#);
    assert!(
        refused.contains("nothing was run") && refused.contains("/times"),
        "{refused}"
    );
    let flood = bridge.call("flood", r#"{"hosts":["r2"]}"#);
    assert!(
        flood.contains("characters left out") && flood.len() < 60_000,
        "{}",
        flood.len()
    );
    let wrong = bridge.call("flood", r#"{"hosts":["r9"]}"#);
    assert!(wrong.contains("not hosts with this script: r9"), "{wrong}");

    let id = bridge.send(
        "tools/call",
        r#"{"name":"sleeper","arguments":{"hosts":["r3"]},"_meta":{"progressToken":1}}"#,
    );
    let opt = world.agent_dir("r3").join("opt/ctrl-exec-scripts");
    wait_until("the script", PATIENCE, || opt.join("began").exists()).unwrap();
    bridge.line(&format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
    ));
    wait_until("its end", PATIENCE, || opt.join("ended").exists()).unwrap();

    // Each host that ends is told.
    let id = bridge.send(
        "tools/call",
        r#"{"name":"greet","arguments":{"who":"x"},"_meta":{"progressToken":"p"}}"#,
    );
    let mut told = 0;
    let answer = loop {
        let line = bridge.receive();
        told += usize::from(line.contains("notifications/progress") && line.contains("\"p\""));
        if line.contains(&format!("\"id\":{id},")) {
            break line;
        }
    };
    assert!(told >= 1 && answer.contains("hello x"), "{told} {answer}");

    // A run that goes on becomes a task with the run's id, and the task can be ended.
    let opt = world.agent_dir("r1").join("opt/ctrl-exec-scripts");
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;
    let task = bridge.ask(
        "tools/call",
        &format!(r#"{{"name":"sleeper","arguments":{{"hosts":["r1"]}},{meta}}}"#),
    );
    let id = task
        .split("\"taskId\":\"")
        .nth(1)
        .unwrap_or_else(|| panic!("{task}"));
    let id = id.split('"').next().unwrap().to_owned();
    let runs = succeed(&world, &["runs"]);
    assert!(runs.contains(&id), "{id}: {runs}");
    let of_task = format!(r#"{{"taskId":"{id}",{meta}}}"#);
    let working = bridge.ask("tasks/get", &of_task);
    assert!(working.contains("\"status\":\"working\""), "{working}");
    bridge.ask("tasks/cancel", &of_task);
    wait_until("the end of the task", PATIENCE, || {
        opt.join("ended").exists()
    })
    .unwrap();

    let mut watcher = Bridge::start(&world, port, &only_view);
    let denied = watcher.call("flood", r#"{"hosts":["r1"]}"#);
    assert!(denied.contains("403"), "{denied}");
    let mut nobody = Bridge::start(&world, port, "nonsense");
    let denied = nobody.call("flood", r#"{"hosts":["r1"]}"#);
    assert!(denied.contains("403"), "{denied}");
}
