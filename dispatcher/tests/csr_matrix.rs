//! The table of pki-and-pairing.md §3 with requests made by OpenSSL: what is signed and what is
//! refused, and why. Subjects that fool the reference's text matching do not fool ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use ctrl_exec_dispatcher::ca::request::{self, RequestError};
use ctrl_exec_protocol::x509::cert::KeyKind;

fn vector(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/csr")
        .join(name);
    std::fs::read_to_string(path.with_extension("pem")).expect(name)
}

fn refusal(name: &str) -> RequestError {
    request::check(&vector(name)).expect_err(name)
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
        let facts = request::check(&vector(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(facts.key, key, "{name}");
        assert_eq!(facts.cn, "router1.example", "{name}");
    }
}

#[test]
fn weak_requests_are_refused_by_name() {
    assert_eq!(refusal("rsa-1024"), RequestError::TooSmall(1024));
    assert_eq!(
        refusal("rsa-2048-sha1"),
        RequestError::WeakSignature("SHA-1")
    );
    assert_eq!(refusal("rsa-2048-md5"), RequestError::WeakSignature("MD5"));
    assert_eq!(refusal("p256-sha1"), RequestError::WeakSignature("SHA-1"));
    assert!(matches!(
        refusal("rsa-2048-sha224"),
        RequestError::UnsupportedSignature(_)
    ));
    for name in ["p521", "rsa-pss", "explicit-curve"] {
        assert!(
            matches!(refusal(name), RequestError::UnsupportedKey(_)),
            "{name}"
        );
    }
    assert_eq!(refusal("tampered"), RequestError::BadSignature);
    assert_eq!(refusal("trailing"), RequestError::Malformed);
}

#[test]
fn a_crafted_subject_fools_nobody() {
    assert_eq!(
        request::check(&vector("trick-o-is-cn")).unwrap().cn,
        "router1.example"
    );
    assert_eq!(refusal("trick-bits"), RequestError::TooSmall(1024));
    assert_eq!(
        refusal("trick-algorithm"),
        RequestError::WeakSignature("SHA-1")
    );
    for name in ["two-cn", "no-cn", "newline-cn"] {
        assert!(
            matches!(refusal(name), RequestError::CommonName(_)),
            "{name}"
        );
    }
}
