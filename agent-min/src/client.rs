//! A connection of a command (pairing, self-ping) that waits for each step, over the reactor that
//! the server uses too.

use ctrl_exec_protocol::http::Response;
use ctrl_exec_reactor::{ClientLimits, CloseReason, Config, ConnId, Event, Reactor};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection to a server.
pub struct Client {
    reactor: Reactor,
    conn: ConnId,
    /// A request was sent whose first response has not come.
    asked: bool,
}

/// What went wrong.
#[derive(Debug)]
pub enum ClientError {
    /// The name has no address.
    Resolve(io::Error),
    /// No address could be connected to.
    Connect(io::Error),
    /// The time was over.
    Timeout,
    /// The server closed without an answer.
    Closed,
    /// Anything else: TLS, HTTP, the network.
    Other(String),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::Resolve(error) => write!(f, "cannot resolve the name: {error}"),
            ClientError::Connect(error) => write!(f, "cannot connect: {error}"),
            ClientError::Timeout => f.write_str("timed out"),
            ClientError::Closed => f.write_str("closed by the server without an answer"),
            ClientError::Other(text) => f.write_str(text),
        }
    }
}

impl Client {
    /// Connects to `host` and does the handshake, each address within `patience`.
    ///
    /// # Errors
    /// Those of the last address tried.
    pub fn connect(
        host: &str,
        port: u16,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Client, ClientError> {
        let addresses = resolve(host, port)?;
        let config_of_loop = Config {
            max_conns: 1,
            ..Config::default()
        };
        let mut reactor = Reactor::new(config_of_loop).map_err(ClientError::Connect)?;
        let limits = Arc::new(ClientLimits {
            // The callers of `response` bound the wait.
            read: FOR_EVER,
            idle: FOR_EVER,
            ..ClientLimits::each_step(patience)
        });
        let mut last = ClientError::Resolve(ErrorKind::NotFound.into());
        for address in addresses {
            // The name is neither sent nor checked.
            let name = ServerName::IpAddress(address.ip().into());
            let conn = reactor.connect(address, &config, name, &limits);
            match wait(&mut reactor, None)? {
                Event::Handshaken { .. } => {
                    return Ok(Client {
                        reactor,
                        conn,
                        asked: false,
                    });
                }
                Event::Closed { reason, .. } => last = failure(reason),
                _ => {}
            }
        }
        Err(last)
    }

    /// The server's certificate, DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.reactor.peer_certificate(self.conn)
    }

    /// Our address on this connection.
    pub fn local_ip(&self) -> Option<String> {
        let address = self.reactor.local_addr(self.conn)?;
        Some(address.ip().to_canonical().to_string())
    }

    /// Sends a request.
    pub fn send(&mut self, bytes: Vec<u8>) {
        // Refused only when the connection has ended, which `response` reports.
        self.reactor.request(self.conn, bytes);
        self.asked = true;
    }

    /// The next response to it, awaited until `deadline`.
    ///
    /// # Errors
    /// It did not come, or is not HTTP.
    pub fn response(&mut self, deadline: Instant) -> Result<Response, ClientError> {
        if !std::mem::take(&mut self.asked) {
            self.reactor.await_response(self.conn, FOR_EVER);
        }
        loop {
            match wait(&mut self.reactor, Some(deadline))? {
                Event::Response { response, .. } => return Ok(response),
                Event::Closed { reason, .. } => return Err(failure(reason)),
                _ => {}
            }
        }
    }

    /// Ends the connection in order, as far as the peer lets us.
    pub fn close(mut self) {
        self.reactor.close(self.conn);
    }
}

const FOR_EVER: Duration = Duration::from_secs(86_400);

fn wait(reactor: &mut Reactor, deadline: Option<Instant>) -> Result<Event, ClientError> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(ClientError::Timeout);
        }
        match reactor.next(left) {
            Ok(Some(event)) => return Ok(event),
            Ok(None) => {}
            Err(error) => return Err(ClientError::Other(error.to_string())),
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ClientError> {
    let all: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(ClientError::Resolve)?
        .collect();
    // IPv4 first, otherwise as the resolver orders them: what the reference reports and listens on.
    let of_family = |ipv6| {
        all.iter()
            .copied()
            .filter(move |address| address.is_ipv6() == ipv6)
    };
    Ok(of_family(false).chain(of_family(true)).collect())
}

fn failure(reason: CloseReason) -> ClientError {
    match reason {
        CloseReason::Refused => ClientError::Connect(ErrorKind::ConnectionRefused.into()),
        CloseReason::Timeout(_) => ClientError::Timeout,
        CloseReason::Eof { .. } | CloseReason::PeerClosed | CloseReason::Reset { .. } => {
            ClientError::Closed
        }
        other => ClientError::Other(other.to_string()),
    }
}
