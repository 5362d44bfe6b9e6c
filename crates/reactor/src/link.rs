//! A socket with its readiness, as an edge-triggered poll reports it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::sockopt::set_socket_send_buffer_size;

#[cfg(test)]
use crate::faults::{Faults, Verdict};

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A non-blocking socket that knows whether trying it makes sense. Reads and writes go on after
/// EINTR; a short one says that the socket is drained or full, which saves the call that would
/// only return `WouldBlock`.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    pub readable: bool,
    pub writable: bool,
    /// The peer's end was announced: reading is worth while until it returns 0.
    hup: bool,
    #[cfg(test)]
    pub faults: Option<Faults>,
}

impl Link {
    pub fn new(socket: Socket) -> Self {
        Link {
            socket,
            readable: false,
            writable: false,
            hup: false,
            #[cfg(test)]
            faults: None,
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.socket {
            Socket::Tcp(socket) => {
                // Best effort: without it answers are only slower.
                let _ = socket.set_nodelay(true);
                socket.register(registry, token, interest)
            }
            Socket::Unix(socket) => socket.register(registry, token, interest),
        }
    }

    /// Takes the readiness out of a poll event. One that was meant for an earlier user of the
    /// same token does no harm.
    pub fn note(&mut self, event: &Event) {
        let ended = event.is_read_closed() || event.is_error();
        self.hup |= ended;
        self.readable |= event.is_readable() || ended;
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Bounds what the system holds for a peer that is slow to take a big response. It also makes
    /// a write deadline mean what the peer took, and not what the system did.
    pub fn bound_send_buffer(&self) {
        if let Socket::Tcp(socket) = &self.socket {
            // Best effort: without it the system's own bounds hold.
            let _ = set_socket_send_buffer_size(socket, SEND_BUFFER);
        }
    }

    /// The outcome of a TCP connect: `Ok(false)` while it is under way.
    pub fn connected(&mut self) -> io::Result<bool> {
        let Socket::Tcp(socket) = &self.socket else {
            return Ok(true);
        };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.writable = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub fn shutdown_write(&self) {
        // The peer may have ended the connection already.
        let _ = match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// An injected `WouldBlock` will not be followed by a poll event.
    pub fn needs_retry(&mut self) -> bool {
        #[cfg(test)]
        if let Some(faults) = &mut self.faults {
            return std::mem::take(&mut faults.retry);
        }
        false
    }
}

impl Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        #[cfg(test)]
        let buf = match self.faults.as_mut().map(|faults| faults.verdict(buf.len())) {
            Some(Verdict::Block) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(Verdict::Limit(limit)) => &mut buf[..limit],
            None => buf,
        };
        loop {
            let result = match &mut self.socket {
                Socket::Tcp(socket) => socket.read(buf),
                Socket::Unix(socket) => socket.read(buf),
            };
            match &result {
                Ok(0) => {}
                Ok(read) if *read < buf.len() && !self.hup => self.readable = false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.readable = false,
            }
            return result;
        }
    }
}

impl Write for Link {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(faults) = &mut self.faults {
            // Only the first slice, and not all of it.
            let first = bufs.iter().find(|buf| !buf.is_empty());
            let first = first.map_or(&[][..], |buf| buf);
            return match faults.verdict(first.len()) {
                Verdict::Block => Err(io::ErrorKind::WouldBlock.into()),
                Verdict::Limit(limit) => self.write_real(&[IoSlice::new(&first[..limit])]),
            };
        }
        self.write_real(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link {
    fn write_real(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        loop {
            let result = match &mut self.socket {
                Socket::Tcp(socket) => socket.write_vectored(bufs),
                Socket::Unix(socket) => socket.write_vectored(bufs),
            };
            match &result {
                Ok(written) if *written < length => self.writable = false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.writable = false,
            }
            return result;
        }
    }
}

/// A response larger than this, for which memory is short, is given to the system in pieces.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;
