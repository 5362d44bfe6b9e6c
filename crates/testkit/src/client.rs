//! Callers of agents.

use crate::ca::Leaf;
use crate::wait::PATIENCE;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

/// Something that calls agents.
#[derive(Clone)]
pub struct Caller {
    /// The agent's port on 127.0.0.1.
    pub port: u16,
    /// Certificate and versions.
    pub config: Arc<ClientConfig>,
    /// Address to call from.
    pub source: Option<IpAddr>,
}

/// A connection after its handshake.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Caller {
    /// One with this certificate, or none.
    pub fn new(port: u16, identity: Option<&Leaf>) -> Caller {
        Caller {
            port,
            config: client_config(identity, &[]),
            source: None,
        }
    }

    /// The same, calling from an address of 127.0.0.0/8.
    #[must_use]
    pub fn from(mut self, source: Ipv4Addr) -> Caller {
        self.source = Some(IpAddr::V4(source));
        self
    }

    /// Connects and does the handshake.
    ///
    /// # Errors
    /// Those of the connection and of the handshake.
    pub fn connect(&self) -> std::io::Result<Stream> {
        let mut socket = tcp(self.port, self.source)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("agent.invalid").unwrap();
        let mut conn = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        while conn.is_handshaking() {
            conn.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(conn, socket))
    }

    /// Sends raw bytes on a connection of their own and returns everything that comes back.
    ///
    /// # Errors
    /// Those of the connection, when nothing came back.
    pub fn raw(&self, request: &[u8]) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(request)?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8(answer).unwrap())
    }

    /// One request; the status and the body.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        split(&self.raw(request(method, path, body).as_bytes()).unwrap())
    }

    /// `POST`; the status and the body.
    pub fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.call("POST", path, body)
    }

    /// `GET`; the status and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.call("GET", path, "")
    }
}

/// A request as 0.12.3's own clients of a socket write it.
pub fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Status and body of a response.
pub fn split(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    (status, body.to_owned())
}

/// A connection from `source`, which may be any address of 127.0.0.0/8.
///
/// # Errors
/// Those of the connection.
pub fn tcp(port: u16, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let target = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let Some(source) = source else {
        return TcpStream::connect_timeout(&target, PATIENCE);
    };
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&fd, &SocketAddr::new(source, 0))?;
    connect(&fd, &target)?;
    Ok(TcpStream::from(fd))
}

/// The TLS versions that the agent under test speaks: one that was built for routers has no TLS 1.2.
pub fn versions_of_agent() -> &'static [&'static rustls::SupportedProtocolVersion] {
    static BOTH: [&rustls::SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    let without = std::env::var_os("CTRL_EXEC_AGENT_HAS_NO_TLS12").is_some();
    if without { &BOTH[..1] } else { &BOTH }
}

/// A configuration that takes any server, of these TLS versions (of all when none is named).
pub fn client_config(
    identity: Option<&Leaf>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    client_config_that(None, identity, versions)
}

/// [`client_config`] of a client that refuses the server's certificate, if a reason is given.
pub fn client_config_that(
    refuses: Option<rustls::CertificateError>,
    identity: Option<&Leaf>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = if versions.is_empty() {
        rustls::ALL_VERSIONS
    } else {
        versions
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider, refuses)));
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let cert = CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
            let certified = CertifiedKey::new(vec![cert.into_owned()], key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    })
}

#[derive(Debug)]
struct Anyone(
    Arc<rustls::crypto::CryptoProvider>,
    Option<rustls::CertificateError>,
);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.1 {
            None => Ok(ServerCertVerified::assertion()),
            Some(refusal) => Err(refusal.clone().into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
