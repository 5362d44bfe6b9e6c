//! Real handshakes, in memory, with certificates of the reference (X.509 v1, RSA-4096 CA) and of
//! our own making, in both roles and both protocol versions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::keys::{self, KeyType};
use ctrl_exec_protocol::x509::pem;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Clock, Role, TrustError, VerifyError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer,
    KeyPair, KeyUsagePurpose as Ku, SerialNumber,
};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

/// A day after the reference made its files.
const NOW: i64 = 1_795_500_000;
const YEAR: i64 = 365 * 86_400;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read_to_string(path).expect(name)
}

fn reference(name: &str) -> Identity {
    let cert = file(&format!("reference/{name}.crt"));
    Identity::from_pem(&cert, &file(&format!("reference/{name}.key"))).unwrap()
}

fn version_1(name: &str) -> Identity {
    let cert = file(&format!("certs/{name}.crt"));
    Identity::from_pem(&cert, &file(&format!("certs/{name}.key"))).unwrap()
}

fn reference_trust() -> Arc<ChainVerifier> {
    Arc::new(ChainVerifier::from_pem(&file("reference/ca.crt")).unwrap())
}

fn at(seconds: i64) -> Clock {
    Arc::new(move || seconds)
}

/// A CA of our own, for version 3 leaves with whatever is in them.
struct Ca {
    key: KeyPair,
    params: CertificateParams,
    pem: String,
}

fn time(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// A key as `rcgen` signs with it.
fn key_pair(key_pem: &str) -> KeyPair {
    KeyPair::try_from(&pem::private_key(key_pem).unwrap()).unwrap()
}

impl Ca {
    fn new(kind: KeyType) -> Self {
        let key = key_pair(&keys::generate(kind).unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "ctrl-exec CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = time(NOW - YEAR);
        params.not_after = time(NOW + 10 * YEAR);
        let certificate = params.self_signed(&key).unwrap();
        let pem = pem::encode("CERTIFICATE", certificate.der());
        Self { key, params, pem }
    }

    /// A leaf changed by `change` from what our CA issues.
    fn leaf(&self, kind: KeyType, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key_pem = keys::generate(kind).unwrap();
        let key = key_pair(&key_pem);
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "router1");
        params.serial_number = Some(SerialNumber::from_slice(&[0x5a, 0xbc, 0x01]));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        params.not_before = time(NOW - 86_400);
        params.not_after = time(NOW + 2 * YEAR);
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let pem = pem::encode("CERTIFICATE", leaf.der());
        Identity::from_pem(&pem, &key_pem).unwrap()
    }

    fn trust(&self) -> Arc<ChainVerifier> {
        Arc::new(ChainVerifier::from_pem(&self.pem).unwrap())
    }
}

/// What became of a handshake.
struct Shaken {
    client: ClientConnection,
    server: ServerConnection,
}

/// Carries bytes between the two until both are done; the error of whoever failed first.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<Shaken, (&'static str, rustls::Error)> {
    let name = tls::server_name("router1.example");
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..20 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server
                .process_new_packets()
                .map_err(|error| ("server", error))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client
                .process_new_packets()
                .map_err(|error| ("client", error))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok(Shaken { client, server });
        }
    }
    panic!("handshake goes on for ever");
}

fn both_ways(left: &Identity, right: &Identity, trust: &Arc<ChainVerifier>) {
    for (client_id, server_id) in [(left, right), (right, left)] {
        let server = tls::agent_server_config(server_id, Arc::clone(trust), &at(NOW)).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let trust = Arc::clone(trust);
            let client =
                tls::client_config_of_versions(client_id, trust, &at(NOW), false, &[version])
                    .unwrap();
            let done = shake(&client, &server).unwrap_or_else(|(who, error)| {
                panic!("{who} refused {client_id:?} -> {server_id:?} {version:?}: {error}")
            });
            assert_eq!(done.server.protocol_version(), Some(version.version));
            assert_eq!(
                done.server.peer_certificates().unwrap()[0].as_ref(),
                client_id.leaf_der()
            );
            assert_eq!(
                done.client.peer_certificates().unwrap()[0].as_ref(),
                server_id.leaf_der()
            );
        }
    }
}

#[test]
fn the_references_own_certificates() {
    let (dispatcher, agent) = (reference("dispatcher"), reference("agent"));
    assert_eq!(dispatcher.facts().version, 1);
    assert_eq!(dispatcher.facts().serial_hex, "02");
    assert_eq!(
        dispatcher.facts().subject_cn.as_deref(),
        Some("ctrl-exec-dispatcher")
    );
    assert_eq!(agent.facts().serial_hex, "03");
    both_ways(&dispatcher, &agent, &reference_trust());
}

#[test]
fn version_1_leaves_of_every_key_kind() {
    let trust = reference_trust();
    let agent = reference("agent");
    for name in ["v1-p256", "v1-p384", "v1-ed25519"] {
        let identity = version_1(name);
        assert_eq!(identity.facts().version, 1, "{name}");
        both_ways(&identity, &agent, &trust);
    }
}

#[test]
fn version_3_leaves_of_every_key_kind() {
    for ca in [KeyType::EcdsaP256, KeyType::Ed25519] {
        let ca = Ca::new(ca);
        let trust = ca.trust();
        let left = ca.leaf(KeyType::EcdsaP256, |_| {});
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519] {
            both_ways(&left, &ca.leaf(kind, |_| {}), &trust);
        }
    }
}

#[test]
fn a_client_without_certificate_is_refused() {
    let server =
        tls::agent_server_config(&reference("agent"), reference_trust(), &at(NOW)).unwrap();
    let client = tls::pairing_client_config(&at(NOW)).unwrap();
    let (who, error) = shake(&client, &server).err().unwrap();
    assert_eq!(
        (who, error),
        ("server", rustls::Error::NoCertificatesPresented)
    );
}

#[test]
fn the_pairing_client_takes_any_certificate_and_shows_its_key() {
    let server = tls::pairing_server_config(&reference("dispatcher"), &at(NOW)).unwrap();
    let done = shake(&tls::pairing_client_config(&at(0)).unwrap(), &server)
        .ok()
        .unwrap();
    let leaf = &done.client.peer_certificates().unwrap()[0];
    assert_eq!(
        cert::facts(leaf).unwrap().key,
        cert::KeyKind::Rsa { bits: 4096 }
    );
    assert!(done.server.peer_certificates().is_none());
}

#[test]
fn a_pairing_client_that_has_the_ca_is_not_fooled() {
    let client = tls::pairing_client_config_with_ca(reference_trust(), &at(NOW)).unwrap();
    let server = tls::pairing_server_config(&reference("dispatcher"), &at(NOW)).unwrap();
    assert!(shake(&client, &server).is_ok());
    let server = tls::pairing_server_config(&version_1("impostor-leaf"), &at(NOW)).unwrap();
    assert_eq!(shake(&client, &server).err().unwrap().0, "client");
}

#[test]
fn a_foreign_ca_of_the_same_name_is_refused() {
    let trust = reference_trust();
    let impostor = version_1("impostor-leaf");
    assert_eq!(
        trust.verify(impostor.leaf_der(), Role::Client, NOW),
        Err(VerifyError::UnsupportedSignature),
        "signed with ECDSA, the CA's key is RSA"
    );
    let server =
        tls::agent_server_config(&reference("agent"), Arc::clone(&trust), &at(NOW)).unwrap();
    let client = tls::dispatcher_client_config(&impostor, trust, &at(NOW), false).unwrap();
    assert_eq!(shake(&client, &server).err().unwrap().0, "server");
    // Two CAs of ours bear the same name too.
    let (ours, theirs) = (Ca::new(KeyType::EcdsaP256), Ca::new(KeyType::EcdsaP256));
    let leaf = theirs.leaf(KeyType::EcdsaP256, |_| {});
    let fault = ours
        .trust()
        .verify(leaf.leaf_der(), Role::Client, NOW)
        .unwrap_err();
    assert_eq!(fault, VerifyError::BadSignature);
    // With both in the file, either is accepted.
    let both = ChainVerifier::from_pem(&format!("{}{}", ours.pem, theirs.pem)).unwrap();
    both.verify(leaf.leaf_der(), Role::Client, NOW).unwrap();
}

#[test]
fn only_the_ca_issues() {
    let trust = reference_trust();
    let check = |name: &str| {
        let der = cert::from_pem(&file(name)).unwrap();
        trust.verify(&der, Role::Client, NOW).map(|_| ())
    };
    assert_eq!(
        check("certs/signed-by-leaf.crt"),
        Err(VerifyError::UnknownIssuer)
    );
    // `openssl req -x509` makes it a version 3 CA certificate.
    assert_eq!(check("certs/selfsigned.crt"), Err(VerifyError::IsCa));
    assert_eq!(check("certs/impostor-ca.crt"), Err(VerifyError::IsCa));
    assert_eq!(check("reference/ca.crt"), Err(VerifyError::IsCa));
    assert_eq!(
        check("certs/sha1.crt"),
        Err(VerifyError::UnsupportedSignature)
    );
    // A leaf is no CA file, of version 1 or 3.
    let error = ChainVerifier::from_pem(&file("reference/agent.crt")).unwrap_err();
    assert_eq!(error.to_string(), "'vm' is not a CA certificate");
    // An intermediate in between is not followed: the peer sends leaf and intermediate.
    let ca = Ca::new(KeyType::EcdsaP256);
    let sub = ca.leaf(KeyType::EcdsaP256, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![Ku::DigitalSignature, Ku::KeyCertSign];
    });
    let fault = ca
        .trust()
        .verify(sub.leaf_der(), Role::Client, NOW)
        .unwrap_err();
    assert_eq!(fault, VerifyError::IsCa);
}

#[test]
fn dates_are_judged_by_the_injected_clock() {
    let trust = reference_trust();
    let agent = reference("agent");
    let facts = agent.facts();
    for (now, good) in [
        (facts.not_before - 1, false),
        (facts.not_before, true),
        (facts.not_after, true),
        (facts.not_after + 1, false),
        (0, false),
        (-5, false),
    ] {
        let verdict = trust.verify(agent.leaf_der(), Role::Server, now);
        assert_eq!(verdict.is_ok(), good, "{now}: {verdict:?}");
    }
    // In a handshake: the router booted in 1970 refuses, the corrected clock accepts.
    let dispatcher = reference("dispatcher");
    let client =
        tls::dispatcher_client_config(&dispatcher, Arc::clone(&trust), &at(NOW), false).unwrap();
    for (now, good) in [(1_000, false), (NOW, true), (NOW + 20 * YEAR, false)] {
        let server = tls::agent_server_config(&agent, Arc::clone(&trust), &at(now)).unwrap();
        assert_eq!(shake(&client, &server).is_ok(), good, "{now}");
    }
    // The CA's own dates count, which webpki does not look at.
    let mut old = Ca::new(KeyType::EcdsaP256);
    old.params.not_after = time(NOW - 1);
    let certificate = old.params.self_signed(&old.key).unwrap();
    old.pem = pem::encode("CERTIFICATE", certificate.der());
    let leaf = old.leaf(KeyType::EcdsaP256, |_| {});
    let fault = old
        .trust()
        .verify(leaf.leaf_der(), Role::Client, NOW)
        .unwrap_err();
    assert_eq!(fault, VerifyError::CaOutOfDate);
}

#[test]
fn a_ca_that_may_not_sign_or_is_constrained_is_refused() {
    let trust = |change: &dyn Fn(&mut CertificateParams)| {
        let mut ca = Ca::new(KeyType::EcdsaP256);
        change(&mut ca.params);
        let certificate = ca.params.self_signed(&ca.key).unwrap();
        ChainVerifier::from_pem(&pem::encode("CERTIFICATE", certificate.der())).map(|_| ())
    };
    assert_eq!(
        trust(&|p| p.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign]),
        Ok(())
    );
    assert!(matches!(
        trust(&|p| p.key_usages = vec![Ku::CrlSign, Ku::DigitalSignature]),
        Err(TrustError::NotACa(_))
    ));
    // Critical or not: names that it would exclude are never looked at.
    for critical in [true, false] {
        let refused = trust(&|p| {
            let names = [0x30, 0x08, 0xa0, 0x06, 0x30, 0x04, 0x82, 0x02, b'a', b'b'];
            let mut extension =
                rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], names.to_vec());
            extension.set_criticality(critical);
            p.custom_extensions = vec![extension];
        });
        assert!(
            matches!(refused, Err(TrustError::Unusable(_))),
            "{critical}"
        );
    }
}

#[test]
fn version_3_extensions_are_obeyed() {
    let ca = Ca::new(KeyType::EcdsaP256);
    let trust = ca.trust();
    let verdict = |change: fn(&mut CertificateParams), role| {
        let leaf = ca.leaf(KeyType::EcdsaP256, change);
        trust.verify(leaf.leaf_der(), role, NOW).map(|_| ())
    };
    assert_eq!(
        verdict(|p| p.extended_key_usages.clear(), Role::Client),
        Ok(())
    );
    assert_eq!(verdict(|p| p.key_usages.clear(), Role::Client), Ok(()));
    let only_client: fn(&mut CertificateParams) = |p| p.extended_key_usages = vec![Eku::ClientAuth];
    assert_eq!(verdict(only_client, Role::Client), Ok(()));
    assert_eq!(
        verdict(only_client, Role::Server),
        Err(VerifyError::WrongPurpose)
    );
    assert_eq!(
        verdict(|p| p.key_usages = vec![Ku::KeyEncipherment], Role::Client),
        Err(VerifyError::WrongPurpose)
    );
    let unknown = verdict(
        |p| {
            let mut extension =
                rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00]);
            extension.set_criticality(true);
            p.custom_extensions = vec![extension];
        },
        Role::Client,
    );
    assert!(
        matches!(unknown, Err(VerifyError::CriticalExtension)),
        "{unknown:?}"
    );
}

#[test]
fn a_tampered_certificate_is_refused() {
    for (leaf, trust) in [(reference("agent"), reference_trust()), {
        let ca = Ca::new(KeyType::EcdsaP256);
        (ca.leaf(KeyType::EcdsaP256, |_| {}), ca.trust())
    }] {
        let good = leaf.leaf_der().to_vec();
        trust.verify(&good, Role::Client, NOW).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x01;
            assert!(
                trust.verify(&bad, Role::Client, NOW).is_err(),
                "byte {place}"
            );
        }
        let mut long = good.clone();
        long.push(0);
        assert!(trust.verify(&long, Role::Client, NOW).is_err());
        assert!(
            trust
                .verify(&good[..good.len() - 1], Role::Client, NOW)
                .is_err()
        );
    }
}

#[test]
fn key_and_certificate_must_match() {
    let cert = file("reference/agent.crt");
    let error = Identity::from_pem(&cert, &file("reference/dispatcher.key")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the key does not belong to the certificate"
    );
    // PKCS#1 and SEC1 spellings of the right keys.
    Identity::from_pem(&cert, &file("certs/agent-pkcs1.key")).unwrap();
    let (cert, key) = (file("certs/v1-p256.crt"), file("certs/v1-p256-sec1.key"));
    Identity::from_pem(&cert, &key).unwrap();
    // What the openssl command may put before them.
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let text = "Certificate:\n    Data:\n        Version: 1 (0x0)\n";
    Identity::from_pem(&format!("{text}{cert}"), &format!("{parameters}{key}")).unwrap();
}

#[test]
fn who_will_not_resume_is_sent_no_ticket() {
    let trust = reference_trust();
    let (agent, dispatcher) = (reference("agent"), reference("dispatcher"));
    let server = tls::agent_server_config(&agent, Arc::clone(&trust), &at(NOW)).unwrap();
    for (resumption, tickets) in [(true, 1), (false, 0)] {
        let client =
            tls::dispatcher_client_config(&dispatcher, Arc::clone(&trust), &at(NOW), resumption)
                .unwrap();
        let pair = shake(&client, &server).ok().unwrap();
        assert_eq!(pair.client.tls13_tickets_received(), tickets);
    }
}

#[test]
fn sessions_resume_with_the_client_certificate_remembered() {
    let (trust, agent, dispatcher) = (
        reference_trust(),
        reference("agent"),
        reference("dispatcher"),
    );
    let server = tls::agent_server_config(&agent, Arc::clone(&trust), &at(NOW)).unwrap();
    let client =
        tls::dispatcher_client_config(&dispatcher, Arc::clone(&trust), &at(NOW), true).unwrap();
    let first = shake(&client, &server).ok().unwrap();
    assert_eq!(
        first.server.handshake_kind(),
        Some(rustls::HandshakeKind::Full)
    );
    let second = shake(&client, &server).ok().unwrap();
    assert_eq!(
        second.server.handshake_kind(),
        Some(rustls::HandshakeKind::Resumed)
    );
    assert_eq!(
        second.server.peer_certificates().unwrap()[0].as_ref(),
        dispatcher.leaf_der()
    );
    // A reload makes a new ticket key: full handshake again.
    let reloaded = tls::agent_server_config(&agent, trust, &at(NOW)).unwrap();
    let third = shake(&client, &reloaded).ok().unwrap();
    assert_eq!(
        third.server.handshake_kind(),
        Some(rustls::HandshakeKind::Full)
    );
}
