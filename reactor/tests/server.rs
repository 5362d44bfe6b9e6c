//! The server side, driven by blocking clients over loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use common::{Echo, Pki, dial, exchange, patient, read_all, secs};
use ctrl_exec_reactor::http::Limits;
use ctrl_exec_reactor::{CloseReason, Config, Phase, ServerLimits};

const PING: &[u8] = b"POST /ping HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn one_request_per_connection_in_both_tls_versions() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = pki.client_with(Some(pki.leaf()), &[version]);
        let answer = exchange(echo.address, &client, PING);
        assert_eq!(
            answer,
            "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n\
             POST /ping 2"
        );
    }
    assert_eq!(
        echo.seen.wait_closed(2),
        [CloseReason::Done, CloseReason::Done]
    );
    assert_eq!(echo.stop(), 0);
}
