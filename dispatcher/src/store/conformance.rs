//! What every store has to do, whatever it keeps things in. Each kind of store runs these.

use super::locks::{LockError, Locks};
use super::runs::{Retention, RunStoreError, Runs};
use crate::model::{EntryState, HostEntry, Mode, RunRecord};
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
    let conflicts = |hosts: &[&str], script: &str| match store.acquire(&words(hosts), script) {
        Ok(_) => Vec::new(),
        Err(LockError::Held(pairs)) => pairs,
        Err(error) => panic!("{error}"),
    };
    let held = store.acquire(&words(&["a", "b:7443"]), "s").unwrap();
    assert_eq!(conflicts(&["a"], "s"), ["a:s"]);
    assert_eq!(conflicts(&["b"], "s"), ["b:s"], "the name without port too");
    assert!(conflicts(&["a"], "other").is_empty());
    // All or none: "c" is free again after a refusal.
    assert_eq!(conflicts(&["c", "a"], "s"), ["a:s"]);
    assert!(conflicts(&["c"], "s").is_empty());
    let listed = store.list().unwrap();
    assert!(
        listed.contains(&("a".to_owned(), "s".to_owned())),
        "{listed:?}"
    );
    drop(held);
    assert!(conflicts(&["a", "b"], "s").is_empty());
    assert!(store.list().unwrap().is_empty());
    // A host named twice is one.
    assert!(store.acquire(&words(&["a", "a"]), "s").is_ok());
}
