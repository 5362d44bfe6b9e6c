//! A certificate authority, and what it signs.

use ctrl_exec_protocol::x509;
use ctrl_exec_protocol::x509::cert::{self, KeyKind};
use ctrl_exec_protocol::x509::keys::{self, KeyType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rcgen::{CertificateSigningRequestParams, PublicKeyData, SerialNumber, date_time_ymd};

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

/// A certificate authority.
pub struct Ca {
    params: CertificateParams,
    key: KeyPair,
    /// Its certificate.
    pub pem: String,
}

impl Ca {
    /// A new one, valid from 2020 until 2100.
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Ca {
        let key = key_pair(&keys::generate(KeyType::EcdsaP256).unwrap());
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ctrl-exec CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        let pem = pem(params.self_signed(&key).unwrap());
        Ca { params, key, pem }
    }

    /// A CA of this name, with a key of its own.
    pub fn named(name: &str) -> Ca {
        let mut ca = Ca::new();
        ca.params.distinguished_name = rcgen::DistinguishedName::new();
        ca.params.distinguished_name.push(DnType::CommonName, name);
        ca.pem = pem(ca.params.self_signed(&ca.key).unwrap());
        ca
    }

    /// The CA's certificate made anew with the same key, until another year.
    pub fn reissued(&self, until: i32) -> String {
        let mut params = self.params.clone();
        params.not_after = date_time_ymd(until, 1, 1);
        pem(params.self_signed(&self.key).unwrap())
    }

    /// A certificate of this CA for the name and key of `other`.
    pub fn vouch_for(&self, other: &Ca) -> String {
        let issuer = Issuer::from_params(&self.params, &self.key);
        pem(other.params.signed_by(&other.key, &issuer).unwrap())
    }

    /// A revocation list.
    pub fn crl(&self, number: u64, serials: &[&[u8]]) -> String {
        let params = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| rcgen::RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: date_time_ymd(2026, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        let list = params.signed_by(&issuer).unwrap();
        x509::pem::encode("X509 CRL", list.der())
    }

    /// A certificate with a new key, valid as long as the authority.
    pub fn leaf(&self, cn: &str, serial: &[u8]) -> Leaf {
        self.leaf_valid(cn, serial, 2020, 2100)
    }

    /// The same, valid from one year until another.
    pub fn leaf_valid(&self, cn: &str, serial: &[u8], from: i32, until: i32) -> Leaf {
        self.leaf_for(
            &keys::generate(KeyType::EcdsaP256).unwrap(),
            cn,
            serial,
            from,
            until,
        )
    }

    /// A certificate for a key, PEM.
    pub fn leaf_for(&self, key: &str, cn: &str, serial: &[u8], from: i32, until: i32) -> Leaf {
        let public = key_pair(key);
        Leaf {
            cert: self.sign(&public, cn, serial, from, until),
            key: key.to_owned(),
        }
    }

    /// A certificate for the key of a CSR.
    pub fn sign_csr(&self, csr: &str, serial: &[u8]) -> String {
        let public = read_csr(csr).public_key;
        self.sign(&public, &Asked::of(csr).cn, serial, 2020, 2100)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        cn: &str,
        serial: &[u8],
        from: i32,
        until: i32,
    ) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let issuer = Issuer::from_params(&self.params, &self.key);
        pem(params.signed_by(key, &issuer).unwrap())
    }
}

/// A key as `rcgen` signs with it.
fn key_pair(key: &str) -> KeyPair {
    KeyPair::try_from(&x509::pem::private_key(key).unwrap()).unwrap()
}

/// Reads a request and verifies its own signature.
fn read_csr(csr: &str) -> CertificateSigningRequestParams {
    let der = x509::pem::request(csr).unwrap();
    CertificateSigningRequestParams::from_der(&der.into()).unwrap()
}

/// What a certificate request asks for, once its own signature was found good.
pub struct Asked {
    /// Common name.
    pub cn: String,
    /// The public key.
    pub spki_der: Vec<u8>,
    /// Its kind.
    pub key: KeyKind,
}

impl Asked {
    /// Reads a request, PEM.
    pub fn of(csr: &str) -> Asked {
        let request = read_csr(csr);
        let Some(rcgen::DnValue::Utf8String(cn)) =
            request.params.distinguished_name.get(&DnType::CommonName)
        else {
            panic!("no common name in {csr}");
        };
        let spki_der = request.public_key.subject_public_key_info();
        let key = cert::key_kind(&spki_der).unwrap();
        Asked {
            cn: cn.clone(),
            spki_der,
            key,
        }
    }
}

fn pem(certificate: rcgen::Certificate) -> String {
    x509::pem::encode("CERTIFICATE", certificate.der())
}
