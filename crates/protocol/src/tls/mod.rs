//! TLS policy: versions, suites, identities and the verifiers of both sides (pki-and-pairing.md
//! §4; agent.md §3.1).

mod peer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SystemRandom;
use rustls::client::{Resumption, TicketRequest};
use rustls::crypto::ring::{Ticketer, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, Error, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, ServerName, UnixTime};

use crate::x509::cert::{self, CertError, CertFacts};
use crate::x509::keys::{KeyError, PrivateKey};
use crate::x509::pem;
use crate::x509::signatures::SIGNATURES;
use crate::x509::verify::{ChainVerifier, Clock};
use peer::{AnyServer, PeerVerifier};

/// Most TLS sessions a dispatcher's client remembers for resumption.
const CLIENT_SESSIONS: usize = 4096;

/// Why certificate and key cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The certificate file.
    Cert(CertError),
    /// The key file.
    Key(KeyError),
    /// The key is not the one in the certificate.
    Mismatch,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cert(error) => write!(f, "certificate: {error}"),
            Self::Key(error) => write!(f, "key: {error}"),
            Self::Mismatch => f.write_str("the key does not belong to the certificate"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// Our own certificate and key, of X.509 version 1 or 3.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    facts: CertFacts,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.facts.serial_hex)
    }
}

impl Identity {
    /// Takes certificate and key from PEM text and checks that they belong together. Dates and
    /// issuer are not checked here.
    ///
    /// # Errors
    /// One of them cannot be read, or they do not match.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        Self::new(cert_pem, PrivateKey::from_pem(key_pem))
    }

    /// [`Identity::from_pem`] of an agent, with a key of the kinds that agents have
    /// ([`PrivateKey::agent_from_pem`]).
    ///
    /// # Errors
    /// One of them cannot be read, or they do not match.
    pub fn agent_from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        Self::new(cert_pem, PrivateKey::agent_from_pem(key_pem))
    }

    fn new(cert_pem: &str, key: Result<PrivateKey, KeyError>) -> Result<Self, IdentityError> {
        let chain = pem::certificates(cert_pem)
            .map_err(|error| IdentityError::Cert(CertError::Pem(error)))?;
        let leaf = chain
            .first()
            .ok_or(IdentityError::Cert(CertError::Malformed))?;
        let facts = cert::facts(leaf).map_err(IdentityError::Cert)?;
        let key = key.map_err(IdentityError::Key)?;
        if key.spki_der() != facts.spki_der {
            return Err(IdentityError::Mismatch);
        }
        // `CertifiedKey::from_der` would parse the leaf with webpki and refuse version 1.
        let certified = Arc::new(CertifiedKey::new(chain, key.signing_key()));
        Ok(Self { certified, facts })
    }

    /// Facts of the leaf certificate.
    pub fn facts(&self) -> &CertFacts {
        &self.facts
    }

    /// DER of the leaf certificate.
    pub fn leaf_der(&self) -> &[u8] {
        self.certified
            .cert
            .first()
            .map_or(&[], |leaf| leaf.as_ref())
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified)))
    }
}

/// The agent's side of 7443: a client certificate of the CA is required.
///
/// Sessions are resumed through stateless tickets (one per handshake), so that resumption costs no
/// memory; a resumed session carries the client certificate of its first handshake, which rustls
/// does not verify again: the application must re-check dates and revocation for each connection
/// ([`ChainVerifier::verify`]). A reload makes a new configuration and thereby voids old tickets.
///
/// # Errors
/// No random numbers for the ticket key.
pub fn agent_server_config(
    identity: &Identity,
    trust: Arc<ChainVerifier>,
    clock: &Clock,
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Arc::new(PeerVerifier::new(trust));
    let mut config = ServerConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    // Whoever says that it wants none (RFC 9149) gets none.
    config.max_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The dispatcher's side of 7443: presents `identity`, accepts any leaf of the CA, checks no name
/// and sends none. With `resumption`, sessions are remembered in memory (bounded).
///
/// # Errors
/// Never in practice; rustls' check of versions against suites.
pub fn dispatcher_client_config(
    identity: &Identity,
    trust: Arc<ChainVerifier>,
    clock: &Clock,
    resumption: bool,
) -> Result<Arc<ClientConfig>, Error> {
    client_config_of_versions(identity, trust, clock, resumption, rustls::DEFAULT_VERSIONS)
}

/// [`dispatcher_client_config`] limited to some TLS versions, for diagnosis and tests.
///
/// # Errors
/// No usable version.
pub fn client_config_of_versions(
    identity: &Identity,
    trust: Arc<ChainVerifier>,
    clock: &Clock,
    resumption: bool,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(trust)))
        .with_client_cert_resolver(identity.resolver());
    config.enable_sni = false;
    config.resumption = if resumption {
        Resumption::in_memory_sessions(CLIENT_SESSIONS)
    } else {
        // A ticket that nobody will use is a third of what an agent sends for a small answer.
        config.send_ticket_request = Some(TicketRequest {
            new_session_count: 0,
            resumption_count: 0,
        });
        Resumption::disabled()
    };
    Ok(Arc::new(config))
}

/// The pairing listener on 7444: no client certificate, no resumption.
///
/// # Errors
/// Never in practice; rustls' check of versions against suites.
pub fn pairing_server_config(
    identity: &Identity,
    clock: &Clock,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(identity.resolver());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The HTTP API: without `clients` nobody is asked for a certificate, with it each client has to show
/// one of that CA. No resumption, so that every connection is checked.
///
/// # Errors
/// Never in practice; rustls' check of versions against suites.
pub fn api_server_config(
    identity: &Identity,
    clients: Option<Arc<ChainVerifier>>,
    clock: &Clock,
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?;
    let builder = match clients {
        Some(trust) => builder.with_client_cert_verifier(Arc::new(PeerVerifier::new(trust))),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(identity.resolver());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The pairing client: the server's certificate is **not** verified, since the agent has no CA
/// yet; comparing the 6-digit code is what authenticates. The handshake still proves that the
/// server holds the key of the certificate it shows ([`cert::facts`] tells its kind).
///
/// # Errors
/// Never in practice; rustls' check of versions against suites.
pub fn pairing_client_config(clock: &Clock) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The pairing client of somebody who has the CA's certificate already (a secondary dispatcher, a
/// second pairing, a file carried over by hand): the server must show a leaf of that CA.
///
/// # Errors
/// Never in practice; rustls' check of versions against suites.
pub fn pairing_client_config_with_ca(
    trust: Arc<ChainVerifier>,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(trust)))
        .with_no_client_auth();
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A name for rustls to file sessions under. Names are never sent nor checked, so one that is no
/// DNS name or address is replaced by a fixed word.
pub fn server_name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.to_owned())
        .or_else(|_| ServerName::try_from("agent.invalid"))
        .unwrap_or(ServerName::IpAddress(
            std::net::Ipv4Addr::UNSPECIFIED.into(),
        ))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            #[cfg(feature = "tls12")]
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            #[cfg(feature = "tls12")]
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            #[cfg(feature = "tls12")]
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            #[cfg(feature = "tls12")]
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Random,
        key_provider: &NoKeys,
    })
}

/// ring's random numbers.
#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        ring::rand::SecureRandom::fill(&SystemRandom::new(), buffer).map_err(|_| GetRandomFailed)
    }
}

/// Keys come ready-made in an [`Identity`]; rustls' own loader would bring the code of every kind
/// into programs that have no such keys.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("keys are not loaded by rustls".to_owned()))
    }
}

fn time(clock: &Clock) -> Arc<dyn TimeProvider> {
    Arc::new(Time(Arc::clone(clock)))
}

/// The injected clock as rustls asks for it.
struct Time(Clock);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from((self.0)()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
