use super::*;
use crate::testing::TempDir;

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
fn updates_keep_what_they_do_not_know() {
    let (_dir, registry) = registry();
    put(
        &registry,
        "vm",
        r#"{"hostname":"vm","port":"7600","x":{"deep":[1,"a",null,1.5]}}"#,
    );
    let record = registry
        .update("vm", |r| {
            r.set("expiry", "unknown");
        })
        .unwrap();
    assert_eq!(record.port(), 7600);
    let text = fs::read_to_string(registry.path("vm")).unwrap();
    assert_eq!(
        text,
        r#"{"expiry":"unknown","hostname":"vm","port":"7600","x":{"deep":[1,"a",null,1.5]}}"#
    );
}

#[test]
fn corrupt_files_are_not_registered_and_not_listed() {
    let (_dir, registry) = registry();
    put(&registry, "bad", "{");
    put(&registry, "list", "[]");
    put(&registry, "b", r#"{"hostname":"b"}"#);
    put(&registry, "a", "{}");
    fs::write(registry.dir().join("Xy12345678"), "temp of the reference").unwrap();
    fs::write(registry.dir().join(".hidden.json"), "{}").unwrap();
    assert!(registry.load("bad").unwrap().is_none());
    let names: Vec<_> = registry
        .list()
        .unwrap()
        .iter()
        .map(|r| r.hostname().to_owned())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(registry.names().unwrap(), ["a", "b", "bad", "list"]);
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
        r.set("ip", "10.0.0.1");
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
                            let n = jval::integer(r.raw(), "n").unwrap();
                            r.set("n", (n + 1).to_string());
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(registry.require("a").unwrap().text("n"), "100");
}
