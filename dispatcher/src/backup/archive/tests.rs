use super::*;
use tar::{Builder, EntryType, Header};

fn manifest() -> Manifest {
    Manifest {
        kind: Kind::Backup,
        made: Utc(1_800_000_000),
        host: "d1".to_owned(),
        dispatcher_id: "main".to_owned(),
        serial: "4a".to_owned(),
        program: "0.13.0".to_owned(),
    }
}

fn item(place: Place, data: &[u8]) -> Item {
    Item {
        place,
        mode: 0o640,
        user: "root".to_owned(),
        group: "0".to_owned(),
        data: Zeroizing::new(data.to_vec()),
    }
}

#[test]
fn everything_comes_back() {
    let long = "a".repeat(150);
    let archive = Archive {
        manifest: manifest(),
        items: vec![
            item(Place::Config, b"x = y\n"),
            item(Place::Agent(long.clone()), b"{}"),
            item(Place::Agent("b".to_owned()), b""),
            item(Place::State("revoked-serials".to_owned()), &[255; 3000]),
        ],
        folders: vec![FolderItem {
            folder: Folder::Agents,
            mode: 0o2770,
            user: "root".to_owned(),
            group: "root".to_owned(),
        }],
    };
    let read = Archive::parse(&archive.to_bytes().unwrap()).unwrap();
    assert_eq!(read.manifest, archive.manifest);
    for (a, b) in read.items.iter().zip(&archive.items) {
        assert_eq!((&a.place, &a.data), (&b.place, &b.data));
        assert_eq!((a.mode, &*a.user, &*a.group), (0o640, "root", "0"));
    }
    assert_eq!(read.items.len(), 4);
    assert_eq!(read.folders[0].mode, 0o2770);
    assert_eq!(read.agents().collect::<Vec<_>>(), [long.as_str(), "b"]);
}

/// An archive with the manifest and one more entry.
fn with(make: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let text = manifest().to_json();
    let mut header = Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    builder
        .append_data(&mut header, MANIFEST, text.as_bytes())
        .unwrap();
    make(&mut builder);
    builder.into_inner().unwrap()
}

fn raw(name: &str, kind: EntryType, size: u64, data: &[u8]) -> Vec<u8> {
    with(|builder| {
        let mut header = owned("root", "root", 0o644);
        header.set_entry_type(kind);
        header.set_size(size);
        // Past the checks of the library.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    })
}

fn fault(bytes: &[u8]) -> String {
    match Archive::parse(bytes) {
        Ok(archive) => panic!("taken: {:?}", archive.items),
        Err(fault) => fault,
    }
}

#[test]
fn hostile_archives_are_refused() {
    for name in [
        "/etc/passwd",
        "../../etc/passwd",
        "agents/../../x.json",
        "config/ctrl-exec.conf/../../x",
        "state/../x",
        "ca/ca.serial",
        "other",
        "agents/a\u{1b}[2J.json",
    ] {
        let fault = fault(&raw(name, EntryType::Regular, 1, b"x"));
        assert!(fault.contains("is no file of a dispatcher"), "{fault}");
        assert!(!fault.contains('\u{1b}'), "{fault}");
    }
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::GNUSparse,
    ] {
        let fault = fault(&raw("agents/a.json", kind, 0, b""));
        assert!(!fault.is_empty(), "{kind:?}");
    }
    let huge = fault(&raw("agents/a.json", EntryType::Regular, 1 << 40, b"x"));
    assert!(huge.contains("such a file has 1048576 at most"), "{huge}");
    let cut = fault(&raw("agents/a.json", EntryType::Regular, 5_000, b"x"));
    assert!(
        cut.contains("agents/a.json") || cut.contains("damaged"),
        "{cut}"
    );
    let folder = fault(&raw("../x/", EntryType::Directory, 0, b""));
    assert!(folder.contains("is no directory"), "{folder}");
    let twice = with(|builder| {
        for _ in 0..2 {
            let mut header = owned("root", "root", 0o644);
            header.set_size(2);
            builder
                .append_data(&mut header, "agents/a.json", &b"{}"[..])
                .unwrap();
        }
    });
    assert!(fault(&twice).contains("twice"));
    // A mode cannot make a key readable, nor anything run as somebody else.
    let bytes = with(|builder| {
        let mut header = owned("root", "root", 0o6777);
        header.set_size(1);
        builder
            .append_data(&mut header, "ca/ca.key", &b"x"[..])
            .unwrap();
    });
    assert_eq!(Archive::parse(&bytes).unwrap().items[0].mode, 0o600);
}

#[test]
fn foreign_and_later_archives_are_told() {
    assert_eq!(fault(b""), "no backup of ctrl-exec");
    assert_eq!(fault(&[0; 4096]), "no backup of ctrl-exec");
    assert_eq!(fault(&[b'x'; 4096]), "no backup of ctrl-exec");
    let later = manifest()
        .to_json()
        .replace("\"version\":1", "\"version\":2");
    assert!(
        Manifest::parse(later.as_bytes())
            .unwrap_err()
            .contains("version 2")
    );
    assert!(Manifest::parse(b"{}").is_err());
    let whole = raw("agents/a.json", EntryType::Regular, 1, b"x");
    for keep in (0..whole.len()).step_by(97) {
        // Cut anywhere: an error or fewer files, never a panic. (The encryption proves the end.)
        let _ = Archive::parse(&whole[..keep]);
    }
}
