//! The request for a new certificate for the key that this agent has.

use crate::trust::read_bounded;
use ctrl_exec_protocol::x509::csr;
use ctrl_exec_protocol::x509::keys::PrivateKey;
use std::path::Path;

/// Why no renewal request could be made.
#[derive(Debug)]
pub struct RenewalError {
    /// For the caller, in the reference's words.
    pub answer: &'static str,
    /// For the log.
    pub cause: String,
}

/// A CSR for the existing key. Its name is `cn`, that of the present certificate, which is the
/// one the dispatcher registered.
///
/// # Errors
/// The key is missing or unusable.
pub fn request(key_file: &Path, cn: &str) -> Result<String, RenewalError> {
    let answer = "agent key not available";
    let text = match read_bounded(key_file) {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Err(RenewalError {
                answer,
                cause: "key file is missing".into(),
            });
        }
        Err(error) => {
            return Err(RenewalError {
                answer,
                cause: error.to_string(),
            });
        }
    };
    let answer = "could not generate CSR";
    let key = PrivateKey::agent_from_pem(&text).map_err(|error| RenewalError {
        answer,
        cause: error.to_string(),
    })?;
    csr::create(&key, cn).map_err(|error| RenewalError {
        answer,
        cause: error.to_string(),
    })
}
