//! Why a certificate is not read.

use std::fmt;

use super::pem;

/// Longest certificate that is read, in bytes.
pub const MAX_DER: usize = 16_384;

/// Why a certificate could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertError {
    /// Not exactly one PEM certificate where one is wanted.
    Pem(pem::PemError),
    /// Longer than [`MAX_DER`].
    TooLong(usize),
    /// Not DER of a certificate, or bytes left over.
    Malformed,
    /// Neither version 1 nor 3, or extensions in version 1.
    Version,
    /// The algorithm inside the signed part differs from the one outside.
    AlgorithmMismatch,
    /// Serial empty, negative or longer than 20 bytes.
    Serial,
    /// An extension that matters here is damaged, one is given twice, or there are over 32.
    Extension,
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(error) => error.fmt(f),
            Self::TooLong(length) => write!(f, "certificate of {length} bytes (limit {MAX_DER})"),
            Self::Malformed => f.write_str("not a DER certificate"),
            Self::Version => f.write_str("unsupported certificate version"),
            Self::AlgorithmMismatch => f.write_str("inner and outer signature algorithms differ"),
            Self::Serial => f.write_str("serial number empty, negative or longer than 20 bytes"),
            Self::Extension => f.write_str("damaged, repeated or too many extensions"),
        }
    }
}

impl std::error::Error for CertError {}
