//! A small blocking TLS client, for commands (pairing, self-ping). The server never uses it.

use ctrl_exec_protocol::http::{Limits, Response, ResponseParser};
use ctrl_exec_protocol::tls;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection to a server.
pub struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    parser: ResponseParser,
    unread: Vec<u8>,
}

/// What went wrong.
#[derive(Debug)]
pub enum ClientError {
    /// The name has no address.
    Resolve(io::Error),
    /// No address could be connected to.
    Connect(io::Error),
    /// The TLS handshake failed.
    Tls(String),
    /// The time was over.
    Timeout,
    /// The server closed without an answer.
    Closed,
    /// The answer is not acceptable HTTP.
    Http(String),
    /// Sending or receiving failed.
    Io(io::Error),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::Resolve(error) => write!(f, "cannot resolve the name: {error}"),
            ClientError::Connect(error) => write!(f, "cannot connect: {error}"),
            ClientError::Tls(text) => write!(f, "TLS: {text}"),
            ClientError::Timeout => f.write_str("timed out"),
            ClientError::Closed => f.write_str("closed by the server without an answer"),
            ClientError::Http(text) => write!(f, "malformed answer: {text}"),
            ClientError::Io(error) => error.fmt(f),
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
        let mut last = ClientError::Resolve(ErrorKind::NotFound.into());
        for address in addresses {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(socket) => return Client::handshake(socket, host, config, patience),
                Err(error) => last = ClientError::Connect(error),
            }
        }
        Err(last)
    }

    /// The server's certificate, DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.stream
            .conn
            .peer_certificates()?
            .first()
            .map(AsRef::as_ref)
    }

    /// Our address on this connection.
    pub fn local_ip(&self) -> Option<String> {
        self.stream
            .sock
            .local_addr()
            .ok()
            .map(|address| address.ip().to_canonical().to_string())
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream
            .write_all(bytes)
            .and_then(|()| self.stream.flush())
            .map_err(io_error)
    }

    /// The next response, awaited until `deadline`.
    ///
    /// # Errors
    /// It did not come, or is not HTTP.
    pub fn response(&mut self, deadline: Instant) -> Result<Response, ClientError> {
        loop {
            let used = self
                .parser
                .push(&self.unread)
                .map_err(|e| ClientError::Http(e.to_string()))?;
            self.unread.drain(..used);
            if let Some(response) = self.parser.take() {
                return Ok(response);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Timeout);
            }
            self.stream
                .sock
                .set_read_timeout(Some(left))
                .map_err(ClientError::Io)?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return self.at_end(),
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A peer that does not say goodbye properly has still said what it said.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return self.at_end(),
                Err(error) => return Err(io_error(error)),
            }
        }
    }

    /// Ends the connection in order, as far as the peer lets us.
    pub fn close(mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.flush();
    }

    fn at_end(&mut self) -> Result<Response, ClientError> {
        if self.parser.is_idle() {
            return Err(ClientError::Closed);
        }
        self.parser
            .finish()
            .map_err(|error| ClientError::Http(error.to_string()))?;
        self.parser.take().ok_or(ClientError::Closed)
    }

    fn handshake(
        mut socket: TcpStream,
        host: &str,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Client, ClientError> {
        let _ = socket.set_nodelay(true);
        socket
            .set_read_timeout(Some(patience))
            .map_err(ClientError::Io)?;
        socket
            .set_write_timeout(Some(patience))
            .map_err(ClientError::Io)?;
        let mut conn = ClientConnection::new(config, tls::server_name(host))
            .map_err(|error| ClientError::Tls(error.to_string()))?;
        while conn.is_handshaking() {
            conn.complete_io(&mut socket)
                .map_err(|error| match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout,
                    ErrorKind::InvalidData => ClientError::Tls(error.to_string()),
                    ErrorKind::UnexpectedEof => ClientError::Closed,
                    _ => ClientError::Io(error),
                })?;
        }
        Ok(Client {
            stream: StreamOwned::new(conn, socket),
            parser: ResponseParser::new(Limits::AGENT_RESPONSE),
            unread: Vec::new(),
        })
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ClientError> {
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(ClientError::Resolve)?
        .collect();
    // IPv4 first: what the reference reports and listens on.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

fn io_error(error: io::Error) -> ClientError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout,
        ErrorKind::InvalidData => ClientError::Tls(error.to_string()),
        _ => ClientError::Io(error),
    }
}
