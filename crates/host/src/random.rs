//! Random bytes and ids from the kernel.

use ctrl_exec_protocol::serial::hex;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// `N` random bytes. Blocks only until the kernel has gathered entropy once after boot.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut out = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

/// A request id: 16 lower-case hex digits from 8 random bytes.
pub fn hex_id() -> io::Result<String> {
    Ok(hex(bytes::<8>()?.iter()))
}

/// A nonce: 32 lower-case hex digits from 16 random bytes.
pub fn nonce() -> io::Result<String> {
    Ok(hex(bytes::<16>()?.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_form_and_differ() {
        let (a, b) = (hex_id().unwrap(), hex_id().unwrap());
        assert!(ctrl_exec_protocol::names::is_queue_id(&a));
        assert_ne!(a, b);
        assert_eq!(nonce().unwrap().len(), 32);
    }
}
