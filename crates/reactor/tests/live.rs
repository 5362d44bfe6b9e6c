//! Bodies that come in pieces of unknown number, and outputs of children that are told while they
//! come.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use common::{Pki, client_limits, millis, name, patient, secs};
use ctrl_exec_protocol::live::Stream;
use ctrl_exec_reactor::http::{HttpError, begin_chunk, end_chunk, live_head, render_request};
use ctrl_exec_reactor::{
    ChildSpec, ClientLimits, CloseReason, Config, Event, Floor, Output, Phase, Reactor, Then,
};
use rustls::{ServerConnection, StreamOwned};

fn next(reactor: &mut Reactor) -> Event {
    reactor
        .next(Some(secs(60)))
        .unwrap()
        .expect("an event within a minute")
}

fn request() -> Vec<u8> {
    render_request("POST", "/run", "h", Some("{}"), true)
}

fn chunk(text: &str, last: bool) -> Vec<u8> {
    let mut bytes = begin_chunk();
    bytes.extend_from_slice(text.as_bytes());
    end_chunk(&mut bytes, last);
    bytes
}

/// A server that says this to its first request, with a pause before each piece.
fn saying(pki: &Pki, pieces: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tls = pki.server();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(tls).unwrap(), socket);
        let _ = stream.read(&mut [0; 4096]).unwrap();
        for piece in pieces {
            thread::sleep(millis(30));
            if stream
                .write_all(&piece)
                .and_then(|()| stream.flush())
                .is_err()
            {
                return;
            }
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
        let _ = stream.sock.read(&mut [0; 100]);
    });
    address
}

/// What a client gets: the pieces joined, and how it ended.
fn ask(
    address: SocketAddr,
    pki: &Pki,
    limits: ClientLimits,
) -> (Vec<u8>, Result<u16, CloseReason>) {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let conn = reactor.connect(address, &pki.client(), name(), &Arc::new(limits));
    assert!(reactor.request_stream(conn, request()));
    assert!(!reactor.request_stream(conn, request()), "one at a time");
    let mut got = Vec::new();
    loop {
        match next(&mut reactor) {
            Event::Part { bytes, .. } => got.extend(bytes),
            Event::Response { response, .. } => return (got, Ok(response.status)),
            Event::Closed { reason, .. } => return (got, Err(reason)),
            _ => {}
        }
    }
}

#[test]
fn pieces_come_as_they_are_sent_and_the_connection_is_kept() {
    let pki = Pki::new();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let listener = reactor.listen(common::loopback(), 16).unwrap();
    let address = reactor.listener_addr(listener).unwrap();
    let client = reactor.connect(address, &pki.client(), name(), &client_limits());
    assert!(reactor.request_stream(client, request()));
    // Client and server in one loop. The server sends the next piece when the client has one.
    let (mut served, mut log) = (None, Vec::new());
    let (mut left, mut begun) = (3, false);
    while log.last().is_none_or(|last| last != "usual") {
        match next(&mut reactor) {
            Event::Incoming { conn, .. } => {
                assert!(reactor.serve(conn, &pki.server(), &Arc::new(patient())));
            }
            Event::Request { conn, .. } if served.is_none() => {
                served = Some(conn);
                assert!(reactor.send(conn, live_head(true).into(), Then::Hold));
            }
            Event::Request { conn, .. } => {
                let answer = ctrl_exec_reactor::http::render_response(200, "usual", true);
                assert!(reactor.send(conn, answer, Then::KeepAlive));
            }
            Event::Sent { conn } => {
                assert_eq!(Some(conn), served);
                if !std::mem::replace(&mut begun, true) {
                    assert!(reactor.send(conn, chunk("piece 0", false), Then::Hold));
                }
            }
            Event::Part { conn, bytes } => {
                assert_eq!(conn, client);
                log.push(String::from_utf8(bytes).unwrap());
                left -= 1;
                let (text, then) = (format!("piece {}", 3 - left), [Then::KeepAlive, Then::Hold]);
                if left > 0 {
                    let last = left == 1;
                    let server = served.unwrap();
                    assert!(reactor.send(server, chunk(&text, last), then[usize::from(!last)]));
                }
            }
            Event::Response { response, .. } if log.len() == 3 => {
                assert!(response.body.is_empty() && response.keep_alive);
                log.push("end".into());
                assert!(reactor.request(client, request()));
            }
            Event::Response { response, .. } => {
                log.push(String::from_utf8(response.body).unwrap());
            }
            other => assert!(matches!(other, Event::Handshaken { .. }), "{other:?}"),
        }
    }
    assert_eq!(log, ["piece 0", "piece 1", "piece 2", "end", "usual"]);
    assert_eq!(reactor.buffered_bytes(), 0);
}

#[test]
fn a_stream_is_bounded_by_its_pauses_only() {
    let pki = Pki::new();
    let mut pieces = vec![live_head(false).into()];
    pieces.extend((0..20).map(|n| chunk("x", n == 19)));
    // Far below the least speed, and longer than everything may take.
    let limits = ClientLimits {
        total: Some(millis(200)),
        floor: Some(Floor {
            grace: millis(100),
            bytes_per_second: 1_000_000,
        }),
        read: secs(60),
        ..ClientLimits::default()
    };
    let (got, end) = ask(saying(&pki, pieces), &pki, limits);
    assert_eq!((got.len(), end), (20, Ok(200)));
}

#[test]
fn a_stream_that_is_cut_is_told_with_what_came() {
    let pki = Pki::new();
    let pieces = vec![live_head(false).into(), chunk("half", false)];
    let (got, end) = ask(saying(&pki, pieces), &pki, ClientLimits::default());
    assert_eq!(got, b"half");
    let cut = CloseReason::Eof {
        phase: Phase::Response,
        partial: true,
    };
    assert_eq!(end, Err(cut));
    let pieces = vec![live_head(false).into(), b"nonsense\r\n".to_vec()];
    let (_, end) = ask(saying(&pki, pieces), &pki, ClientLimits::default());
    assert!(
        matches!(end, Err(CloseReason::Http(HttpError::Malformed(_)))),
        "{end:?}"
    );
}

#[test]
fn who_awaits_no_stream_takes_none() {
    let pki = Pki::new();
    let address = saying(&pki, vec![live_head(true).into(), chunk("x", true)]);
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let conn = reactor.connect(address, &pki.client(), name(), &client_limits());
    assert!(reactor.request(conn, request()));
    loop {
        match next(&mut reactor) {
            Event::Handshaken { .. } => {}
            Event::Closed { reason, .. } => {
                let refused = CloseReason::Http(HttpError::UnsupportedTransferEncoding);
                assert_eq!(reason, refused);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn outputs_of_a_child_come_in_order_and_before_its_end() {
    let script = "echo 1; sleep 0.2; echo 2 >&2; sleep 0.2; echo 3; head -c 100000 /dev/zero";
    let spec = ChildSpec {
        args: vec!["-c".into(), script.into()],
        env: [("PATH".into(), "/usr/bin:/bin".into())].into(),
        stdout: Output::Live,
        stderr: Output::Live,
        ..ChildSpec::new("/bin/sh")
    };
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let id = reactor.spawn(spec).unwrap();
    let mut all: Vec<(Stream, Vec<u8>)> = Vec::new();
    loop {
        match next(&mut reactor) {
            Event::Output {
                child,
                stream,
                bytes,
            } => {
                assert_eq!(child, id);
                assert!((1..=16 * 1024).contains(&bytes.len()));
                assert_eq!(reactor.buffered_bytes(), 0, "not kept besides");
                match all.last_mut() {
                    Some((last, text)) if *last == stream => text.extend(bytes),
                    _ => all.push((stream, bytes)),
                }
            }
            Event::Child { result, .. } => {
                assert!(result.stdout.bytes().is_empty() && result.stdout.dropped == 0);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let lengths: Vec<_> = all
        .iter()
        .map(|(stream, text)| (*stream, text.len()))
        .collect();
    assert_eq!(
        lengths,
        [(Stream::Out, 2), (Stream::Err, 2), (Stream::Out, 100_002)]
    );
}
