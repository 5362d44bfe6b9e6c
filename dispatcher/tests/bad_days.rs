//! The bad days of a fleet's trust, through the real program: a router that is lost, replaced or
//! taken over, certificates that ended, records that cannot be read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_testkit::json as jval;
use std::net::SocketAddr;
use support::agent::{Act, Agent};
use support::{Ended, Root, items, text};

fn honest(request: &ctrl_exec_protocol::http::Request) -> Act {
    let body = match &*request.path() {
        "/run" => r#"{"exit":0,"stdout":"fine\n","stderr":""}"#.to_owned(),
        "/capabilities" => r#"{"status":"ok","scripts":[],"tags":{"site":"lab"}}"#.to_owned(),
        _ => r#"{"status":"ok","expiry":"Jan  1 00:00:00 2040 GMT"}"#.to_owned(),
    };
    Act::Answer(200, body)
}

/// A registered agent; its certificate is good for `days`, made so many days ago.
fn agent_made(root: &Root, name: &str, days: u32, ago: i64) -> Agent {
    let (identity, _) = root.agent_identity_made(name, days, ago);
    let agent = Agent::start(&identity, &root.ca_pem(), honest);
    root.register(name, agent.address);
    agent
}

fn agent(root: &Root, name: &str) -> Agent {
    agent_made(root, name, 400, 0)
}

fn unreachable() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], support::ports::claim().unwrap()))
}

/// A stolen router does not answer: what it was given is known here all the same.
#[test]
fn a_router_that_is_gone_is_revoked_by_name() {
    let root = Root::new();
    let lost = agent(&root, "lost");
    let kept = agent(&root, "kept");
    assert_eq!(root.run(&["ping", "--all"]).exit, 0);
    let serial = text(&root.record("lost"), "cert_serial").to_owned();
    assert!(serial.len() >= 16, "{serial}");
    // Gone: its port is closed. Its certificate comes back at another address.
    let json = jval::line(&root.record("lost")).replace(
        &format!("\"port\":{}", lost.address.port()),
        &format!("\"port\":{}", unreachable().port()),
    );
    root.register_json("lost", &json);
    let before = lost.seen().len();
    let revoked = root.run(&["revoke", "lost"]);
    assert!(
        revoked.exit == 0 && revoked.stdout.contains(&serial),
        "{revoked:?}"
    );
    root.register("thief", lost.address);
    let run = root.run(&["run", "thief", "s"]);
    assert!(run.stdout.contains("was revoked"), "{run:?}");
    assert_eq!(lost.seen().len(), before, "it got no request");

    // It is listed, marked, and called by nobody.
    let list = root.run(&["list-agents"]).stdout;
    assert!(list.contains("REVOKED"), "{list}");
    let named = root.run(&["run", "lost", "s", "--strict"]);
    assert!(
        named.exit == 4 && named.stdout.contains("not called"),
        "{named:?}"
    );
    let results = root.json_any(&["run", "--all", "s", "--json"], 1);
    let hosts: Vec<&str> = items(&results, "results")
        .iter()
        .map(|result| text(result, "host"))
        .collect();
    assert!(
        !hosts.contains(&"lost") && hosts.contains(&"kept"),
        "{hosts:?}"
    );
    let _ = kept;

    let listed = root.json(&["list-revoked", "--json"]);
    let entry = items(&listed, "revoked")[0];
    assert_eq!(
        (text(entry, "serial"), text(entry, "agent")),
        (&*serial, "lost")
    );
    assert!(
        text(entry, "note").starts_with("lost revoked "),
        "{entry:?}"
    );

    // And back.
    assert_eq!(root.run(&["unrevoke", "lost"]).exit, 0);
    assert_eq!(text(&root.record("lost"), "revoked"), "");
    let named = root.run(&["run", "thief", "s"]);
    assert!(
        named.stdout.contains("shows the certificate of 'lost'"),
        "{named:?}"
    );
    let accepted = root.run(&["run", "thief", "s", "--accept-name"]);
    assert!(accepted.stdout.contains("fine"), "{accepted:?}");
    assert_eq!(root.run(&["unrevoke", "lost"]).exit, 3);
}

#[test]
fn one_certificate_is_revoked_by_serial() {
    let root = Root::new();
    let vm = agent(&root, "vm");
    let (identity, _) = root.agent_identity("other", 10);
    let serial = cert::facts(identity.leaf_der()).unwrap().serial_hex;
    let poser = Agent::start(&identity, &root.ca_pem(), honest);
    root.register("vm", poser.address);
    assert!(root.run(&["run", "vm", "s"]).stdout.contains("fine"));
    let printed = format!("serial={}", serial.to_uppercase());
    assert_eq!(root.run(&["revoke", "--serial", &printed]).exit, 0);
    assert!(root.run(&["run", "vm", "s"]).stdout.contains("was revoked"));
    root.register("vm", vm.address);
    assert!(root.run(&["run", "vm", "s"]).stdout.contains("fine"));
    for bad in [
        &["revoke"][..],
        &["revoke", "vm", "--serial", "4a"],
        &["revoke", "--serial", "xyz"],
    ] {
        assert_eq!(root.run(bad).exit, 3, "{bad:?}");
    }
    assert_eq!(root.run(&["unrevoke", "--serial", &serial]).exit, 0);
    assert_eq!(root.run(&["unrevoke", "--serial", &serial]).exit, 1);
    // A list that says nothing we understand lets nobody in.
    std::fs::write(root.path("var/lib/ctrl-exec/revoked-serials"), "router7\n").unwrap();
    let refused = root.run(&["run", "vm", "s"]);
    assert!(
        refused.exit == 3 && refused.stderr.contains("line 1: 'router7' is no serial"),
        "{refused:?}"
    );
}

#[test]
fn unpairing_shows_the_certificates_and_they_can_be_barred_afterwards() {
    let root = Root::new();
    let vm = agent(&root, "vm");
    root.run(&["ping", "vm"]);
    let serial = text(&root.record("vm"), "cert_serial").to_owned();
    let unpaired = root.run(&["unpair", "vm"]);
    assert!(
        unpaired.stdout.contains(&serial) && unpaired.stdout.contains("ced revoke vm"),
        "{unpaired:?}"
    );
    assert_eq!(root.run(&["revoke", "vm"]).exit, 0);
    root.register("poser", vm.address);
    assert!(
        root.run(&["run", "poser", "s"])
            .stdout
            .contains("was revoked")
    );
    let second = agent(&root, "second");
    root.run(&["ping", "second"]);
    let unpaired = root.run(&["unpair", "second", "--revoke"]);
    assert!(
        unpaired.stdout.contains("refused from now on"),
        "{unpaired:?}"
    );
    root.register("poser", second.address);
    assert!(
        root.run(&["run", "poser", "s"])
            .stdout
            .contains("was revoked")
    );
}

/// What an agent sends cannot make its record unreadable.
#[test]
fn huge_tags_do_not_make_an_agent_vanish() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("vm", 400);
    let agent = Agent::start(&identity, &root.ca_pem(), |request| {
        let big = "x".repeat(1_200_000);
        let mut tags = format!(r#""site":"lab","big":"{big}""#);
        for n in 0..200 {
            tags.push_str(&format!(r#","t{n}":"v""#));
        }
        match &*request.path() {
            "/capabilities" => Act::Answer(
                200,
                format!(r#"{{"status":"ok","scripts":[],"tags":{{{tags}}}}}"#),
            ),
            _ => honest(request),
        }
    });
    root.register("vm", agent.address);
    let found = root.run(&["discover", "vm"]);
    assert!(found.stderr.contains("tag(s) not kept"), "{found:?}");
    let record = std::fs::metadata(root.path("var/lib/ctrl-exec/agents/vm.json")).unwrap();
    assert!(record.len() < 40_000, "{}", record.len());
    assert!(root.run(&["list-agents"]).stdout.contains("vm"));
    assert_eq!(root.run(&["run", "--tags", "site=lab", "s"]).exit, 0);
    root.run(&["ping", "vm"]);
    assert_eq!(root.run(&["revoke", "vm"]).exit, 0);
}

fn told(ended: &Ended, name: &str) -> bool {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    said.contains(&format!("the record of '{name}' is unreadable"))
}

/// Every verb that would have met the agent tells of it and counts it.
#[test]
fn an_unreadable_record_is_told_of_by_every_verb() {
    let root = Root::new();
    let _good = agent(&root, "good");
    let bad = agent(&root, "bad");
    root.run(&["ping", "--all"]);
    let path = root.path("var/lib/ctrl-exec/agents/bad.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    for content in ["", &whole[..whole.len() - 40], "[]"] {
        std::fs::write(&path, content).unwrap();
        for (args, exit) in [
            (&["list-agents"][..], 1),
            (&["list-agents", "--tags", "site=lab"], 1),
            (&["list-agents", "--json"], 1),
            (&["serial-status"], 1),
            (&["run", "--all", "s"], 1),
            (&["run", "bad", "s", "--strict"], 5),
            (&["run", "b*", "s"], 1),
            (&["ping", "--all", "--strict"], 5),
            (&["discover", "--strict"], 5),
            (&["doctor", "--offline"], 1),
            (&["maintain"], 1),
            (&["edit-agent", "bad", "--ip", "10.0.0.1"], 3),
            (&["unpair", "bad"], 3),
        ] {
            let ended = root.run(args);
            assert_eq!(ended.exit, exit, "{args:?}: {ended:?}");
            assert!(told(&ended, "bad"), "{args:?}: {ended:?}");
        }
        let all = root.run(&["run", "--all", "s"]);
        assert!(all.stdout.contains("fine"), "the others go on: {all:?}");
        let rotated = root.run(&["rotate-cert"]);
        assert!(
            rotated.exit == 3 && rotated.stderr.contains("record of bad"),
            "{rotated:?}"
        );
    }
    std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    let repaired = root.run(&["doctor", "--offline", "--repair"]);
    assert!(
        repaired.stdout.contains("'bad' has a new record"),
        "{repaired:?}"
    );
    assert_eq!(root.run(&["list-agents"]).exit, 0);
    assert!(root.run(&["run", "bad", "s"]).stdout.contains("fine"));
    let serial = text(&root.record("bad"), "cert_serial").to_owned();
    std::fs::write(&path, "").unwrap();
    let revoked = root.run(&["revoke", "bad"]);
    assert!(
        revoked.exit == 0 && revoked.stdout.contains(&serial),
        "{revoked:?}"
    );
    let _ = bad;
}

/// A certificate that ended is told in words, and what is staged and lost can be renewed again.
#[test]
fn an_ended_certificate_names_its_remedy_and_is_renewed_again_and_again() {
    let root = Root::new();
    let (identity, key) = root.agent_identity_made("drawer", 30, 100);
    let key = PrivateKey::from_pem(&key).unwrap();
    let request = csr::create(&key, "drawer").unwrap();
    let agent = Agent::start(&identity, &root.ca_pem(), move |http| {
        let body = match &*http.path() {
            "/renew" => jval::line(&jval::Object::of([
                ("status", jval::string("ok")),
                ("csr", jval::string(request.as_str())),
            ])),
            _ => r#"{"status":"ok"}"#.to_owned(),
        };
        Act::Answer(200, body)
    });
    root.register("drawer", agent.address);
    for verb in ["run", "ping"] {
        let args: &[&str] = if verb == "run" {
            &["run", "drawer", "s"]
        } else {
            &["ping", "drawer"]
        };
        let said = root.run(args).stdout;
        assert!(
            said.contains("certificate ended on ")
                && said.contains("ced renew drawer --allow-expired"),
            "{said}"
        );
        assert!(!said.contains("UNIX") && !said.contains("Other("), "{said}");
    }
    // The registry's `expiry` is of some other certificate; twice in a row, as nothing is adopted.
    for _ in 0..2 {
        let renewed = root.run(&["renew", "drawer", "--allow-expired"]);
        assert_eq!(renewed.exit, 0, "{renewed:?}");
        let record = root.record("drawer");
        assert_eq!(text(&record, "expiry"), "Feb 24 13:32:16 2029 GMT");
        assert!(!text(&record, "staged_expiry").is_empty());
    }
    let issued =
        std::fs::read_to_string(root.path("var/lib/ctrl-exec/issued-certificates")).unwrap();
    assert_eq!(issued.lines().count(), 2, "{issued}");
    let list = root.run(&["list-agents"]).stdout;
    assert!(list.contains("not adopted yet"), "{list}");
}

#[test]
fn a_foreign_ca_is_called_that() {
    let root = Root::new();
    let other = Root::new();
    let (identity, _) = other.agent_identity("vm", 100);
    let agent = Agent::start(&identity, &other.ca_pem(), honest);
    root.register("vm", agent.address);
    let said = root.run(&["ping", "vm"]).stdout;
    assert!(said.contains("its certificate is of another CA"), "{said}");
    assert!(!said.contains("BadSignature"), "{said}");
    let maintained = root.run(&["maintain"]);
    assert_eq!(maintained.exit, 1, "{maintained:?}");
    assert!(maintained.stdout.contains("pinged 0/1"), "{maintained:?}");
}

/// The registry shows what the agent shows.
#[test]
fn a_ping_notes_the_certificate_that_is_served() {
    let root = Root::new();
    let _vm = agent_made(&root, "vm", 400, 10);
    root.run(&["ping", "vm"]);
    let record = root.record("vm");
    let days = ctrl_exec_protocol::time::Utc::parse_openssl(text(&record, "expiry"))
        .unwrap()
        .0
        - ctrl_exec_protocol::time::Utc::now().0;
    assert!([389, 390].contains(&(days / 86_400)), "{record:?}");
    // Another agent's certificate at that address is not noted as its own.
    let (identity, _) = root.agent_identity("other", 10);
    let poser = Agent::start(&identity, &root.ca_pem(), honest);
    let before = text(&record, "cert_serial").to_owned();
    let json = jval::line(&record).replace(
        &format!("\"port\":{}", _vm.address.port()),
        &format!("\"port\":{}", poser.address.port()),
    );
    root.register_json("vm", &json);
    root.run(&["ping", "vm"]);
    assert_eq!(text(&root.record("vm"), "cert_serial"), before);
}

/// Everything below `--root`, from nothing, without a configuration.
#[test]
fn a_dispatcher_needs_no_configuration() {
    let root = Root::empty();
    std::fs::remove_dir_all(root.path("etc")).unwrap();
    for verb in ["setup-ca", "setup-ctrl-exec"] {
        let ended = root.run(&[verb]);
        assert_eq!(ended.exit, 0, "{verb}: {ended:?}");
    }
    let _vm = agent(&root, "vm");
    assert!(root.run(&["run", "vm", "s"]).stdout.contains("fine"));
    let doctor = root.run(&["doctor"]);
    assert_eq!(doctor.exit, 0, "{doctor:?}");
    assert!(
        doctor.stdout.contains("is not there: defaults"),
        "{doctor:?}"
    );
}

/// `doctor` tells a foreign CA from one that was re-issued with the same key.
#[test]
fn doctor_knows_whose_ca_it_is() {
    let root = Root::new();
    let ca = root.path("etc/ctrl-exec/ca.crt");
    let own = std::fs::read_to_string(&ca).unwrap();
    std::fs::write(&ca, Root::new().ca_pem()).unwrap();
    let foreign = root.run(&["doctor", "--offline"]);
    assert!(
        foreign.exit == 1 && foreign.stdout.contains("made by another CA"),
        "{foreign:?}"
    );
    std::fs::write(&ca, own).unwrap();
    let reissued = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-new",
            "-sha256",
            "-days",
            "7300",
            "-subj",
            "/CN=ctrl-exec CA",
        ])
        .args(["-addext", "keyUsage=critical,keyCertSign", "-key"])
        .arg(root.path("etc/ctrl-exec/ca.key"))
        .arg("-out")
        .arg(&ca)
        .output()
        .unwrap();
    assert!(reissued.status.success(), "{reissued:?}");
    let known = root.run(&["doctor", "--offline"]);
    assert_eq!(known.exit, 0, "{known:?}");
    assert!(known.stdout.contains("re-issued on"), "{known:?}");
}

#[test]
fn doctor_finds_serials_that_agents_take_for_one_another() {
    let root = Root::new();
    let _vm = agent(&root, "vm");
    assert_eq!(root.run(&["doctor", "--offline"]).exit, 0);
    // 0x15 is 21; "15" read as decimal is 0xf.
    for (name, serial) in [("a", "0f"), ("b", "15")] {
        let json = jval::line(&root.record("vm")).replacen(
            '{',
            &format!(r#"{{"cert_serial":"{serial}","#),
            1,
        );
        root.register_json(name, &json);
    }
    let found = root.run(&["doctor", "--offline"]);
    assert!(
        found.exit == 1
            && found.stdout.contains("0x15 of 'b'")
            && found.stdout.contains("0xf of 'a'"),
        "{found:?}"
    );
}

/// Without the CA's key nothing starts that would need it, and nothing advises a new CA.
#[test]
fn without_the_ca_key_it_is_said_first() {
    let root = Root::new();
    let _vm = agent(&root, "vm");
    std::fs::remove_file(root.path("etc/ctrl-exec/ca.key")).unwrap();
    for args in [
        &["pairing-mode"][..],
        &["pairing-mode", "start"],
        &["renew", "vm"],
        &["rotate-cert"],
    ] {
        let ended = root.run(args);
        assert_eq!(ended.exit, 3, "{args:?}: {ended:?}");
        assert!(
            ended.stderr.contains("restore it from a backup") && !ended.stderr.contains("setup-ca"),
            "{args:?}: {ended:?}"
        );
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}

/// A declined set-up is no success; one that replaces the certificate leaves no state that lies.
#[test]
fn setting_up_again_keeps_states_true() {
    let root = Root::new();
    let _vm = agent(&root, "vm");
    let declined = root.run(&["setup-ctrl-exec"]);
    assert_eq!(declined.exit, 1, "{declined:?}");
    assert_eq!(text(&root.record("vm"), "serial_status"), "current");
    assert_eq!(root.run(&["rotate-cert"]).exit, 0);
    let replaced = root.run(&["setup-ctrl-exec", "--yes"]);
    assert!(
        replaced.exit == 0 && replaced.stdout.contains("must be paired again: vm"),
        "{replaced:?}"
    );
    assert_eq!(text(&root.record("vm"), "serial_status"), "stale");
    assert!(!root.path("etc/ctrl-exec/dispatcher.crt.prev").exists());
    let shown = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(root.path("etc/ctrl-exec/dispatcher.crt"))
        .output()
        .unwrap();
    let serial = String::from_utf8(shown.stdout)
        .unwrap()
        .trim()
        .to_lowercase();
    let serial = serial.strip_prefix("serial=").unwrap().to_owned();
    let status = root.run(&["serial-status"]).stdout;
    assert!(
        status.contains(&format!("Current serial:  {serial}")),
        "{status}"
    );
    assert!(status.contains("Previous serial: (none)"), "{status}");
}

/// Those a forced rotation leaves behind are stale at once, and nothing promises what cannot be.
#[test]
fn a_forced_rotation_marks_those_left_behind() {
    let root = Root::new();
    let _vm = agent(&root, "vm");
    root.register("away", unreachable());
    let crt = std::fs::read_to_string(root.path("etc/ctrl-exec/dispatcher.crt")).unwrap();
    let serial = cert::facts_from_pem(&crt).unwrap().serial_hex;
    let json = jval::line(&root.record("away")).replace(
        r#""dispatcher_serial":"2""#,
        &format!(r#""dispatcher_serial":"{serial}""#),
    );
    root.register_json("away", &json);
    let first = root.run(&["rotate-cert"]);
    assert_eq!(first.exit, 0, "{first:?}");
    assert_eq!(text(&root.record("away"), "serial_status"), "pending");
    // It knows the certificate before this one, which the next rotation takes away.
    let forced = root.json(&["rotate-cert", "--force", "--json"]);
    let stale = jval::line(&forced["stale"]);
    assert_eq!(
        text(&root.record("away"), "serial_status"),
        "stale",
        "{stale}"
    );
    assert_eq!(stale, r#"["away"]"#);
    assert_eq!(text(&root.record("vm"), "serial_status"), "current");
}
