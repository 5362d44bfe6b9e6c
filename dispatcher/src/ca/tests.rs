use super::*;
use crate::testing::TempDir;
use ctrl_exec_protocol::serial as serials;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::{self, KeyKind};
use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const NOW: Utc = Utc(1_795_500_000);

fn request(cn: &str) -> (String, PrivateKey) {
    let key = PrivateKey::from_pem(&keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    (csr::create(&key, cn).unwrap(), key)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn reference_ca(dir: &Path) -> CaDir {
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/protocol/tests/fixtures/reference");
    for name in ["ca.key", "ca.crt"] {
        std::fs::copy(fixtures.join(name), dir.join(name)).unwrap();
    }
    std::fs::write(dir.join("ca.serial"), "06\n").unwrap();
    CaDir::new(dir)
}

#[test]
fn a_new_ca_and_what_it_issues() {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path().join("etc"));
    let authority = setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    assert_eq!(
        (mode(&ca.key()), mode(&ca.cert()), mode(&ca.serial())),
        (0o600, 0o644, 0o600)
    );
    assert_eq!(
        authority.facts().subject_cn.as_deref(),
        Some("ctrl-exec CA")
    );
    assert!(matches!(
        setup_ca(&ca, &CaOptions::default(), NOW),
        Err(CaError::Exists(_))
    ));

    let (csr, key) = request("router1.example");
    let issued = authority
        .sign_csr(&csr, None, None, DAYS_DEFAULT, NOW)
        .unwrap();
    let facts = &issued.facts;
    assert_eq!(
        (facts.version, facts.is_ca, facts.may_sign),
        (3, false, true)
    );
    assert_eq!(facts.subject_cn.as_deref(), Some("router1.example"));
    assert_eq!(facts.not_before, NOW.0 - 86_400);
    assert_eq!(facts.not_after, NOW.0 + 825 * 86_400);
    assert_eq!(facts.spki_der, key.spki_der());
    assert_eq!(serials::canonical(&facts.serial_hex), facts.serial_hex);
    assert!(serials::is_stable(&facts.serial_hex) && facts.serial_hex.len() == 32);
    assert_eq!(issued.pem.matches("BEGIN").count(), 1);
    // Nothing is left beside the CA's files.
    let names: Vec<_> = std::fs::read_dir(ca.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_reference_ca_is_taken_over_and_handed_back() {
    let temp = TempDir::new();
    let ca = reference_ca(temp.path());
    let authority = Authority::load(&ca).unwrap();
    let (csr, _) = request("router1");
    let issued = authority
        .sign_csr(&csr, Some("router1"), None, 365, NOW)
        .unwrap();
    assert_eq!(issued.facts.issuer_der, authority.facts().subject_der);
    // The reference's counter stays as it was.
    assert_eq!(std::fs::read_to_string(ca.serial()).unwrap(), "06\n");
    // PKCS#1 spelling of the key, as older OpenSSL wrote it.
    let rsa = Command::new("openssl")
        .args(["rsa", "-traditional", "-in"])
        .arg(ca.key())
        .output();
    match rsa {
        Ok(output) if output.status.success() => {
            std::fs::write(ca.key(), output.stdout).unwrap();
            let again = Authority::load(&ca).unwrap();
            again.sign_csr(&csr, None, None, 365, NOW).unwrap();
        }
        _ => eprintln!("SKIPPED: no openssl command"),
    }
}

/// OpenSSL, and so every Perl agent, accepts what we issue.
#[test]
fn openssl_verifies_what_we_issue() {
    let temp = TempDir::new();
    for ca in [reference_ca(temp.path()), {
        let own = CaDir::new(temp.path().join("own"));
        setup_ca(&own, &CaOptions::default(), Utc::now()).unwrap();
        own
    }] {
        let authority = Authority::load(&ca).unwrap();
        let (csr, _) = request("router1");
        let now = Utc(Utc::now().0.max(authority.facts().not_before));
        let issued = authority.sign_csr(&csr, None, None, 365, now).unwrap();
        let leaf = temp.path().join("leaf.crt");
        std::fs::write(&leaf, &issued.pem).unwrap();
        let run = |args: &[&str]| {
            Command::new("openssl")
                .arg("verify")
                .args(args)
                .arg("-CAfile")
                .arg(ca.cert())
                .arg(&leaf)
                .output()
        };
        let Ok(_) = run(&[]) else {
            eprintln!("SKIPPED: no openssl command");
            return;
        };
        let at = now.0.to_string();
        for purpose in ["sslserver", "sslclient"] {
            let output = run(&["-attime", &at, "-purpose", purpose]).unwrap();
            let text = [output.stdout, output.stderr].concat();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
        let serial = Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in"])
            .arg(&leaf)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&serial.stdout).trim().to_owned();
        assert_eq!(serials::canonical(&text), trust_serial(&leaf).unwrap());
    }
}

#[test]
fn requests_are_bound_to_name_and_key() {
    let temp = TempDir::new();
    let authority = setup_ca(&CaDir::new(temp.path()), &CaOptions::default(), NOW).unwrap();
    let (csr, key) = request("router1");
    let other = request("router1").1;
    let sign = |cn, key| authority.sign_csr(&csr, cn, key, 365, NOW).map(|_| ());
    sign(Some("router1"), Some(key.spki_der())).unwrap();
    assert!(matches!(
        sign(Some("Router1"), None),
        Err(CaError::WrongName { .. })
    ));
    assert!(matches!(
        sign(None, Some(other.spki_der())),
        Err(CaError::WrongKey)
    ));
    assert!(matches!(
        authority.sign_csr("x", None, None, 365, NOW),
        Err(CaError::Csr(_))
    ));
    assert!(matches!(
        authority.sign_csr(&csr, None, None, 0, NOW),
        Err(CaError::Days(0))
    ));
}

/// Names that pass for another one, and keys that are weak in a way that size does not show.
#[test]
fn names_and_keys_that_are_never_signed() {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path().join("etc"));
    let authority = setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    let sign = |csr: &str| authority.sign_csr(csr, None, None, DAYS_DEFAULT, NOW);
    for own in ["ctrl-exec CA", "CTRL-EXEC ca", " ctrl-exec CA "] {
        let error = sign(&request(own).0).unwrap_err();
        assert!(matches!(error, CaError::CaName(_)), "{own}: {error}");
    }
    for odd in [
        "router\u{202e}1",
        "a\u{2066}b",
        "a\u{200e}",
        "a\u{2028}b",
        "a\u{7f}",
        "a\u{85}b",
        "a\u{200b}b",
        "a\u{feff}",
    ] {
        let error = sign(&request(odd).0).unwrap_err();
        assert!(matches!(error, CaError::Csr(_)), "{odd:?}: {error}");
    }
    assert!(sign(&request("Büro 3").0).is_ok());
    let weak = include_str!("../../tests/fixtures/csr/rsa-e3.pem");
    let error = sign(weak).unwrap_err().to_string();
    assert!(error.contains("exponent below 65537"), "{error}");
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let temp = TempDir::new();
    let options = CaOptions {
        days: 30,
        ..CaOptions::default()
    };
    let authority = setup_ca(&CaDir::new(temp.path()), &options, NOW).unwrap();
    let (csr, _) = request("a");
    let issued = authority.sign_csr(&csr, None, None, 825, NOW).unwrap();
    assert_eq!(issued.facts.not_after, authority.facts().not_after);
    let late = Utc(NOW.0 + 31 * 86_400);
    let error = authority.sign_csr(&csr, None, None, 825, late).unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[test]
fn faults_name_the_file() {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path());
    let error = Authority::load(&ca).unwrap_err().to_string();
    assert!(
        error.contains("ca.key") && error.contains("setup-ca"),
        "{error}"
    );
    setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    std::fs::write(ca.key(), keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    let error = Authority::load(&ca).unwrap_err().to_string();
    assert!(error.contains("ca.crt: does not belong to"), "{error}");
    std::fs::write(ca.cert(), "nonsense").unwrap();
    assert!(
        Authority::load(&ca)
            .unwrap_err()
            .to_string()
            .contains("ca.crt"),
        "{error}"
    );
}

#[test]
fn an_interrupted_setup_is_finished() {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path());
    setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    let key = std::fs::read(ca.key()).unwrap();
    std::fs::remove_file(ca.cert()).unwrap();
    setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    assert_eq!(std::fs::read(ca.key()).unwrap(), key);
    // A certificate without key is somebody's CA: hands off.
    std::fs::remove_file(ca.key()).unwrap();
    assert!(matches!(
        setup_ca(&ca, &CaOptions::default(), NOW),
        Err(CaError::Exists(_))
    ));
}

#[test]
fn the_dispatchers_pair_is_replaced_as_one() {
    let temp = TempDir::new();
    let authority = setup_ca(&CaDir::new(temp.path()), &CaOptions::default(), NOW).unwrap();
    let files = IdentityFiles::new(temp.path().join("d/d.crt"), temp.path().join("d/d.key"));
    let make = || setup_dispatcher(&authority, &files, None, KeyType::EcdsaP256, 825, NOW).unwrap();
    let first = make();
    assert_eq!((mode(&files.key), mode(&files.cert)), (0o600, 0o644));
    assert_eq!(
        files.load().unwrap().facts().serial_hex,
        first.facts.serial_hex
    );
    let old = (
        std::fs::read(&files.cert).unwrap(),
        std::fs::read(&files.key).unwrap(),
    );
    let second = make();
    let new = (
        std::fs::read(&files.cert).unwrap(),
        std::fs::read(&files.key).unwrap(),
    );
    assert_eq!(
        files.load().unwrap().facts().subject_cn.as_deref(),
        Some(DISPATCHER_CN)
    );

    // Every moment a crash can pick: nothing renamed, key renamed, half the new files written.
    let fresh = files.suffixed(".new");
    let put = |pair: &IdentityFiles, (cert, key): &(Vec<u8>, Vec<u8>)| {
        std::fs::write(&pair.cert, cert).unwrap();
        std::fs::write(&pair.key, key).unwrap();
    };
    put(&files, &old);
    put(&fresh, &new);
    files.recover().unwrap();
    assert_eq!(
        files.load().unwrap().facts().serial_hex,
        first.facts.serial_hex
    );
    assert!(!fresh.key.exists() && !fresh.cert.exists());

    put(&files, &old);
    std::fs::write(&fresh.key, &new.1).unwrap();
    files.recover().unwrap();
    assert_eq!(
        files.load().unwrap().facts().serial_hex,
        first.facts.serial_hex
    );

    put(&files, &(old.0.clone(), new.1.clone()));
    std::fs::write(&fresh.cert, &new.0).unwrap();
    // load() recovers by itself.
    assert_eq!(
        files.load().unwrap().facts().serial_hex,
        second.facts.serial_hex
    );
    assert!(!fresh.cert.exists());
}

#[test]
fn what_a_killed_writer_left_of_a_key_is_removed() {
    let temp = TempDir::new();
    let authority = setup_ca(&CaDir::new(temp.path()), &CaOptions::default(), NOW).unwrap();
    let files = IdentityFiles::new(temp.path().join("d.crt"), temp.path().join("d.key"));
    let left = temp.path().join(".d.key.new.0011223344556677.tmp");
    let young = temp.path().join(".d.key.prev.0011223344556677.tmp");
    std::fs::write(&young, "key").unwrap();
    std::fs::write(&left, "key").unwrap();
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(&left)
        .unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(700);
    file.set_modified(old).unwrap();
    setup_dispatcher(&authority, &files, None, KeyType::EcdsaP256, 825, NOW).unwrap();
    assert!(!left.exists() && young.exists());
}

#[test]
fn signers_wait_for_each_other_and_never_share_a_serial() {
    let temp = TempDir::new();
    let ca = CaDir::new(temp.path());
    setup_ca(&ca, &CaOptions::default(), NOW).unwrap();
    std::fs::remove_file(ca.serial()).unwrap();
    let serials: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let authority = Authority::load(&ca).unwrap();
                    let (csr, _) = request("a");
                    (0..10)
                        .map(|_| {
                            let issued = authority.sign_csr(&csr, None, None, 1, NOW).unwrap();
                            issued.facts.serial_hex
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let unique: std::collections::HashSet<_> = serials.iter().collect();
    assert_eq!(unique.len(), 40);
    let text = std::fs::read_to_string(ca.serial()).unwrap();
    assert!(text.trim().bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
    // The lock is the reference's: whoever holds it keeps us out.
    let holder = std::fs::File::open(ca.serial()).unwrap();
    rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (csr, _) = request("a");
        let ca = &ca;
        scope.spawn(move || {
            let authority = Authority::load(ca).unwrap();
            authority.sign_csr(&csr, None, None, 1, NOW).unwrap();
            sender.send(()).unwrap();
        });
        let early = receiver.recv_timeout(std::time::Duration::from_millis(200));
        assert!(early.is_err(), "signed without the lock");
        drop(holder);
        receiver
            .recv_timeout(std::time::Duration::from_secs(30))
            .unwrap();
    });
}

#[test]
fn every_key_kind_signs_and_is_signed() {
    let temp = TempDir::new();
    for (n, kind) in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519]
        .into_iter()
        .enumerate()
    {
        let options = CaOptions {
            key: kind,
            ..CaOptions::default()
        };
        let ca = CaDir::new(temp.path().join(n.to_string()));
        let authority = setup_ca(&ca, &options, NOW).unwrap();
        for leaf in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519] {
            let key = PrivateKey::from_pem(&keys::generate(leaf).unwrap()).unwrap();
            let csr = csr::create(&key, "a").unwrap();
            authority.sign_csr(&csr, None, None, 365, NOW).unwrap();
        }
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/csr");
    let authority = Authority::load(&CaDir::new(temp.path().join("0"))).unwrap();
    for name in ["rsa-2048", "rsa-4096", "san"] {
        let csr = std::fs::read_to_string(fixtures.join(name).with_extension("pem")).unwrap();
        let issued = authority
            .sign_csr(&csr, Some("router1.example"), None, 825, NOW)
            .unwrap();
        assert!(
            !issued.facts.is_ca,
            "extensions asked for are dropped: {name}"
        );
        if name == "rsa-4096" {
            assert_eq!(issued.facts.key, KeyKind::Rsa { bits: 4096 });
        }
        assert!(cert::facts_from_pem(&issued.pem).is_ok());
    }
}
