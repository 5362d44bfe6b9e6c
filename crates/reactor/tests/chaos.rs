//! Peers that send anything and stop anywhere: each connection ends with exactly one `Closed`, and
//! nothing is left behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use common::{Pki, loopback, secs};
use ctrl_exec_reactor::http::{Limits, render_response};
use ctrl_exec_reactor::{Config, Event, Reactor, ServerLimits, Then};
use proptest::collection::vec;
use proptest::prelude::*;
use rustls::ServerConfig;

/// What a peer sends, in pieces.
fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let words: Vec<&'static [u8]> = vec![
        b"POST /run HTTP/1.1\r\n",
        b"GET /x HTTP/1.0\r\n",
        b"Connection: keep-alive\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 900\r\n",
        b"Content-Length: -1\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"hello",
        // TLS: a ClientHello's beginning, an alert, application data.
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x04abcd",
    ];
    let word = prop_oneof![
        6 => proptest::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..300),
    ];
    vec(word, 0..12)
}

fn survive(peers: &[Vec<Vec<u8>>], tls: Option<&Arc<ServerConfig>>) {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let listener = reactor.listen(loopback(), 64).unwrap();
    let address = reactor.listener_addr(listener).unwrap();
    let limits = Arc::new(ServerLimits {
        linger: Duration::from_millis(50),
        http: Limits {
            max_head: 400,
            max_headers: 5,
            max_body: 500,
        },
        ..ServerLimits::default()
    });
    let mut sockets: Vec<_> = peers
        .iter()
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let (mut alive, mut accepted, mut closed) = (HashSet::new(), 0, 0);
    let longest = peers.iter().map(Vec::len).max().unwrap_or(0);
    for step in 0.. {
        for (socket, peer) in sockets.iter_mut().zip(peers) {
            if let Some(piece) = peer.get(step) {
                // It may have been closed already.
                let _ = socket.write_all(piece);
            }
        }
        let over = step >= longest;
        if over {
            // All leave, most of them in the middle of something.
            sockets.clear();
        }
        let wait = if over { secs(60) } else { Duration::ZERO };
        while !over || closed < peers.len() {
            let Some(event) = reactor.next(Some(wait)).unwrap() else {
                break;
            };
            match event {
                Event::Incoming { conn, .. } => {
                    assert!(alive.insert(conn));
                    accepted += 1;
                    assert!(match tls {
                        Some(tls) => reactor.serve(conn, tls, &limits),
                        None => reactor.serve_plain(conn, &limits),
                    });
                }
                Event::Request { conn, request } => {
                    assert!(alive.contains(&conn) && request.body.len() <= 500);
                    let then = if request.keep_alive {
                        Then::KeepAlive
                    } else {
                        Then::Close
                    };
                    reactor.send(conn, render_response(200, "{}", request.keep_alive), then);
                }
                Event::BadRequest { conn, error } => {
                    assert!(alive.contains(&conn));
                    let answer = render_response(error.status(), &error.body(), false);
                    reactor.send(conn, answer, Then::KeepAlive);
                }
                Event::PeerClosed { conn } => {
                    reactor.close(conn);
                }
                Event::Closed { conn, .. } => {
                    assert!(alive.remove(&conn), "closed once, and after it began");
                    closed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        if over {
            break;
        }
    }
    assert_eq!((accepted, closed), (peers.len(), peers.len()));
    assert_eq!((reactor.live_conns(), reactor.buffered_bytes()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn clear_text(peers in vec(pieces(), 1..20)) {
        survive(&peers, None);
    }
}

#[test]
fn tls() {
    let tls = Pki::new().server();
    let config = ProptestConfig {
        cases: 40,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = runner.run(&vec(pieces(), 1..20), |peers| {
        survive(&peers, Some(&tls));
        Ok(())
    });
    run.unwrap();
}
