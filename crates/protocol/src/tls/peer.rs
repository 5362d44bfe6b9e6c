//! The verifiers that rustls calls, for either side, and handshake signatures by raw public keys.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};

use crate::x509::cert;
use crate::x509::signatures::SIGNATURES;
use crate::x509::verify::{ChainVerifier, Role, SignedError, VerifyError, verify_any};

/// What both traits of rustls ask alike: signatures of handshakes.
macro_rules! handshakes_by_raw_key {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            handshake_12(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            handshake_13(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            SIGNATURES.supported_schemes()
        }
    };
}

/// [`ChainVerifier`] in the shapes rustls wants, for either side.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    trust: Arc<ChainVerifier>,
    hints: Vec<DistinguishedName>,
}

impl PeerVerifier {
    pub(super) fn new(trust: Arc<ChainVerifier>) -> Self {
        let hints = trust
            .authorities()
            .map(|authority| DistinguishedName::from(authority.subject_der.clone()))
            .collect();
        Self { trust, hints }
    }

    fn check(&self, leaf: &CertificateDer<'_>, role: Role, now: UnixTime) -> Result<(), Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.trust
            .verify(leaf, role, now)
            .map(|_| ())
            .map_err(tls_error)
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, Role::Client, now)
            .map(|()| ClientCertVerified::assertion())
    }

    handshakes_by_raw_key!();
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, Role::Server, now)
            .map(|()| ServerCertVerified::assertion())
    }

    handshakes_by_raw_key!();
}

/// Accepts every server that proves possession of the key it shows. For pairing only.
#[derive(Debug)]
pub(super) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match cert::facts(end_entity) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(tls_error(VerifyError::Cert(error))),
        }
    }

    handshakes_by_raw_key!();
}

/// Handshake signature of TLS 1.3, by the raw key: rustls' usual helper parses the certificate with
/// webpki, which refuses version 1. The scheme fixes hash and curve (the first algorithm of each
/// entry); PKCS#1 v1.5 is not allowed (RFC 8446 §4.2.3).
fn handshake_13(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if matches!(
        dss.scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    ) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    handshake(candidates(dss.scheme).iter().take(1), message, leaf, dss)
}

/// Handshake signature of TLS 1.2: the scheme does not fix the curve, so it is the algorithm of
/// the scheme that fits the key.
fn handshake_12(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    handshake(candidates(dss.scheme), message, leaf, dss)
}

fn candidates(scheme: SignatureScheme) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    SIGNATURES
        .mapping
        .iter()
        .find(|(known, _)| *known == scheme)
        .map_or(&[], |(_, algorithms)| algorithms)
}

fn handshake<'a>(
    candidates: impl IntoIterator<Item = &'a &'static dyn SignatureVerificationAlgorithm>,
    message: &[u8],
    leaf: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let facts = cert::facts(leaf).map_err(|error| tls_error(VerifyError::Cert(error)))?;
    match verify_any(candidates, &facts.spki_der, message, dss.signature()) {
        Ok(()) => Ok(HandshakeSignatureValid::assertion()),
        Err(SignedError::Bad | SignedError::Malformed) => {
            Err(CertificateError::BadSignature.into())
        }
        Err(SignedError::Unsupported) => {
            Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
        }
    }
}

/// The fault as rustls reports it, so that the peer gets the fitting alert.
fn tls_error(error: VerifyError) -> Error {
    let kind = match &error {
        VerifyError::UnknownIssuer => CertificateError::UnknownIssuer,
        VerifyError::BadSignature => CertificateError::BadSignature,
        VerifyError::NotYetValid { now, not_before } => CertificateError::NotValidYetContext {
            time: unix_time(*now),
            not_before: unix_time(*not_before),
        },
        VerifyError::Expired { now, not_after } => CertificateError::ExpiredContext {
            time: unix_time(*now),
            not_after: unix_time(*not_after),
        },
        VerifyError::WrongPurpose => CertificateError::InvalidPurpose,
        VerifyError::Cert(_)
        | VerifyError::UnsupportedSignature
        | VerifyError::IsCa
        | VerifyError::CaOutOfDate
        | VerifyError::CriticalExtension
        | VerifyError::Disputed(_) => CertificateError::Other(OtherError(Arc::new(error))),
    };
    Error::InvalidCertificate(kind)
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
