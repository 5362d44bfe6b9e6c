//! The extensions of a version 3 certificate that decide what it may be used for (RFC 5280 §4.2).

use crate::x509::der;
use crate::x509::errors::CertError;

/// Most extensions that are read; looking for repeated ones must not cost a peer's choice of time.
const MOST: usize = 32;

/// keyUsage bits as they lie in the first byte of the BIT STRING (RFC 5280 §4.2.1.3).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;

/// What the extensions say. The default is a certificate without any.
#[derive(Default)]
pub(crate) struct Extensions {
    /// There is at least one.
    pub(crate) any: bool,
    /// basicConstraints with CA:TRUE.
    pub(crate) is_ca: bool,
    /// nameConstraints.
    pub(crate) constrains_names: bool,
    /// A critical one that is not understood here.
    pub(crate) unknown_critical: bool,
    /// extKeyUsage.
    pub(crate) purposes: Option<Purposes>,
    usage: Option<u8>,
}

/// The purposes of extKeyUsage (RFC 5280 §4.2.1.12) that matter here. `anyExtendedKeyUsage` does
/// not stand for them, as in `webpki`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Purposes {
    pub(crate) client: bool,
    pub(crate) server: bool,
}

impl Extensions {
    /// Reads the content of the list.
    ///
    /// # Errors
    /// Damaged DER; one that matters here is damaged, one is given twice, or there are over 32.
    pub(crate) fn read(list: &[u8]) -> Result<Self, CertError> {
        let mut found = Self::default();
        let mut seen: Vec<&[u8]> = Vec::new();
        let mut rest = list;
        while !rest.is_empty() {
            found.any = true;
            let extension = next(&mut rest).ok_or(CertError::Malformed)?;
            if seen.contains(&extension.oid) || seen.len() == MOST {
                return Err(CertError::Extension);
            }
            seen.push(extension.oid);
            let known = found
                .take(extension.oid, extension.value)
                .ok_or(CertError::Extension)?;
            found.unknown_critical |= !known && extension.critical;
        }
        Ok(found)
    }

    /// Whether handshakes may be signed: no keyUsage, or one with digitalSignature.
    pub(crate) fn may_sign(&self) -> bool {
        self.usage.is_none_or(|bits| bits & DIGITAL_SIGNATURE != 0)
    }

    /// Whether certificates may be signed: no keyUsage, or one with keyCertSign.
    pub(crate) fn may_sign_certificates(&self) -> bool {
        self.usage.is_none_or(|bits| bits & KEY_CERT_SIGN != 0)
    }

    /// Whether the extension is understood; `None` if it is damaged.
    fn take(&mut self, oid: &[u8], value: &[u8]) -> Option<bool> {
        match oid {
            oid::BASIC_CONSTRAINTS => self.is_ca = basic_constraints(value)?,
            oid::KEY_USAGE => self.usage = Some(key_usage(value)?),
            oid::EXT_KEY_USAGE => self.purposes = Some(purposes(value)?),
            oid::NAME_CONSTRAINTS => {
                der::only(value, der::SEQUENCE)?;
                self.constrains_names = true;
            }
            // Names are never checked (agent.md §3.1), so whatever they are, they are understood.
            oid::SUBJECT_ALT_NAME => {
                der::only(value, der::SEQUENCE)?;
            }
            // Lists of revoked certificates are not fetched: agents have their own (agent.md §4.3).
            oid::CRL_DISTRIBUTION_POINTS => {
                der::only(value, der::SEQUENCE)?;
                return Some(false);
            }
            _ => return Some(false),
        }
        Some(true)
    }
}

struct Extension<'a> {
    oid: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<Extension<'a>> {
    let mut inside = der::next(rest, der::SEQUENCE)?.content;
    let oid = der::next(&mut inside, der::OID)?.content;
    let critical = flag(&mut inside)?;
    let value = der::only(inside, der::OCTET_STRING)?.content;
    Some(Extension {
        oid,
        critical,
        value,
    })
}

fn basic_constraints(value: &[u8]) -> Option<bool> {
    let mut inside = der::only(value, der::SEQUENCE)?.content;
    let ca = flag(&mut inside)?;
    if inside.is_empty() {
        return Some(ca);
    }
    // A path length, which says nothing about leaves; but it must be one.
    match der::only(inside, der::INTEGER)?.content {
        [0..=0x7f] | [0, 0x80..=0xff] => Some(ca),
        _ => None,
    }
}

/// The first byte of the usage bits; the second holds only decipherOnly.
fn key_usage(value: &[u8]) -> Option<u8> {
    match der::only(value, der::BIT_STRING)?.content {
        [0..=7, bits, ..] => Some(*bits),
        [0] => Some(0),
        _ => None,
    }
}

/// At least one purpose must be given.
fn purposes(value: &[u8]) -> Option<Purposes> {
    let mut rest = der::only(value, der::SEQUENCE)?.content;
    let mut found = Purposes::default();
    loop {
        match der::next(&mut rest, der::OID)?.content {
            oid::CLIENT_AUTH => found.client = true,
            oid::SERVER_AUTH => found.server = true,
            _ => {}
        }
        if rest.is_empty() {
            return Some(found);
        }
    }
}

/// An optional BOOLEAN that is false by default.
fn flag(rest: &mut &[u8]) -> Option<bool> {
    if rest.first() != Some(&der::BOOLEAN) {
        return Some(false);
    }
    match der::next(rest, der::BOOLEAN)?.content {
        [0x00] => Some(false),
        [0xff] => Some(true),
        _ => None,
    }
}

/// Object identifiers, as they are encoded.
mod oid {
    pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
    pub(super) const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 0x1f];
    pub(super) const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(super) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
    pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    pub(super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
}
