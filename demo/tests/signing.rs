//! Several processes sign at the same time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{OK, exits, results, stage, succeed, text};
use ctrl_exec_demo::process::{Running, wait_until};
use ctrl_exec_demo::world::PATIENCE;
use ctrl_exec_protocol::json::{Bounds, Raw};
use ctrl_exec_protocol::x509::cert;
use std::collections::BTreeSet;
use std::{fs, thread};

#[test]
fn approvals_at_the_same_time_never_share_a_serial() {
    let names = ["one", "two", "three", "four"];
    let mut world = stage("signing");
    for name in names {
        world.add_agent(name, &[OK], "").unwrap();
    }
    let listener = world.start_pairing_mode().unwrap();
    let port = world.pairing_port.to_string();
    let mut clients: Vec<Running> = names
        .iter()
        .map(|name| {
            let args = [
                "request-pairing",
                "--dispatcher",
                "127.0.0.1",
                "--lookup-by",
                "ip",
            ];
            Running::start(world.agent(name).args(args).args(["--port", &port])).unwrap()
        })
        .collect();
    let queue = world.dir.join("server/var/lib/ctrl-exec/pairing");
    let pending = || -> Vec<String> {
        let entries = fs::read_dir(&queue).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect()
    };
    wait_until("all requests", PATIENCE, || pending().len() == names.len()).unwrap();

    let (world_ref, queue) = (&world, &queue);
    thread::scope(|scope| {
        for id in pending() {
            scope.spawn(move || {
                let queued = fs::read(queue.join(format!("{id}.json"))).unwrap();
                let queued = Raw::parse(&queued, &Bounds::ANSWER).unwrap();
                let code = queued.get("code").unwrap().string().unwrap();
                succeed(world_ref, &["approve", &id, "--code", &code]);
            });
        }
    });
    for client in &mut clients {
        assert!(
            client.wait(PATIENCE).unwrap().success(),
            "{}",
            client.output()
        );
    }
    drop(listener);
    let serials: BTreeSet<String> = names
        .iter()
        .map(|name| {
            let path = world.agent_dir(name).join("etc/ctrl-exec-agent/agent.crt");
            cert::facts_from_pem(&fs::read_to_string(path).unwrap())
                .unwrap()
                .serial_hex
        })
        .collect();
    assert_eq!(serials.len(), names.len(), "{serials:?}");
    for name in names {
        world.start_agent(name).unwrap();
    }
    let output = exits(&world, &["ping", "--all", "--json"], 0);
    let answers = results(&output.stdout);
    assert_eq!(answers.len(), names.len());
    assert!(
        answers.iter().all(|answer| text(answer, "status") == "ok"),
        "{output:?}"
    );
}
