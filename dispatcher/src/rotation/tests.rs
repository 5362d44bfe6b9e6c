use super::*;
use crate::ca::{CaDir, CaOptions, setup_ca, setup_dispatcher};
use crate::testing::TempDir;
use ctrl_exec_host::paths::Root;
use std::collections::{BTreeMap, BTreeSet};

const NOW: Utc = Utc(1_795_500_000);

fn days(count: i64) -> Utc {
    Utc(NOW.0 + count * DAY)
}

struct Fleet {
    temp: TempDir,
    authority: Authority,
    rotator: Rotator,
    log: Syslog,
}

/// Agents as the reference's behave: each trusts a set of serials, refuses whoever shows another.
struct Model<'a> {
    fleet: &'a Fleet,
    trust: BTreeMap<String, BTreeSet<String>>,
    offline: BTreeSet<String>,
    calls: usize,
}

impl Agents for Model<'_> {
    fn rotate_serial(&mut self, calls: &[RotateCall]) -> Vec<Result<(), CallFailure>> {
        calls
            .iter()
            .map(|call| {
                self.calls += 1;
                let fail = |refused, text: &str| {
                    Err(CallFailure {
                        refused,
                        text: text.to_owned(),
                    })
                };
                if self.offline.contains(call.agent.name()) {
                    return fail(false, "connection refused");
                }
                let files = match call.with {
                    Pair::Current => self.fleet.rotator.files.clone(),
                    Pair::Previous => self.fleet.rotator.previous(),
                };
                let shown = files.load().unwrap().facts().serial_hex.clone();
                let trust = self.trust.get_mut(call.agent.name()).unwrap();
                if !trust.contains(&shown) {
                    return fail(true, "serial mismatch");
                }
                match call.action {
                    Action::Add => trust.insert(call.serial.clone()),
                    Action::Remove => trust.remove(&call.serial),
                };
                Ok(())
            })
            .collect()
    }
}

fn fleet(names: &[&str]) -> Fleet {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path().join("etc"));
    let authority = setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    let files = IdentityFiles::new(ca.dir().join("d.crt"), ca.dir().join("d.key"));
    setup_dispatcher(&authority, &files, None, KeyType::EcdsaP256, 825, NOW).unwrap();
    let rotator = Rotator {
        state: temp.path().join("var/rotation.json"),
        files,
        registry: Registry::new(temp.path().join("agents")),
        owner: None,
        key: KeyType::EcdsaP256,
        cert_days: 825,
        renewal_days: 90,
        overlap_days: 30,
        only_with_ca: None,
    };
    let serial = ca::trust_serial(&rotator.files.cert).unwrap();
    for name in names {
        let mut record = AgentRecord::new(name);
        record.hostname = Some((*name).to_owned());
        record.paired = Some(NOW.iso());
        record.confirm_serial(&serial, NOW);
        rotator.registry.register(&record).unwrap();
    }
    let log = Syslog::open("test", &Root::at(temp.path()));
    Fleet {
        temp,
        authority,
        rotator,
        log,
    }
}

impl Fleet {
    fn model(&self) -> Model<'_> {
        let serial = ca::trust_serial(&self.rotator.files.cert).unwrap();
        let trust = self
            .rotator
            .registry
            .names()
            .unwrap()
            .into_iter()
            .map(|name| (name, BTreeSet::from([serial.clone()])))
            .collect();
        Model {
            fleet: self,
            trust,
            offline: BTreeSet::new(),
            calls: 0,
        }
    }

    fn rotate(&self, now: Utc) -> Rotated {
        self.rotator
            .rotate(&self.authority, false, &self.log, now)
            .unwrap()
    }

    fn broadcast(&self, model: &mut Model<'_>, now: Utc) -> Broadcast {
        self.rotator
            .broadcast(model, "disp", &self.log, now)
            .unwrap()
    }

    fn status(&self, name: &str) -> SerialStatus {
        self.rotator.registry.require(name).unwrap().serial_status()
    }

    fn state(&self) -> RotationState {
        self.rotator.status(&self.log).unwrap().unwrap()
    }
}

#[test]
fn every_agent_learns_the_new_serial_from_the_old_certificate() {
    let fleet = fleet(&["a", "b", "c"]);
    let mut model = fleet.model();
    let rotated = fleet.rotate(NOW);
    assert_eq!(rotated.pending, 3);
    assert_eq!(rotated.overlap_expires, days(30));
    let old = rotated.old_serial.clone().unwrap();
    assert_ne!(rotated.new_serial, old);
    // No record is written for that.
    assert_eq!(fleet.status("a"), SerialStatus::Current);
    let standing = |name: &str| {
        let record = fleet.rotator.registry.require(name).unwrap();
        fleet.state().standing(&record)
    };
    assert_eq!(standing("a"), SerialStatus::Pending);
    // The key before is as private as the key now.
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(fleet.rotator.previous().key)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    model.offline.insert("c".to_owned());
    let report = fleet.broadcast(&mut model, NOW);
    assert_eq!((report.updated.len(), report.failed.len()), (2, 1));
    assert_eq!(
        report.failed[0],
        ("c".to_owned(), "connection refused".to_owned())
    );
    assert_eq!(fleet.status("a"), SerialStatus::Current);
    assert_eq!(fleet.status("c"), SerialStatus::Pending);
    // Another rotation now would cut c off.
    let again = fleet
        .rotator
        .rotate(&fleet.authority, false, &fleet.log, days(1));
    assert!(matches!(again, Err(RotationError::Unfinished(names)) if names == ["c"]));

    // c comes back within the overlap.
    model.offline.clear();
    assert_eq!(fleet.broadcast(&mut model, days(2)).updated, ["c"]);
    assert!(fleet.broadcast(&mut model, days(2)).updated.is_empty());
    // Nothing is taken back before the end of the overlap.
    assert!(
        fleet
            .rotator
            .retire(&mut model, &fleet.log, days(29))
            .unwrap()
            .is_empty()
    );
    assert!(model.trust.values().all(|trust| trust.contains(&old)));
    let retired = fleet
        .rotator
        .retire(&mut model, &fleet.log, days(31))
        .unwrap();
    assert_eq!((retired[0].told, retired[0].finished), (3, true));
    assert!(
        model
            .trust
            .values()
            .all(|trust| trust.iter().eq([&rotated.new_serial]))
    );
    assert!(!fleet.rotator.previous().exist());
    let state = fleet.state();
    assert_eq!(state.previous_serial(), "");
    assert!(!state.members().contains("previous_serial"));
    assert!(state.previous_retired().is_some());
    assert!(
        fleet
            .rotator
            .retire(&mut model, &fleet.log, days(32))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn an_agent_that_stays_away_becomes_stale() {
    let fleet = fleet(&["a", "b"]);
    let mut model = fleet.model();
    model.offline.insert("b".to_owned());
    fleet.rotate(NOW);
    fleet.broadcast(&mut model, NOW);
    assert!(
        fleet
            .rotator
            .expire_stale(&fleet.log, days(30))
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        fleet.rotator.expire_stale(&fleet.log, days(31)).unwrap(),
        ["b"]
    );
    assert_eq!(fleet.status("b"), SerialStatus::Stale);
    assert_eq!(fleet.status("a"), SerialStatus::Current);
    // It is not asked any more, and does not hold retirement up.
    let calls = model.calls;
    assert!(fleet.broadcast(&mut model, days(31)).failed.is_empty());
    assert_eq!(model.calls, calls);
    assert!(
        fleet
            .rotator
            .retire(&mut model, &fleet.log, days(31))
            .unwrap()[0]
            .finished
    );
}

#[test]
fn retirement_is_repeated_for_whoever_was_away_and_given_up_in_the_end() {
    let fleet = fleet(&["a", "b"]);
    let mut model = fleet.model();
    fleet.rotate(NOW);
    fleet.broadcast(&mut model, NOW);
    model.offline.insert("b".to_owned());
    let retired = fleet
        .rotator
        .retire(&mut model, &fleet.log, days(31))
        .unwrap()
        .remove(0);
    assert_eq!(
        (retired.told, retired.failed.len(), retired.finished),
        (1, 1, false)
    );
    assert!(fleet.rotator.previous().exist());
    // Only b is asked again.
    let calls = model.calls;
    fleet
        .rotator
        .retire(&mut model, &fleet.log, days(32))
        .unwrap();
    assert_eq!(model.calls, calls + 1);
    let last = fleet
        .rotator
        .retire(&mut model, &fleet.log, days(61))
        .unwrap()
        .remove(0);
    assert!(last.finished && last.failed.len() == 1);
    assert!(!fleet.rotator.previous().exist());
}

/// Of several serials to take back, the one that was leaves the list and the others stay.
#[test]
fn a_retired_serial_leaves_the_list_alone() {
    let mut state = RotationState::default();
    for (current, old) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d")] {
        state.rotated(current, Some(old), 30, NOW);
    }
    assert_eq!(state.unretired(), ["a", "b", "c"]);
    state.retired("b", NOW);
    assert_eq!(state.unretired(), ["a", "c"]);
    assert_eq!(state.previous_serial(), "d");
    state.retired("d", NOW);
    assert_eq!(state.unretired(), ["a", "c"]);
    assert_eq!(state.previous_serial(), "");
}

#[test]
fn two_rotations_in_one_overlap_retire_both_serials() {
    let fleet = fleet(&["a"]);
    let mut model = fleet.model();
    let first = fleet.rotate(NOW);
    fleet.broadcast(&mut model, NOW);
    let second = fleet.rotate(days(1));
    assert_eq!(
        second.old_serial.as_deref(),
        Some(first.new_serial.as_str())
    );
    fleet.broadcast(&mut model, days(1));
    assert_eq!(model.trust["a"].len(), 3);
    assert_eq!(
        fleet.state().unretired(),
        [first.old_serial.clone().unwrap()]
    );
    fleet
        .rotator
        .retire(&mut model, &fleet.log, days(2))
        .unwrap();
    assert_eq!(model.trust["a"].len(), 2);
    assert!(fleet.state().unretired().is_empty(), "taken back, so gone");
    fleet
        .rotator
        .retire(&mut model, &fleet.log, days(32))
        .unwrap();
    assert!(model.trust["a"].iter().eq([&second.new_serial]));
    assert!(fleet.state().unretired().is_empty());
}

#[test]
fn a_crash_at_any_step_is_finished_or_taken_back() {
    let fleet = fleet(&["a", "b"]);
    let mut model = fleet.model();
    let old = ca::trust_serial(&fleet.rotator.files.cert).unwrap();
    // After the copy: nothing happened.
    fleet
        .rotator
        .files
        .copy_to(&fleet.rotator.previous())
        .unwrap();
    fleet.rotator.reconcile(&fleet.log, NOW).unwrap();
    assert!(!fleet.rotator.previous().exist());
    assert!(fleet.rotator.status(&fleet.log).unwrap().is_none());

    // After the new pair, before agents and state.
    fleet
        .rotator
        .files
        .copy_to(&fleet.rotator.previous())
        .unwrap();
    let (issued, key) = ca::new_identity(&fleet.authority, KeyType::EcdsaP256, 825, NOW).unwrap();
    fleet
        .rotator
        .files
        .replace(&issued.pem, &key, None)
        .unwrap();
    let report = fleet.broadcast(&mut model, NOW);
    assert_eq!(report.updated, ["a", "b"]);
    assert_eq!(fleet.state().previous_serial(), old);
    assert_eq!(fleet.state().current_serial(), issued.facts.serial_hex);

    // After an agent was told, before the registry knew: it is told again, with the pair it knows.
    fleet
        .rotator
        .registry
        .update("a", |record| {
            record.dispatcher_serial = Some(old.clone());
            record.serial_status = Some(SerialStatus::Pending);
        })
        .unwrap();
    model.trust.get_mut("a").unwrap().remove(&old);
    assert_eq!(fleet.broadcast(&mut model, days(1)).updated, ["a"]);

    // A damaged state file is made good from the files.
    std::fs::write(&fleet.rotator.state, "{").unwrap();
    fleet.rotator.reconcile(&fleet.log, days(2)).unwrap();
    assert_eq!(fleet.state().previous_serial(), old);
    assert_eq!(fleet.status("a"), SerialStatus::Current);
    assert!(fleet.temp.path().exists());
}

#[test]
fn a_failed_rotation_changes_nothing() {
    let fleet = fleet(&["a"]);
    let before = std::fs::read(&fleet.rotator.files.key).unwrap();
    let rotator = Rotator {
        cert_days: 0,
        ..fleet.rotator.clone()
    };
    assert!(
        rotator
            .rotate(&fleet.authority, false, &fleet.log, NOW)
            .is_err()
    );
    assert_eq!(std::fs::read(&fleet.rotator.files.key).unwrap(), before);
    assert!(!fleet.rotator.previous().exist());
    assert_eq!(fleet.status("a"), SerialStatus::Current);
}

#[test]
fn when_it_is_due() {
    let fleet = fleet(&[]);
    let check = |now| fleet.rotator.check(&fleet.log, now).unwrap();
    assert_eq!(
        check(NOW),
        Check {
            days_left: 825,
            threshold: 90
        }
    );
    assert!(!check(days(734)).is_due());
    assert!(check(days(735)).is_due());
    // A short-lived certificate is not due the moment it is made.
    let rotator = Rotator {
        cert_days: 60,
        ..fleet.rotator.clone()
    };
    rotator
        .rotate(&fleet.authority, false, &fleet.log, NOW)
        .unwrap();
    assert!(!check(NOW).is_due());
    assert!(check(days(41)).is_due());
}

#[test]
fn the_references_state_is_read() {
    let fleet = fleet(&[]);
    let text = r#"{"current_serial":"6","rotated_at":"2026-11-22T13:33:35Z","previous_serial":"2","overlap_days":"30","overlap_expires":"2026-12-22T13:33:35Z","x":1}"#;
    std::fs::create_dir_all(fleet.rotator.dir().unwrap()).unwrap();
    std::fs::write(&fleet.rotator.state, text).unwrap();
    let state = fleet.state();
    assert_eq!(
        (state.current_serial(), state.previous_serial()),
        ("6", "2")
    );
    assert_eq!(state.overlap_days(), 30);
    assert!(state.unretired().is_empty());
    assert_eq!(
        state.overlap_expires().unwrap().iso(),
        "2026-12-22T13:33:35Z"
    );
    fleet.rotate(NOW);
    assert!(
        fleet.state().members().contains("x"),
        "unknown members survive"
    );
    assert_eq!(fleet.state().unretired(), ["2"]);
}
