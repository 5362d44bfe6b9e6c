//! Rotation and renewal over live agents that check the caller's serial as real ones do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_protocol::http::Request;
use ctrl_exec_protocol::serial;
use ctrl_exec_protocol::tls::Identity;
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_protocol::x509::{cert, csr};
use ctrl_exec_testkit::json::{self as jval, Object};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use support::agent::{Act, Agent};
use support::{Root, object, text};

type Map = Arc<Mutex<HashSet<String>>>;

fn own_serial(root: &Root) -> String {
    let pem = std::fs::read_to_string(root.path("etc/ctrl-exec/dispatcher.crt")).unwrap();
    serial::canonical(&cert::facts_from_pem(&pem).unwrap().serial_hex)
}

/// An agent with a trust map: it knows the serials in it and changes it when told to.
fn agent_with_map(root: &Root, name: &str, address: &str) -> (Agent, Map) {
    let map: Map = Arc::new(Mutex::new(HashSet::from([own_serial(root)])));
    let (identity, _) = root.agent_identity(name, 825);
    let trusted = Arc::clone(&map);
    let agent = Agent::start_at(
        address,
        &identity,
        &root.ca_pem(),
        move |request, caller| {
            let mut trusted = trusted.lock().unwrap();
            if !trusted.contains(&serial::canonical(caller)) {
                return Act::Answer(
                    403,
                    r#"{"error":"serial mismatch","status":"forbidden"}"#.into(),
                );
            }
            if request.path() == "/rotate-serial" {
                let body = object(&String::from_utf8_lossy(&request.body));
                let told = serial::canonical(text(&body, "serial"));
                if text(&body, "action") == "add" {
                    trusted.insert(told);
                } else {
                    trusted.remove(&told);
                }
            }
            Act::Answer(
                200,
                r#"{"status":"ok","exit":0,"expiry":"Feb 24 13:29:34 2099 GMT"}"#.into(),
            )
        },
    );
    (agent, map)
}

fn reached(root: &Root, name: &str) -> bool {
    let ended = root.run(&["run", name, "s", "--json"]);
    ended.exit == 0
}

/// The new certificate is in place, and nothing else was done when the power failed: agents that
/// know only the old one are reached by any command, at once, and the state is put in order.
#[test]
fn a_rotation_that_broke_off_cuts_nobody_off() {
    let root = Root::new();
    let (vm, _map) = agent_with_map(&root, "vm", "127.0.0.1:0");
    paired(&root, "vm", vm.address);
    let etc = |name: &str| root.path("etc/ctrl-exec").join(name);
    let state = root.path("var/lib/ctrl-exec/rotation.json");
    let keep: Vec<(&str, Vec<u8>)> = ["dispatcher.crt", "dispatcher.key"]
        .into_iter()
        .map(|name| (name, std::fs::read(etc(name)).unwrap()))
        .collect();
    let old = own_serial(&root);
    root.json(&["rotate-cert", "--json"]);
    let new = own_serial(&root);
    let announced = format!(
        r#"{{"next":{{"serial":"{new}","previous":"{old}","rotated_at":"2026-11-28T01:02:03Z","overlap_days":30}}}}"#
    );
    for left in [None, Some(announced)] {
        // The agent was not told, its record not written, the state not either, or announced only.
        let known: Map = Arc::new(Mutex::new(HashSet::from([old.clone()])));
        let again = return_agent(
            &root,
            "vm",
            Arc::clone(&known),
            SocketAddr::from(([127, 0, 0, 1], 0)),
        );
        paired_at(&root, "vm", again.address, &old);
        match &left {
            None => std::fs::remove_file(&state).unwrap(),
            Some(text) => std::fs::write(&state, text).unwrap(),
        }
        assert!(reached(&root, "vm"), "{left:?}");
        let status = root.run(&["serial-status"]).stdout;
        assert!(
            status.contains(&format!("Current serial:  {new}")),
            "{status}"
        );
        assert!(status.contains("pending"), "{status}");
        if left.is_some() {
            assert!(
                status.contains("Rotated at:      2026-11-28T01:02:03Z"),
                "{status}"
            );
        }
        root.json(&["maintain", "--json"]);
        assert!(known.lock().unwrap().contains(&new));
    }
    // Announced, and then nothing: it did not happen.
    for (name, bytes) in &keep {
        std::fs::write(etc(name), bytes).unwrap();
        let _ = std::fs::remove_file(etc(&format!("{name}.prev")));
    }
    let announced = format!(r#"{{"next":{{"serial":"{new}","previous":"{old}"}}}}"#);
    std::fs::write(&state, announced).unwrap();
    root.run(&["serial-status"]);
    assert_eq!(std::fs::read_to_string(&state).unwrap().trim(), "{}");
}

/// What a record says of an agent may be wrong: a call that is refused for its serial is made once
/// with the other certificate, whatever it is.
#[test]
fn a_call_refused_for_its_serial_is_made_with_the_other_certificate() {
    let root = Root::new();
    let (vm, map) = agent_with_map(&root, "vm", "127.0.0.1:0");
    paired(&root, "vm", vm.address);
    let old = own_serial(&root);
    root.json(&["rotate-cert", "--json"]);
    let new = own_serial(&root);
    // Its record says that it knows the new one; it knows only the old one, and the reverse.
    for (knows, trusts) in [(&new, &old), (&old, &new)] {
        *map.lock().unwrap() = HashSet::from([trusts.clone()]);
        paired_at(&root, "vm", vm.address, knows);
        let before = vm.seen().len();
        for verb in [
            &["run", "vm", "s", "--strict"][..],
            &["ping", "vm", "--strict"],
        ] {
            let ended = root.run(verb);
            assert_eq!(ended.exit, 0, "{verb:?}: {ended:?}");
        }
        assert_eq!(vm.seen().len(), before + 4, "each was refused once");
    }
    // An agent that knows neither refuses, and is not asked a third time.
    *map.lock().unwrap() = HashSet::new();
    let before = vm.seen().len();
    let ended = root.run(&["run", "vm", "s", "--strict"]);
    assert!(
        ended.exit == 4 && ended.stdout.contains("serial mismatch"),
        "{ended:?}"
    );
    assert_eq!(vm.seen().len(), before + 2);
}

#[test]
fn a_rotation_reaches_agents_that_were_away() {
    let root = Root::new();
    let (near, near_map) = agent_with_map(&root, "near", "127.0.0.1:0");
    paired(&root, "near", near.address);
    // This one is away: its address is known, nobody listens.
    let away = SocketAddr::from(([127, 0, 0, 1], support::ports::claim().unwrap()));
    paired(&root, "away", away);
    let away_knows = own_serial(&root);

    let rotated = root.json(&["rotate-cert", "--json"]);
    let (old, new) = (text(&rotated, "old_serial").to_owned(), own_serial(&root));
    assert_eq!(
        (text(&rotated, "new_serial"), old.as_str()),
        (new.as_str(), away_knows.as_str())
    );
    assert_eq!(jval::line(&rotated["updated"]), r#"["near"]"#);
    assert_eq!(near_map.lock().unwrap().len(), 2);
    assert_eq!(text(&root.record("near"), "serial_status"), "current");
    assert_eq!(text(&root.record("away"), "serial_status"), "pending");
    assert!(reached(&root, "near"));

    // A second rotation now would cut the absent one off.
    let refused = root.run(&["rotate-cert"]);
    assert_eq!(refused.exit, 3);
    assert!(refused.stderr.contains("away"), "{}", refused.stderr);

    // It comes back, knowing only the old serial: calls use the old certificate until it is told.
    let known: Map = Arc::new(Mutex::new(HashSet::from([old.clone()])));
    let back = return_agent(&root, "away", Arc::clone(&known), away);
    assert!(reached(&root, "away"));
    assert_eq!(
        back.seen()
            .last()
            .map(|seen| serial::canonical(&seen.client_serial)),
        Some(old.clone())
    );
    let status = root.run(&["serial-status"]);
    assert!(
        status
            .stdout
            .contains(&format!("Current serial:  {new}\nPrevious serial: {old}\n"))
    );
    let mut maintained = root.json(&["maintain", "--json"]);
    maintained.remove("backup_due");
    assert_eq!(
        jval::line(&maintained),
        r#"{"agents":2,"failed":[],"ok":1,"pinged":2}"#
    );
    assert!(known.lock().unwrap().contains(&new));
    assert_eq!(text(&root.record("away"), "serial_status"), "current");
    assert!(reached(&root, "away"));
    assert_eq!(
        back.seen()
            .last()
            .map(|seen| serial::canonical(&seen.client_serial)),
        Some(new.clone())
    );

    // The overlap is over: the old serial is taken back everywhere, and the old pair removed.
    let state = root.path("var/lib/ctrl-exec/rotation.json");
    let mut record = object(&std::fs::read_to_string(&state).unwrap());
    record.insert(
        "overlap_expires".into(),
        jval::string("2020-01-01T00:00:00Z"),
    );
    std::fs::write(&state, jval::line(&record)).unwrap();
    root.json(&["maintain", "--json"]);
    for map in [&near_map, &known] {
        assert_eq!(*map.lock().unwrap(), HashSet::from([new.clone()]));
    }
    let state = root.json(&["serial-status", "--json"]);
    let state = jval::sub_object(&state, "state").unwrap();
    assert!(!state.contains_key("previous_serial") && state.contains_key("previous_retired"));
    assert!(!root.path("etc/ctrl-exec/dispatcher.key.prev").exists());
    assert!(reached(&root, "near") && reached(&root, "away"));
}

/// Registers an agent that trusts the present certificate.
fn paired(root: &Root, name: &str, address: SocketAddr) {
    paired_at(root, name, address, &own_serial(root));
}

/// An agent whose record says that it knows this serial.
fn paired_at(root: &Root, name: &str, address: SocketAddr, knows: &str) {
    root.register(name, address);
    let mut record = root.record(name);
    record.insert("dispatcher_serial".into(), jval::string(knows));
    root.register_json(name, &jval::line(&record));
}

fn return_agent(root: &Root, name: &str, map: Map, address: SocketAddr) -> Agent {
    let (identity, _) = root.agent_identity(name, 825);
    Agent::start_at(
        &address.to_string(),
        &identity,
        &root.ca_pem(),
        move |request, caller| {
            let mut trusted = map.lock().unwrap();
            if !trusted.contains(&serial::canonical(caller)) {
                return Act::Answer(403, r#"{"error":"serial mismatch"}"#.into());
            }
            if request.path() == "/rotate-serial" {
                let body = object(&String::from_utf8_lossy(&request.body));
                let told = text(&body, "serial").to_owned();
                match text(&body, "action") {
                    "add" => trusted.insert(told),
                    _ => trusted.remove(&told),
                };
            }
            Act::Answer(
                200,
                r#"{"status":"ok","exit":0,"expiry":"Feb 24 13:29:34 2099 GMT"}"#.into(),
            )
        },
    )
}

/// What an agent does for its renewal.
struct Renewing {
    agent: Agent,
    staged: Arc<Mutex<Option<Object>>>,
}

fn renewing(root: &Root, cert_cn: &str, csr_cn: &str, days: u32, accept: bool) -> Renewing {
    renewing_made(root, cert_cn, csr_cn, days, 0, accept)
}

fn renewing_made(
    root: &Root,
    cert_cn: &str,
    csr_cn: &str,
    days: u32,
    ago: i64,
    accept: bool,
) -> Renewing {
    let (identity, key): (Identity, String) = root.agent_identity_made(cert_cn, days, ago);
    let end = ctrl_exec_protocol::time::Utc(identity.facts().not_after).openssl();
    let request_pem = csr::create(&PrivateKey::from_pem(&key).unwrap(), csr_cn).unwrap();
    let staged: Arc<Mutex<Option<Object>>> = Arc::default();
    let store = Arc::clone(&staged);
    let agent = Agent::start(&identity, &root.ca_pem(), move |request: &Request| {
        let body = match &*request.path() {
            "/ping" => jval::Object::of([
                ("status", jval::string("ok")),
                ("expiry", jval::string(end.as_str())),
                ("version", jval::string("0.13.0")),
            ]),
            "/renew" => jval::Object::of([
                ("status", jval::string("ok")),
                ("csr", jval::string(request_pem.as_str())),
            ]),
            "/renew-complete" if accept => {
                *store.lock().unwrap() = Some(object(&String::from_utf8_lossy(&request.body)));
                jval::Object::of([("status", jval::string("ok"))])
            }
            _ => jval::Object::of([
                ("status", jval::string("error")),
                ("error", jval::string("certificate does not match our key")),
            ]),
        };
        Act::Answer(200, jval::line(&body))
    });
    Renewing { agent, staged }
}

#[test]
fn a_ping_renews_what_is_due_and_nothing_else() {
    let root = Root::new();
    // By the reference's rule, less than half a year left, everything here would be due.
    let fresh = renewing(&root, "fresh", "fresh", 30, true);
    root.register("fresh", fresh.agent.address);
    assert_eq!(root.run(&["ping", "fresh"]).exit, 0);
    assert!(fresh.staged.lock().unwrap().is_none(), "not due");

    // 25 of 30 days are over.
    let old = renewing_made(&root, "old", "old", 30, 25, true);
    root.register("old", old.agent.address);
    let pinged = root.json(&["ping", "old", "--json"]);
    assert_eq!(text(support::items(&pinged, "results")[0], "status"), "ok");
    assert!(old.staged.lock().unwrap().is_some(), "due");
    let renewed_until = text(&root.record("old"), "staged_expiry").to_owned();
    assert!(
        renewed_until.ends_with(" GMT") && !renewed_until.contains("2029"),
        "{renewed_until}"
    );

    let renewed = root.run(&["renew", "fresh"]);
    assert_eq!(renewed.exit, 0, "{renewed:?}");
    let staged = fresh.staged.lock().unwrap().clone().unwrap();
    let facts = cert::facts_from_pem(text(&staged, "cert")).unwrap();
    assert_eq!(facts.subject_cn.as_deref(), Some("fresh"));
    assert_eq!(text(&staged, "ca"), root.ca_pem());
    let expiry = ctrl_exec_protocol::time::Utc(facts.not_after).openssl();
    assert_eq!(text(&root.record("fresh"), "staged_expiry"), expiry);
}

#[test]
fn a_refused_certificate_is_no_success() {
    let root = Root::new();
    let agent = renewing(&root, "a", "a", 30, false);
    root.register("a", agent.agent.address);
    let before = text(&root.record("a"), "expiry").to_owned();
    let ended = root.run(&["renew", "a"]);
    assert_eq!(ended.exit, 1);
    assert!(
        ended
            .stdout
            .contains("refused the certificate: certificate does not match")
    );
    assert_eq!(text(&root.record("a"), "expiry"), before);
}

#[test]
fn a_renamed_agent_renews_and_an_impostor_does_not() {
    let root = Root::new();
    let agent = renewing(&root, "old.name", "old.name", 30, true);
    root.register("old.name", agent.agent.address);
    assert_eq!(
        root.run(&["edit-agent", "old.name", "--rename", "attic"])
            .exit,
        0
    );
    assert_eq!(root.run(&["renew", "attic"]).exit, 0);

    // Another agent of the same CA answers at the address and asks for the name.
    let impostor = renewing(&root, "other", "victim", 30, true);
    root.register("victim", impostor.agent.address);
    let ended = root.run(&["renew", "victim"]);
    assert_eq!(ended.exit, 1);
    assert!(
        ended.stdout.contains("shows a certificate for 'other'"),
        "{ended:?}"
    );
    // And one that asks for a name that is not its own.
    let liar = renewing(&root, "liar", "victim", 30, true);
    root.register("liar", liar.agent.address);
    assert_eq!(root.run(&["renew", "liar"]).exit, 1);
}

#[test]
fn the_reference_agents_request_is_signed_when_due() {
    // The recording: a ping that says 20 days are left leads to /renew and /renew-complete.
    let root = Root::of_reference();
    let transcripts =
        std::fs::read_to_string(support::fixture("dispatcher-transcripts.json")).unwrap();
    let wrapped = object(&format!("{{\"c\":{transcripts}}}"));
    let case = support::items(&wrapped, "c")
        .into_iter()
        .find(|case| text(case, "case") == "ping triggers renewal")
        .unwrap();
    let ctrl_exec_testkit::json::Value::Array(answers) = &case["agent_answers"] else {
        panic!()
    };
    let body = |n: usize| match &answers[n] {
        jval::Value::Array(pair) => match &pair[1] {
            jval::Value::String(body) => body.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    // The recorded certificate's end has no certificate here; the reference rule applies.
    let etc = support::fixture("reference-agent/etc/ctrl-exec-agent");
    let key = std::fs::read_to_string(etc.join("agent.key")).unwrap();
    let identity = Identity::from_pem(
        &std::fs::read_to_string(etc.join("agent.crt")).unwrap(),
        &key,
    )
    .unwrap();
    let agent = Agent::scripted(
        &identity,
        &root.ca_pem(),
        (0..3).map(|n| Act::Answer(200, body(n))).collect(),
    );
    root.register("vm", agent.address);
    assert_eq!(root.run(&["ping", "vm", "--json"]).exit, 0);
    let seen = agent.seen();
    assert_eq!(seen[1].path, "/renew");
    assert_eq!(seen[2].path, "/renew-complete");
    let sent = object(&seen[2].body);
    let facts = cert::facts_from_pem(text(&sent, "cert")).unwrap();
    assert_eq!(facts.subject_cn.as_deref(), Some("vm"));
    assert_eq!(seen[2].reads.len(), 1, "one record");
    let expiry = ctrl_exec_protocol::time::Utc(facts.not_after).openssl();
    assert_eq!(text(&root.record("vm"), "staged_expiry"), expiry);
}

#[test]
fn an_expired_agent_is_renewed_when_the_operator_says_so() {
    let root = Root::new();
    let agent = renewing_made(&root, "drawer", "drawer", 30, 40, true);
    root.register("drawer", agent.agent.address);
    let mut record = root.record("drawer");
    let end = ctrl_exec_protocol::time::Utc::now().0 - 10 * 86_400;
    record.insert(
        "expiry".into(),
        jval::string(ctrl_exec_protocol::time::Utc(end).openssl()),
    );
    root.register_json("drawer", &jval::line(&record));
    let ended = root.run(&["renew", "drawer"]);
    assert_eq!(ended.exit, 1);
    assert!(
        ended.stdout.contains("TLS handshake") && ended.stdout.contains("ended on"),
        "{ended:?}"
    );
    assert_eq!(root.run(&["renew", "--allow-expired", "drawer"]).exit, 0);
    assert!(agent.staged.lock().unwrap().is_some());
}

/// docs/guide/MIGRATION.md: after the reference's rotation nobody trusts the new certificate; with the
/// old pair laid beside it, `maintain` tells the agents.
#[test]
fn a_fleet_locked_out_by_the_reference_is_told() {
    let root = Root::new();
    let (agent, map) = agent_with_map(&root, "vm", "127.0.0.1:0");
    paired(&root, "vm", agent.address);
    let old = own_serial(&root);
    for name in ["dispatcher.crt", "dispatcher.key"] {
        let path = root.path(&format!("etc/ctrl-exec/{name}"));
        std::fs::copy(&path, path.with_file_name(format!("{name}.kept"))).unwrap();
    }
    assert_eq!(root.run(&["setup-ctrl-exec", "--yes"]).exit, 0);
    for name in ["dispatcher.crt", "dispatcher.key"] {
        let path = root.path(&format!("etc/ctrl-exec/{name}"));
        let kept = path.with_file_name(format!("{name}.kept"));
        std::fs::rename(kept, path.with_file_name(format!("{name}.prev"))).unwrap();
    }
    let new = own_serial(&root);
    let state = jval::Object::of([
        ("current_serial", jval::string(new.as_str())),
        ("previous_serial", jval::string(old.as_str())),
        ("rotated_at", jval::string("2026-11-22T13:33:35Z")),
        ("overlap_days", jval::number(30)),
        ("overlap_expires", jval::string("2099-12-22T13:33:35Z")),
    ]);
    std::fs::write(
        root.path("var/lib/ctrl-exec/rotation.json"),
        jval::line(&state),
    )
    .unwrap();
    let mut record = root.record("vm");
    record.insert("serial_status".into(), jval::string("pending"));
    root.register_json("vm", &jval::line(&record));
    root.json(&["maintain", "--json"]);
    assert!(map.lock().unwrap().contains(&new));
    assert!(reached(&root, "vm"));
}
