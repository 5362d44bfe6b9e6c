//! Certificate requests as agents send them: PEM text, or anything else.

use ctrl_exec_protocol::x509::csr;

/// Any text is a request that may be signed, or refused; what is accepted has one clean name.
pub fn run(data: &[u8]) {
    let facts = match std::str::from_utf8(data) {
        Ok(text) => csr::check(text).or_else(|_| csr::check_der(data)),
        Err(_) => csr::check_der(data),
    };
    if let Ok(facts) = facts {
        assert!(!facts.cn.is_empty() && facts.cn.len() <= csr::MAX_CN);
        assert!(!facts.cn.chars().any(char::is_control));
        assert!(csr::RcgenPublicKey::new(&facts.spki_der, &facts.key).is_ok());
    }
}
