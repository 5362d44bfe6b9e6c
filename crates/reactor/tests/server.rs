//! The server side, driven by blocking clients over loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use common::{Echo, Pki, dial, exchange, millis, patient, read_all, secs};
use ctrl_exec_reactor::http::{Limits, ResponseParser};
use ctrl_exec_reactor::{CloseReason, Config, Phase, ServerLimits};

const PING: &[u8] = b"POST /ping HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";
const KEEP: &[u8] = b"POST /ping HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}";

fn start(pki: &Pki, limits: ServerLimits) -> Echo {
    Echo::start(Config::default(), limits, Some(pki.server()))
}

/// Reads one response of known length.
fn read_response(stream: &mut impl Read) -> String {
    let limits = Limits {
        max_head: 4096,
        max_headers: 64,
        max_body: 1 << 26,
    };
    let mut parser = ResponseParser::new(limits);
    let mut byte = [0];
    while !parser.is_complete() {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the server closed");
        parser.push(&byte).unwrap();
    }
    String::from_utf8(parser.take().unwrap().body).unwrap()
}

#[test]
fn one_request_per_connection_in_both_tls_versions() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
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
    assert_eq!(echo.stop(), 0, "nothing is left in the buffers");
}

#[test]
fn keep_alive_and_pipelining() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
    let mut stream = dial(echo.address, &pki.client());
    for _ in 0..20 {
        stream.write_all(KEEP).unwrap();
        assert_eq!(read_response(&mut stream), "POST /ping 2");
    }
    // All at once, and the last one without keep-alive.
    let mut burst = KEEP.repeat(50);
    burst.extend_from_slice(PING);
    stream.write_all(&burst).unwrap();
    for _ in 0..51 {
        assert_eq!(read_response(&mut stream), "POST /ping 2");
    }
    assert_eq!(read_all(&mut stream).unwrap(), "");
    assert_eq!(echo.seen.wait_closed(1), [CloseReason::Done]);
}

#[test]
fn kept_connection_closed_by_the_peer() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
    let mut stream = dial(echo.address, &pki.client());
    stream.write_all(KEEP).unwrap();
    read_response(&mut stream);
    drop(stream);
    assert_eq!(echo.seen.wait_closed(1), [CloseReason::PeerClosed]);
}

#[test]
fn clear_text() {
    let echo = Echo::start(Config::default(), patient(), None);
    let mut stream = TcpStream::connect(echo.address).unwrap();
    stream.write_all(&[KEEP, KEEP, PING].concat()).unwrap();
    for _ in 0..3 {
        assert_eq!(read_response(&mut stream), "POST /ping 2");
    }
    assert_eq!(read_all(&mut stream).unwrap(), "");
}

#[test]
fn big_bodies_both_ways() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
    let mut request = b"POST /up HTTP/1.0\r\nContent-Length: 1048576\r\n\r\n".to_vec();
    request.resize(request.len() + 1_048_576, b'y');
    assert!(exchange(echo.address, &pki.client(), &request).ends_with("POST /up 1048576"));
    let answer = exchange(echo.address, &pki.client(), b"GET /big/9000000 x\r\n\r\n");
    assert_eq!(answer.split("\r\n\r\n").nth(1).unwrap().len(), 9_000_000);
    echo.seen.wait_closed(2);
    assert_eq!(echo.stop(), 0);
}

#[test]
fn slow_reader_of_a_big_response_gets_all_and_a_stuck_one_is_cut() {
    let pki = Pki::new();
    let limits = ServerLimits {
        write: secs(4),
        ..patient()
    };
    let echo = start(&pki, limits);
    let mut slow = dial(echo.address, &pki.client());
    slow.write_all(b"GET /big/2500000 x\r\n\r\n").unwrap();
    let mut stuck = dial(echo.address, &pki.client());
    stuck.write_all(b"GET /big/20000000 x\r\n\r\n").unwrap();
    stuck.flush().unwrap();
    let mut total = 0;
    let mut buffer = vec![0; 200_000];
    loop {
        // Slow, but always faster than the limit asks for.
        std::thread::sleep(millis(3));
        match slow.read(&mut buffer).unwrap() {
            0 => break,
            read => total += read,
        }
    }
    assert!(total > 2_500_000);
    let closed = echo.seen.wait_closed(2);
    assert!(closed.contains(&CloseReason::Done), "{closed:?}");
    assert!(
        closed.contains(&CloseReason::Timeout(Phase::Write)),
        "{closed:?}"
    );
    drop(stuck);
}

#[test]
fn faults_get_their_answer_though_bytes_are_unread() {
    let pki = Pki::new();
    // A slow client must be able to send all it wants before it looks for an answer.
    let limits = ServerLimits {
        linger: secs(30),
        ..patient()
    };
    let echo = start(&pki, limits);
    let client = pki.client();
    let mut headers = b"POST /ping HTTP/1.0\r\n".to_vec();
    while headers.len() < 1 << 20 {
        headers.extend_from_slice(
            b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
        );
    }
    let mut large = b"POST /run HTTP/1.0\r\nContent-Length: 1048577\r\n\r\n".to_vec();
    large.resize(large.len() + 100_000, b'x');
    let table: &[(&[u8], &str)] = &[
        (&large, "HTTP/1.0 413 Content Too Large"),
        (b"\r\n", "HTTP/1.0 400 Bad Request"),
        (
            b"P / x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 400 Bad Request",
        ),
        (
            b"P / x\r\nConnection: keep-alive\r\nContent-Length : 9\r\n\r\nGET / x\r\n",
            "HTTP/1.0 400 Bad Request",
        ),
    ];
    for (bytes, expected) in table {
        let answer = exchange(echo.address, &client, bytes);
        assert!(answer.starts_with(expected), "{answer}");
    }
    // Here the client may find the connection closed before it has sent everything: it must
    // read at the same time.
    let mut stream = dial(echo.address, &client);
    let _ = stream.write_all(&headers);
    assert!(read_response_or_cut(&mut stream).contains("too many headers"));
    drop(stream);
    echo.seen.wait_closed(5);
    assert_eq!(echo.stop(), 0);
}

fn read_response_or_cut(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1000];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn half_a_request_then_close() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
    // With close_notify it is a bad request, which is answered.
    let mut stream = dial(echo.address, &pki.client());
    stream
        .write_all(b"POST /run HTTP/1.0\r\nContent-Length: 10\r\n\r\nabc")
        .unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert!(
        read_all(&mut stream)
            .unwrap()
            .contains("incomplete request")
    );
    // The end of the connection also ends the headers, as in the reference.
    let mut stream = dial(echo.address, &pki.client());
    stream.write_all(b"GET /x HTTP/1.0\r\n").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert!(read_all(&mut stream).unwrap().ends_with("GET /x 0"));
    // Nothing at all.
    let mut stream = dial(echo.address, &pki.client());
    stream.flush().unwrap();
    stream.conn.complete_io(&mut stream.sock).unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let closed = echo.seen.wait_closed(3);
    assert!(
        closed.contains(&CloseReason::Eof {
            phase: Phase::Request,
            partial: false
        }),
        "{closed:?}"
    );
}

#[test]
fn handshake_failures_say_why_and_end_nothing() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
    // Not TLS.
    let mut plain = TcpStream::connect(echo.address).unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut alert = Vec::new();
    plain.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "a TLS alert, and then the end");
    // No certificate; a certificate of another CA.
    let versions: &[_] = &[&rustls::version::TLS13];
    let none = pki.client_with(None, versions);
    let foreign = pki.client_with(Some(Pki::new().leaf()), versions);
    for (client, alert) in [(none, "CertificateRequired"), (foreign, "UnknownCA")] {
        let mut stream = dial(echo.address, &client);
        let result = stream.write_all(PING).and_then(|()| read_all(&mut stream));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(alert), "{error}");
    }
    for reason in echo.seen.wait_closed(3) {
        assert!(
            matches!(
                reason,
                CloseReason::Tls {
                    phase: Phase::Handshake,
                    ..
                }
            ),
            "{reason:?}"
        );
    }
    assert!(exchange(echo.address, &pki.client(), PING).ends_with("POST /ping 2"));
}

#[test]
fn every_phase_has_its_deadline() {
    let pki = Pki::new();
    // Only the limit in question is short, so that a slow machine runs into no other.
    let check = |phase, limits, client: &mut dyn FnMut(&Echo)| {
        let echo = start(&pki, limits);
        client(&echo);
        assert_eq!(echo.seen.wait_closed(1), [CloseReason::Timeout(phase)]);
    };
    let short = millis(150);
    let limits = ServerLimits {
        handshake: short,
        ..patient()
    };
    let mut silent = None;
    check(Phase::Handshake, limits, &mut |echo| {
        silent = Some(TcpStream::connect(echo.address).unwrap());
    });
    let limits = ServerLimits {
        request: short,
        ..patient()
    };
    let mut half = None;
    check(Phase::Request, limits, &mut |echo| {
        let mut stream = dial(echo.address, &pki.client());
        // On a slow machine the end may come before that is out.
        let _ = stream.write_all(b"POST /run HTT");
        half = Some(stream);
    });
    let limits = ServerLimits {
        idle: short,
        ..patient()
    };
    let mut idle = None;
    check(Phase::Idle, limits, &mut |echo| {
        let mut stream = dial(echo.address, &pki.client());
        stream.write_all(KEEP).unwrap();
        read_response(&mut stream);
        idle = Some(stream);
    });
    // An idle connection is closed in order.
    assert_eq!(read_all(&mut idle.unwrap()).unwrap(), "");
    drop((silent, half));
}

#[test]
fn a_half_sent_later_request_has_the_rules_of_a_request() {
    let pki = Pki::new();
    let limits = ServerLimits {
        request: millis(150),
        ..patient()
    };
    let echo = start(&pki, limits);
    let mut stream = dial(echo.address, &pki.client());
    stream.write_all(KEEP).unwrap();
    read_response(&mut stream);
    // While nothing is asked, the request limit does not run.
    std::thread::sleep(millis(300));
    assert!(echo.seen.closed.lock().unwrap().is_empty());
    stream.write_all(b"POST /pi").unwrap();
    assert_eq!(
        echo.seen.wait_closed(1),
        [CloseReason::Timeout(Phase::Request)]
    );
    // One that ends half-way is answered as a bad request, not taken for an idle peer that goes.
    let echo = start(&pki, patient());
    let mut stream = dial(echo.address, &pki.client());
    stream.write_all(KEEP).unwrap();
    read_response(&mut stream);
    stream.write_all(b"POST /pi").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert!(
        read_all(&mut stream)
            .unwrap()
            .contains("incomplete request")
    );
}

#[test]
fn one_byte_at_a_time_does_not_move_the_deadline() {
    let pki = Pki::new();
    let echo = start(
        &pki,
        ServerLimits {
            request: millis(300),
            ..patient()
        },
    );
    let mut stream = dial(echo.address, &pki.client());
    let mut sent = 0;
    while stream.write_all(b"a").and_then(|()| stream.flush()).is_ok() {
        sent += 1;
        assert!(sent < 1000, "the server waits for ever");
        std::thread::sleep(millis(20));
    }
    assert_eq!(
        echo.seen.wait_closed(1),
        [CloseReason::Timeout(Phase::Request)]
    );
}

#[test]
fn sessions_are_resumed() {
    let pki = Pki::new();
    let echo = start(&pki, patient());
    let client = pki.client();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let mut stream = dial(echo.address, &client);
        stream.write_all(PING).unwrap();
        read_all(&mut stream).unwrap();
        kinds.push(stream.conn.handshake_kind().unwrap());
    }
    assert_eq!(kinds[0], rustls::HandshakeKind::Full);
    assert_eq!(kinds[2], rustls::HandshakeKind::Resumed);
}

#[test]
fn memory_budget_refuses_one_and_serves_the_others() {
    let pki = Pki::new();
    let config = Config {
        max_buffered: 100_000,
        ..Config::default()
    };
    let limits = ServerLimits {
        linger: secs(30),
        ..patient()
    };
    let echo = Echo::start(config, limits, Some(pki.server()));
    let mut request = b"POST /up HTTP/1.0\r\nContent-Length: 500000\r\n\r\n".to_vec();
    request.resize(request.len() + 500_000, b'y');
    let mut stream = dial(echo.address, &pki.client());
    let _ = stream.write_all(&request);
    assert!(read_response_or_cut(&mut stream).contains("out of memory"));
    assert!(exchange(echo.address, &pki.client(), PING).ends_with("POST /ping 2"));
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let pki = Pki::new();
    let config = Config {
        max_conns: 10,
        ..Config::default()
    };
    let echo = Echo::start(config, patient(), Some(pki.server()));
    let held: Vec<_> = (0..10)
        .map(|_| TcpStream::connect(echo.address).unwrap())
        .collect();
    let mut refused = TcpStream::connect(echo.address).unwrap();
    refused.set_read_timeout(Some(secs(60))).unwrap();
    // Ten are taken in order, so the eleventh is the one. A time-out would not be a close.
    match refused.read(&mut [0; 10]) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    drop(held);
    echo.seen.wait_closed(10);
    assert!(exchange(echo.address, &pki.client(), PING).ends_with("POST /ping 2"));
}

/// A handshake is given up after a pause, and not because a link is slow; but not for ever.
#[test]
fn a_handshake_may_take_longer_than_its_longest_pause() {
    let pki = Pki::new();
    let limits = ServerLimits {
        handshake: secs(4),
        ..patient()
    };
    let echo = start(&pki, limits);
    let hello = |conn: &mut rustls::ClientConnection| {
        let mut hello = Vec::new();
        conn.write_tls(&mut hello).unwrap();
        hello
    };
    let new = || rustls::ClientConnection::new(pki.client(), common::name()).unwrap();

    let (mut conn, mut socket) = (new(), TcpStream::connect(echo.address).unwrap());
    let bytes = hello(&mut conn);
    for piece in bytes.chunks(bytes.len().div_ceil(6)) {
        std::thread::sleep(secs(1));
        socket.write_all(piece).unwrap();
    }
    conn.complete_io(&mut socket).unwrap();
    let mut stream = rustls::StreamOwned::new(conn, socket);
    stream.write_all(KEEP).unwrap();
    assert_eq!(read_response(&mut stream), "POST /ping 2");
    drop(stream);

    let (mut conn, mut socket) = (new(), TcpStream::connect(echo.address).unwrap());
    let began = std::time::Instant::now();
    let cut = hello(&mut conn).iter().any(|byte| {
        std::thread::sleep(millis(500));
        socket.write_all(&[*byte]).is_err()
    });
    assert!(cut && began.elapsed() >= secs(12), "{:?}", began.elapsed());
    let reasons = echo.seen.wait_closed(2);
    assert!(
        reasons.contains(&CloseReason::Timeout(Phase::Handshake)),
        "{reasons:?}"
    );
}
