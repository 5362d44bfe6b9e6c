//! An agent that answers as it is told, over real TLS: one thread per connection.

use ctrl_exec_protocol::http::{Limits, Request, RequestParser, render_response};
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use rustls::ServerConfig;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What to do with one request.
pub enum Act {
    /// Answer with this status and body, then close.
    Answer(u16, String),
    /// Answer and keep the connection for another request.
    Keep(u16, String),
    /// Close without a word.
    Close,
    /// Send these bytes and close.
    Raw(Vec<u8>),
    /// Send nothing for so long.
    Hang(Duration),
}

/// A request as it came, with the sizes of the TLS reads it took and the client's serial.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Path of the request line.
    pub path: String,
    /// Request line and headers.
    pub head: String,
    /// The body as text.
    pub body: String,
    /// Sizes of the TLS reads.
    pub reads: Vec<usize>,
    /// Serial of the caller's certificate, hex.
    pub client_serial: String,
}

type Behaviour = dyn Fn(&Request, &str) -> Act + Send + Sync;

/// A listening agent; its thread lives as long as the test process.
pub struct Agent {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Agent {
    /// Starts it on a loopback port of its own.
    pub fn start(
        identity: &Identity,
        ca_pem: &str,
        behaviour: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", identity, ca_pem, move |request, _| {
            behaviour(request)
        })
    }

    /// At an address, with a behaviour that also sees the serial of the caller's certificate.
    pub fn start_at(
        address: &str,
        identity: &Identity,
        ca_pem: &str,
        behaviour: impl Fn(&Request, &str) -> Act + Send + Sync + 'static,
    ) -> Self {
        let trust = Arc::new(ChainVerifier::from_pem(ca_pem).unwrap());
        let config = tls::agent_server_config(identity, trust, &system_clock()).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        let agent = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (Arc::clone(&agent.seen), Arc::clone(&agent.connections));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::Relaxed);
                let (config, seen, behaviour) = (
                    Arc::clone(&config),
                    Arc::clone(&seen),
                    Arc::clone(&behaviour),
                );
                std::thread::spawn(move || serve(stream, &config, &seen, &*behaviour));
            }
        });
        agent
    }

    /// Answers one after another; a further request gets status 500.
    pub fn scripted(identity: &Identity, ca_pem: &str, acts: Vec<Act>) -> Self {
        let acts = Mutex::new(acts.into_iter());
        Self::start(identity, ca_pem, move |_| {
            acts.lock()
                .unwrap()
                .next()
                .unwrap_or(Act::Answer(500, "{}".into()))
        })
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An answer in HTTP/1.1, as agents of ours give it, after which the connection is closed.
pub(crate) fn closing(status: u16, body: &str) -> Vec<u8> {
    let kept = String::from_utf8(render_response(status, body, true)).unwrap();
    kept.replacen("Connection: keep-alive", "Connection: close", 1)
        .into_bytes()
}

fn serve(
    mut tcp: TcpStream,
    config: &Arc<ServerConfig>,
    seen: &Mutex<Vec<Seen>>,
    behaviour: &Behaviour,
) {
    let _ = tcp.set_read_timeout(Some(Duration::from_secs(120)));
    let Ok(mut tls) = rustls::ServerConnection::new(Arc::clone(config)) else {
        return;
    };
    loop {
        let mut parser = RequestParser::new(Limits {
            max_body: 64 << 20,
            ..Limits::AGENT_REQUEST
        });
        let mut raw = Vec::new();
        let mut reads = Vec::new();
        let request = loop {
            let mut buffer = vec![0; 65_536];
            let Ok(n) = rustls::Stream::new(&mut tls, &mut tcp).read(&mut buffer) else {
                return;
            };
            if n == 0 {
                return;
            }
            reads.push(n);
            raw.extend_from_slice(&buffer[..n]);
            if parser.push(&buffer[..n]).is_err() {
                return;
            }
            if let Some(request) = parser.take() {
                break request;
            }
        };
        let client_serial = tls
            .peer_certificates()
            .and_then(|chain| ctrl_exec_protocol::x509::cert::facts(chain.first()?).ok())
            .map(|facts| facts.serial_hex)
            .unwrap_or_default();
        let head_end = raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
        seen.lock().unwrap().push(Seen {
            path: request.path().into_owned(),
            head: String::from_utf8_lossy(&raw[..head_end]).into_owned(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            reads,
            client_serial: client_serial.clone(),
        });
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        match behaviour(&request, &client_serial) {
            Act::Answer(status, body) => {
                let _ = stream.write_all(&closing(status, &body));
                break;
            }
            Act::Keep(status, body) => {
                if stream
                    .write_all(&render_response(status, &body, true))
                    .is_err()
                {
                    return;
                }
            }
            Act::Close => break,
            Act::Raw(bytes) => {
                let _ = stream.write_all(&bytes);
                break;
            }
            Act::Hang(time) => {
                std::thread::sleep(time);
                return;
            }
        }
    }
    tls.send_close_notify();
    let _ = tls.complete_io(&mut tcp);
    let _ = tcp.shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 1024];
    while matches!(tcp.read(&mut rest), Ok(n) if n > 0) {}
}
