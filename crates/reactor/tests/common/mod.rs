//! Certificates, blocking TLS clients and an echo server on a thread.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ctrl_exec_reactor::http::render_response;
use ctrl_exec_reactor::{
    ClientLimits, CloseReason, Config, Event, Reactor, ServerLimits, Then, Waker,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

pub type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Pki {
    pub fn new() -> Pki {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Every CA has a name of its own, or a foreign certificate would only fail later.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("CA {}", COUNT.fetch_add(1, Ordering::SeqCst));
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        Pki {
            ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    pub fn leaf(&self) -> Chain {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        (
            vec![cert.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        roots
    }

    pub fn roots_der(&self) -> Vec<u8> {
        self.ca.der().to_vec()
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::new(rustls::crypto::ring::default_provider()),
        )
        .build()
        .unwrap();
        let (chain, key) = self.leaf();
        Arc::new(
            ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .unwrap(),
        )
    }

    pub fn client(&self) -> Arc<ClientConfig> {
        self.client_with(
            Some(self.leaf()),
            &[&rustls::version::TLS13, &rustls::version::TLS12],
        )
    }

    pub fn client_with(
        &self,
        leaf: Option<Chain>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let builder =
            ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(self.roots());
        Arc::new(match leaf {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        })
    }
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A blocking TLS client.
pub type Blocking = StreamOwned<ClientConnection, TcpStream>;

pub fn dial(address: SocketAddr, config: &Arc<ClientConfig>) -> Blocking {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(secs(60))).unwrap();
    socket.set_write_timeout(Some(secs(60))).unwrap();
    StreamOwned::new(
        ClientConnection::new(config.clone(), name()).unwrap(),
        socket,
    )
}

/// Sends, and reads to the end of the connection.
pub fn exchange(address: SocketAddr, config: &Arc<ClientConfig>, bytes: &[u8]) -> String {
    let mut stream = dial(address, config);
    stream.write_all(bytes).unwrap();
    read_all(&mut stream).unwrap()
}

pub fn read_all(stream: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).unwrap())
}

/// What an echo server has seen.
#[derive(Clone, Default)]
pub struct Seen {
    pub closed: Arc<Mutex<Vec<CloseReason>>>,
    pub peer_closed: Arc<Mutex<usize>>,
}

impl Seen {
    pub fn wait_closed(&self, count: usize) -> Vec<CloseReason> {
        let start = Instant::now();
        loop {
            let closed = self.closed.lock().unwrap().clone();
            if closed.len() >= count {
                return closed;
            }
            assert!(
                start.elapsed() < secs(60),
                "only {} connections closed",
                closed.len()
            );
            std::thread::sleep(millis(2));
        }
    }
}

/// Echoes method, path and body length; `GET /big/N` answers with N bytes.
pub struct Echo {
    pub address: SocketAddr,
    pub seen: Seen,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<usize>>,
}

impl Echo {
    pub fn start(config: Config, limits: ServerLimits, tls: Option<Arc<ServerConfig>>) -> Echo {
        let mut reactor = Reactor::new(config).unwrap();
        let listener = reactor.listen(loopback(), 4096).unwrap();
        let address = reactor.listener_addr(listener).unwrap();
        let waker = reactor.waker().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Seen::default();
        let thread = std::thread::spawn({
            let (stop, seen) = (stop.clone(), seen.clone());
            move || run_echo(reactor, &Arc::new(limits), tls, &stop, &seen)
        });
        Echo {
            address,
            seen,
            stop,
            waker,
            thread: Some(thread),
        }
    }

    /// Ends it and returns how many bytes it still counts as buffered.
    pub fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake().unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.waker.wake();
    }
}

fn run_echo(
    mut reactor: Reactor,
    limits: &Arc<ServerLimits>,
    tls: Option<Arc<ServerConfig>>,
    stop: &AtomicBool,
    seen: &Seen,
) -> usize {
    while !stop.load(Ordering::SeqCst) {
        match reactor.next(Some(secs(120))).unwrap() {
            Some(Event::Incoming { conn, .. }) => {
                assert!(match &tls {
                    Some(tls) => reactor.serve(conn, tls, limits),
                    None => reactor.serve_plain(conn, limits),
                });
            }
            Some(Event::Request { conn, request }) => {
                let body = match request.path().strip_prefix("/big/") {
                    Some(size) => "x".repeat(size.parse().unwrap()),
                    None => format!(
                        "{} {} {}",
                        request.method(),
                        request.path(),
                        request.body.len()
                    ),
                };
                let then = if request.keep_alive {
                    Then::KeepAlive
                } else {
                    Then::Close
                };
                reactor.send(conn, render_response(200, &body, request.keep_alive), then);
            }
            Some(Event::BadRequest { conn, error }) => {
                let answer = render_response(error.status(), &error.body(), false);
                reactor.send(conn, answer, Then::Close);
            }
            Some(Event::PeerClosed { .. }) => *seen.peer_closed.lock().unwrap() += 1,
            Some(Event::Closed { reason, .. }) => seen.closed.lock().unwrap().push(reason),
            _ => {}
        }
    }
    reactor.buffered_bytes()
}

/// Limits that only a broken test runs into.
pub fn patient() -> ServerLimits {
    ServerLimits {
        handshake: secs(60),
        request: secs(60),
        write: secs(60),
        idle: secs(60),
        linger: millis(500),
        ..ServerLimits::default()
    }
}

pub fn client_limits() -> Arc<ClientLimits> {
    Arc::new(ClientLimits::each_step(secs(60)))
}
