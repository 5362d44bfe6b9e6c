//! Certificates as peers present them.

use std::sync::OnceLock;

use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role};

/// A day after the reference made its files.
const NOW: i64 = 1_795_500_000;

/// Everything this CA ever issued that is in the repository.
const ISSUED: &[&str] = &[
    include_str!("../../crates/protocol/tests/fixtures/reference/agent.crt"),
    include_str!("../../crates/protocol/tests/fixtures/reference/dispatcher.crt"),
    include_str!("../../crates/protocol/tests/fixtures/certs/v1-p256.crt"),
    include_str!("../../crates/protocol/tests/fixtures/certs/v1-p384.crt"),
    include_str!("../../crates/protocol/tests/fixtures/certs/v1-ed25519.crt"),
];

/// Any bytes are read or refused, and nothing is trusted but what the CA issued, byte for byte.
pub fn run(data: &[u8]) {
    static TRUST: OnceLock<(ChainVerifier, Vec<Vec<u8>>)> = OnceLock::new();
    let (trust, issued) = TRUST.get_or_init(|| {
        let ca = include_str!("../../crates/protocol/tests/fixtures/reference/ca.crt");
        let issued = ISSUED
            .iter()
            .map(|pem| cert::from_pem(pem).expect("a fixture"))
            .collect();
        (ChainVerifier::from_pem(ca).expect("a fixture"), issued)
    });
    let facts = cert::facts(data);
    for role in [Role::Client, Role::Server] {
        if let Ok(trusted) = trust.verify(data, role, NOW) {
            assert!(issued.iter().any(|known| known == data), "forged");
            assert_eq!(Ok(&trusted), facts.as_ref());
        }
    }
    if let Ok(facts) = facts {
        assert!(matches!(facts.version, 1 | 3));
        assert!(facts.serial_hex.len() % 2 == 0 && !facts.serial_hex.is_empty());
    }
}
