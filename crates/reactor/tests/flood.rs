//! Honest clients while a thousand others do what they can.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use common::{Echo, Pki, dial, exchange, patient};
use ctrl_exec_reactor::Config;
use ctrl_exec_reactor::http::render_response;

const PING: &[u8] = b"POST /ping HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";

fn honest(echo: &Echo, client: &Arc<rustls::ClientConfig>, count: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        assert!(exchange(echo.address, client, PING).ends_with("POST /ping 2"));
    }
    start.elapsed().as_secs_f64() / count as f64
}

#[test]
fn a_thousand_half_open_and_garbage_connections() {
    let pki = Pki::new();
    let config = Config {
        max_conns: 3000,
        ..Config::default()
    };
    let echo = Echo::start(config, patient(), Some(pki.server()));
    let client = pki.client();
    honest(&echo, &client, 5);
    let alone = honest(&echo, &client, 50);
    let mut held = Vec::new();
    for n in 0..1000 {
        let mut socket = TcpStream::connect(echo.address).unwrap();
        match n % 4 {
            // Says nothing.
            0 => {}
            // The beginning of a ClientHello.
            1 => socket.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap(),
            // Garbage, which is answered with an alert and waited for.
            2 => socket.write_all(&[0xaa; 600]).unwrap(),
            // A record header that promises 16 KiB.
            _ => socket.write_all(&[22, 3, 1, 0x3f, 0xff]).unwrap(),
        }
        held.push(socket);
    }
    // A few that are proven and stop half-way, or send without an end what nobody asked for.
    let mut proven = Vec::new();
    for n in 0..20 {
        let mut stream = dial(echo.address, &client);
        stream
            .write_all(b"POST /run HTTP/1.0\r\nContent-Length: 1000000\r\n\r\n")
            .unwrap();
        stream.write_all(&vec![b'x'; n * 1000]).unwrap();
        proven.push(stream);
    }
    let beside = honest(&echo, &client, 200);
    println!(
        "one honest request: {:.2} ms alone, {:.2} ms beside",
        alone * 1e3,
        beside * 1e3
    );
    assert_not_starved(beside, alone);
    drop((held, proven));
    assert!(exchange(echo.address, &client, PING).ends_with("POST /ping 2"));
}

#[test]
fn endless_data_starves_nobody() {
    let pki = Pki::new();
    let echo = Echo::start(Config::default(), patient(), Some(pki.server()));
    let client = pki.client();
    let stop = AtomicBool::new(false);
    let flooded = AtomicUsize::new(0);
    honest(&echo, &client, 5);
    let alone = honest(&echo, &client, 50);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = dial(echo.address, &client);
                let keep = b"POST /a HTTP/1.1\r\nConnection: keep-alive\r\n\r\n".repeat(50);
                let answer = render_response(200, "POST /a 0", true);
                let mut answers = vec![0; 50 * answer.len()];
                while !stop.load(Ordering::SeqCst) {
                    stream.write_all(&keep).unwrap();
                    stream.read_exact(&mut answers).unwrap();
                    flooded.fetch_add(50, Ordering::SeqCst);
                }
            });
        }
        let each = honest(&echo, &client, 100);
        println!("one honest request beside two floods: {:.2} ms", each * 1e3);
        stop.store(true, Ordering::SeqCst);
        assert_not_starved(each, alone);
        assert!(flooded.load(Ordering::SeqCst) > 100, "there was no flood");
    });
}

/// A turn among others may take longer, and a loaded machine longer still; waiting until others
/// have had all of theirs would take seconds.
fn assert_not_starved(beside: f64, alone: f64) {
    assert!(
        beside < alone * 30.0 + 0.2,
        "{beside} s for a request that takes {alone} s alone"
    );
}
