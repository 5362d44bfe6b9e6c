use super::*;
use crate::testing::TempDir;
use ctrl_exec_protocol::json::{Bounds, Json, Members};
use ctrl_exec_protocol::time::Utc;

fn registry() -> (TempDir, Registry) {
    let dir = TempDir::new();
    let registry = Registry::new(dir.path().join("agents"));
    registry.ensure_dir().unwrap();
    (dir, registry)
}

fn put(registry: &Registry, name: &str, json: &str) {
    fs::write(registry.path(name), json).unwrap();
}

#[test]
fn files_are_a_registry() {
    let (_dir, registry) = registry();
    crate::store::conformance::agents(&registry);
}

#[test]
fn updates_keep_what_they_do_not_know() {
    let (_dir, registry) = registry();
    put(
        &registry,
        "vm",
        r#"{"hostname":"vm","port":"7600","x":{"deep":[1,"a",null,1.5]}}"#,
    );
    let record = registry
        .update("vm", |r| {
            r.expiry = Some("unknown".into());
        })
        .unwrap();
    assert_eq!(record.port(), 7600);
    let text = fs::read_to_string(registry.path("vm")).unwrap();
    assert_eq!(
        text,
        r#"{"expiry":"unknown","hostname":"vm","port":"7600","x":{"deep":[1,"a",null,1.5]}}"#
    );
}

/// An agent must not get out of sight by what it makes us write about it.
#[test]
fn unreadable_records_are_registered_and_told_of() {
    let (_dir, registry) = registry();
    put(&registry, "bad", "{");
    put(&registry, "list", "[]");
    put(&registry, "b", r#"{"hostname":"b"}"#);
    put(&registry, "a", "{}");
    fs::write(registry.dir().join("Xy12345678"), "temp of the reference").unwrap();
    fs::write(registry.dir().join(".hidden.json"), "{}").unwrap();
    put(&registry, "empty", "");
    put(&registry, "huge", &"x".repeat(2 << 20));
    std::os::unix::fs::symlink("/etc/passwd", registry.path("link")).unwrap();
    fs::create_dir(registry.path("dir")).unwrap();
    let listing = registry.list().unwrap();
    let names: Vec<_> = listing.records.iter().map(AgentRecord::hostname).collect();
    assert_eq!(names, ["a", "b"]);
    let damaged: Vec<_> = listing.damaged.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(damaged, ["bad", "dir", "empty", "huge", "link", "list"]);
    for name in damaged {
        let errors = [
            registry.load(name).unwrap_err(),
            registry.update(name, |_| ()).unwrap_err(),
            registry.remove(name).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(error, RegistryError::Damaged(_)),
                "{name}: {error}"
            );
            assert!(error.to_string().contains("doctor --repair"), "{error}");
        }
    }
    // What concerns the others is done.
    let all = registry.names().unwrap();
    let touch = |record: &mut AgentRecord| {
        record.more.set("x", Json::text("y"));
        true
    };
    assert_eq!(registry.update_many(&all, touch).unwrap(), 2);
}

#[test]
fn a_damaged_record_is_made_anew_of_what_is_left() {
    let (_dir, registry) = registry();
    let now = Utc(1_800_000_000);
    let whole = r#"{"dispatcher_serial":"4a","expiry":"Feb 24 13:32:16 2029 GMT","hostname":"r","ip":"10.0.0.7","lookup_by":"ip","paired":"2026-11-22T13:32:16Z","paired_cn":"old","port":7600,"serial_status":"current","tags":{}}"#;
    // Cut at every length: what is whole before the cut is saved, nothing else is made up.
    for cut in 0..whole.len() {
        put(&registry, "r", &whole[..cut]);
        let repaired = registry.repair("r", now, |_| ()).unwrap().unwrap();
        assert!(repaired.kept.exists());
        let record = registry.require("r").unwrap();
        for field in ["ip", "paired_cn", "expiry", "serial_status"] {
            let of = |members: &Members| members.text(field).unwrap_or_default().into_owned();
            let whole = Members::parse(whole.as_bytes(), &Bounds::RECORD).unwrap();
            let saved = of(&record.members());
            let default = field == "serial_status" && saved == "unknown";
            assert!(
                saved.is_empty() || default || saved == of(&whole),
                "{cut}: {field} {saved}"
            );
        }
        assert!([7443, 7600].contains(&record.port()), "{cut}");
        if cut > whole.find("7600").unwrap() + 4 {
            assert_eq!((record.ip(), record.port()), ("10.0.0.7", 7600));
        }
    }
    // Tags that an agent made too large go, everything else stays.
    let tags = format!(
        r#"{{"hostname":"r","tags":{{"a":"b","big":"{}"}}}}"#,
        "x".repeat(2 << 20)
    );
    put(&registry, "r", &tags);
    let repaired = registry.repair("r", now, |_| ()).unwrap().unwrap();
    assert_eq!(repaired.record.tag("a").as_deref(), Some("b"));
    assert!(repaired.record.tag("big").is_none());
    assert!(registry.repair("r", now, |_| ()).unwrap().is_none());
    assert!(registry.repair("none", now, |_| ()).is_err());
}

#[test]
fn the_lock_is_no_link() {
    let (dir, registry) = registry();
    put(&registry, "a", "{}");
    let target = dir.path().join("target");
    std::os::unix::fs::symlink(&target, registry.dir().join(".registry.lock")).unwrap();
    assert!(registry.update("a", |_| ()).is_err());
    assert!(!target.exists(), "nothing is made through a link");
}

#[test]
fn names_never_leave_the_directory() {
    let (_dir, registry) = registry();
    fs::write(registry.dir().join("../outside.json"), "{}").unwrap();
    assert!(registry.load("../outside").unwrap().is_none());
    assert!(matches!(
        registry.remove("../outside"),
        Err(RegistryError::BadName(_))
    ));
    assert!(matches!(
        registry.update("a/b", |_| ()),
        Err(RegistryError::BadName(_))
    ));
    assert!(registry.dir().join("../outside.json").exists());
}

#[test]
fn rename_refuses_a_taken_name_and_removes_the_old_file() {
    let (_dir, registry) = registry();
    put(&registry, "a", r#"{"hostname":"a"}"#);
    put(&registry, "b", r#"{"hostname":"b"}"#);
    assert!(matches!(
        registry.rename("a", "b", |_| ()),
        Err(RegistryError::Exists(_))
    ));
    assert!(matches!(
        registry.rename("a", "../c", |_| ()),
        Err(RegistryError::BadName(_))
    ));
    let record = registry.rename("a", "c", |r| {
        r.ip = Some("10.0.0.1".into());
    });
    assert_eq!(record.unwrap().hostname(), "c");
    assert_eq!(registry.names().unwrap(), ["b", "c"]);
}

#[test]
fn an_unpaired_agent_stays_away() {
    let (_dir, registry) = registry();
    put(&registry, "a", r#"{"hostname":"a"}"#);
    registry.remove("a").unwrap();
    assert!(matches!(
        registry.update("a", |_| ()),
        Err(RegistryError::Unknown(_))
    ));
    assert_eq!(registry.update_many(&["a"], |_| true).unwrap(), 0);
    assert!(registry.names().unwrap().is_empty());
}

#[test]
fn an_absent_directory_is_an_empty_registry() {
    let dir = TempDir::new();
    assert!(
        Registry::new(dir.path().join("none"))
            .list()
            .unwrap()
            .records
            .is_empty()
    );
}

#[test]
fn two_writers_lose_nothing() {
    let (_dir, registry) = registry();
    put(&registry, "a", r#"{"hostname":"a","n":0}"#);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    registry
                        .update("a", |r| {
                            let n = r.more.integer("n").unwrap();
                            r.more.set("n", Json::text((n + 1).to_string()));
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(registry.require("a").unwrap().more.integer("n"), Some(100));
}
