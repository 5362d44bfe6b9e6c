//! Our verdict on version 3 leaves beside that of `webpki`: what `webpki` refuses, ours refuses.
//! The leaves have every kind of extension in it, and are damaged *before* the CA signs them, so
//! that the signature stays good and the rest must find the fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use ctrl_exec_protocol::x509::verify::{ChainVerifier, Role};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    SerialNumber,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

const NOW: i64 = 1_795_500_000;
const DAY: i64 = 86_400;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn whole_leaves_of_any_kind(leaf in leaf(), client in any::<bool>(), now in moment()) {
        let ca = Ca::new();
        let role = if client { Role::Client } else { Role::Server };
        let der = ca.issue(&leaf, |_| ());
        let (ours, theirs) = verdicts(&ca, &der, role, now);
        prop_assert!(!ours || theirs, "accepted what webpki refuses: {der:02x?} ({role:?})");
        if !leaf.ours_is_stricter() {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn damaged_leaves_with_a_good_signature(
        leaf in leaf(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..5), 1..4),
    ) {
        let ca = Ca::new();
        let der = ca.issue(&leaf, |tbs| {
            for (at, byte, kind) in edits {
                let at = at.index(tbs.len());
                match kind {
                    0 => { tbs.remove(at); }
                    1 => tbs.insert(at, byte),
                    2 => tbs[at] ^= 1 << (byte & 7),
                    _ => tbs[at] = byte,
                }
                if tbs.is_empty() {
                    break;
                }
            }
        });
        for role in [Role::Client, Role::Server] {
            let (ours, theirs) = verdicts(&ca, &der, role, NOW);
            prop_assert!(!ours || theirs, "accepted what webpki refuses: {der:02x?} ({role:?})");
        }
    }
}

#[test]
fn the_usual_leaf_is_accepted_by_both() {
    let ca = Ca::new();
    let der = ca.issue(&Leaf::default(), |_| ());
    assert_eq!(verdicts(&ca, &der, Role::Server, NOW), (true, true));
    // And the signing over of this test is real: without it, both refuse.
    let other = Ca::new().issue(&Leaf::default(), |_| ());
    assert_eq!(verdicts(&ca, &other, Role::Server, NOW), (false, false));
}

/// What the random damage above once found, each a sequence of bytes and what replaces it.
#[test]
fn damage_found_before_is_still_refused() {
    let ca = Ca::new();
    let cases: [(&str, &[u8], &[u8]); 5] = [
        (
            "version 1 written out",
            &[0xa0, 3, 2, 1, 2],
            &[0xa0, 3, 2, 1, 0],
        ),
        ("a leap second", b"0000Z0", b"0060Z0"),
        ("before the epoch", b"\x17\x0d26", b"\x17\x0d66"),
        (
            "a negative path length",
            &[0x30, 3, 2, 1, 0],
            &[0x30, 3, 2, 1, 0x80],
        ),
        (
            "alternative names that are none",
            &[0x04, 2, 0x30, 0],
            &[0x04, 2, 0x31, 0],
        ),
    ];
    let leaf = Leaf {
        extensions: vec![
            (BASIC_CONSTRAINTS, true, vec![0x30, 3, 2, 1, 0]),
            (ALT_NAME, false, vec![0x30, 0]),
        ],
        ..Leaf::default()
    };
    for (what, old, new) in cases {
        let der = ca.issue(&leaf, |tbs| {
            let at = tbs
                .windows(old.len())
                .position(|window| window == old)
                .expect(what);
            tbs[at..at + old.len()].copy_from_slice(new);
        });
        let (ours, _) = verdicts(&ca, &der, Role::Server, NOW);
        assert!(!ours, "{what}: accepted");
    }
    let whole = ca.issue(&leaf, |_| ());
    assert!(verdicts(&ca, &whole, Role::Server, NOW).0);
}

/// Ours and theirs.
fn verdicts(ca: &Ca, der: &[u8], role: Role, now: i64) -> (bool, bool) {
    let ours = ChainVerifier::from_pem(&ca.pem).unwrap();
    let ours = ours.verify(der, role, now).is_ok();
    let usage = match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    let authority = CertificateDer::from(ca.der.as_slice());
    let anchors = [webpki::anchor_from_trusted_cert(&authority).unwrap()];
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap()));
    let leaf = CertificateDer::from(der);
    let theirs = EndEntityCert::try_from(&leaf).is_ok_and(|leaf| {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            time,
            usage,
            None,
            None,
        )
        .is_ok()
    });
    (ours, theirs)
}

struct Ca {
    key: EcdsaKeyPair,
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ctrl-exec CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = time(NOW - 900 * DAY);
        params.not_after = time(NOW + 900 * DAY);
        let certificate = params.self_signed(&key).unwrap();
        let pkcs8 = key.serialize_der();
        Self {
            key: EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &pkcs8,
                &SystemRandom::new(),
            )
            .unwrap(),
            der: certificate.der().to_vec(),
            pem: ctrl_exec_protocol::x509::pem::encode("CERTIFICATE", certificate.der()),
            issuer: Issuer::new(params, key),
        }
    }

    /// A leaf whose signed part `change` may change before it is signed.
    fn issue(&self, leaf: &Leaf, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "agent-1");
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0x5f, 0x11]));
        params.not_before = time(leaf.not_before);
        params.not_after = time(leaf.not_after);
        for (oid, critical, content) in &leaf.extensions {
            let mut extension = CustomExtension::from_oid_content(oid, content.clone());
            extension.set_criticality(*critical);
            params.custom_extensions.push(extension);
        }
        let key = KeyPair::generate().unwrap();
        let whole = params.signed_by(&key, &self.issuer).unwrap();
        let (body, algorithm) = split(whole.der());
        let mut body = body.to_vec();
        change(&mut body);
        let signature = self.key.sign(&SystemRandom::new(), &body).unwrap();
        let mut bits = vec![0];
        bits.extend_from_slice(signature.as_ref());
        let mut content = body;
        content.extend_from_slice(algorithm);
        content.extend(tlv(0x03, &bits));
        tlv(0x30, &content)
    }
}

fn time(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// The signed part of a certificate and its algorithm, each with tag and length.
fn split(der: &[u8]) -> (&[u8], &[u8]) {
    let whole = |from: usize| {
        let (header, length) = match der[from + 1] {
            0x82 => (
                4,
                usize::from(der[from + 2]) << 8 | usize::from(der[from + 3]),
            ),
            0x81 => (3, usize::from(der[from + 2])),
            short => (2, usize::from(short)),
        };
        (from + header, from + header + length)
    };
    let (body, _) = whole(0);
    let (_, algorithm) = whole(body);
    let (_, signature) = whole(algorithm);
    (&der[body..algorithm], &der[algorithm..signature])
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = vec![tag];
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    out
}

/// What a certificate to be issued has in it.
#[derive(Clone, Debug)]
struct Leaf {
    not_before: i64,
    not_after: i64,
    extensions: Vec<(&'static [u64], bool, Vec<u8>)>,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            not_before: NOW - DAY,
            not_after: NOW + DAY,
            extensions: vec![
                (BASIC_CONSTRAINTS, true, vec![0x30, 0]),
                (KEY_USAGE, true, vec![3, 2, 7, 0x80]),
                (EXT_KEY_USAGE, false, purposes(&[CLIENT, SERVER])),
            ],
        }
    }
}

impl Leaf {
    /// Whether it has something that ours refuses and `webpki` lets pass: a keyUsage without
    /// digitalSignature or damaged, a critical extension of revocation, which we do not support,
    /// and any extension given twice (RFC 5280 §4.2).
    fn ours_is_stricter(&self) -> bool {
        let repeated = |at: usize, oid| {
            self.extensions[..at]
                .iter()
                .any(|(other, ..)| *other == oid)
        };
        self.extensions
            .iter()
            .enumerate()
            .any(|(at, (oid, critical, content))| {
                (*oid == KEY_USAGE && content.as_slice() != [3, 2, 7, 0x80])
                    || (*oid == CRL_POINTS && *critical)
                    || repeated(at, *oid)
            })
    }
}

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXT_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const ALT_NAME: &[u64] = &[2, 5, 29, 17];
const CRL_POINTS: &[u64] = &[2, 5, 29, 31];
const POLICIES: &[u64] = &[2, 5, 29, 32];
const PRIVATE: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];

const CLIENT: u8 = 2;
const SERVER: u8 = 1;
const CODE_SIGNING: u8 = 3;

/// An extKeyUsage with these purposes of id-kp.
fn purposes(list: &[u8]) -> Vec<u8> {
    let content: Vec<u8> = list
        .iter()
        .flat_map(|purpose| tlv(0x06, &[0x2b, 6, 1, 5, 5, 7, 3, *purpose]))
        .collect();
    tlv(0x30, &content)
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let dates = prop_oneof![
        6 => Just((NOW - DAY, NOW + DAY)),
        1 => Just((NOW + DAY, NOW + 2 * DAY)),
        1 => Just((NOW - 2 * DAY, NOW - DAY)),
    ];
    (dates, prop::collection::vec(extension(), 0..5)).prop_map(
        |((not_before, not_after), extensions)| Leaf {
            not_before,
            not_after,
            extensions,
        },
    )
}

fn extension() -> impl Strategy<Value = (&'static [u64], bool, Vec<u8>)> {
    let basic = prop_oneof![
        4 => Just(vec![0x30, 0]),
        1 => Just(vec![0x30, 3, 1, 1, 0xff]),
        1 => Just(vec![0x30, 3, 1, 1, 0x00]),
        1 => Just(vec![0x30, 3, 2, 1, 0]),
        1 => Just(vec![0x30]),
    ];
    let usage = prop_oneof![
        4 => Just(vec![3, 2, 7, 0x80]),
        1 => Just(vec![3, 2, 2, 0x04]),
        1 => Just(vec![3, 1, 0]),
        1 => Just(vec![]),
    ];
    let extended = prop_oneof![
        4 => Just(purposes(&[CLIENT, SERVER])),
        1 => Just(purposes(&[CLIENT])),
        1 => Just(purposes(&[SERVER])),
        1 => Just(purposes(&[CODE_SIGNING])),
        1 => Just(purposes(&[])),
        1 => Just(vec![0x30, 2, 6, 0]),
    ];
    let name = Just(vec![0x30, 7, 0x82, 5, b'a', b'.', b'b', b'.', b'c']);
    prop_oneof![
        3 => basic.prop_map(|content| (BASIC_CONSTRAINTS, content)),
        3 => usage.prop_map(|content| (KEY_USAGE, content)),
        3 => extended.prop_map(|content| (EXT_KEY_USAGE, content)),
        1 => name.prop_map(|content| (ALT_NAME, content)),
        1 => Just((CRL_POINTS, vec![0x30, 0])),
        1 => Just((POLICIES, vec![0x30, 0])),
        1 => Just((PRIVATE, vec![5, 0])),
    ]
    .prop_flat_map(|(oid, content)| {
        any::<bool>().prop_map(move |critical| (oid, critical, content.clone()))
    })
}

fn moment() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(NOW),
        Just(NOW + DAY),
        Just(NOW + DAY + 1),
        Just(NOW - DAY),
        Just(NOW - DAY - 1)
    ]
}
