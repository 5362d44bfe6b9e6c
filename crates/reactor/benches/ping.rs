//! What the reactor costs on top of TLS itself, in one run on one machine:
//!
//! * CPU time of the server for a whole mutual-TLS request, against that of a bare rustls server
//!   handshake in memory with the same keys;
//! * requests per second and core on a kept connection;
//! * resident memory for each held connection.
//!
//! `cargo bench -p ctrl-exec-reactor`; with `-- quick` a tenth of the work.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Pki, dial, loopback, name, patient, secs};
use ctrl_exec_reactor::http::{render_request, render_response};
use ctrl_exec_reactor::{Config, Event, Reactor, Then, Waker};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "hold") {
        return hold(args[at + 1].parse().unwrap(), args[at + 2].parse().unwrap());
    }
    if let Some(at) = args.iter().position(|arg| arg == "held") {
        println!(
            "{}",
            held_memory(&args[at + 1], args[at + 2].parse().unwrap())
        );
        return;
    }
    let scale = if args.iter().any(|arg| arg == "quick") {
        10
    } else {
        1
    };
    let pki = Pki::new();
    let server = pki.server();
    let mut client = Arc::unwrap_or_clone(pki.client());
    client.resumption = Resumption::disabled();
    let client = Arc::new(client);

    let bare = bare_handshakes(&server, &client, 3000 / scale);
    let full = full_requests(&server, &client, 3000 / scale);
    let kept = kept_requests(&server, &client, 200_000 / scale);
    println!(
        "server CPU, bare rustls handshake:   {:8.1} us",
        micros(bare)
    );
    println!(
        "server CPU, whole mTLS request:      {:8.1} us",
        micros(full)
    );
    println!(
        "ratio:                               {:8.2}",
        full.as_secs_f64() / bare.as_secs_f64()
    );
    println!(
        "whole requests per second and core:  {:8.0}",
        1.0 / full.as_secs_f64()
    );
    println!(
        "kept-alive requests per s and core:  {:8.0}",
        1.0 / kept.as_secs_f64()
    );
    // Each in a process of its own, so that none finds what another has freed.
    for (what, state) in [
        ("held, no byte sent:", "silent"),
        ("held, request half sent:", "half"),
        ("held, idle after a request:", "idle"),
    ] {
        let count = (1000 / scale).to_string();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["held", state, &count]).output().unwrap();
        let bytes: f64 = String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        println!("{what:<37}{:8.1} KiB", bytes / 1024.0);
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

/// The server's share of a handshake with nothing around it.
fn bare_handshakes(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, count: u32) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..count {
        let mut client = ClientConnection::new(client.clone(), name()).unwrap();
        let start = thread_cpu();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        spent += thread_cpu() - start;
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let start = thread_cpu();
            let mut input = wire.as_slice();
            while !input.is_empty() {
                server.read_tls(&mut input).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut output = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut output).unwrap();
            }
            spent += thread_cpu() - start;
            let mut input = output.as_slice();
            while !input.is_empty() {
                client.read_tls(&mut input).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }
    spent / count
}

struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: thread::JoinHandle<Duration>,
}

impl Server {
    fn start(tls: &Arc<ServerConfig>) -> Server {
        let mut reactor = Reactor::new(Config {
            max_conns: 20_000,
            ..Config::default()
        })
        .unwrap();
        let listener = reactor.listen(loopback(), 4096).unwrap();
        let address = reactor.listener_addr(listener).unwrap();
        let waker = reactor.waker().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (tls, ended) = (tls.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let limits = Arc::new(patient());
            while !ended.load(Ordering::SeqCst) {
                match reactor.next(None).unwrap() {
                    Some(Event::Incoming { conn, .. }) => {
                        reactor.serve(conn, &tls, &limits);
                    }
                    Some(Event::Request { conn, request }) => {
                        let keep = request.keep_alive;
                        let then = if keep { Then::KeepAlive } else { Then::Close };
                        reactor.send(conn, render_response(200, ANSWER, keep), then);
                    }
                    _ => {}
                }
            }
            thread_cpu()
        });
        Server {
            address,
            stop,
            waker,
            thread,
        }
    }

    /// The CPU time that its thread has used.
    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake().unwrap();
        self.thread.join().unwrap()
    }
}

fn full_requests(tls: &Arc<ServerConfig>, client: &Arc<ClientConfig>, count: u32) -> Duration {
    let server = Server::start(tls);
    let request = render_request("POST", "/ping", "h", Some("{}"), false);
    let mut sink = Vec::new();
    for _ in 0..count {
        let mut stream = dial(server.address, client);
        stream.write_all(&request).unwrap();
        sink.clear();
        stream.read_to_end(&mut sink).unwrap();
        assert!(sink.ends_with(ANSWER.as_bytes()));
    }
    server.stop() / count
}

fn kept_requests(tls: &Arc<ServerConfig>, client: &Arc<ClientConfig>, count: u32) -> Duration {
    let server = Server::start(tls);
    let request = render_request("POST", "/ping", "h", Some("{}"), true);
    let length = render_response(200, ANSWER, true).len();
    // Several connections in lockstep: each waits for its answer, the server has work.
    let mut streams: Vec<_> = (0..16).map(|_| dial(server.address, client)).collect();
    let mut answer = vec![0; length];
    for _ in 0..count / 16 {
        for stream in &mut streams {
            stream.write_all(&request).unwrap();
        }
        for stream in &mut streams {
            stream.read_exact(&mut answer).unwrap();
        }
    }
    server.stop() / count
}

/// Growth of resident memory for each connection that is held in this state. The clients are in
/// another process.
fn held_memory(state: &str, count: usize) -> f64 {
    let pki = Pki::new();
    let tls = pki.server();
    let dir = std::env::temp_dir().join(format!("reactor-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (chain, key) = pki.leaf();
    std::fs::write(dir.join("cert"), &chain[0]).unwrap();
    std::fs::write(dir.join("key"), key.secret_der()).unwrap();
    std::fs::write(dir.join("ca"), pki.roots_der()).unwrap();
    std::fs::write(dir.join("state"), state).unwrap();
    let server = Server::start(&tls);
    let hold = |count: usize| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["hold", &server.address.to_string(), &count.to_string()])
            .env("DIR", &dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        thread::sleep(Duration::from_millis(300));
        child
    };
    // The first ones warm the allocator and the tables.
    let mut warm = hold(count / 10);
    let before = resident();
    let mut child = hold(count);
    let each = (resident() - before) / count as f64;
    for child in [&mut warm, &mut child] {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    server.stop();
    std::fs::remove_dir_all(&dir).unwrap();
    each
}

fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

/// The other process: connections that are held until standard input ends.
fn hold(address: SocketAddr, count: usize) {
    let dir = std::path::PathBuf::from(std::env::var_os("DIR").unwrap());
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read("ca").into()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(read("key"));
    let config =
        ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![read("cert").into()], key.into())
            .unwrap();
    let config = Arc::new(config);
    let state = read("state");
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = dial(address, &config);
        match state.as_slice() {
            b"silent" => {}
            b"half" => {
                stream
                    .write_all(b"POST /ping HTTP/1.0\r\nContent-Length: 400\r\n\r\nx")
                    .unwrap();
            }
            _ => {
                stream
                    .write_all(&render_request("POST", "/ping", "h", None, true))
                    .unwrap();
                let _ = stream.read(&mut [0; 1000]).unwrap();
            }
        }
        streams.push(stream);
    }
    println!("ready");
    let start = Instant::now();
    let _ = std::io::stdin().read(&mut [0]);
    assert!(start.elapsed() < secs(600));
}

const ANSWER: &str = "{\"status\":\"ok\",\"host\":\"router\",\"reqid\":\"00112233aabbccdd\"}";
