//! Our certificate reader beside a general one, `x509-parser`: what both accept, both read alike. Inputs are real certificates of both versions, and the same with
//! bytes changed, removed or repeated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use ctrl_exec_protocol::serial;
use ctrl_exec_protocol::x509::{cert, pem};
use proptest::prelude::*;
use std::path::Path;
use std::sync::OnceLock;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate, X509Version};

#[test]
fn recorded_certificates_read_the_same() {
    for der in samples() {
        assert!(compare(der), "a recorded certificate is refused");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn changed_certificates_are_refused_or_read_the_same(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..4),
    ) {
        let mut der = samples()[which.index(samples().len())].clone();
        for (at, byte, kind) in edits {
            let at = at.index(der.len());
            match kind {
                0 => { der.remove(at); }
                1 => der.insert(at, byte),
                _ => der[at] = byte,
            }
            if der.is_empty() {
                break;
            }
        }
        compare(&der);
    }
}

/// Whether ours accepts `der`; if it does, both must agree.
fn compare(der: &[u8]) -> bool {
    let Ok(facts) = cert::facts(der) else {
        return false;
    };
    // What is inside the algorithm and the key is read by those who use it, not by ours.
    let Ok((rest, theirs)) = X509Certificate::from_der(der) else {
        return true;
    };
    assert!(rest.is_empty(), "ours accepted bytes left over");
    let version = if theirs.version() == X509Version::V1 {
        1
    } else {
        3
    };
    assert_eq!(facts.version, version);
    assert_eq!(facts.serial_hex, serial::live_hex(theirs.raw_serial()));
    // They stop at the first part of a name that they do not know; ours takes a name whole, since
    // it is only ever compared with the CA's, byte by byte.
    assert!(facts.subject_der.starts_with(theirs.subject().as_raw()));
    assert!(facts.issuer_der.starts_with(theirs.issuer().as_raw()));
    assert_eq!(facts.not_before, theirs.validity().not_before.timestamp());
    assert_eq!(facts.not_after, theirs.validity().not_after.timestamp());
    assert_eq!(facts.spki_der, theirs.public_key().raw);
    assert_eq!(facts.is_ca, theirs.is_ca());
    let usage =
        theirs
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::KeyUsage(usage) => Some(usage),
                _ => None,
            });
    if let Some(usage) = usage {
        assert_eq!(facts.may_sign, usage.digital_signature());
        assert_eq!(facts.may_sign_certificates, usage.key_cert_sign());
    }
    if let Some(name) = &facts.subject_cn {
        assert_eq!(
            facts.subject_der,
            theirs.subject().as_raw(),
            "a name is read from a whole subject"
        );
        let theirs: Vec<_> = theirs.subject().iter_common_name().collect();
        assert_eq!(theirs.len(), 1, "one common name");
        assert_eq!(theirs[0].as_str().ok(), Some(name.as_str()));
    }
    true
}

fn samples() -> &'static [Vec<u8>] {
    static SAMPLES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mut found = Vec::new();
        collect(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
            &mut found,
        );
        assert!(found.len() >= 3, "fixtures are there");
        found
    })
}

fn collect(dir: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            if let Ok(certificates) = pem::certificates(&text) {
                found.extend(certificates.into_iter().map(|der| der.to_vec()));
            }
        }
    }
}
