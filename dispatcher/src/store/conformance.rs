//! What every store has to do, whatever it keeps things in. Each kind of store runs these.

use super::agents::{Agents, RegistryError};
use super::locks::{LockError, Locks};
use super::pairings::{Pairings, QueueError};
use super::revoked::Revoked;
use super::rotation::Rotations;
use super::runs::{Retention, RunStoreError, Runs};
use crate::model::{
    AgentRecord, Decision, EntryState, Holder, HostEntry, Identified, LockNote, Mode,
    RotationState, RunRecord,
};
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::json::Json;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Approval, Outcome, PairRequest};
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

fn record(reqid: &str) -> RunRecord {
    let names = ["a", "b", "c"];
    let entry = |name: &&str| (String::from(*name), HostEntry::new(EntryState::Accepted));
    let entries = names.iter().map(entry).collect();
    RunRecord::new(reqid, "s", Mode::Async { entries }, 1)
}

/// A place for records of runs, empty at first.
pub fn runs(store: &dyn Runs) {
    assert!(store.load("r1").unwrap().is_none());
    assert!(
        store
            .update("r1", &mut |_| panic!("there is none"))
            .unwrap()
            .is_none()
    );
    let first = record("r1");
    store.save(&first).unwrap();
    store.save(&record("r2")).unwrap();
    let read = store.load("r1").unwrap().unwrap();
    assert_eq!(read.to_json(), first.to_json());
    // Replaced, not added to.
    store.save(&first).unwrap();
    let expired = |record: &mut RunRecord, name: &str| {
        if let Mode::Async { entries } = &mut record.mode {
            entries.insert(name.to_owned(), HostEntry::new(EntryState::Expired));
        }
        record.recompute();
    };
    // Those who write at the same time do not lose each other's hosts.
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            scope.spawn(move || {
                let written = store.update("r1", &mut |record| expired(record, name));
                assert!(written.unwrap().is_some());
            });
        }
    });
    let read = store.load("r1").unwrap().unwrap();
    assert!(read.complete, "{}", read.to_json());
    assert_eq!(read.failed_hosts(), ["a", "b", "c"]);
    assert!(!store.load("r2").unwrap().unwrap().complete);
    for bad in ["", "../r1", "a/b", "r 1"] {
        assert!(store.load(bad).unwrap().is_none(), "{bad}");
        assert!(matches!(
            store.save(&record(bad)),
            Err(RunStoreError::BadId(_))
        ));
    }
    let now = SystemTime::now();
    let mut ids = store.ids().unwrap();
    ids.sort();
    assert_eq!(ids, ["r1", "r2"]);
    let day = Retention {
        age: Duration::from_secs(86_400),
        bytes: u64::MAX,
    };
    assert_eq!(store.purge(now, &day).unwrap(), 0);
    let later = now + Duration::from_secs(86_460);
    assert_eq!(store.purge(later, &day).unwrap(), 2);
    assert!(store.load("r1").unwrap().is_none());
}

/// A place for locks, all free at first.
pub fn locks(store: &dyn Locks) {
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let take = |hosts: &[&str], script: &str| store.acquire(&words(hosts), script, 100, &[]);
    let conflicts = |hosts: &[&str], script: &str| match take(hosts, script) {
        Ok(_) => Vec::new(),
        Err(LockError::Held(holders)) => holders.iter().map(Holder::pair).collect(),
        Err(error) => panic!("{error}"),
    };
    let held = take(&["a", "b:7443"], "s").unwrap();
    assert_eq!(conflicts(&["a"], "s"), ["a:s"]);
    assert_eq!(conflicts(&["b"], "s"), ["b:s"], "the name without port too");
    assert!(conflicts(&["a"], "other").is_empty());
    // All or none: "c" is free again after a refusal.
    assert_eq!(conflicts(&["c", "a"], "s"), ["a:s"]);
    assert!(conflicts(&["c"], "s").is_empty());
    let listed = store.list().unwrap();
    assert!(listed.iter().any(|lock| lock.pair() == "a:s" && lock.live));
    drop(held);
    assert!(conflicts(&["a", "b"], "s").is_empty());
    assert!(store.list().unwrap().is_empty());
    // A host named twice is one.
    assert!(take(&["a", "a"], "s").is_ok());

    // What a run notes stays when its command is gone, where its end is not known.
    let note = |host: &str, until| LockNote {
        reqid: "r1".to_owned(),
        host: host.to_owned(),
        since: 50,
        until,
        user: "ann".to_owned(),
    };
    let mut held = take(&["a", "b:7443", "c"], "s").unwrap();
    held.note("a", &note("a", None));
    held.note("b:7443", &note("b", None));
    held.note("c", &note("c", Some(99)));
    let Err(LockError::Held(holders)) = take(&["a"], "s") else {
        panic!("it is held")
    };
    assert_eq!(holders[0].note, Some(note("a", None)));
    assert!(holders[0].live);
    assert_eq!(store.settle(&|_| true).unwrap(), 0, "a command holds them");
    held.over("a");
    drop(held);
    assert!(conflicts(&["a"], "s").is_empty(), "its end is known");
    assert_eq!(conflicts(&["b"], "s"), ["b:s"]);
    assert_eq!(conflicts(&["b:7443"], "s"), ["b:s", "b:7443:s"]);
    assert!(conflicts(&["c"], "s").is_empty(), "its time is over");
    let left = store.list().unwrap();
    assert!(left.iter().all(|lock| !lock.live && lock.note.is_some()));
    let over = |id: &str| store.acquire(&words(&["b"]), "s", 100, &[id.to_owned()]);
    assert!(over("r0").is_err(), "another run is not passed over");
    assert!(over("r1").is_ok());
    assert_eq!(store.settle(&|note| note.reqid == "r2").unwrap(), 0);
    assert!(store.settle(&|note| note.host == "b").unwrap() > 0);
    assert!(conflicts(&["b", "b:7443"], "s").is_empty());
}

/// A registry, empty at first.
pub fn agents(store: &dyn Agents) {
    assert!(store.load("a").unwrap().is_none());
    assert!(store.list().unwrap().records.is_empty());
    for name in ["b", "a", "c"] {
        let mut record = AgentRecord::new(name);
        record.more.set("theirs", Json::integer(1));
        store.register(&record).unwrap();
    }
    assert_eq!(store.names().unwrap(), ["a", "b", "c"]);
    let mut renamed_host = |record: &mut AgentRecord| record.hostname = Some("z".into());
    let written = store.update("a", &mut renamed_host).unwrap();
    assert_eq!(store.load("a").unwrap(), Some(written));
    let hosts = |store: &dyn Agents| {
        let listing = store.list().unwrap();
        let hosts = listing
            .records
            .iter()
            .map(|record| record.hostname().to_owned());
        hosts.collect::<Vec<_>>()
    };
    assert_eq!(hosts(store), ["b", "c", "z"], "by host name");
    // Those who write at the same time lose nothing; what nobody knows is kept.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let mut count = |record: &mut AgentRecord| {
                        let n = record.more.integer("theirs").unwrap();
                        record.more.set("theirs", Json::integer(n + 1));
                    };
                    store.update("b", &mut count).unwrap();
                }
            });
        }
    });
    let counted = store.load("b").unwrap().unwrap();
    assert_eq!(counted.more.integer("theirs"), Some(41));
    // Only what was changed is written, and who is gone is left out.
    let mut some = |record: &mut AgentRecord| {
        record.revoked = Some("now".into());
        record.name() == "c"
    };
    assert_eq!(
        store.update_many(&["b", "c", "gone"], &mut some).unwrap(),
        1
    );
    assert_eq!(store.load("b").unwrap().unwrap().revoked(), None);
    assert_eq!(store.load("c").unwrap().unwrap().revoked(), Some("now"));
    let taken = store.rename("a", "b", &mut |_| ());
    assert!(matches!(taken, Err(RegistryError::Exists(name)) if name == "b"));
    let mut address = |record: &mut AgentRecord| record.ip = Some("::1".into());
    let renamed = store.rename("a", "d", &mut address).unwrap();
    assert_eq!((renamed.name(), renamed.hostname()), ("d", "d"));
    assert_eq!((renamed.ip(), renamed.paired_cn()), ("::1", "a"));
    assert_eq!(store.names().unwrap(), ["b", "c", "d"]);
    assert_eq!(store.remove("d").unwrap().ip(), "::1");
    // It stays away.
    let mut never = |_: &mut AgentRecord| panic!("there is none");
    let gone = store.update("d", &mut never);
    assert!(matches!(gone, Err(RegistryError::Unknown(name)) if name == "d"));
    assert!(matches!(store.remove("d"), Err(RegistryError::Unknown(_))));
    assert!(store.load("d").unwrap().is_none());
    for bad in ["", "../a", "a/b", "-a", "a b"] {
        assert!(store.load(bad).unwrap().is_none(), "{bad}");
        let bad_record = AgentRecord::new(bad);
        let faults = [
            store.register(&bad_record).err(),
            store.update(bad, &mut |_| ()).err(),
            store.rename("b", bad, &mut |_| ()).err(),
            store.remove(bad).err(),
        ];
        for fault in faults {
            assert!(matches!(fault, Some(RegistryError::BadName(_))), "{bad}");
        }
    }
    assert_eq!(store.names().unwrap(), ["b", "c"]);
}

/// A queue of requests, empty at first.
pub fn pairings(store: &dyn Pairings) {
    let request = |hostname: &str| PairRequest {
        hostname: hostname.to_owned(),
        csr: format!("-----BEGIN {hostname}"),
        port: Some(7443),
        ..PairRequest::default()
    };
    let nobody = Identified::default();
    let add = |name: &str, at: i64| {
        let now = Utc(1_800_000_000 + at);
        store
            .add(&request(name), "192.0.2.7", &nobody, now)
            .unwrap()
    };
    let (later, first, third) = (add("later", 5), add("first", 0), add("third", 9));
    assert_ne!(first.id, later.id);
    let pending = || {
        let all = store.pending().unwrap();
        all.into_iter().map(|one| one.hostname).collect::<Vec<_>>()
    };
    assert_eq!(pending(), ["first", "later", "third"], "by arrival");
    let loaded = store.load(&first.id).unwrap();
    assert_eq!(loaded, first);
    assert_eq!((loaded.ip.as_str(), loaded.port), ("192.0.2.7", Some(7443)));
    assert!(store.answer(&first.id).is_none());
    let approved = Outcome::Approved(Approval::default());
    store.decide(&first.id, &approved).unwrap();
    assert_eq!(pending(), ["later", "third"]);
    let answer = (Decision::Approved, approved.render().into_bytes());
    assert_eq!(store.answer(&first.id), Some(answer));
    assert_eq!(
        store.load(&first.id).unwrap(),
        first,
        "approved, not fetched"
    );
    let denied = Outcome::Denied {
        reason: "no".to_owned(),
    };
    store.decide(&later.id, &denied).unwrap();
    assert!(matches!(store.load(&later.id), Err(QueueError::Unknown(_))));
    let answer = (Decision::Denied, denied.render().into_bytes());
    assert_eq!(store.answer(&later.id), Some(answer));
    for id in [&first.id, &later.id, &first.id] {
        store.finish(id).unwrap();
        assert!(store.answer(id).is_none());
    }
    assert_eq!(pending(), ["third"]);
    store.finish(&third.id).unwrap();
    assert!(pending().is_empty());
    for bad in ["", "../x", "0123"] {
        assert!(
            matches!(store.load(bad), Err(QueueError::BadId(_))),
            "{bad}"
        );
        let decided = store.decide(bad, &denied);
        assert!(matches!(decided, Err(QueueError::BadId(_))), "{bad}");
    }
}

/// A place for the state of rotation, none at first.
pub fn rotation(store: &dyn Rotations) {
    let log = Syslog::open("test", &Root::at("/nonexistent"));
    assert!(store.load(&log).unwrap().is_none());
    let mut state = RotationState::parse(br#"{"theirs":[1.0]}"#).unwrap();
    state.rotated("4a", Some("4b"), 30, Utc(1_800_000_000));
    store.save(&state).unwrap();
    assert_eq!(store.load(&log).unwrap(), Some(state.clone()));
    state.retired("4b", Utc(1_800_000_001));
    store.save(&state).unwrap();
    assert_eq!(store.load(&log).unwrap(), Some(state));
}

/// A list of barred serials, empty at first.
pub fn revoked(store: &dyn Revoked) {
    let serials = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    assert!(store.entries().unwrap().is_empty());
    assert_eq!(store.add(&serials(&["4A:01", "00ff"]), "r1").unwrap(), 2);
    assert_eq!(
        store.add(&serials(&["4a01", "7"]), "r2").unwrap(),
        1,
        "one was there"
    );
    let listed = || {
        let entries = store.entries().unwrap().into_iter();
        entries
            .map(|entry| format!("{} {}", entry.serial, entry.comment))
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(), ["4a01 r1", "ff r1", "7 r2"]);
    let some = HashSet::from(["4a01".to_owned(), "9".to_owned()]);
    assert_eq!(store.remove(&some).unwrap(), ["4a01"]);
    assert_eq!(listed(), ["ff r1", "7 r2"]);
    assert!(store.remove(&some).unwrap().is_empty());
}
