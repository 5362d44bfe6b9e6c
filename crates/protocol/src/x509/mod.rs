//! Certificates, keys and certificate requests, as an agent and a dispatcher both judge them.

pub mod cert;
pub mod crl;
pub mod csr;
mod der;
mod errors;
mod extensions;
pub mod handover;
pub mod keys;
pub mod pem;
#[cfg(feature = "rsa-keygen")]
mod rsa_keygen;
pub(crate) mod signatures;
pub mod verify;
