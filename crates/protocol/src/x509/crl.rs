//! Lists of revoked certificates that a CA signed (RFC 5280 §5), as a dispatcher makes them and an
//! agent keeps them.
//!
//! The standard's form, because every tool shows and checks it, and because an agent has the code for
//! it but for the few fields read here: it is a signed object like a certificate.

use super::der::{self, Tlv};
use super::pem;
use super::verify::ChainVerifier;
use crate::serial;

/// Most certificates that a list may hold: a router keeps it in its flash and looks through it for
/// each connection.
pub const MAX_ENTRIES: usize = 1_000;

/// OID of the extension that numbers lists (2.5.29.20).
const NUMBER: &[u8] = &[0x55, 0x1d, 0x14];

/// A list, and whether it is one; its signature is checked by [`Crl::verify`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crl {
    der: Vec<u8>,
    number: u64,
}

/// What the list says, read in place.
struct Fields<'a> {
    algorithm: Tlv<'a>,
    issuer: Tlv<'a>,
    /// Content of the list of entries.
    entries: &'a [u8],
    number: u64,
}

impl Crl {
    /// Reads the first list of a PEM text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_pem(text: &str) -> Result<Self, &'static str> {
        let der = pem::crl(text).map_err(|_| "no revocation list in PEM")?;
        Self::new(der)
    }

    /// Takes the DER of a list.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(der: Vec<u8>) -> Result<Self, &'static str> {
        let malformed = "malformed revocation list";
        let number = {
            let fields = der::signed(&der).and_then(|signed| Fields::read(signed.body.content));
            let fields = fields.ok_or(malformed)?;
            let mut rest = fields.entries;
            let mut count = 0;
            while !rest.is_empty() {
                entry(&mut rest).ok_or(malformed)?;
                count += 1;
            }
            if count > MAX_ENTRIES {
                return Err("too many entries in the revocation list");
            }
            fields.number
        };
        Ok(Self { der, number })
    }

    /// Lists of one issuer are numbered; of two the one with the higher number is newer.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The PEM text.
    pub fn pem(&self) -> String {
        pem::encode("X509 CRL", &self.der)
    }

    /// Whether the certificate with this live serial is on it.
    pub fn contains(&self, live_serial: &str) -> bool {
        let wanted = serial::exact(live_serial);
        self.entries().any(|entry| is(entry, wanted))
    }

    /// The serials on it, as live serials.
    pub fn serials(&self) -> Vec<String> {
        self.entries().map(serial::live_hex).collect()
    }

    /// Whether one of these CAs, within its dates, signed the list.
    pub fn verify(&self, trust: &ChainVerifier, now: i64) -> bool {
        let signed = der::signed(&self.der);
        signed.is_some_and(|signed| {
            Fields::read(signed.body.content).is_some_and(|fields| {
                fields.algorithm.whole == signed.algorithm.whole
                    && trust.signed(fields.issuer.whole, &signed, now)
            })
        })
    }

    fn entries(&self) -> impl Iterator<Item = &[u8]> {
        let fields = der::signed(&self.der).and_then(|signed| Fields::read(signed.body.content));
        let mut rest = fields.map_or(&[][..], |fields| fields.entries);
        std::iter::from_fn(move || entry(&mut rest))
    }
}

impl<'a> Fields<'a> {
    fn read(content: &'a [u8]) -> Option<Self> {
        let mut rest = content;
        // Version 2, the only one that has numbers.
        if der::next(&mut rest, der::INTEGER)?.content != [1] {
            return None;
        }
        let algorithm = der::next(&mut rest, der::SEQUENCE)?;
        let issuer = der::next(&mut rest, der::SEQUENCE)?;
        // When it was made, and when the next one is to be expected: the number says what is newer.
        der::read(rest).map(|(_, behind)| rest = behind)?;
        if let Some((_, behind)) = der::read(rest)
            .filter(|(next, _)| [der::UTC_TIME, der::GENERALIZED_TIME].contains(&next.tag))
        {
            rest = behind;
        }
        let entries = der::next(&mut rest, der::SEQUENCE).map_or(&[][..], |list| list.content);
        let extensions = der::only(der::only(rest, 0xa0)?.content, der::SEQUENCE)?;
        Some(Self {
            algorithm,
            issuer,
            entries,
            number: number(extensions.content)?,
        })
    }
}

/// The number among the extensions. A critical one that is not understood makes the list unusable:
/// it says that the list is only about some certificates.
fn number(mut rest: &[u8]) -> Option<u64> {
    let mut found = None;
    while !rest.is_empty() {
        let mut inside = der::next(&mut rest, der::SEQUENCE)?.content;
        let oid = der::next(&mut inside, der::OID)?.content;
        if der::next(&mut inside, der::BOOLEAN).is_some() {
            return None;
        }
        if oid == NUMBER {
            let value = der::next(&mut inside, der::OCTET_STRING)?.content;
            let bytes = magnitude(der::only(value, der::INTEGER)?.content);
            if bytes.len() > 8 {
                return None;
            }
            let number = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            found = Some(number);
        }
    }
    found
}

/// Takes the next entry off the list: the content of its serial.
fn entry<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut inside = der::next(rest, der::SEQUENCE)?.content;
    der::next(&mut inside, der::INTEGER).map(|serial| serial.content)
}

fn magnitude(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    &integer[zeros..]
}

/// Whether the content of an INTEGER is the number of these hex digits, which have no leading zero.
fn is(integer: &[u8], digits: &str) -> bool {
    let mut bytes = magnitude(integer);
    let mut digits = digits.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(16);
    while let [rest @ .., byte] = bytes {
        let (high, low) = (u32::from(byte >> 4), u32::from(byte & 15));
        let fits = match digits {
            [before @ .., h, l] => {
                digits = before;
                value(*h) == high && value(*l) == low
            }
            [l] => {
                digits = &[];
                high == 0 && value(*l) == low
            }
            [] => false,
        };
        if !fits {
            return false;
        }
        bytes = rest;
    }
    digits.is_empty() || digits == b"0"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::keys::{self, KeyType};
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    struct Ca(CertificateParams, KeyPair);

    impl Ca {
        fn new(name: &str) -> Self {
            let pem = keys::generate(KeyType::EcdsaP256).unwrap();
            let key = KeyPair::try_from(&pem::private_key(&pem).unwrap()).unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2050, 1, 1);
            Self(params, key)
        }

        fn trust(&self) -> ChainVerifier {
            let certificate = self.0.self_signed(&self.1).unwrap();
            ChainVerifier::from_pem(&pem::encode("CERTIFICATE", certificate.der())).unwrap()
        }

        fn list(&self, number: u64, serials: &[Vec<u8>]) -> Vec<u8> {
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 1),
                next_update: date_time_ymd(2060, 1, 1),
                crl_number: SerialNumber::from(number),
                issuing_distribution_point: None,
                revoked_certs: serials
                    .iter()
                    .map(|serial| RevokedCertParams {
                        serial_number: SerialNumber::from_slice(serial),
                        revocation_time: date_time_ymd(2026, 1, 1),
                        reason_code: None,
                        invalidity_date: None,
                    })
                    .collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let issuer = Issuer::from_params(&self.0, &self.1);
            params.signed_by(&issuer).unwrap().der().to_vec()
        }
    }

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_list_tells_its_number_and_serials_and_is_of_its_ca_only() {
        let ca = Ca::new("CA");
        let serials = [vec![0x0f], vec![0x00, 0xab, 0x10], vec![0x40; 16]];
        let list = Crl::new(ca.list(1_795_000_000, &serials)).unwrap();
        assert_eq!(list.number(), 1_795_000_000);
        assert_eq!(
            list.serials(),
            ["0f".to_owned(), "ab10".into(), "40".repeat(16)]
        );
        for (live, on) in [
            ("0f", true),
            ("f", true),
            ("ab10", true),
            ("00ab10", true),
            ("b10", false),
            ("1ab10", false),
            ("10", false),
            ("15", false),
            ("", false),
            (&"40".repeat(16), true),
            (&"40".repeat(17), false),
        ] {
            assert_eq!(list.contains(live), on, "{live}");
        }
        assert!(list.verify(&ca.trust(), NOW));
        assert!(!list.verify(&Ca::new("CA").trust(), NOW), "another key");
        assert!(!list.verify(&Ca::new("CB").trust(), NOW), "another name");
        assert!(!list.verify(&ca.trust(), 2_600_000_000), "the CA has ended");
        assert_eq!(Crl::from_pem(&list.pem()), Ok(list.clone()));
        let empty = Crl::new(ca.list(7, &[])).unwrap();
        assert!(empty.serials().is_empty() && empty.verify(&ca.trust(), NOW));
        // One bit of it changed: unreadable, or not signed.
        for at in 0..list.der.len() {
            let mut der = list.der.clone();
            der[at] ^= 1;
            let good = Crl::new(der).is_ok_and(|list| list.verify(&ca.trust(), NOW));
            assert!(!good, "byte {at}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let ca = Ca::new("CA");
        let serials = |count: u16| -> Vec<Vec<u8>> {
            (0..count)
                .map(|n| [&[0x41; 14][..], &n.to_be_bytes()].concat())
                .collect()
        };
        let full = Crl::new(ca.list(1, &serials(1000))).unwrap();
        assert!(full.pem().len() < pem::MAX_TEXT);
        assert_eq!(Crl::from_pem(&full.pem()), Ok(full));
        assert!(Crl::new(ca.list(1, &serials(1001))).is_err());
        assert!(Crl::from_pem("hello").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[0-9a-f]{0,10}") {
            let _ = Crl::new(bytes.clone());
            let _ = is(&bytes, &text);
        }

        #[test]
        fn a_serial_is_found_and_no_other(serial in proptest::collection::vec(any::<u8>(), 1..20), other in "[1-9a-f][0-9a-f]{0,9}") {
            let live = serial::live_hex(&serial);
            let exact = serial::exact(&live);
            prop_assert!(is(&serial, exact));
            prop_assert_eq!(is(&serial, &other), exact == other);
        }
    }
}
