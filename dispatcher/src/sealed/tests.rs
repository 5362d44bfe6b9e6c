use super::*;
use std::path::Path;

const LIGHT: u8 = 4;

fn passphrase(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn fixture(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/age");
    std::fs::read(dir.join(name)).unwrap()
}

fn fixture_keys() -> Vec<SecretKey> {
    SecretKey::parse_file(&String::from_utf8(fixture("key.txt")).unwrap()).unwrap()
}

#[test]
fn opens_what_age_made() {
    let opened = open(&fixture("to-key.age"), &With::Keys(fixture_keys())).unwrap();
    assert_eq!(*opened, b"hello from age\n");
    let with = With::Passphrase(passphrase("correct horse battery"));
    assert_eq!(
        *open(&fixture("passphrase.age"), &with).unwrap(),
        b"hello from age\n"
    );
    assert_eq!(opens(&fixture("passphrase.age")), Ok(Opens::ByPassphrase));
    assert_eq!(opens(&fixture("to-key.age")), Ok(Opens::ByKey));
    let text = String::from_utf8(fixture("key.txt")).unwrap();
    let public = text
        .lines()
        .find_map(|line| line.strip_prefix("# public key: "));
    assert_eq!(public, Some(&*fixture_keys()[0].public().to_string()));
    assert!(text.contains(&*fixture_keys()[0].text()));
}

/// The reverse, where the tool is installed.
#[test]
fn age_opens_what_is_made_here() {
    let dir = crate::testing::TempDir::new();
    let file = dir.path().join("f.age");
    let content = vec![7; 200_000];
    let keys = fixture_keys();
    let public = keys[0].public();
    std::fs::write(&file, seal(&content, &For::Keys(vec![public])).unwrap()).unwrap();
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/age/key.txt");
    let output = std::process::Command::new("age")
        .args(["-d", "-i"])
        .args([&key, &file])
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: no age on this machine");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, content);
}

#[test]
fn every_size_comes_back_and_no_other_key_opens_it() {
    let (ours, others) = (
        SecretKey::generate().unwrap(),
        SecretKey::generate().unwrap(),
    );
    let whom = For::Keys(vec![others.public(), ours.public()]);
    let ours = With::Keys(vec![ours]);
    for size in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_001] {
        let content: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let file = seal(&content, &whom).unwrap();
        assert_eq!(*open(&file, &ours).unwrap(), content, "{size}");
    }
    let file = seal(b"x", &whom).unwrap();
    let stranger = With::Keys(vec![SecretKey::generate().unwrap()]);
    assert_eq!(open(&file, &stranger).unwrap_err(), SealError::WrongKey);
    let guess = With::Passphrase(passphrase("x"));
    assert_eq!(
        open(&file, &guess).unwrap_err(),
        SealError::OtherWay(Opens::ByKey)
    );
}

#[test]
fn passphrases() {
    let whom = For::Passphrase(passphrase("open sesame"));
    let file = seal_with(b"treasure", &whom, LIGHT).unwrap();
    let with = |text| With::Passphrase(passphrase(text));
    assert_eq!(*open(&file, &with("open sesame")).unwrap(), b"treasure");
    for wrong in ["", "open sesam", "open sesame "] {
        assert_eq!(
            open(&file, &with(wrong)).unwrap_err(),
            SealError::WrongPassphrase
        );
    }
    let key = With::Keys(vec![SecretKey::generate().unwrap()]);
    assert_eq!(
        open(&file, &key).unwrap_err(),
        SealError::OtherWay(Opens::ByPassphrase)
    );
    // Work without end is not done for anybody.
    let text = String::from_utf8_lossy(&file).replacen(" 4\n", " 40\n", 1);
    assert_eq!(
        open(text.as_bytes(), &with("open sesame")).unwrap_err(),
        SealError::TooMuchWork(40)
    );
}

/// Whatever byte is changed and wherever it is cut: never a content, never a panic.
#[test]
fn a_damaged_file_gives_nothing() {
    let secret = SecretKey::generate().unwrap();
    let content = vec![9; 70_000];
    let file = seal(&content, &For::Keys(vec![secret.public()])).unwrap();
    let with = With::Keys(vec![secret]);
    let spots = (0..260).chain([1_000, 65_700, 65_900, file.len() - 1]);
    for at in spots {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(open(&changed, &with).is_err(), "{at}");
    }
    for keep in (0..400).chain([65_000, 65_800, file.len() - 1]) {
        let error = open(&file[..keep], &with).unwrap_err();
        assert!(
            keep < 200 || matches!(error, SealError::Truncated | SealError::Damaged(_)),
            "{keep}: {error:?}"
        );
    }
    // Cut between two chunks.
    let header = file.len() - 70_000 - 2 * 16 - 16;
    let first = header + 16 + 65_536 + 16;
    assert_eq!(
        open(&file[..first], &with).unwrap_err(),
        SealError::Truncated
    );
    let mut longer = file.clone();
    longer.push(0);
    assert!(open(&longer, &with).is_err());
    assert_eq!(open(b"PK\x03\x04", &with).unwrap_err(), SealError::Foreign);
    assert_eq!(open(b"", &with).unwrap_err(), SealError::Foreign);
    let endless = [b"age-encryption.org/v1\n".as_slice(), &[b'a'; 3 << 20]].concat();
    assert!(open(&endless, &with).is_err());
    let stanzas = "-> x\n\n".repeat(400_000);
    let many = format!("age-encryption.org/v1\n{stanzas}");
    assert!(open(many.as_bytes(), &with).is_err());
}

#[test]
fn keys_are_read_strictly() {
    let secret = SecretKey::generate().unwrap();
    let text = format!("# mine\n\n{}\n", *secret.text());
    assert_eq!(
        SecretKey::parse_file(&text).unwrap()[0].public(),
        secret.public()
    );
    let public = secret.public().to_string();
    assert_eq!(PublicKey::parse(&public), Some(secret.public()));
    assert!(!format!("{secret:?}").contains("SECRET-KEY-1"));
    for bad in [
        "",
        "age1",
        "age1qqqq",
        &public[..50],
        &*secret.text(),
        "age1x x",
    ] {
        assert_eq!(PublicKey::parse(bad), None, "{bad}");
    }
    for bad in ["", "# only\n", &public, "AGE-SECRET-KEY-1QQ"] {
        assert!(SecretKey::parse_file(bad).is_none(), "{bad}");
    }
}
