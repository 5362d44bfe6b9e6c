//! The TLS configurations the dispatcher calls agents with.

use crate::ca::{CaError, IdentityFiles, WebPki};
use crate::config::Config;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Clock, system_clock};
use rustls::ClientConfig;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Why there is none: the file and its fault.
#[derive(Debug)]
pub struct TrustFileError(String);

impl fmt::Display for TrustFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TrustFileError {}

impl From<CaError> for TrustFileError {
    fn from(error: CaError) -> Self {
        Self(error.to_string())
    }
}

/// The files of the dispatcher's own identity.
pub fn identity_files(config: &Config) -> IdentityFiles {
    IdentityFiles::new(config.cert(), config.key())
}

/// Presents the configured certificate and trusts the configured CA.
pub fn client_config(
    config: &Config,
    resumption: bool,
) -> Result<Arc<ClientConfig>, TrustFileError> {
    client_config_of(config, &identity_files(config), resumption, &system_clock())
}

/// Presents the certificate from before a rotation, where one is kept.
pub fn previous_client_config(
    config: &Config,
    resumption: bool,
) -> Result<Option<Arc<ClientConfig>>, TrustFileError> {
    let files = identity_files(config).suffixed(".prev");
    if !files.exist() {
        return Ok(None);
    }
    client_config_of(config, &files, resumption, &system_clock()).map(Some)
}

/// A configuration of these files and this clock.
pub fn client_config_of(
    config: &Config,
    files: &IdentityFiles,
    resumption: bool,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, TrustFileError> {
    let identity = files.load()?;
    let ca = config.ca();
    let named = |error: &dyn fmt::Display| TrustFileError(format!("{}: {error}", ca.display()));
    let text = read(&ca)?;
    let second = WebPki::from_pem(&text).map_err(|error| named(&error))?;
    let verifier = ChainVerifier::from_pem(&text)
        .map_err(|error| named(&error))?
        .confirmed_by(Box::new(second));
    tls::dispatcher_client_config(&identity, Arc::new(verifier), clock, resumption)
        .map_err(|error| TrustFileError(error.to_string()))
}

fn read(path: &Path) -> Result<String, TrustFileError> {
    std::fs::read_to_string(path)
        .map_err(|error| TrustFileError(format!("{}: cannot be read: {error}", path.display())))
}
