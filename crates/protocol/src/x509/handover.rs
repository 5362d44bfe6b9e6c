//! CA certificates that a dispatcher hands its agents in place of those they have: re-issued with the
//! same key, or of a new CA that the old one vouches for.
//!
//! A list is good when a CA that is trusted already signed each of its certificates, or another
//! certificate of the list with the same name and key. So a new CA comes with two: its own, and one
//! in which the old CA certifies the new key. An agent needs no other rule, and whoever may write
//! the place where it keeps the list cannot make it trust what the CA did not sign.

use super::cert::{self, CertFacts};
use super::pem;
use super::verify::{ChainVerifier, verify_signed};
use ring::digest::{SHA256, digest};

/// Checks a list of CA certificates (`offered`) against the trusted ones (`anchors`), both PEM.
///
/// # Errors
/// Why it is refused, in words for a log and an answer.
pub fn admit(anchors: &str, offered: &str) -> Result<(), &'static str> {
    let unreadable = "unreadable CA certificates";
    let anchors = ChainVerifier::from_pem(anchors).map_err(|_| "unusable CA file here")?;
    // Certificate authorities all of them, without what would have to be enforced.
    ChainVerifier::from_pem(offered).map_err(|_| unreadable)?;
    let list = pem::certificates(offered).map_err(|_| unreadable)?;
    let mut parsed = Vec::with_capacity(list.len());
    for der in &list {
        parsed.push(cert::parse(der).map_err(|_| unreadable)?);
    }
    for one in &parsed {
        let vouched = parsed.iter().any(|other| {
            other.facts.subject_der == one.facts.subject_der
                && other.facts.spki_der == one.facts.spki_der
                && anchors.authorities().any(|anchor| {
                    anchor.subject_der == other.facts.issuer_der
                        && verify_signed(&anchor.spki_der, &other.signed).is_ok()
                })
        });
        if !vouched {
            return Err("a CA certificate that the present CA did not sign");
        }
    }
    shortens(&anchors, parsed.iter().map(|one| &one.facts))
}

/// Checks that no CA certificate of a list (`offered`) ends before one of the same CA in force
/// (`present`), both PEM: that would be a step back, and two dispatchers with lists of their own would
/// exchange them for ever.
///
/// # Errors
/// Why it is refused, in words for a log and an answer.
pub fn goes_on(present: &str, offered: &str) -> Result<(), &'static str> {
    let unreadable = "unreadable CA certificates";
    let present = ChainVerifier::from_pem(present).map_err(|_| unreadable)?;
    let offered = ChainVerifier::from_pem(offered).map_err(|_| unreadable)?;
    shortens(&present, offered.authorities())
}

fn shortens<'a>(
    present: &ChainVerifier,
    mut offered: impl Iterator<Item = &'a CertFacts>,
) -> Result<(), &'static str> {
    let shorter = offered.any(|one| {
        present.authorities().any(|anchor| {
            anchor.subject_der == one.subject_der
                && anchor.spki_der == one.spki_der
                && anchor.not_after > one.not_after
        })
    });
    match shorter {
        true => Err("a CA certificate that ends before the present one"),
        false => Ok(()),
    }
}

/// What tells one list of CA certificates from another: a digest of them in their order. Empty when
/// the text holds none.
pub fn fingerprint(pem: &str) -> String {
    let Ok(list) = pem::certificates(pem) else {
        return String::new();
    };
    let all: Vec<u8> = list.iter().flat_map(|der| der.iter().copied()).collect();
    crate::serial::live_hex(&digest(&SHA256, &all).as_ref()[..16])
}
