//! Serial numbers: minted long and random, so that the reference's canonical form is harmless
//! (pki-and-pairing.md §5.3), and the lock that all signers share.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_host::random;
use ctrl_exec_protocol::serial;
use ctrl_exec_protocol::x509::cert;
use rustix::fs::FlockOperation;

use super::{CaDir, CaError, read_text};

/// A new serial: 16 bytes, positive, first hex digit 4 to 7, at least one letter a–f. For such a
/// number canonical form, live form and minimal hex are one text.
pub(super) fn mint() -> Result<[u8; 16], CaError> {
    loop {
        let mut bytes = random::bytes::<16>()
            .map_err(|error| CaError::Signing(format!("no random numbers: {error}")))?;
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        if serial::is_stable(&serial::live_hex(&bytes)) {
            return Ok(bytes);
        }
    }
}

/// The lock of a signing; released when dropped.
pub(super) struct SigningLock {
    _file: File,
}

/// Takes the lock on `ca.serial`, waiting for it. A missing file is made: the reference cannot
/// approve without it.
pub(super) fn lock(ca: &CaDir) -> Result<SigningLock, CaError> {
    let path = ca.serial();
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ensure(ca)?;
            File::open(&path)
        }
        other => other,
    }
    .map_err(|error| CaError::io("open", &path, error))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(SigningLock { _file: file }),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(CaError::io("lock", &path, error.into())),
        }
    }
}

/// Makes `ca.serial` if it is not there: a long random number, from which the reference counts on.
/// (It would start at `01` itself; small serials collide in its own comparison, §5.2.) Existing
/// content is never changed: our serials come from [`mint`].
pub(super) fn ensure(ca: &CaDir) -> Result<(), CaError> {
    let path = ca.serial();
    let text = format!("{}\n", serial::live_hex(&mint()?).to_ascii_uppercase());
    // The file is created whole and linked without replacing: another process may hold the lock on
    // one that it made meanwhile.
    let temp = ca
        .dir()
        .join(format!(".ca.serial.{}.tmp", std::process::id()));
    let _ = std::fs::remove_file(&temp);
    durable::write(&temp, text.as_bytes(), &Perm::mode(0o600))
        .map_err(|error| CaError::io("create", &path, error))?;
    let linked = std::fs::hard_link(&temp, &path);
    let _ = std::fs::remove_file(&temp);
    match linked {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // No hard links on this file system.
        Err(_) => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
            .or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(CaError::io("create", &path, error)),
            }),
    }
}

/// Makes a new `ca.serial`, for a CA that was taken over from somewhere else: the one it had there
/// may have counted on, and no serial is to be given out twice.
///
/// # Errors
/// The operating system's.
pub fn new_counter(ca: &CaDir) -> Result<(), CaError> {
    let path = ca.serial();
    let text = format!("{}\n", serial::live_hex(&mint()?).to_ascii_uppercase());
    durable::write(&path, text.as_bytes(), &Perm::mode(0o600))
        .map_err(|error| CaError::io("write", &path, error))
}

/// The live serial (even-length lower-case hex) of a certificate file.
///
/// # Errors
/// Unreadable file or certificate.
pub fn live_serial(path: &Path) -> Result<String, CaError> {
    let facts =
        cert::facts_from_pem(&read_text(path)?).map_err(|error| CaError::file(path, error))?;
    Ok(facts.serial_hex)
}

/// The serial of a certificate file as agents are told it: the reference's canonical form.
///
/// # Errors
/// Unreadable file or certificate.
pub fn trust_serial(path: &Path) -> Result<String, CaError> {
    live_serial(path).map(|live| serial::canonical(&live))
}
