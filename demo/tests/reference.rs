//! Identities and directories written by ctrl-exec 0.12.3, used by our programs in real handshakes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{OK, TELL, exits, paired, results, succeed, text};
use ctrl_exec_demo::World;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// When the recorded leaf certificates end (2029-02-24).
const RECORDED_UNTIL: u64 = 1_866_634_172;

#[test]
fn identities_of_the_reference_speak_to_each_other() {
    if expired() {
        return;
    }
    let mut world = taken_over("ref-pair");
    world.add_agent("vm", &[TELL, OK], "").unwrap();
    let etc = world.agent_dir("vm").join("etc/ctrl-exec-agent");
    for file in ["agent.crt", "agent.key", "ca.crt"] {
        fs::copy(
            fixtures()
                .join("reference-agent/etc/ctrl-exec-agent")
                .join(file),
            etc.join(file),
        )
        .unwrap();
    }
    let map = "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers";
    fs::copy(
        fixtures().join("reference-agent").join(map),
        world.agent_dir("vm").join(map),
    )
    .unwrap();
    world.start_agent("vm").unwrap();
    let port = world.find("vm").unwrap().port.to_string();
    succeed(
        &world,
        &[
            "edit-agent",
            "vm",
            "--ip",
            "127.0.0.1",
            "--agent-port",
            &port,
        ],
    );

    let output = exits(&world, &["ping", "vm", "--json"], 0);
    let result = &results(&output.stdout)[0];
    assert_eq!(text(result, "status"), "ok", "{output:?}");
    assert_eq!(text(result, "expiry"), "Feb 24 13:29:34 2029 GMT");
    let output = exits(&world, &["run", "vm", "tell", "--json", "--", "é"], 1);
    let result = &results(&output.stdout)[0];
    assert_eq!(text(result, "exit"), "3");
    assert!(
        text(result, "stdout").contains("\"dispatcher\":\"perl-disp\""),
        "{output:?}"
    );
}

#[test]
fn our_agent_pairs_with_a_directory_of_the_reference() {
    if expired() {
        return;
    }
    let mut world = taken_over("ref-new");
    paired(&mut world, "fresh", &[OK], "");
    // The dispatcher's key is RSA, so the agent made an RSA key: the reference signs nothing else.
    let key = fs::read(
        world
            .agent_dir("fresh")
            .join("etc/ctrl-exec-agent/agent.key"),
    )
    .unwrap();
    assert!(
        key.len() > 1500,
        "an RSA key of 2048 bits takes about 1,700 bytes of PEM, not {}",
        key.len()
    );
    let output = exits(&world, &["run", "fresh", "ok", "--json"], 0);
    assert_eq!(text(&results(&output.stdout)[0], "stdout"), "fine\n");
    let listed = succeed(&world, &["list-agents"]);
    assert!(
        listed.contains("vm") && listed.contains("fresh"),
        "{listed}"
    );
}

/// A stage whose dispatcher directory was written by the reference; only the paths in its
/// configuration are moved.
fn taken_over(label: &str) -> World {
    let world = World::new(common::binaries(), label).unwrap();
    copy_tree(
        &fixtures().join("reference-dispatcher"),
        &world.dir.join("server"),
    );
    let conf = world.dir.join("server/etc/ctrl-exec/ctrl-exec.conf");
    let text = fs::read_to_string(&conf).unwrap();
    let root = world.dir.join("server/etc").display().to_string();
    fs::write(conf, text.replace("/etc", &root)).unwrap();
    world
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The recorded certificates cannot be renewed without their program; after their end these tests
/// have nothing to show, and say so.
fn expired() -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    if now >= RECORDED_UNTIL {
        eprintln!("SKIPPED: the recorded certificates ended in February 2029");
    }
    now >= RECORDED_UNTIL
}
