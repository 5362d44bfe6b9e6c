//! `setup-ca` and `setup-ctrl-exec` (dispatcher.md §3.10).

use std::path::Path;

use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};
use ctrl_exec_protocol::x509::pem;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
    SerialNumber,
};

use super::issue::date;
use super::request::{RcgenKey, Request};
use super::{Authority, CaDir, CaError, IdentityFiles, Issued, Owner, read_text, serial};

/// Common name of the dispatcher's certificate, as in the reference.
pub const DISPATCHER_CN: &str = "ctrl-exec-dispatcher";

/// What a new CA looks like.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// Common name: word characters, white space, `-` and `.`.
    pub cn: String,
    /// Validity in days.
    pub days: u32,
    /// Kind of key.
    pub key: KeyType,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            cn: "ctrl-exec CA".to_owned(),
            days: 3650,
            key: KeyType::EcdsaP256,
        }
    }
}

/// Makes `ca.key` (0600), `ca.crt` (0644) and `ca.serial` (0600). Refuses when `ca.key` exists,
/// except to finish what a crash left: a key without certificate gets one.
///
/// # Errors
/// A CA that is there, or the operating system's.
pub fn setup_ca(ca: &CaDir, options: &CaOptions, now: Utc) -> Result<Authority, CaError> {
    let (key_path, cert_path) = (ca.key(), ca.cert());
    if options.days == 0 || options.days > 36_500 {
        return Err(CaError::Days(options.days));
    }
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    if options.cn.trim().is_empty() || !options.cn.chars().all(good) {
        return Err(CaError::Signing(format!(
            "'{}' is no CA name",
            options.cn.escape_debug()
        )));
    }
    if cert_path.exists() {
        return Err(CaError::Exists(if key_path.exists() {
            key_path
        } else {
            cert_path
        }));
    }
    std::fs::create_dir_all(ca.dir()).map_err(|error| CaError::io("create", ca.dir(), error))?;
    let key_pem = if key_path.exists() {
        read_text(&key_path)?
    } else {
        let key_pem = keys::generate(options.key).map_err(CaError::Key)?;
        durable::write(&key_path, key_pem.as_bytes(), &Perm::mode(0o600))
            .map_err(|error| CaError::io("write", &key_path, error))?;
        key_pem
    };
    let key = PrivateKey::from_pem(&key_pem).map_err(|error| CaError::file(&key_path, error))?;
    let cert_pem = self_signed(&key, options, now)?;
    if !ca.serial().exists() {
        serial::ensure(ca)?;
    }
    durable::write(&cert_path, cert_pem.as_bytes(), &Perm::mode(0o644))
        .map_err(|error| CaError::io("write", &cert_path, error))?;
    Authority::load(ca)
}

/// Makes the dispatcher's key and certificate, replacing what is there; returns the certificate.
/// Rotation state and agents' records are not touched: agents that are paired already will not
/// know the new serial.
///
/// # Errors
/// No usable CA, or the operating system's; then the old pair stands.
pub fn setup_dispatcher(
    authority: &Authority,
    files: &IdentityFiles,
    owner: Option<Owner>,
    key: KeyType,
    days: u32,
    now: Utc,
) -> Result<Issued, CaError> {
    let (issued, key_pem) = new_identity(authority, key, days, now)?;
    for path in [&files.cert, &files.key] {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            create_dir(dir)?;
        }
    }
    files.replace(&issued.pem, &key_pem, owner)?;
    Ok(issued)
}

/// A key and a certificate for the dispatcher, not stored yet.
pub(crate) fn new_identity(
    authority: &Authority,
    key: KeyType,
    days: u32,
    now: Utc,
) -> Result<(Issued, String), CaError> {
    let key_pem = keys::generate(key).map_err(CaError::Key)?;
    let key = PrivateKey::from_pem(&key_pem).map_err(CaError::Key)?;
    let wanted = Request {
        cn: DISPATCHER_CN.to_owned(),
        spki_der: key.spki_der().to_vec(),
        key: key.kind().clone(),
    };
    let issued = authority.issue(&wanted, days, now)?;
    Ok((issued, key_pem))
}

fn self_signed(key: &PrivateKey, options: &CaOptions, now: Utc) -> Result<String, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, options.cn.as_str());
    // Leaves are issued directly; there are no intermediates.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&serial::mint()?));
    params.not_before = date(now.0 - 86_400)?;
    params.not_after = date(now.0 + i64::from(options.days) * 86_400)?;
    let certificate = params
        .self_signed(&RcgenKey::new(key)?)
        .map_err(|error| CaError::Signing(error.to_string()))?;
    Ok(pem::encode("CERTIFICATE", certificate.der()))
}

fn create_dir(dir: &Path) -> Result<(), CaError> {
    std::fs::create_dir_all(dir).map_err(|error| CaError::io("create", dir, error))
}
