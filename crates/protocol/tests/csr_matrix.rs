//! The table of pki-and-pairing.md §3 with requests made by OpenSSL: what is signed and what is
//! refused, and why. Subjects that fool the reference's text matching do not fool ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use ctrl_exec_protocol::x509::cert::KeyKind;
use ctrl_exec_protocol::x509::csr::{self, CsrError};
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};

fn vector(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/csr")
        .join(name);
    std::fs::read_to_string(path.with_extension("pem")).expect(name)
}

fn refusal(name: &str) -> CsrError {
    csr::check(&vector(name)).expect_err(name)
}

#[test]
fn strong_requests_are_accepted() {
    for (name, key) in [
        ("rsa-2048", KeyKind::Rsa { bits: 2048 }),
        ("rsa-4096", KeyKind::Rsa { bits: 4096 }),
        ("p256", KeyKind::EcP256),
        ("p384", KeyKind::EcP384),
        ("ed25519", KeyKind::Ed25519),
        ("rsa-2048-pss-signature", KeyKind::Rsa { bits: 2048 }),
        ("san", KeyKind::EcP256),
        ("multi-rdn", KeyKind::EcP256),
    ] {
        let facts = csr::check(&vector(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(facts.key, key, "{name}");
        assert_eq!(facts.cn, "router1.example", "{name}");
    }
}

#[test]
fn weak_requests_are_refused_by_name() {
    assert_eq!(refusal("rsa-1024"), CsrError::TooSmall(1024));
    assert_eq!(refusal("rsa-2048-sha1"), CsrError::WeakSignature("SHA-1"));
    assert_eq!(refusal("rsa-2048-md5"), CsrError::WeakSignature("MD5"));
    assert_eq!(refusal("p256-sha1"), CsrError::WeakSignature("SHA-1"));
    assert!(matches!(
        refusal("rsa-2048-sha224"),
        CsrError::UnsupportedSignature(_)
    ));
    for name in ["p521", "rsa-pss", "explicit-curve"] {
        assert!(
            matches!(refusal(name), CsrError::UnsupportedKey(_)),
            "{name}"
        );
    }
    assert_eq!(refusal("tampered"), CsrError::BadSignature);
    assert_eq!(refusal("trailing"), CsrError::Malformed);
}

#[test]
fn a_crafted_subject_fools_nobody() {
    assert_eq!(
        csr::check(&vector("trick-o-is-cn")).unwrap().cn,
        "router1.example"
    );
    assert_eq!(refusal("trick-bits"), CsrError::TooSmall(1024));
    assert_eq!(refusal("trick-algorithm"), CsrError::WeakSignature("SHA-1"));
    for name in ["two-cn", "no-cn", "newline-cn"] {
        assert!(matches!(refusal(name), CsrError::CommonName(_)), "{name}");
    }
}

/// What a Perl dispatcher needs: OpenSSL reads our request, finds the subject it expects and the
/// self-signature good, and signs it.
#[test]
fn openssl_reads_what_we_make() {
    let mut kinds = vec![KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519];
    if cfg!(feature = "rsa-keygen") {
        kinds.push(KeyType::Rsa2048);
    }
    for kind in kinds {
        let key_pem = keys::generate(kind).unwrap();
        let key = PrivateKey::from_pem(&key_pem).unwrap();
        let request = csr::create(&key, "router1.example").unwrap();
        let Some(text) = openssl(&["req", "-verify", "-noout", "-text"], &request) else {
            eprintln!("SKIPPED: no openssl command");
            return;
        };
        assert!(
            text.contains("Subject: CN = router1.example") || text.contains("CN=router1.example")
        );
        assert!(text.contains("verify OK"), "{text}");
        if kind == KeyType::Rsa2048 {
            assert!(text.contains("Public-Key: (2048 bit)"));
            assert!(text.contains("sha256WithRSAEncryption"));
        }
        let public = openssl(&["pkey", "-pubout"], &key_pem).expect("openssl reads our key");
        assert!(public.contains("BEGIN PUBLIC KEY"), "{kind:?}: {public}");
    }
}

/// Runs `openssl` with `input` on stdin; stdout and stderr together. `None` without the command.
fn openssl(args: &[&str], input: &str) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}
