use super::*;
use crate::ca::{CaDir, CaOptions, IdentityFiles, setup_ca, setup_dispatcher};
use crate::model::SerialStatus;
use crate::store::files::issued::Issued;
use crate::store::files::registry::Registry;
use crate::store::files::revoked;
use crate::testing::TempDir;
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::json::{Bounds, Members, Raw};
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{LookupBy, Outcome, PairRequest};
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};
use ctrl_exec_protocol::x509::{cert, csr};
use std::time::{Duration, SystemTime};

struct Fixture {
    temp: TempDir,
    desk: Desk,
    log: Syslog,
}

fn fixture() -> Fixture {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path().join("etc"));
    let authority = setup_ca(&ca, &CaOptions::default(), Utc::now()).unwrap();
    let files = IdentityFiles::new(ca.dir().join("d.crt"), ca.dir().join("d.key"));
    setup_dispatcher(
        &authority,
        &files,
        None,
        KeyType::EcdsaP256,
        825,
        Utc::now(),
    )
    .unwrap();
    let desk = Desk {
        queue: Queue::new(temp.path().join("pairing")),
        registry: Registry::new(temp.path().join("agents")),
        issued: Issued::new(temp.path().join("issued")),
        root: Root::at(temp.path()),
        ca,
        cert: files.cert,
        dispatcher_id: "disp".to_owned(),
    };
    let log = Syslog::open("test", &Root::at(temp.path()));
    Fixture { temp, desk, log }
}

fn request(hostname: &str, cn: &str) -> PairRequest {
    let key = PrivateKey::from_pem(&keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    PairRequest {
        hostname: hostname.to_owned(),
        csr: csr::create(&key, cn).unwrap(),
        nonce: "n0".to_owned(),
        ..PairRequest::default()
    }
}

fn queue(fixture: &Fixture, request: &PairRequest) -> Queued {
    fixture
        .desk
        .queue
        .add(request, "127.0.0.9", &Identified::default(), Utc::now())
        .unwrap()
}

fn age(fixture: &Fixture, id: &str, suffix: &str) {
    let path = fixture.desk.queue.dir().join(format!("{id}.{suffix}"));
    let file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(700))
        .unwrap();
}

#[test]
fn queue_files_are_the_references() {
    let fixture = fixture();
    let mut wanted = request("router1.example", "router1.example");
    wanted.port = Some(7443);
    let identified = Identified {
        name: Some("localhost".to_owned()),
        confirmed: true,
        perl: false,
    };
    let queued = fixture
        .desk
        .queue
        .add(&wanted, "127.0.0.1", &identified, Utc::now())
        .unwrap();
    let path = fixture.desk.queue.dir().join(format!("{}.json", queued.id));
    let text = std::fs::read_to_string(path).unwrap();
    let ours = Members::parse(text.as_bytes(), &Bounds::RECORD).unwrap();
    // The members, and their JSON types, of a recorded file.
    let recorded = include_str!("../../tests/fixtures/pairing-transcripts.json");
    let wrapped = format!("{{\"all\":{recorded}}}");
    let all = Members::parse(wrapped.as_bytes(), &Bounds::RECORD).unwrap();
    let case = all.get("all").unwrap().items().next().unwrap();
    let theirs = Members::from_raw(case.get("queue_file").unwrap()).unwrap();
    let kinds = |object: &Members| {
        let kind = |value: Raw<'_>| std::mem::discriminant(&value.scalar());
        let members = object.iter();
        members
            .map(|(key, value)| (key.to_owned(), kind(value)))
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&ours), kinds(&theirs));
    // A file of theirs is read.
    let id = "d8e1eeea3bf5ffd8";
    let line = theirs.render();
    std::fs::write(fixture.desk.queue.dir().join(format!("{id}.json")), line).unwrap();
    let read = fixture.desk.queue.load(id).unwrap();
    assert_eq!((read.code.as_str(), read.port), ("269049", Some(7443)));
    assert!(read.reverse_confirmed);
    assert_eq!(
        ctrl_exec_protocol::wire::pairing::code(&read.csr),
        read.code
    );
}

#[test]
fn what_nobody_waits_for_is_cleaned_up() {
    let fixture = fixture();
    let queue_of = &fixture.desk.queue;
    let old = queue(&fixture, &request("a", "a"));
    let approved = queue(&fixture, &request("b", "b"));
    let fresh = queue(&fixture, &request("c", "c"));
    fixture
        .desk
        .approve(
            &approved.id,
            &Overrides::default(),
            &fixture.log,
            Utc::now(),
        )
        .unwrap();
    age(&fixture, &old.id, "json");
    // The request is old, its approval is not: the listener may still fetch it.
    age(&fixture, &approved.id, "json");
    let pending = queue_of.pending().unwrap();
    assert_eq!(
        pending.iter().map(|q| &q.id).collect::<Vec<_>>(),
        [&fresh.id]
    );
    assert!(queue_of.load(&old.id).is_err());
    assert_eq!(queue_of.decision(&approved.id), Some(Decision::Approved));
    // Nobody came for it.
    age(&fixture, &approved.id, "approved");
    assert_eq!(queue_of.len().unwrap(), 1);
    queue_of.expire().unwrap();
    assert_eq!(std::fs::read_dir(queue_of.dir()).unwrap().count(), 1);
    // Damaged and foreign files neither stop nor fill the queue.
    std::fs::write(queue_of.dir().join("0011223344556677.json"), "{").unwrap();
    std::fs::write(queue_of.dir().join("../x.json"), "{}").unwrap();
    std::fs::write(queue_of.dir().join("note.json"), "{}").unwrap();
    assert_eq!(queue_of.pending().unwrap().len(), 1);
    assert!(matches!(queue_of.load("../x"), Err(QueueError::BadId(_))));
}

#[test]
fn approval_registers_then_releases() {
    let fixture = fixture();
    let mut wanted = request("router1.example", "router1.example");
    wanted.port = Some(7600);
    wanted.ip = Some("127.0.0.8".to_owned());
    let queued = queue(&fixture, &wanted);
    let now = Utc::now();
    let approved = fixture
        .desk
        .approve(&queued.id, &Overrides::default(), &fixture.log, now)
        .unwrap();
    assert!(approved.warnings.is_empty(), "{:?}", approved.warnings);
    let text = approved.text();
    assert!(
        text.contains("lookup_by=hostname   addr=router1.example:7600"),
        "{text}"
    );

    let (decision, bytes) = fixture.desk.queue.answer(&queued.id).unwrap();
    assert_eq!(decision, Decision::Approved);
    let Outcome::Approved(answer) = Outcome::parse(&bytes).unwrap() else {
        panic!()
    };
    assert_eq!(
        (answer.nonce.as_str(), answer.dispatcher_id.as_str()),
        ("n0", "disp")
    );
    assert_eq!(
        answer.dispatcher_serial,
        crate::ca::trust_serial(&fixture.desk.cert).unwrap()
    );
    let leaf = cert::from_pem(&answer.cert).unwrap();
    ctrl_exec_protocol::x509::verify::verify_leaf(&answer.ca, &leaf, now.0).unwrap();

    let record = fixture.desk.registry.require("router1.example").unwrap();
    assert_eq!((record.ip(), record.port()), ("127.0.0.8", 7600));
    assert_eq!(record.lookup_by(), LookupBy::Hostname);
    assert_eq!(record.serial_status(), SerialStatus::Current);
    assert_eq!(record.paired_cn(), "router1.example");
    let expiry = Utc(cert::facts(&leaf).unwrap().not_after).openssl();
    assert_eq!(record.expiry(), expiry);
    // Approving or denying again is refused until the agent has fetched it.
    let again = fixture
        .desk
        .approve(&queued.id, &Overrides::default(), &fixture.log, now);
    assert!(matches!(
        again,
        Err(DeskError::Queue(QueueError::Decided(_)))
    ));
    assert!(fixture.desk.deny(&queued.id, &fixture.log).is_err());
}

#[test]
fn overrides_and_warnings() {
    let fixture = fixture();
    let queued = queue(&fixture, &request("a", "other"));
    let overrides = Overrides {
        lookup_by: Some(LookupBy::Ip),
        ip: Some("::1".parse().unwrap()),
        port: Some(9000),
        ..Overrides::default()
    };
    let approved = fixture
        .desk
        .approve(&queued.id, &overrides, &fixture.log, Utc::now())
        .unwrap();
    assert!(
        approved.text().contains("lookup_by=ip   addr=[::1]:9000"),
        "{}",
        approved.text()
    );
    assert!(approved.warnings[0].contains("certificate of 'other', not 'a'"));
    let record = fixture.desk.registry.require("a").unwrap();
    assert_eq!(
        (record.ip(), record.port(), record.paired_cn()),
        ("::1", 9000, "other")
    );

    // The same name again: said before and after.
    let again = queue(&fixture, &request("a", "a"));
    assert!(fixture.desk.warnings(&again)[0].contains(", address ::1, certificate "));
    let refused = fixture
        .desk
        .approve(&again.id, &Overrides::default(), &fixture.log, Utc::now())
        .unwrap_err();
    assert!(matches!(&refused, DeskError::Taken(taken) if taken.certs.len() == 1));
    assert!(refused.to_string().contains("--replace"), "{refused}");
    let old = fixture.desk.issued.of("a", Utc::now()).unwrap().remove(0);
    let listed = list_text(&fixture.desk.queue.pending().unwrap(), &fixture.desk);
    assert!(listed.contains(&old.serial), "{listed}");
    // Without the dispatcher's certificate: approved, but said.
    std::fs::remove_file(&fixture.desk.cert).unwrap();
    let replace = Overrides {
        replace: true,
        ..Overrides::default()
    };
    let approved = fixture
        .desk
        .approve(&again.id, &replace, &fixture.log, Utc::now())
        .unwrap();
    // The old one is barred, the new one is not.
    let barred = revoked::load(&fixture.desk.root).unwrap();
    assert_eq!(
        barred,
        std::collections::HashSet::from([old.serial.clone()])
    );
    let new = fixture.desk.registry.require("a").unwrap();
    assert!(!barred.contains(new.cert_serial()) && !new.cert_serial().is_empty());
    assert_eq!(fixture.desk.issued.of("a", Utc::now()).unwrap().len(), 2);
    assert!(
        approved
            .text()
            .contains("will not trust this dispatcher yet"),
        "{}",
        approved.text()
    );
    let record = fixture.desk.registry.require("a").unwrap();
    assert_eq!(record.serial_status(), SerialStatus::Unknown);
}

/// Whoever may write into the queue cannot have another request signed than the one whose code was
/// compared, nor show a code of his own.
#[test]
fn what_is_signed_is_what_was_compared() {
    let fixture = fixture();
    let honest = queue(&fixture, &request("r1", "r1"));
    let path = fixture.desk.queue.dir().join(format!("{}.json", honest.id));
    let text = std::fs::read_to_string(&path).unwrap();
    let escaped = |pem: &str| pem.replace('\n', "\\n");
    let foreign = request("r1", "r1");
    // The foreign request under the honest one's id, with the honest code in the file.
    let swapped = text.replace(&escaped(&honest.csr), &escaped(&foreign.csr));
    assert_ne!(swapped, text);
    std::fs::write(&path, &swapped).unwrap();
    let listed = fixture.desk.queue.pending().unwrap().remove(0);
    let code = ctrl_exec_protocol::wire::pairing::code;
    assert_eq!(listed.code, code(&foreign.csr), "computed, not read");
    let compared = Overrides {
        code: Some(honest.code.clone()),
        ..Overrides::default()
    };
    let approve = || {
        fixture
            .desk
            .approve(&honest.id, &compared, &fixture.log, Utc::now())
    };
    let error = approve().unwrap_err();
    assert!(matches!(error, DeskError::Code { .. }), "{error}");
    assert!(fixture.desk.registry.load("r1").unwrap().is_none());
    assert!(fixture.desk.issued.all(Utc::now()).unwrap().is_empty());
    // The prompt is bound to what it displayed.
    let mut prompt = Prompt::default();
    std::fs::write(&path, &text).unwrap();
    prompt.show(&fixture.desk.queue.pending().unwrap(), &fixture.desk);
    std::fs::write(&path, &swapped).unwrap();
    assert_eq!(prompt.code(&honest.id), Some(honest.code.clone()));
    // As it was compared: signed.
    std::fs::write(&path, &text).unwrap();
    approve().unwrap();
    let (_, bytes) = fixture.desk.queue.answer(&honest.id).unwrap();
    let Outcome::Approved(approval) = Outcome::parse(&bytes).unwrap() else {
        panic!()
    };
    let leaf = cert::from_pem(&approval.cert).unwrap();
    let wanted = crate::ca::request::check(&honest.csr).unwrap();
    assert_eq!(cert::facts(&leaf).unwrap().spki_der, wanted.spki_der);
}

/// While one process swaps the file all the time, nothing is ever signed under another code.
#[test]
fn a_race_of_swaps_signs_nothing_else() {
    let fixture = fixture();
    let honest = queue(&fixture, &request("r1", "r1"));
    let path = fixture.desk.queue.dir().join(format!("{}.json", honest.id));
    let text = std::fs::read_to_string(&path).unwrap();
    let escaped = |pem: &str| pem.replace('\n', "\\n");
    let swapped = text.replace(&escaped(&honest.csr), &escaped(&request("r1", "r1").csr));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let wanted = crate::ca::request::check(&honest.csr).unwrap().spki_der;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let perm = ctrl_exec_host::durable::Perm::mode(0o644);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for text in [&swapped, &text] {
                    ctrl_exec_host::durable::write(&path, text.as_bytes(), &perm).unwrap();
                }
            }
        });
        for _ in 0..200 {
            let compared = Overrides {
                code: Some(honest.code.clone()),
                replace: true,
                ..Overrides::default()
            };
            let approved = fixture
                .desk
                .approve(&honest.id, &compared, &fixture.log, Utc::now());
            if approved.is_ok() {
                let (_, bytes) = fixture.desk.queue.answer(&honest.id).unwrap();
                let Outcome::Approved(approval) = Outcome::parse(&bytes).unwrap() else {
                    panic!()
                };
                let leaf = cert::from_pem(&approval.cert).unwrap();
                assert_eq!(cert::facts(&leaf).unwrap().spki_der, wanted);
                let answer = fixture
                    .desk
                    .queue
                    .dir()
                    .join(format!("{}.approved", honest.id));
                std::fs::remove_file(answer).unwrap();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn queue_files_are_not_followed_or_waited_for() {
    let fixture = fixture();
    let queued = queue(&fixture, &request("a", "a"));
    let path = fixture.desk.queue.dir().join(format!("{}.json", queued.id));
    let elsewhere = fixture.temp.path().join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(fixture.desk.queue.load(&queued.id).is_err());
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &path,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    assert!(fixture.desk.queue.load(&queued.id).is_err());
    assert!(fixture.desk.queue.pending().unwrap().is_empty());
}

#[test]
fn a_request_that_cannot_be_signed_stays_and_is_marked() {
    let fixture = fixture();
    let mut wanted = request("a", "a");
    wanted.csr = wanted.csr.replace("CERTIFICATE REQUEST", "RUBBISH");
    let queued = queue(&fixture, &wanted);
    let error = fixture
        .desk
        .approve(&queued.id, &Overrides::default(), &fixture.log, Utc::now())
        .unwrap_err();
    assert!(
        error.to_string().contains("CSR does not begin with"),
        "{error}"
    );
    let pending = fixture.desk.queue.pending().unwrap();
    assert!(
        list_text(&pending, &fixture.desk).contains("cannot be signed"),
        "{}",
        list_text(&pending, &fixture.desk)
    );
    assert!(fixture.desk.registry.load("a").unwrap().is_none());
    fixture.desk.deny(&queued.id, &fixture.log).unwrap();
    assert!(fixture.desk.queue.pending().unwrap().is_empty());
    let (_, bytes) = fixture.desk.queue.answer(&queued.id).unwrap();
    let reason = "rejected by operator".to_owned();
    assert_eq!(Outcome::parse(&bytes).unwrap(), Outcome::Denied { reason });
    assert!(list_text(&[], &fixture.desk).contains("No pending"));
    assert!(fixture.temp.path().exists());
}

#[test]
fn numbers_mean_what_was_displayed() {
    let fixture = fixture();
    let first = queue(&fixture, &request("a", "a"));
    let mut prompt = Prompt::default();
    let pending = || fixture.desk.queue.pending().unwrap();
    let ids = || {
        pending()
            .into_iter()
            .map(|queued| queued.id)
            .collect::<Vec<_>>()
    };
    let text = prompt.show(&pending(), &fixture.desk);
    assert!(
        text.contains(&first.code) && text.contains(&first.id),
        "{text}"
    );
    assert_eq!(
        prompt.line(" a ", &ids()),
        Reaction::Approve(first.id.clone())
    );
    assert_eq!(prompt.line("D", &ids()), Reaction::Deny(first.id.clone()));

    // Another arrives: bare letters are ambiguous, numbers still mean the display.
    let second = queue(&fixture, &request("b", "b"));
    assert!(matches!(prompt.line("a", &ids()), Reaction::Say(_)));
    assert_eq!(
        prompt.line("a1", &ids()),
        Reaction::Approve(first.id.clone())
    );
    assert!(matches!(prompt.line("a2", &ids()), Reaction::Say(_)));
    let text = prompt.show(&pending(), &fixture.desk);
    assert!(text.contains("2 pending"), "{text}");
    let order = ids();
    assert_eq!(prompt.line("d2", &ids()), Reaction::Deny(order[1].clone()));
    for odd in [
        "a0",
        "d0",
        "a3",
        "a-1",
        "a1x",
        "a99999999999999999999",
        "x",
        "add",
        "a 1",
    ] {
        assert!(
            matches!(prompt.line(odd, &ids()), Reaction::Say(_)),
            "{odd}"
        );
    }
    // One goes away: its number does not slide to the next.
    fixture.desk.queue.finish(&order[0]).unwrap();
    let said = prompt.line("a1", &ids());
    assert!(
        matches!(&said, Reaction::Say(text) if text.contains("is gone")),
        "{said:?}"
    );
    assert_eq!(
        prompt.line("a2", &ids()),
        Reaction::Approve(order[1].clone())
    );
    assert_eq!(prompt.line("list", &ids()), Reaction::List);
    assert_eq!(prompt.line("quit", &ids()), Reaction::Quit);
    assert_eq!(prompt.line("  ", &ids()), Reaction::Nothing);
    assert!([&first.id, &second.id].contains(&&order[0]));
}

#[test]
fn a_loopback_address_is_identified_or_not_within_reason() {
    let found = identify("127.0.0.1".parse().unwrap());
    // What the machine's resolver says is its own affair; the two halves must fit.
    assert!(!found.confirmed || found.name.is_some(), "{found:?}");
}
