//! A whole connection of the reactor: arbitrary bytes in arbitrary pieces, with pauses, in clear.

use ctrl_exec_reactor::http::render_response;
use ctrl_exec_reactor::{Config, Event, Reactor, ServerLimits, Then};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Whatever a peer sends, a connection tells every request once, ends exactly once, and gives its
/// memory back.
pub fn run(data: &[u8]) {
    let config = Config {
        max_buffered: 4096,
        ..Config::default()
    };
    let short = Duration::from_millis(50);
    let limits = Arc::new(ServerLimits {
        request: short,
        write: short,
        idle: short,
        linger: Duration::from_millis(5),
        ..ServerLimits::default()
    });
    let Ok(mut reactor) = Reactor::new(config) else {
        return;
    };
    let address = ([127, 0, 0, 1], 0).into();
    let listener = reactor.listen(address, 4).expect("listen");
    let address = reactor.listener_addr(listener).expect("address");
    let mut peer = TcpStream::connect(address).expect("connect");
    peer.set_nonblocking(true).expect("nonblocking");

    let mut seen = Seen::default();
    let mut rest = data;
    // First byte of a step: how many bytes follow, and whether the loop runs after it.
    while let Some((&step, after)) = rest.split_first() {
        let (piece, after) = after.split_at(after.len().min(usize::from(step & 0x3f)));
        rest = after;
        let _ = peer.write_all(piece);
        if step & 0x80 != 0 {
            let _ = peer.shutdown(Shutdown::Write);
        }
        if step & 0x40 != 0 {
            seen.drive(&mut reactor, &limits, Duration::ZERO);
            let _ = peer.read(&mut [0; 512]);
        }
    }
    drop(peer);
    while seen.closed == 0 {
        assert!(
            seen.drive(&mut reactor, &limits, Duration::from_secs(10)),
            "it never ends"
        );
    }
    seen.drive(&mut reactor, &limits, Duration::ZERO);
    assert_eq!(seen.closed, 1);
    assert_eq!((reactor.live_conns(), reactor.buffered_bytes()), (0, 0));
}

#[derive(Default)]
struct Seen {
    closed: u32,
}

impl Seen {
    /// Handles what there is, waiting `wait` for the first. `false` when nothing came.
    fn drive(&mut self, reactor: &mut Reactor, limits: &Arc<ServerLimits>, wait: Duration) -> bool {
        let mut wait = wait;
        let mut came = false;
        while let Some(event) = reactor.next(Some(wait)).expect("poll") {
            wait = Duration::ZERO;
            came = true;
            assert_eq!(self.closed, 0, "nothing comes after the end");
            match event {
                Event::Incoming { conn, .. } => assert!(reactor.serve_plain(conn, limits)),
                Event::Request { conn, request } => {
                    let then = if request.keep_alive {
                        Then::KeepAlive
                    } else {
                        Then::Close
                    };
                    let answer = render_response(200, "{}", request.keep_alive);
                    assert!(reactor.send(conn, answer, then));
                }
                Event::BadRequest { conn, error } => {
                    let answer = render_response(error.status(), &error.body(), false);
                    assert!(reactor.send(conn, answer, Then::Close));
                }
                Event::Closed { .. } => self.closed += 1,
                _ => {}
            }
        }
        came
    }
}
