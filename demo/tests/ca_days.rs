//! The bad days of a CA, with the real programs: it is about to end, it leaked, a dispatcher is
//! stolen. Two dispatchers, agents of ours, one of release 0.12.3, and SIGKILL in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{OK, exits, paired, perl, stage, succeed, text};
use ctrl_exec_demo::World;
use ctrl_exec_demo::process::wait_until;
use ctrl_exec_demo::world::PATIENCE;
use ctrl_exec_testkit::json::{self, Object, Value};
use std::cell::Cell;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const ETC: &str = "server/etc/ctrl-exec";
const AGENTS: &str = "server/var/lib/ctrl-exec/agents";
const MAP: &str = "var/lib/ctrl-exec-agent/ctrl-exec-dispatchers";

/// Two agents of ours and one of 0.12.3, paired with the dispatcher `server`.
fn fleet(label: &str) -> World {
    let mut world = stage(label);
    for name in ["r1", "r2"] {
        paired(&mut world, name, &[OK], "");
    }
    add_perl(&mut world);
    world
}

/// Pairs one more, and lets an agent of 0.12.3 take its place.
fn add_perl(world: &mut World) {
    paired(world, "perl", &[OK], "");
    world.stop_agent("perl");
    let etc = world.agent_dir("perl").join("etc/ctrl-exec-agent");
    let read = |name: &str| fs::read_to_string(etc.join(name)).unwrap();
    let port = world.find("perl").unwrap().port;
    let listener = Cell::new(None);
    wait_until("the port to be free", PATIENCE, || {
        let bound = TcpListener::bind(("127.0.0.1", port)).ok();
        let is_free = bound.is_some();
        listener.set(bound);
        is_free
    })
    .unwrap();
    perl::serve(
        listener.take().unwrap(),
        &read("agent.crt"),
        &read("agent.key"),
        &read("ca.crt"),
    );
}

/// A second dispatcher of the same CA, whom the agents trust: `second`.
fn second_dispatcher(world: &World, agents: &[&str]) {
    let etc = world.dir.join("second/etc/ctrl-exec");
    fs::create_dir_all(&etc).unwrap();
    for file in ["ca.key", "ca.crt", "ca.serial"] {
        fs::copy(world.dir.join(ETC).join(file), etc.join(file)).unwrap();
    }
    fs::write(etc.join("ctrl-exec.conf"), "dispatcher_id = second\n").unwrap();
    ok(second(world, &["setup-ctrl-exec"]));
    let serial = serial_of(&etc.join("dispatcher.crt"));
    let registry = world.dir.join("second/var/lib/ctrl-exec/agents");
    fs::create_dir_all(&registry).unwrap();
    for name in agents {
        let file = format!("{name}.json");
        fs::copy(world.dir.join(AGENTS).join(&file), registry.join(&file)).unwrap();
        let map = world.agent_dir(name).join(MAP);
        let before = fs::read_to_string(&map).unwrap();
        fs::write(&map, format!("{before}{serial} second\n")).unwrap();
        hangup(world, name);
    }
    for name in agents {
        let called = || second(world, &["ping", name, "--strict"]).status.success();
        wait_until("the second dispatcher to be trusted", PATIENCE, called).unwrap();
    }
}

fn second(world: &World, args: &[&str]) -> Output {
    Command::new(&world.binaries.dispatcher)
        .args(["--root", "second"])
        .args(args)
        .current_dir(&world.dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn serial_of(cert: &Path) -> String {
    let text = fs::read_to_string(cert).unwrap();
    ctrl_exec_protocol::x509::cert::facts_from_pem(&text)
        .unwrap()
        .serial_hex
}

fn hangup(world: &World, name: &str) {
    let pid = world.running(name).unwrap().pid().to_string();
    assert!(
        Command::new("kill")
            .args(["-HUP", &pid])
            .status()
            .unwrap()
            .success()
    );
}

/// What the agent's renewal timer does.
fn timer(world: &World, name: &str) {
    let staged = world.agent(name).arg("cert-staged").status().unwrap();
    if staged.success() {
        assert!(
            world
                .agent(name)
                .arg("promote-cert")
                .status()
                .unwrap()
                .success()
        );
        hangup(world, name);
    }
}

fn killed_agent(world: &mut World, name: &str) {
    let pid = world.running(name).unwrap().pid().to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .unwrap()
            .success()
    );
    world.stop_agent(name);
}

/// Calls a verb again and again and kills it, a little later each time, from its first instruction
/// to beyond its end; then lets it end.
fn killed_often(world: &World, args: &[&str], last: i32) -> Output {
    let begun = Instant::now();
    let rounds: u32 = 12;
    let mut whole = Duration::from_millis(400);
    for round in 0..rounds {
        let mut child = world
            .dispatcher()
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * round / rounds);
        child.kill().unwrap();
        child.wait().unwrap();
        // A machine under load needs longer for the same.
        whole = whole.max(begun.elapsed() / (round + 2));
    }
    exits(world, args, last)
}

fn object(output: &[u8]) -> Object {
    json::parse_object(output)
        .unwrap_or_else(|| panic!("no JSON object: {}", String::from_utf8_lossy(output)))
}

/// A member of each agent in the JSON of `renew-ca` or `replace-ca`, by name.
fn of_agents(output: &[u8], key: &str) -> Vec<(String, String)> {
    let object = object(output);
    let Some(Value::Array(agents)) = object.get("agents") else {
        panic!("no agents: {}", String::from_utf8_lossy(output))
    };
    let mut all = Vec::new();
    for agent in agents {
        let Value::Object(agent) = agent else {
            panic!("no object")
        };
        all.push((text(agent, "host"), text(agent, key)));
    }
    all.sort();
    all
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |text: &&str| (*text).to_owned();
    list.iter().map(|(a, b)| (own(a), own(b))).collect()
}

/// The end of the only certificate in a CA file.
fn end_of(file: &Path) -> i64 {
    let text = fs::read_to_string(file).unwrap();
    ctrl_exec_protocol::x509::cert::facts_from_pem(&text)
        .unwrap()
        .not_after
}

/// Gives the dispatcher a CA of its key that ends soon.
fn shorten_ca(world: &World) {
    let etc = world.dir.join(ETC);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-new", "-sha256", "-days", "100"])
        .args([
            "-subj",
            "/CN=ctrl-exec CA",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ])
        .arg("-key")
        .arg(etc.join("ca.key"))
        .arg("-out")
        .arg(etc.join("ca.crt"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    succeed(world, &["setup-ctrl-exec"]);
}

#[test]
fn a_ca_that_ends_is_made_anew_without_pairing_anything() {
    let mut world = stage("ca-ends");
    shorten_ca(&world);
    for name in ["r1", "r2"] {
        paired(&mut world, name, &[OK], "");
    }
    add_perl(&mut world);
    second_dispatcher(&world, &["r1", "r2"]);
    let counted = world.dispatch(&["doctor", "--offline"]).unwrap();
    let counted = String::from_utf8_lossy(&counted.stdout).into_owned();
    assert!(
        counted.contains("ends in 99 days") && counted.contains("'ced renew-ca'"),
        "{counted}"
    );
    let before = end_of(&world.dir.join(ETC).join("ca.crt"));
    world.stop_agent("r2");

    let output = killed_often(&world, &["renew-ca", "--json"], 1);
    assert_eq!(
        of_agents(&output.stdout, "has"),
        pairs(&[("perl", "never"), ("r1", "yes"), ("r2", "unknown")])
    );
    let end = end_of(&world.dir.join(ETC).join("ca.crt"));
    assert!(end > before + 3000 * 86_400);
    // However often it was killed, there is one new certificate, and the agent has it.
    assert_eq!(end_of(&world.dir.join(ETC).join("ca.handover")), end);
    let handed = world
        .agent_dir("r1")
        .join("var/lib/ctrl-exec-agent/ca.crt.handed");
    assert_eq!(end_of(&handed), end);
    let again = exits(&world, &["renew-ca"], 1);
    let again = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(
        again.contains("lasts as long already") && again.contains("takes no CA certificate"),
        "{again}"
    );
    assert_eq!(end_of(&world.dir.join(ETC).join("ca.crt")), end);

    // Killed, started again, put in place by root: everybody goes on working with everybody.
    killed_agent(&mut world, "r1");
    world.start_agent("r1").unwrap();
    timer(&world, "r1");
    assert!(!handed.exists());
    assert_eq!(
        end_of(&world.agent_dir("r1").join("etc/ctrl-exec-agent/ca.crt")),
        end
    );
    succeed(&world, &["run", "r1", "perl", "ok"]);
    ok(second(&world, &["run", "r1", "ok"]));

    // Who was away gets it from maintenance.
    world.start_agent("r2").unwrap();
    succeed(&world, &["maintain"]);
    let output = exits(&world, &["renew-ca", "--status", "--json"], 1);
    assert_eq!(
        of_agents(&output.stdout, "has"),
        pairs(&[("perl", "never"), ("r1", "yes"), ("r2", "yes")])
    );
    let doctor = world.dispatch(&["doctor"]).unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains("release 0.12.3 are not handed CA certificates: perl"),
        "{doctor}"
    );
    assert!(
        !doctor.contains("ends in") || !doctor.contains("renew-ca"),
        "{doctor}"
    );
    succeed(&world, &["run", "r2", "ok"]);
    ok(second(&world, &["run", "r2", "ok"]));
    // What is issued now outlasts the old CA.
    succeed(&world, &["rotate-cert"]);
    assert!(end_of(&world.dir.join(ETC).join("dispatcher.crt")) > before);
    succeed(&world, &["run", "r1", "r2", "ok"]);
}

#[test]
fn a_ca_is_replaced_under_the_fleet() {
    let mut world = fleet("ca-leaks");
    second_dispatcher(&world, &["r1", "r2"]);
    // Somebody has it all: the CA's key, and this dispatcher's.
    let thief = world.dir.join("thief");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(world.dir.join("server"))
        .arg(&thief)
        .status();
    assert!(copied.unwrap().success());
    fs::write(
        thief.join("etc/ctrl-exec/ctrl-exec.conf"),
        "dispatcher_id = demo\n",
    )
    .unwrap();
    let steals = |world: &World| {
        // It knows whatever is public.
        let public = world.dir.join(ETC).join("ca.crt");
        fs::copy(public, world.dir.join("thief/etc/ctrl-exec/ca.crt")).unwrap();
        Command::new(&world.binaries.dispatcher)
            .args(["--root", "thief", "run", "r1", "ok"])
            .current_dir(&world.dir)
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(steals(&world));
    exits(&world, &["replace-ca", "--finish"], 3);
    exits(&world, &["replace-ca", "--status"], 3);
    world.stop_agent("r2");

    // Step 1: one agent is away, so the old CA goes on signing.
    let output = killed_often(&world, &["replace-ca", "--json"], 1);
    assert_eq!(text(&object(&output.stdout), "phase"), "handing-over");
    assert_eq!(
        of_agents(&output.stdout, "has"),
        pairs(&[("perl", "never"), ("r1", "yes"), ("r2", "unknown")])
    );
    exits(&world, &["replace-ca", "--finish"], 3);
    let refused = exits(&world, &["renew-ca"], 3);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("being replaced"),
        "{refused:?}"
    );
    succeed(&world, &["run", "r1", "perl", "ok"]);
    // The second dispatcher goes the same way, with what the first one made.
    let next = world.dir.join(ETC).join("next");
    let to = world.dir.join("second/etc/ctrl-exec/next");
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(&next)
            .arg(&to)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(second(&world, &["replace-ca"]).status.code(), Some(1));
    killed_agent(&mut world, "r1");
    world.start_agent("r1").unwrap();
    world.start_agent("r2").unwrap();

    // Step 2: the new CA signs; both are trusted.
    let output = killed_often(&world, &["replace-ca", "--json"], 1);
    assert_eq!(text(&object(&output.stdout), "phase"), "exchanging");
    for name in ["r1", "r2"] {
        timer(&world, name);
    }
    succeed(&world, &["run", "r1", "r2", "perl", "ok"]);
    ok(second(&world, &["run", "r1", "r2", "ok"]));
    // An agent paired meanwhile is the new CA's.
    paired(&mut world, "r3", &[OK], "");
    let moved = second(&world, &["replace-ca", "--json"]);
    assert_eq!(moved.status.code(), Some(0), "{moved:?}");
    assert_eq!(
        of_agents(&moved.stdout, "ready"),
        pairs(&[("r1", "1"), ("r2", "1")])
    );
    let staged = world.agent("r1").arg("cert-staged").status().unwrap();
    assert_eq!(staged.code(), Some(1), "nothing was renewed once more");

    // Step 3: not while somebody would be left behind unasked.
    let output = exits(&world, &["replace-ca", "--finish", "--json"], 1);
    assert_eq!(
        of_agents(&output.stdout, "ready"),
        pairs(&[("perl", "0"), ("r1", "1"), ("r2", "1"), ("r3", "1")])
    );
    assert!(steals(&world), "until then the leaked CA counts");
    for round in 0..12u32 {
        let mut child = world
            .dispatcher()
            .args(["replace-ca", "--finish", "--force"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(25 * round)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = world
        .dispatch(&["replace-ca", "--finish", "--force"])
        .unwrap();
    if last.status.code() == Some(3) {
        // One of those that were killed had come to its end.
        assert!(
            String::from_utf8_lossy(&last.stderr).contains("no CA is being replaced"),
            "{last:?}"
        );
    } else {
        assert!(last.status.success(), "{last:?}");
        let said = String::from_utf8_lossy(&last.stdout).into_owned();
        assert!(
            said.contains("Left behind") && said.contains("perl"),
            "{said}"
        );
    }
    assert!(!world.dir.join(ETC).join("next").exists());
    assert!(!steals(&world), "the leaked CA is worth nothing now");
    succeed(&world, &["run", "r1", "r2", "r3", "ok"]);
    exits(&world, &["run", "perl", "ok"], 1);
    ok(second(&world, &["replace-ca", "--finish"]));
    ok(second(&world, &["run", "r1", "r2", "ok"]));
    let status = String::from_utf8(world.dispatch(&["serial-status"]).unwrap().stdout).unwrap();
    let of_perl = status
        .lines()
        .find(|line| line.starts_with("perl"))
        .unwrap();
    assert!(of_perl.contains("stale"), "{status}");

    // It lasts: agents that were killed and started, maintenance, a renewal, a rotation.
    for name in ["r1", "r2", "r3"] {
        timer(&world, name);
        killed_agent(&mut world, name);
        world.start_agent(name).unwrap();
    }
    succeed(&world, &["renew", "r1"]);
    timer(&world, "r1");
    succeed(&world, &["rotate-cert"]);
    succeed(&world, &["run", "r1", "r2", "r3", "ok"]);
    assert!(!steals(&world));
}

#[test]
fn a_stolen_dispatcher_is_shut_out_by_the_list() {
    let mut world = fleet("ca-stolen");
    second_dispatcher(&world, &["r1", "r2"]);
    let serial = serial_of(&world.dir.join("second/etc/ctrl-exec/dispatcher.crt"));
    let own = serial_of(&world.dir.join(ETC).join("dispatcher.crt"));
    let refused = exits(&world, &["revoke", "--serial", &own], 3);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("own certificate"),
        "{refused:?}"
    );
    succeed(&world, &["ping", "--all"]);
    world.stop_agent("r2");

    let output = killed_often(&world, &["revoke", "--serial", &serial], 0);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("handed the new list") && said.contains("release 0.12.3: perl"),
        "{said}"
    );
    ok(second(&world, &["run", "r1", "ok"]));
    succeed(&world, &["ping", "r1", "perl"]);
    let out = second(&world, &["run", "r1", "ok"]);
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.contains("certificate revoked"), "{out}");
    let list = world
        .agent_dir("r1")
        .join("var/lib/ctrl-exec-agent/revoked-by-demo.crl");
    let shown = Command::new("openssl")
        .args(["crl", "-noout", "-text", "-CAfile"])
        .arg(world.dir.join(ETC).join("ca.crt"))
        .arg("-in")
        .arg(&list)
        .output()
        .unwrap();
    let (shown, verdict) = (
        String::from_utf8_lossy(&shown.stdout).to_lowercase(),
        String::from_utf8_lossy(&shown.stderr).into_owned(),
    );
    assert!(
        shown.contains(&format!("serial number: {serial}")),
        "{shown}"
    );
    assert!(verdict.contains("verify OK"), "{verdict}");

    // It lasts, and reaches who was away; lost agents do not make it longer.
    killed_agent(&mut world, "r1");
    world.start_agent("r1").unwrap();
    assert!(!second(&world, &["ping", "r1", "--strict"]).status.success());
    world.start_agent("r2").unwrap();
    ok(second(&world, &["ping", "r2", "--strict"]));
    let before = fs::read(&list).unwrap();
    succeed(&world, &["revoke", "perl"]);
    succeed(&world, &["maintain"]);
    assert!(!second(&world, &["ping", "r2", "--strict"]).status.success());
    assert_eq!(fs::read(&list).unwrap(), before);
    // And back.
    succeed(&world, &["unrevoke", "--serial", &serial]);
    succeed(&world, &["ping", "r1", "r2"]);
    ok(second(&world, &["ping", "r1", "r2", "--strict"]));
}
