//! The revocation list and the list of issued certificates, which operators edit and crashes cut.

use ctrl_exec_dispatcher::store::files::issued::IssuedCert;
use ctrl_exec_dispatcher::store::files::revoked;

/// Any text is a list, or an error that tells a line; every entry bars something.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(entries) = revoked::parse(&text) {
        for entry in entries {
            assert!(!entry.serial.is_empty());
            assert_eq!(revoked::normal(&entry.serial), entry.serial);
        }
    }
    for line in text.lines() {
        if let Some(cert) = IssuedCert::parse(line) {
            assert!(!cert.serial.is_empty());
            if cert.until.0 != i64::MAX {
                assert_eq!(IssuedCert::parse(&cert.line()), Some(cert));
            }
        }
    }
}
