//! The client side, against scripted servers over loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{Echo, Pki, client_limits, millis, name, patient, secs};
use ctrl_exec_reactor::http::{HttpError, Limits, Response, render_request};
use ctrl_exec_reactor::{
    ClientLimits, CloseReason, Config, ConnId, Event, Floor, Phase, RawLimits, Reactor, Then,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

fn reactor() -> Reactor {
    Reactor::new(Config::default()).unwrap()
}

fn request(keep_alive: bool) -> Vec<u8> {
    render_request("POST", "/ping", "h", Some("{}"), keep_alive)
}

fn next(reactor: &mut Reactor) -> Event {
    reactor
        .next(Some(secs(60)))
        .unwrap()
        .expect("an event within a minute")
}

/// The reason why a connection ended, and the response before that.
fn outcome(reactor: &mut Reactor, id: ConnId) -> (Option<Response>, CloseReason) {
    let mut last = None;
    loop {
        match next(reactor) {
            Event::Response { conn, response } if conn == id => {
                last = Some(response);
                reactor.close(conn);
            }
            Event::Closed { conn, reason } if conn == id => return (last, reason),
            _ => {}
        }
    }
}

fn ask(address: SocketAddr, pki: &Pki, limits: ClientLimits) -> (Option<Response>, CloseReason) {
    let mut reactor = reactor();
    let conn = reactor.connect(address, &pki.client(), name(), &Arc::new(limits));
    assert!(reactor.request(conn, request(false)));
    assert!(!reactor.request(conn, request(false)), "one at a time");
    outcome(&mut reactor, conn)
}

type Served = StreamOwned<ServerConnection, TcpStream>;

/// A server that does `script` with its first connection.
fn scripted(tls: Arc<ServerConfig>, script: impl FnOnce(Served) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        script(StreamOwned::new(
            ServerConnection::new(tls).unwrap(),
            socket,
        ));
    });
    address
}

/// Reads the request, says this, and closes in order.
fn answering(pki: &Pki, answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    scripted(pki.server(), move |mut stream| {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).unwrap();
        stream.write_all(&answer).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let _ = stream.sock.read(&mut buffer);
    })
}

#[test]
fn a_response_and_a_kept_connection() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    let mut reactor = reactor();
    let conn = reactor.connect(echo.address, &pki.client(), name(), &client_limits());
    assert!(reactor.request(conn, request(true)));
    assert!(matches!(next(&mut reactor), Event::Handshaken { .. }));
    assert!(reactor.peer_certificate(conn).is_some());
    assert_eq!(reactor.peer_addr(conn), Some(echo.address));
    assert!(reactor.local_addr(conn).unwrap().ip().is_loopback());
    for _ in 0..100 {
        let Event::Response { response, .. } = next(&mut reactor) else {
            panic!()
        };
        assert_eq!((response.status, response.keep_alive), (200, true));
        assert_eq!(response.body, b"POST /ping 2");
        assert!(reactor.request(conn, request(true)));
    }
    let Event::Response { .. } = next(&mut reactor) else {
        panic!()
    };
    assert!(reactor.close(conn));
    let Event::Closed {
        reason: CloseReason::Local,
        ..
    } = next(&mut reactor)
    else {
        panic!()
    };
    assert!(!reactor.close(conn) && !reactor.request(conn, request(true)));
    assert_eq!((reactor.live_conns(), reactor.buffered_bytes()), (0, 0));
    assert_eq!(echo.seen.wait_closed(1), [CloseReason::PeerClosed]);
}

#[test]
fn a_thousand_connections_from_one_loop() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    let mut reactor = reactor();
    let (tls, limits) = (pki.client(), client_limits());
    let mut left = 300;
    for _ in 0..50 {
        let conn = reactor.connect(echo.address, &tls, name(), &limits);
        reactor.request(conn, request(false));
        left -= 1;
    }
    let mut done = 0;
    while done < 300 {
        match next(&mut reactor) {
            Event::Response { conn, response } => {
                assert_eq!(response.body, b"POST /ping 2");
                reactor.close(conn);
            }
            Event::Closed { reason, .. } => {
                assert_eq!(reason, CloseReason::Local);
                done += 1;
                if left > 0 {
                    left -= 1;
                    let conn = reactor.connect(echo.address, &tls, name(), &limits);
                    reactor.request(conn, request(false));
                }
            }
            _ => {}
        }
    }
    assert_eq!(echo.seen.wait_closed(300).len(), 300);
}

#[test]
fn sessions_are_resumed_and_bring_the_certificate() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    let tls = pki.client();
    let mut reactor = reactor();
    let mut resumed = Vec::new();
    for _ in 0..3 {
        let conn = reactor.connect(echo.address, &tls, name(), &client_limits());
        reactor.request(conn, request(false));
        loop {
            match next(&mut reactor) {
                Event::Handshaken { .. } => {
                    resumed.push(reactor.resumed(conn));
                    assert!(reactor.peer_certificate(conn).is_some());
                }
                Event::Response { .. } => assert!(reactor.close(conn)),
                Event::Closed { .. } => break,
                _ => {}
            }
        }
    }
    assert_eq!(resumed, [false, true, true]);
}

#[test]
fn two_responses_as_in_pairing() {
    let pki = Pki::new();
    let one = |body: &str| {
        format!(
            "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // Both in one record, and with a pause that is longer than the read limit of the first.
    let together = answering(&pki, one("first") + &one("second"));
    let (first, second) = (one("first"), one("second"));
    let apart = scripted(pki.server(), move |mut stream| {
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        stream.flush().unwrap();
        thread::sleep(millis(400));
        stream.write_all(second.as_bytes()).unwrap();
    });
    for address in [together, apart] {
        let mut reactor = reactor();
        let limits = ClientLimits {
            read: secs(20),
            ..ClientLimits::default()
        };
        let conn = reactor.connect(address, &pki.client(), name(), &Arc::new(limits));
        reactor.request(conn, request(false));
        assert!(matches!(next(&mut reactor), Event::Handshaken { .. }));
        let Event::Response { response, .. } = next(&mut reactor) else {
            panic!()
        };
        assert_eq!(response.body, b"first");
        assert!(reactor.await_response(conn, secs(60)));
        let Event::Response { response, .. } = next(&mut reactor) else {
            panic!()
        };
        assert_eq!(response.body, b"second");
    }
}

#[test]
fn a_server_holds_a_response_and_sees_the_peer_go() {
    let pki = Pki::new();
    let mut reactor = reactor();
    let listener = reactor.listen(common::loopback(), 16).unwrap();
    let address = reactor.listener_addr(listener).unwrap();
    let conn = reactor.connect(address, &pki.client(), name(), &client_limits());
    reactor.request(conn, request(false));
    let mut served = None;
    let mut log = Vec::new();
    // Client and server in one loop, which nothing forbids.
    while log.len() < 5 {
        match next(&mut reactor) {
            Event::Incoming { conn, .. } => {
                assert!(reactor.serve(conn, &pki.server(), &Arc::new(patient())));
            }
            Event::Request { conn, .. } => {
                served = Some(conn);
                log.push("request");
                assert!(reactor.send(conn, answer("pending"), Then::Hold));
            }
            Event::Response { response, .. } if response.body == b"pending" => {
                log.push("pending");
                assert!(reactor.await_response(conn, secs(60)));
                // The application of the server needs its time.
                reactor.set_timer(millis(20), 7);
            }
            Event::Timer { token: 7, .. } => {
                log.push("client leaves");
                assert!(reactor.close(conn));
            }
            Event::PeerClosed { conn } => {
                assert_eq!(Some(conn), served);
                log.push("gone");
                reactor.close(conn);
            }
            Event::Closed { conn, .. } if Some(conn) == served => log.push("closed"),
            _ => {}
        }
    }
    assert_eq!(
        log,
        ["request", "pending", "client leaves", "gone", "closed"]
    );
}

#[test]
fn a_server_answers_before_the_request() {
    let pki = Pki::new();
    let mut reactor = reactor();
    let listener = reactor.listen(common::loopback(), 16).unwrap();
    let address = reactor.listener_addr(listener).unwrap();
    let client = reactor.connect(address, &pki.client(), name(), &client_limits());
    let body = "x".repeat(500_000);
    reactor.request(
        client,
        render_request("POST", "/run", "h", Some(&body), false),
    );
    let mut ends = Vec::new();
    while ends.len() < 2 {
        match next(&mut reactor) {
            Event::Incoming { conn, .. } => {
                assert!(reactor.serve(conn, &pki.server(), &Arc::new(patient())));
            }
            Event::Handshaken { conn } if conn != client => {
                assert!(!reactor.send(conn, answer("no"), Then::KeepAlive));
                assert!(reactor.send(conn, answer("revoked"), Then::Close));
            }
            Event::Request { .. } => panic!("nobody asked for it"),
            Event::Response { conn, response } => {
                assert_eq!(response.body, b"revoked");
                reactor.close(conn);
            }
            Event::Closed { reason, .. } => ends.push(reason),
            _ => {}
        }
    }
    assert!(
        ends.contains(&CloseReason::Done) && ends.contains(&CloseReason::Local),
        "{ends:?}"
    );
}

fn answer(body: &str) -> Vec<u8> {
    ctrl_exec_reactor::http::render_response(200, body, false)
}

#[test]
fn connect_errors() {
    let pki = Pki::new();
    let closed = SocketAddr::from(([127, 0, 0, 1], ctrl_exec_testkit::ports::claim().unwrap()));
    assert_eq!(
        ask(closed, &pki, ClientLimits::default()).1,
        CloseReason::Refused
    );
    // A listener that takes no connection and has a full queue: the handshake of TCP hangs.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    let stuffing: Vec<_> = (0..3)
        .filter_map(|_| TcpStream::connect_timeout(&address, millis(100)).ok())
        .collect();
    let limits = ClientLimits {
        connect: millis(200),
        ..ClientLimits::default()
    };
    assert_eq!(
        ask(address, &pki, limits).1,
        CloseReason::Timeout(Phase::Connect)
    );
    drop(stuffing);
    // Broadcast: refused by the system at once.
    let (_, reason) = ask(
        "255.255.255.255:1".parse().unwrap(),
        &pki,
        ClientLimits::default(),
    );
    assert!(
        matches!(
            reason,
            CloseReason::Unreachable
                | CloseReason::Io {
                    phase: Phase::Connect,
                    ..
                }
        ),
        "{reason:?}"
    );
}

#[test]
fn handshake_errors() {
    let pki = Pki::new();
    let raw = |script: fn(TcpStream)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || script(listener.accept().unwrap().0));
        address
    };
    let limits = ClientLimits::default;
    // Dropped before a byte, as by a rate limiter.
    let gone = raw(|mut socket| {
        let _ = socket.read(&mut [0; 4096]);
    });
    let reason = ask(gone, &pki, limits()).1;
    assert_eq!(
        reason,
        CloseReason::Eof {
            phase: Phase::Handshake,
            partial: false
        }
    );
    // Unread bytes make the close a reset.
    let reset = raw(|socket| {
        thread::sleep(millis(100));
        drop(socket);
    });
    let reason = ask(reset, &pki, limits()).1;
    assert_eq!(
        reason,
        CloseReason::Reset {
            phase: Phase::Handshake
        }
    );
    // Not TLS.
    let other = raw(|mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(b"SSH-2.0-dropbear_2022\r\n");
        let _ = socket.read(&mut [0; 4096]);
    });
    let reason = ask(other, &pki, limits()).1;
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
    // Says nothing.
    let silent = raw(|mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.read(&mut [0; 4096]);
    });
    let short = ClientLimits {
        handshake: millis(150),
        ..limits()
    };
    assert_eq!(
        ask(silent, &pki, short).1,
        CloseReason::Timeout(Phase::Handshake)
    );
    // A server of another CA.
    let foreign = scripted(Pki::new().server(), |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    match ask(foreign, &pki, limits()).1 {
        CloseReason::Tls {
            phase: Phase::Handshake,
            text,
        } => {
            assert!(text.contains("UnknownIssuer"), "{text}");
        }
        reason => panic!("{reason:?}"),
    }
}

#[test]
fn refusal_of_our_certificate_is_reported_as_such() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = pki.client_with(Some(Pki::new().leaf()), &[version]);
        let mut reactor = reactor();
        let conn = reactor.connect(echo.address, &tls, name(), &client_limits());
        reactor.request(conn, request(false));
        match outcome(&mut reactor, conn).1 {
            CloseReason::Tls { text, .. } => assert!(text.contains("UnknownCA"), "{text}"),
            reason => panic!("{reason:?}"),
        }
    }
}

#[test]
fn response_errors() {
    let pki = Pki::new();
    let table: &[(&str, CloseReason)] = &[
        (
            "",
            CloseReason::Eof {
                phase: Phase::Response,
                partial: false,
            },
        ),
        (
            "HTTP/1.0 20",
            CloseReason::Eof {
                phase: Phase::Response,
                partial: true,
            },
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            CloseReason::Eof {
                phase: Phase::Response,
                partial: true,
            },
        ),
        (
            "220 smtp\r\n",
            CloseReason::Http(HttpError::Malformed("not an HTTP response")),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1001\r\n\r\n",
            CloseReason::Http(HttpError::BodyTooLarge),
        ),
    ];
    let http = Limits {
        max_body: 1000,
        ..Limits::AGENT_RESPONSE
    };
    for (text, reason) in table {
        let address = answering(&pki, *text);
        let got = ask(
            address,
            &pki,
            ClientLimits {
                http,
                ..ClientLimits::default()
            },
        );
        assert_eq!(got, (None, reason.clone()), "{text}");
    }
    // To the end of the connection: good only when that is a clean one.
    let (response, _) = ask(
        answering(&pki, "HTTP/1.0 200 OK\r\n\r\nabc"),
        &pki,
        ClientLimits::default(),
    );
    assert_eq!(response.unwrap().body, b"abc");
    let cut = scripted(pki.server(), |mut stream| {
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nabc").unwrap();
    });
    let (_, reason) = ask(cut, &pki, ClientLimits::default());
    assert_eq!(
        reason,
        CloseReason::Eof {
            phase: Phase::Response,
            partial: true
        }
    );
}

#[test]
fn read_timeout_is_for_silence_and_total_for_all() {
    let pki = Pki::new();
    let dribble = |count: usize, pause: Duration| {
        scripted(pki.server(), move |mut stream| {
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {count}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            for _ in 0..count {
                thread::sleep(pause);
                if stream
                    .write_all(b"x")
                    .and_then(|()| stream.flush())
                    .is_err()
                {
                    return;
                }
            }
            let _ = stream.sock.read(&mut [0; 100]);
        })
    };
    let limits = |read, total| ClientLimits {
        read,
        total,
        ..ClientLimits::default()
    };
    // Longer in all than the limit, and never silent for as long.
    let steady = dribble(20, millis(60));
    let (response, _) = ask(steady, &pki, limits(secs(1), None));
    assert_eq!(response.unwrap().body, b"x".repeat(20));
    let stops = dribble(1, secs(5));
    let (_, reason) = ask(stops, &pki, limits(millis(200), None));
    assert_eq!(reason, CloseReason::Timeout(Phase::Response));
    let endless = dribble(1_000_000, millis(20));
    let (_, reason) = ask(endless, &pki, limits(secs(60), Some(millis(300))));
    assert_eq!(reason, CloseReason::Timeout(Phase::Response));
}

/// A peer that restarts the limit of a step with every byte is ended by its speed, wherever it
/// does so; one that is slow and within the floor is not.
#[test]
fn a_response_below_the_floor_is_given_up() {
    let pki = Pki::new();
    let drip = |text: &'static str, pause: Duration| {
        scripted(pki.server(), move |mut stream| {
            let _ = stream.read(&mut [0; 4096]).unwrap();
            for byte in text.bytes().chain(std::iter::repeat(b'x')) {
                thread::sleep(pause);
                let sent = stream.write_all(&[byte]).and_then(|()| stream.flush());
                if sent.is_err() {
                    return;
                }
            }
        })
    };
    let limits = |grace, bytes_per_second| ClientLimits {
        read: secs(30),
        floor: Some(Floor {
            grace,
            bytes_per_second,
        }),
        ..ClientLimits::default()
    };
    for text in [
        "HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        "HTTP/1.0 200 OK\r\nX-Endless: ",
    ] {
        let began = std::time::Instant::now();
        let (_, reason) = ask(drip(text, millis(20)), &pki, limits(millis(400), 1024));
        assert!(
            matches!(
                reason,
                CloseReason::TooSlow {
                    phase: Phase::Response,
                    bytes: 2..
                }
            ),
            "{reason:?}"
        );
        assert!(began.elapsed() < secs(20), "{:?}", began.elapsed());
    }
    // Slow from its first byte on, but never below the floor.
    let slow = drip("HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\n", millis(10));
    let (response, _) = ask(slow, &pki, limits(secs(30), 1));
    assert_eq!(response.unwrap().body.len(), 20);
}

/// A peer that takes the request in sips does not hold us for ever either.
#[test]
fn a_request_that_is_taken_below_the_floor_is_given_up() {
    let pki = Pki::new();
    let sips = scripted(pki.server(), |mut stream| {
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
        let mut byte = [0; 2_000];
        while matches!(stream.sock.read(&mut byte), Ok(n) if n > 0) {
            thread::sleep(millis(30));
        }
    });
    let mut reactor = reactor();
    let limits = ClientLimits {
        write: secs(30),
        floor: Some(Floor {
            grace: millis(500),
            bytes_per_second: 1 << 30,
        }),
        ..ClientLimits::default()
    };
    let conn = reactor.connect(sips, &pki.client(), name(), &Arc::new(limits));
    let body = "x".repeat(16 << 20);
    reactor.request(
        conn,
        render_request("POST", "/run", "h", Some(&body), false),
    );
    let (_, reason) = outcome(&mut reactor, conn);
    assert_eq!(
        reason,
        CloseReason::TooSlow {
            phase: Phase::Write,
            bytes: 0
        }
    );
}

#[test]
fn a_big_response() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    let mut reactor = reactor();
    let conn = reactor.connect(echo.address, &pki.client(), name(), &client_limits());
    reactor.request(
        conn,
        render_request("GET", "/big/20000000", "h", None, false),
    );
    let (response, reason) = outcome(&mut reactor, conn);
    assert_eq!(
        (response.unwrap().body.len(), reason),
        (20_000_000, CloseReason::Local)
    );
}

#[test]
fn early_answer_to_a_request_that_is_still_being_sent() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    let mut reactor = reactor();
    let conn = reactor.connect(echo.address, &pki.client(), name(), &client_limits());
    let body = "x".repeat(1_500_000);
    reactor.request(conn, render_request("POST", "/run", "h", Some(&body), true));
    let (response, _) = outcome(&mut reactor, conn);
    let response = response.unwrap();
    assert_eq!((response.status, response.keep_alive), (413, false));
}

#[test]
fn a_request_leaves_in_one_record() {
    let pki = Pki::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let address = scripted(pki.server(), move |mut stream| {
        // What a Perl peer does: one read for head and body.
        let mut buffer = vec![0; 20_000];
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        sender.send(stream.read(&mut buffer).unwrap()).unwrap();
    });
    let mut reactor = reactor();
    let conn = reactor.connect(address, &pki.client(), name(), &client_limits());
    let mut bytes = request(false);
    bytes.resize(16_384, b' ');
    reactor.request(conn, bytes);
    outcome(&mut reactor, conn);
    assert_eq!(receiver.recv().unwrap(), 16_384);
}

#[test]
fn too_many_connections() {
    let pki = Pki::new();
    let mut reactor = Reactor::new(Config {
        max_conns: 0,
        ..Config::default()
    })
    .unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let conn = reactor.connect(address, &pki.client(), name(), &client_limits());
    assert_eq!(outcome(&mut reactor, conn).1, CloseReason::Full);
    assert_eq!(reactor.live_conns(), 0);
}

fn raw_limits() -> RawLimits {
    RawLimits {
        connect: secs(30),
        write: secs(30),
        read: secs(30),
        total: None,
        max_received: 10_000_000,
        half_close: false,
    }
}

fn unix_server(
    script: impl FnOnce(std::os::unix::net::UnixStream) + Send + 'static,
) -> std::path::PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("reactor-{}-{count}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let unlink = path.clone();
    thread::spawn(move || {
        let socket = listener.accept().unwrap().0;
        let _ = std::fs::remove_file(unlink);
        script(socket);
    });
    path
}

#[test]
fn unix_sockets() {
    let echo = |mut socket: std::os::unix::net::UnixStream| {
        let mut bytes = vec![0; 300_000];
        socket.read_exact(&mut bytes).unwrap();
        socket.write_all(&bytes).unwrap();
    };
    let payload: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
    // Whole.
    let mut reactor = reactor();
    let conn = reactor.connect_unix(&unix_server(echo), payload.clone(), raw_limits());
    let mut got = Vec::new();
    let reason = loop {
        match next(&mut reactor) {
            Event::Received { bytes, .. } => {
                assert!(bytes.len() <= 16_384);
                got.extend(bytes);
            }
            Event::Closed {
                reason,
                conn: closed,
            } if closed == conn => break reason,
            _ => {}
        }
    };
    assert_eq!((got, reason), (payload, CloseReason::PeerClosed));
    // To the end of what we say.
    let path = unix_server(|mut socket| {
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        socket.write_all(&bytes).unwrap();
    });
    let half_close = RawLimits {
        half_close: true,
        ..raw_limits()
    };
    reactor.connect_unix(&path, b"abc".to_vec(), half_close);
    assert!(matches!(next(&mut reactor), Event::Received { bytes, .. } if bytes == b"abc"));
}

#[test]
fn unix_errors() {
    let mut reactor = reactor();
    let mut fails = |path: &std::path::Path, limits| {
        let conn = reactor.connect_unix(path, b"x".to_vec(), limits);
        outcome(&mut reactor, conn).1
    };
    let whole = || raw_limits();
    let reason = fails("/nonexistent/socket".as_ref(), whole());
    assert!(
        matches!(
            reason,
            CloseReason::Io {
                phase: Phase::Connect,
                errno: Some(2),
                ..
            }
        ),
        "{reason:?}"
    );
    assert_eq!(
        reason.to_string(),
        "No such file or directory (os error 2) (connecting)"
    );
    let silent = unix_server(|mut socket| {
        let _ = socket.read(&mut [0; 10]);
    });
    let reason = fails(&silent, whole());
    assert_eq!(
        reason,
        CloseReason::Eof {
            phase: Phase::Response,
            partial: false
        }
    );
    let endless = unix_server(|mut socket| while socket.write_all(&[0; 1000]).is_ok() {});
    let limits = RawLimits {
        max_received: 5000,
        ..whole()
    };
    assert_eq!(fails(&endless, limits), CloseReason::TooLarge);
    let hangs = unix_server(|mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let limits = RawLimits {
        read: millis(100),
        ..whole()
    };
    assert_eq!(fails(&hangs, limits), CloseReason::Timeout(Phase::Response));
}

#[test]
fn a_full_backlog_is_tried_again() {
    let path = std::env::temp_dir().join(format!("reactor-backlog-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut reactor = reactor();
    let mut conns = Vec::new();
    for _ in 0..4 {
        conns.push(reactor.connect_unix(&path, b"x".to_vec(), raw_limits()));
    }
    assert!(
        reactor.next(Some(millis(60))).unwrap().is_none(),
        "they wait"
    );
    thread::spawn(move || {
        for _ in 0..4 {
            listener.accept().unwrap().0.write_all(b"answer").unwrap();
        }
    });
    let mut answers = 0;
    while answers < 4 {
        if let Event::Received { bytes, .. } = next(&mut reactor) {
            assert_eq!(bytes, b"answer");
            answers += 1;
        }
    }
    let _ = std::fs::remove_file(&path);
}
