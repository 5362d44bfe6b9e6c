//! Bytes over a [`Link`], in clear or through TLS. The only place that knows rustls's I/O.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::link::Link;

/// The codec between application bytes and the socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Plain),
    Tls(Box<Tls>),
}

/// Clear text: what was read and not yet consumed.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    input: Vec<u8>,
    used: usize,
    eof: bool,
}

/// A TLS connection.
#[derive(Debug)]
pub(crate) struct Tls {
    connection: Connection,
    /// The socket took less than was offered: nothing more is encrypted before it has taken that.
    backlog: bool,
    notified: bool,
    eof: bool,
}

/// What reading from the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulled {
    /// Nothing for now.
    Blocked,
    /// Some bytes, though not necessarily application bytes.
    Bytes,
    /// The end of the connection.
    Eof,
}

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(io::Error),
    Tls(String),
}

/// What there is to consume.
pub(crate) enum Chunk<'a> {
    Bytes(&'a [u8]),
    /// Nothing for now.
    Empty,
    /// Nothing any more. `clean`: the peer said so itself (close_notify), or there is no TLS in
    /// which it could.
    End {
        clean: bool,
    },
}

/// Bytes of a message on their way out.
#[derive(Debug, Default)]
pub(crate) struct Out {
    bytes: Vec<u8>,
    sent: usize,
}

impl Out {
    pub fn set(&mut self, bytes: Vec<u8>) {
        *self = Out { bytes, sent: 0 };
    }

    /// Adds to a message that may be on its way.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn clear(&mut self) {
        *self = Out::default();
    }

    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            self.clear();
        }
    }
}

impl Stream {
    pub fn plain() -> Self {
        Stream::Plain(Plain::default())
    }

    /// # Errors
    /// rustls's words.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, String> {
        let connection = ServerConnection::new(config.clone()).map_err(|e| e.to_string())?;
        Ok(Self::tls(connection.into()))
    }

    /// # Errors
    /// rustls's words.
    pub fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, String> {
        let connection = ClientConnection::new(config.clone(), name).map_err(|e| e.to_string())?;
        Ok(Self::tls(connection.into()))
    }

    fn tls(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(BUFFER_LIMIT));
        Stream::Tls(Box::new(Tls {
            connection,
            backlog: false,
            notified: false,
            eof: false,
        }))
    }

    pub fn is_handshaking(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.connection.is_handshaking(),
        }
    }

    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls
                .connection
                .peer_certificates()?
                .first()
                .map(AsRef::as_ref),
        }
    }

    pub fn resumed(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => {
                tls.connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
            }
        }
    }

    /// Whether reading from the socket is of use: not while there is something to consume, nor
    /// after the end.
    pub fn wants_pull(&self) -> bool {
        match self {
            Stream::Plain(plain) => !plain.eof && plain.used == plain.input.len(),
            Stream::Tls(tls) => !tls.eof && tls.connection.wants_read(),
        }
    }

    /// Reads once from the socket. Only to be called when [`Stream::wants_pull`] says so.
    pub fn pull(&mut self, link: &mut Link, scratch: &mut [u8]) -> Result<Pulled, Fault> {
        match self {
            Stream::Plain(plain) => {
                let read = match link.read(scratch) {
                    Ok(read) => read,
                    Err(error) => return blocked(error),
                };
                plain.eof = read == 0;
                plain.input = scratch[..read].to_vec();
                plain.used = 0;
                Ok(if plain.eof {
                    Pulled::Eof
                } else {
                    Pulled::Bytes
                })
            }
            Stream::Tls(tls) => match tls.connection.read_tls(link) {
                Ok(0) => {
                    tls.eof = true;
                    // Lets rustls notice; whatever it finds, the end is the end.
                    let _ = tls.connection.process_new_packets();
                    Ok(Pulled::Eof)
                }
                Ok(_) => match tls.connection.process_new_packets() {
                    Ok(_) => Ok(Pulled::Bytes),
                    Err(error) => Err(Fault::Tls(error.to_string())),
                },
                Err(error) => blocked(error),
            },
        }
    }

    /// The bytes to be consumed next.
    pub fn chunk(&mut self) -> Chunk<'_> {
        match self {
            Stream::Plain(plain) => match plain.input.get(plain.used..) {
                Some(rest) if !rest.is_empty() => Chunk::Bytes(rest),
                _ if plain.eof => Chunk::End { clean: true },
                _ => Chunk::Empty,
            },
            Stream::Tls(tls) => {
                let eof = tls.eof;
                match tls.connection.reader().into_first_chunk() {
                    Ok([]) => Chunk::End { clean: true },
                    Ok(bytes) => Chunk::Bytes(bytes),
                    Err(_) if eof => Chunk::End { clean: false },
                    Err(_) => Chunk::Empty,
                }
            }
        }
    }

    /// Says how much of the chunk was used.
    pub fn consume(&mut self, count: usize) {
        match self {
            Stream::Plain(plain) => {
                plain.used += count;
                if plain.used >= plain.input.len() {
                    plain.input = Vec::new();
                    plain.used = 0;
                }
            }
            Stream::Tls(tls) => tls.connection.reader().consume(count),
        }
    }

    /// TLS has something to send of its own.
    pub fn wants_flush(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.connection.wants_write(),
        }
    }

    /// Sends `out`, and a close_notify after it if wanted, as far as the socket takes it. What is
    /// left stays in `out`, but for a bounded amount of ciphertext. Returns whether all is sent
    /// and how many bytes the socket took.
    pub fn push(
        &mut self,
        link: &mut Link,
        out: &mut Out,
        close: bool,
    ) -> io::Result<(bool, usize)> {
        let mut taken = 0;
        match self {
            Stream::Plain(_) => {
                while !out.is_empty() {
                    match link.write(out.rest()) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => {
                            taken += written;
                            out.advance(written);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok((false, taken));
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok((true, taken))
            }
            Stream::Tls(tls) => loop {
                if !tls.backlog {
                    if !out.is_empty() {
                        let rest = out.rest();
                        let part = &rest[..rest.len().min(CHUNK)];
                        let written = tls.connection.writer().write(part)?;
                        out.advance(written);
                    }
                    if out.is_empty() && close && !tls.notified {
                        tls.notified = true;
                        tls.connection.send_close_notify();
                    }
                }
                if !tls.connection.wants_write() {
                    return Ok((out.is_empty(), taken));
                }
                match tls.connection.write_tls(link) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        taken += written;
                        tls.backlog = tls.connection.wants_write();
                        if tls.backlog && !link.writable {
                            return Ok((false, taken));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tls.backlog = true;
                        return Ok((false, taken));
                    }
                    Err(error) => return Err(error),
                }
            },
        }
    }

    /// Heap bytes held for input, as far as known.
    pub fn held(&self) -> usize {
        match self {
            Stream::Plain(plain) => plain.input.capacity(),
            Stream::Tls(_) => 0,
        }
    }
}

fn blocked(error: io::Error) -> Result<Pulled, Fault> {
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(Pulled::Blocked)
    } else {
        Err(Fault::Io(error))
    }
}

/// Plaintext encrypted at a time: two full records.
const CHUNK: usize = 32 * 1024;
/// Room for one [`CHUNK`] as ciphertext with what TLS itself has to say.
const BUFFER_LIMIT: usize = 48 * 1024;
