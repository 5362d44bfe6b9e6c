//! Certificate requests as agents send them: PEM text, or anything else.

use ctrl_exec_dispatcher::ca::request::{self, RcgenPublicKey};
use ctrl_exec_protocol::x509::csr::MAX_CN;

/// Any text is a request that may be signed, or refused; what is accepted has one clean name.
pub fn run(data: &[u8]) {
    let facts = match std::str::from_utf8(data) {
        Ok(text) => request::check(text).or_else(|_| request::check_der(data)),
        Err(_) => request::check_der(data),
    };
    if let Ok(facts) = facts {
        assert!(!facts.cn.is_empty() && facts.cn.len() <= MAX_CN);
        assert!(!facts.cn.chars().any(char::is_control));
        assert!(RcgenPublicKey::new(&facts.spki_der, &facts.key).is_ok());
    }
}
