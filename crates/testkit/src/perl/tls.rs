//! TLS as OpenSSL does it below `IO::Socket::SSL`: record by record.

use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// What a connection is not read for longer than that.
const SILENCE: Duration = Duration::from_secs(120);

/// Why nothing came of a connection.
#[derive(Debug)]
pub(super) enum Lost {
    /// The handshake failed.
    Handshake,
    /// Writing the session tickets met a peer that was gone: SIGPIPE.
    Pipe(String),
}

/// Reads never beyond the end of the TLS record that was begun, so that what the peer sent after
/// it stays unread in the kernel.
struct Records {
    tcp: TcpStream,
    header: Vec<u8>,
    left: usize,
}

impl Read for Records {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.header.is_empty() {
            let mut header = [0; 5];
            match self.tcp.read_exact(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => other?,
            }
            self.left = u16::from_be_bytes([header[3], header[4]]).into();
            self.header = header.to_vec();
        }
        if !self.header.is_empty() {
            let count = buffer.len().min(self.header.len());
            buffer[..count].copy_from_slice(&self.header[..count]);
            self.header.drain(..count);
            return Ok(count);
        }
        let most = buffer.len().min(self.left);
        let count = self.tcp.read(&mut buffer[..most])?;
        self.left -= count;
        Ok(count)
    }
}

/// A server's side of a connection.
pub(super) struct Stream {
    records: Records,
    conn: ServerConnection,
    /// What is left of the record that was read last.
    pending: Vec<u8>,
}

impl Stream {
    /// The handshake, with the session tickets that end it. They are written late, in two writes.
    pub fn accept(
        tcp: TcpStream,
        config: &Arc<ServerConfig>,
        late: Duration,
    ) -> Result<Self, Lost> {
        tcp.set_read_timeout(Some(SILENCE)).unwrap();
        let conn = ServerConnection::new(Arc::clone(config)).unwrap();
        let records = Records {
            tcp,
            header: Vec::new(),
            left: 0,
        };
        let mut stream = Self {
            records,
            conn,
            pending: Vec::new(),
        };
        while stream.conn.is_handshaking() {
            stream.step().map_err(|_| Lost::Handshake)?;
        }
        let mut tickets = Vec::new();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut tickets).unwrap();
        }
        let half = tickets.len() / 2;
        for part in [&tickets[..half], &tickets[half..]] {
            std::thread::sleep(late);
            if let Err(error) = stream.records.tcp.write_all(part) {
                return Err(Lost::Pipe(error.to_string()));
            }
        }
        Ok(stream)
    }

    /// One step of the handshake.
    fn step(&mut self) -> io::Result<()> {
        if self.conn.wants_write() {
            self.conn.write_tls(&mut self.records.tcp)?;
            return Ok(());
        }
        if self.conn.read_tls(&mut self.records)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.conn.process_new_packets().map_err(|error| {
            // The alert that says why.
            let _ = self.conn.write_tls(&mut self.records.tcp);
            io::Error::other(error)
        })?;
        Ok(())
    }

    /// The certificate that the peer has proved.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.conn
            .peer_certificates()?
            .first()
            .map(|certificate| certificate.as_ref())
    }

    /// One TLS read: what is left of a record, else the next record; never more. Empty at the end.
    pub fn sysread(&mut self, most: usize) -> Vec<u8> {
        while self.pending.is_empty() {
            let ended = match self.conn.read_tls(&mut self.records) {
                Ok(count) => count == 0,
                Err(_) => true,
            };
            if ended {
                return Vec::new();
            }
            let Ok(state) = self.conn.process_new_packets() else {
                return Vec::new();
            };
            let mut record = vec![0; state.plaintext_bytes_to_read()];
            if record.is_empty() {
                if state.peer_has_closed() {
                    return Vec::new();
                }
                continue;
            }
            if self.conn.reader().read_exact(&mut record).is_err() {
                return Vec::new();
            }
            self.pending = record;
        }
        let most = most.min(self.pending.len());
        self.pending.drain(..most).collect()
    }

    /// A line without its end; `None` at the end of what comes.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match self.sysread(1).as_slice() {
                [] if line.is_empty() => return None,
                [] | [b'\n'] => break,
                byte => line.extend_from_slice(byte),
            }
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// Sends in one record. A peer that is gone is no matter here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.conn.writer().write_all(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while self.conn.wants_write() {
            if self.conn.write_tls(&mut self.records.tcp).is_err() {
                return;
            }
        }
    }

    /// Takes leave and closes. Where the peer's bytes are unread, the kernel makes a reset of it.
    pub fn close(mut self) {
        self.conn.send_close_notify();
        self.flush();
    }
}
