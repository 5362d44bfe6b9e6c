//! Thousands of agents in one thread: a listener on every loopback address, told apart by the
//! address that was called. Ports of their own for agents that hang and that answer garbage.

use crate::agent::closing;
use ctrl_exec_protocol::http::{Request, render_response};
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use ctrl_exec_reactor::{Config, Event, Reactor, ServerLimits, Then};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// A running fleet; its threads live as long as the process.
pub struct Fleet {
    /// Port of the honest agents, on all of 127.0.0.0/8.
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl Fleet {
    /// Honest agents that answer with what `answer` makes of the address called and the request.
    pub fn start(
        identity: &Identity,
        ca_pem: &str,
        keep_alive: bool,
        answer: impl Fn(IpAddr, &Request) -> (u16, String) + Send + 'static,
    ) -> Self {
        let trust = Arc::new(ChainVerifier::from_pem(ca_pem).unwrap());
        let config = tls::agent_server_config(identity, trust, &system_clock()).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reactor = Reactor::new(Config {
                max_conns: 30_000,
                accept_burst: 256,
                ..Config::default()
            })
            .unwrap();
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let listener = reactor.listen(any, 4_096).unwrap();
            sender
                .send(reactor.listener_addr(listener).unwrap().port())
                .unwrap();
            let limits = Arc::new(ServerLimits {
                handshake: Duration::from_secs(120),
                ..ServerLimits::default()
            });
            loop {
                match reactor.next(None).unwrap() {
                    Some(Event::Incoming { conn, .. }) => {
                        counter.fetch_add(1, Ordering::Relaxed);
                        reactor.serve(conn, &config, &limits);
                    }
                    Some(Event::Request { conn, request }) => {
                        let called = reactor.local_addr(conn).unwrap().ip();
                        let (status, body) = answer(called, &request);
                        let keep = keep_alive && request.keep_alive;
                        let bytes = match keep {
                            true => render_response(status, &body, true),
                            false => closing(status, &body),
                        };
                        let then = if keep { Then::KeepAlive } else { Then::Close };
                        reactor.send(conn, bytes, then);
                    }
                    _ => {}
                }
            }
        });
        Self {
            port: receiver.recv().unwrap(),
            connections,
        }
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The address of agent number `n`.
pub fn address(n: usize) -> Ipv4Addr {
    let n = u32::try_from(n).unwrap() + 1;
    Ipv4Addr::from(0x7f01_0000 + n)
}

/// A port where connections are taken and nothing is ever said.
pub fn hanging_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let _held: Vec<_> = listener.incoming().flatten().collect();
    });
    port
}

/// A port that answers everything with what is no TLS.
pub fn garbage_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"220 GARBAGE ready\r\n");
        }
    });
    port
}
