//! Revocation lists that a dispatcher hands over, PEM or DER.

use ctrl_exec_protocol::x509::crl::Crl;

/// Any bytes are a list or refused; what is on a list is found on it, and it is written as it was read.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for list in [Crl::from_pem(&text), Crl::new(data.to_vec())] {
        let Ok(list) = list else { continue };
        for serial in list.serials() {
            assert!(list.contains(&serial), "{serial}");
        }
        let again = Crl::from_pem(&list.pem()).expect("read");
        assert_eq!(again.number(), list.number());
        assert_eq!(again.serials(), list.serials());
    }
}
