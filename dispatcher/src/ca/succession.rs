//! What a CA does for its own future: the certificate made anew with the same key, another CA vouched
//! for, and the list of what is revoked.

use ctrl_exec_protocol::serial;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::crl::Crl;
use ctrl_exec_protocol::x509::pem;
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, DnValue, IsCa, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::issue::date;
use super::request::{RcgenKey, RcgenPublicKey};
use super::{Authority, CaError, serial as lock};

const DAY: i64 = 86_400;

impl Authority {
    /// The CA's certificate made anew: same key, name and beginning, `days` days from `now`. `None`
    /// when that would not be at least a day longer than it is.
    ///
    /// # Errors
    /// Days out of range, a name that cannot be reproduced, or any fault in signing.
    pub fn reissue(&self, days: u32, now: Utc) -> Result<Option<String>, CaError> {
        if days == 0 || days > 36_500 {
            return Err(CaError::Days(days));
        }
        let facts = self.facts();
        let end = now.0 + i64::from(days) * DAY;
        if end < facts.not_after + DAY {
            return Ok(None);
        }
        let mut params = params(&facts.subject_der)?;
        // Dated back: what the CA signed before stays within its dates, whatever time is asked about.
        params.not_before = date(facts.not_before)?;
        params.not_after = date(end)?;
        let guard = lock::lock(&self.dir)?;
        params.serial_number = Some(SerialNumber::from_slice(&lock::mint()?));
        let signed = params
            .self_signed(&RcgenKey::new(&self.key)?)
            .map_err(|error| CaError::Signing(error.to_string()))?;
        drop(guard);
        let made = cert::facts(signed.der()).map_err(|e| CaError::Signing(e.to_string()))?;
        if made.subject_der != facts.subject_der || made.spki_der != facts.spki_der {
            let fault = "its name cannot be reproduced; re-issue it with openssl".to_owned();
            return Err(CaError::file(&self.dir.cert(), fault));
        }
        Ok(Some(pem::encode("CERTIFICATE", signed.der())))
    }

    /// A certificate of this CA for the name and key of another, as long as that one lasts: by it,
    /// agents that trust this CA learn to trust the other.
    ///
    /// # Errors
    /// A name that cannot be reproduced, or any fault in signing.
    pub fn vouch_for(&self, other: &Self) -> Result<String, CaError> {
        let facts = other.facts();
        let mut params = params(&facts.subject_der)?;
        params.not_before = date(facts.not_before)?;
        params.not_after = date(facts.not_after)?;
        let public = RcgenPublicKey::new(&facts.spki_der, &facts.key)?;
        let issuer = self.issuer()?;
        let guard = lock::lock(&self.dir)?;
        params.serial_number = Some(SerialNumber::from_slice(&lock::mint()?));
        let signed = params
            .signed_by(&public, &issuer)
            .map_err(|error| CaError::Signing(error.to_string()))?;
        drop(guard);
        Ok(pem::encode("CERTIFICATE", signed.der()))
    }

    /// A list of these serials (hex) with this number.
    ///
    /// # Errors
    /// Too many serials, a CA that may not sign lists, or any fault in signing.
    pub fn revocation_list(
        &self,
        serials: &[String],
        number: u64,
        now: Utc,
    ) -> Result<Crl, CaError> {
        let revoked = serials.iter().map(|text| RevokedCertParams {
            serial_number: SerialNumber::from(bytes(text)),
            revocation_time: time::OffsetDateTime::UNIX_EPOCH,
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date(now.0)?,
            // Agents go by the number; for other readers it is good as long as the CA.
            next_update: date(self.facts().not_after.max(now.0 + DAY))?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        for entry in &mut params.revoked_certs {
            entry.revocation_time = params.this_update;
        }
        let list = params.signed_by(&self.issuer()?).map_err(|error| match error {
            rcgen::Error::IssuerNotCrlSigner => CaError::Signing(
                "the CA's certificate is not made to sign lists of revoked certificates; 'renew-ca' \
                 makes one that is"
                    .to_owned(),
            ),
            error => CaError::Signing(error.to_string()),
        })?;
        Crl::new(list.der().to_vec()).map_err(|error| CaError::Signing(error.to_owned()))
    }
}

/// A CA certificate of this name (DER), without dates and serial.
fn params(name: &[u8]) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(name)
        .ok_or_else(|| CaError::Signing("the CA's name cannot be read".to_owned()))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A name as `rcgen` writes it, with every attribute's kind of text kept.
fn distinguished(name: &[u8]) -> Option<DistinguishedName> {
    const UTF8: u32 = 12;
    const PRINTABLE: u32 = 19;
    const IA5: u32 = 22;
    let (rest, name) = X509Name::from_der(name).ok()?;
    let mut out = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let text = attribute.as_str().ok()?.to_owned();
        let value = match attribute.attr_value().header.tag().0 {
            UTF8 => DnValue::Utf8String(text),
            PRINTABLE => DnValue::PrintableString(PrintableString::try_from(text).ok()?),
            IA5 => DnValue::Ia5String(Ia5String::try_from(text).ok()?),
            _ => return None,
        };
        let oid = attribute.attr_type().iter()?.collect();
        out.push(DnType::CustomDnType(oid), value);
    }
    rest.is_empty().then_some(out)
}

/// The bytes of a number in hex digits.
fn bytes(hex: &str) -> Vec<u8> {
    let hex = serial::exact(hex);
    let even = if hex.len() % 2 == 1 {
        format!("0{hex}")
    } else {
        hex.to_owned()
    };
    (0..even.len() / 2)
        .filter_map(|at| u8::from_str_radix(even.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{CaDir, CaOptions, setup_ca};
    use super::*;
    use crate::testing::TempDir;
    use ctrl_exec_protocol::x509::handover;
    use ctrl_exec_protocol::x509::keys::KeyType;

    const NOW: Utc = Utc(1_795_000_000);

    fn ca(dir: &TempDir, name: &str, key: KeyType) -> Authority {
        let options = CaOptions {
            cn: name.to_owned(),
            days: 100,
            key,
        };
        setup_ca(&CaDir::new(dir.path().join(name)), &options, NOW).unwrap()
    }

    #[test]
    fn a_reissued_certificate_is_the_same_ca_and_lasts_longer() {
        for key in [KeyType::EcdsaP256, KeyType::EcdsaP384] {
            let dir = TempDir::new();
            let old = ca(&dir, "fleet CA", key);
            assert_eq!(old.reissue(100, NOW).unwrap(), None, "no longer than it is");
            let new = old.reissue(3650, NOW).unwrap().unwrap();
            let facts = cert::facts_from_pem(&new).unwrap();
            assert_eq!(facts.not_after, NOW.0 + 3650 * DAY);
            assert_eq!(facts.not_before, old.facts().not_before);
            assert_eq!(handover::admit(old.pem(), &new), Ok(()));
            assert!(handover::admit(&new, old.pem()).is_err(), "a step back");
            assert!(old.reissue(0, NOW).is_err());
        }
    }

    #[test]
    fn names_of_other_tools_are_reproduced() {
        let dir = TempDir::new();
        let path = CaDir::new(dir.path());
        let made = std::process::Command::new("openssl")
            .args([
                "req", "-x509", "-new", "-nodes", "-newkey", "ec", "-pkeyopt",
            ])
            .args(["ec_paramgen_curve:P-256", "-days", "10", "-utf8", "-subj"])
            .arg("/C=DE/O=Bücher & Söhne/OU=Netz/emailAddress=ca@example.org/CN=Fleet CA")
            .args(["-addext", "keyUsage=critical,keyCertSign"])
            .arg("-keyout")
            .arg(path.key())
            .arg("-out")
            .arg(path.cert())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let old = Authority::load(&path).unwrap();
        let refused = old
            .revocation_list(&["4a".into()], 1, Utc::now())
            .unwrap_err();
        assert!(refused.to_string().contains("'renew-ca'"), "{refused}");
        let new = old.reissue(3650, Utc::now()).unwrap().unwrap();
        assert_eq!(handover::admit(old.pem(), &new), Ok(()));
        std::fs::write(path.cert(), &new).unwrap();
        let new = Authority::load(&path).unwrap();
        assert_eq!(
            new.revocation_list(&["4a".into()], 1, Utc::now())
                .unwrap()
                .number(),
            1
        );
    }

    #[test]
    fn a_new_ca_is_vouched_for() {
        let dir = TempDir::new();
        let (old, new) = (
            ca(&dir, "one", KeyType::EcdsaP384),
            ca(&dir, "two", KeyType::EcdsaP256),
        );
        let cross = old.vouch_for(&new).unwrap();
        let list = format!("{}{}{cross}", old.pem(), new.pem());
        assert_eq!(handover::admit(old.pem(), &list), Ok(()));
        assert_eq!(
            handover::admit(old.pem(), &format!("{}{cross}", new.pem())),
            Ok(())
        );
        assert!(handover::admit(old.pem(), new.pem()).is_err());
    }

    #[test]
    fn lists_hold_the_serials_they_were_given() {
        let dir = TempDir::new();
        let ca = ca(&dir, "one", KeyType::EcdsaP256);
        let serials = ["f".to_owned(), "10".into(), "4b1f00ff".into()];
        let list = ca.revocation_list(&serials, 1_795_000_000, NOW).unwrap();
        assert_eq!(list.serials(), ["0f", "10", "4b1f00ff"]);
        assert!(list.verify(&ca.verifier, NOW.0));
        let many: Vec<String> = (0..1001).map(|n| format!("4a{n:04x}")).collect();
        assert!(ca.revocation_list(&many, 1, NOW).is_err());
        assert!(
            ca.revocation_list(&[], 2, NOW)
                .unwrap()
                .serials()
                .is_empty()
        );
    }
}
