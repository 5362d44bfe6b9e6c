//! A process that runs out of file descriptors. Alone in its program, since the limit is the
//! process's.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use ctrl_exec_reactor::http::render_response;
use ctrl_exec_reactor::{ChildSpec, Config, Event, Reactor, ServerLimits, SpawnError, Then};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of this thread in ticks of 10 ms. From /proc, which any emulator passes on.
fn ticks(stat: &File) -> u64 {
    let mut bytes = [0; 1000];
    let length = stat.read_at(&mut bytes, 0).unwrap();
    let stat = String::from_utf8_lossy(&bytes[..length]);
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn accepting_pauses_and_resumes() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let listener = reactor.listen("127.0.0.1:0".parse().unwrap(), 128).unwrap();
    let address = reactor.listener_addr(listener).unwrap();
    let mut clients: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
    }
    let stat = File::open("/proc/thread-self/stat").unwrap();
    // Room for ten more.
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(used + 10),
            ..limit
        },
    )
    .unwrap();

    let limits = Arc::new(ServerLimits {
        linger: Duration::from_millis(100),
        ..ServerLimits::default()
    });
    let mut waiting = Vec::new();
    while let Some(event) = reactor.next(Some(Duration::from_millis(300))).unwrap() {
        match event {
            Event::Incoming { conn, .. } => assert!(reactor.serve_plain(conn, &limits)),
            Event::Request { conn, .. } => waiting.push(conn),
            _ => {}
        }
    }
    assert!(
        (5..40).contains(&waiting.len()),
        "{} accepted",
        waiting.len()
    );
    // Nothing is lost, and nothing spins.
    let before = ticks(&stat);
    assert!(
        reactor
            .next(Some(Duration::from_millis(500)))
            .unwrap()
            .is_none()
    );
    assert!(ticks(&stat) - before < 10);
    let error = reactor.spawn(ChildSpec::new("/bin/true")).unwrap_err();
    assert!(matches!(error, SpawnError::Pipe(..)), "{error:?}");

    // Each that ends makes room for another, until all forty have their answer.
    let mut answered = 0;
    let reader = std::thread::spawn(move || {
        for client in &mut clients {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert!(text.ends_with("ok"), "{text:?}");
        }
    });
    while answered < 40 {
        for conn in waiting.drain(..) {
            assert!(reactor.send(conn, render_response(200, "ok", false), Then::Close));
            answered += 1;
        }
        match reactor
            .next(Some(Duration::from_secs(60)))
            .unwrap()
            .expect("all are served")
        {
            Event::Incoming { conn, .. } => assert!(reactor.serve_plain(conn, &limits)),
            Event::Request { conn, .. } => waiting.push(conn),
            _ => {}
        }
    }
    while reactor.live_conns() > 0 {
        reactor.next(Some(Duration::from_secs(60))).unwrap();
    }
    reader.join().unwrap();
    setrlimit(Resource::Nofile, limit).unwrap();
}
