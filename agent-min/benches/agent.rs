//! The agent's figures, each beside a yardstick measured in the same run:
//! `cargo bench -p ctrl-exec-agent`. Prints one line per figure and fails when one is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::*;
use ctrl_exec_protocol::tls::{Identity, agent_server_config};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::{ServerConnection, StreamOwned};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Report(bool);

impl Report {
    fn line(&mut self, what: &str, value: f64, unit: &str, target: &str, met: bool) {
        let mark = if met { "" } else { "   MISSED" };
        let target = if target.is_empty() {
            String::new()
        } else {
            format!("(target {target})")
        };
        println!("{what:<58} {value:>10.1} {unit:<8} {target}{mark}");
        self.0 &= met;
    }
}

fn main() {
    let ca = Ca::new();
    let mut host = Host::new(&ca);
    host.allow("true = /bin/true");
    host.script(
        "nap",
        "#!/bin/sh\nwhile [ ! -e ${0%/*}/go ]; do sleep 0.1; done\n",
    );
    host.start();
    let mut report = Report(true);
    let caller = fresh(&host.caller());
    let process = Process(host.pid());

    let idle = process.memory("RssAnon:");
    report.line(
        "idle: anonymous memory",
        idle as f64,
        "kB",
        "<= 1280, with text pages below",
        idle <= 1280,
    );
    println!(
        "{:<58} {:>10} kB",
        "idle: resident, shared and file pages included",
        process.memory("VmRSS:")
    );

    // Full handshakes.
    for _ in 0..50 {
        ping(&caller);
    }
    let count = 1500;
    let (cpu, start) = (process.cpu(), Instant::now());
    for _ in 0..count {
        ping(&caller);
    }
    let wall = start.elapsed();
    let agent = (process.cpu() - cpu) / f64::from(count);
    let yardstick = bare_server(&ca, &host.agent, &host.dispatcher, count);
    report.line(
        "full mTLS ping: CPU per connection",
        agent * 1e6,
        "us",
        "",
        true,
    );
    report.line(
        "bare rustls server, same keys: CPU per connection",
        yardstick * 1e6,
        "us",
        "",
        true,
    );
    report.line(
        "ratio",
        agent / yardstick,
        "",
        "<= 1.5",
        agent <= 1.5 * yardstick,
    );
    report.line(
        "full mTLS pings per second and core",
        1.0 / agent,
        "/s",
        ">= 1500",
        1.0 / agent >= 1500.0,
    );
    println!(
        "{:<58} {:>10.1} /s",
        "  (wall clock, one caller waiting for each answer)",
        f64::from(count) / wall.as_secs_f64()
    );

    // Kept connection.
    let cpu = process.cpu();
    let count = 100_000;
    let before = process.memory("RssAnon:");
    pings_on_one_connection(&caller, count);
    let kept = (process.cpu() - cpu) / f64::from(count);
    report.line(
        "kept connection: pings per second and core",
        1.0 / kept,
        "/s",
        ">= 20000",
        1.0 / kept >= 20_000.0,
    );
    let growth = process.memory("RssAnon:").saturating_sub(before);
    report.line(
        "growth over these 100,000 requests",
        growth as f64,
        "kB",
        "0 (64 allowed)",
        growth <= 64,
    );

    // Runs.
    let count = 200;
    let cpu = process.cpu();
    for _ in 0..count {
        run_true(&caller);
    }
    println!(
        "{:<58} {:>10.1} us",
        "run of /bin/true: CPU of the agent, handshake included",
        (process.cpu() - cpu) / f64::from(count) * 1e6
    );

    // Memory of held connections and runs.
    let before = process.memory("RssAnon:");
    let held: Vec<Stream> = (0..200)
        .map(|_| {
            let mut stream = caller.connect().unwrap();
            ask(&mut stream, "keep-alive");
            stream
        })
        .collect();
    let each = process.memory("RssAnon:").saturating_sub(before) as f64 / 200.0;
    report.line("each held connection", each, "kB", "<= 20", each <= 20.0);
    drop(held);
    let runs: Vec<_> = (0..16)
        .map(|_| {
            let caller = caller.clone();
            std::thread::spawn(move || caller.post("/run", r#"{"script":"nap"}"#).0)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let loaded = process.memory("RssAnon:");
    report.line(
        "16 runs in flight: anonymous memory",
        loaded as f64,
        "kB",
        "<= 3072",
        loaded <= 3072,
    );
    host.write("opt/go", "");
    runs.into_iter()
        .for_each(|run| assert_eq!(run.join().unwrap(), 200));

    // A hostile crowd.
    let quiet = median_run(&caller, 200);
    let stop = Arc::new(AtomicBool::new(false));
    let size = Arc::new(AtomicUsize::new(0));
    let crowd = std::thread::spawn({
        let (stop, size, port) = (Arc::clone(&stop), Arc::clone(&size), host.port);
        move || crowd(port, &stop, &size)
    });
    // They still come, in the places of the first, while the honest runs are measured.
    while size.load(Ordering::Relaxed) < CROWD && !crowd.is_finished() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let beset = median_run(&caller, 200);
    stop.store(true, Ordering::Relaxed);
    let held = crowd.join().unwrap();
    println!(
        "{:<58} {:>10.1} ms",
        "honest run, median, quiet",
        quiet * 1e3
    );
    println!(
        "{:<58} {:>10.1} ms",
        format!("honest run, median, {held} half-open connections held"),
        beset * 1e3
    );
    report.line("ratio", beset / quiet, "", "< 2", beset < 2.0 * quiet);
    drop(host);
    if !report.0 {
        std::process::exit(1);
    }
}

/// The same caller without session resumption.
fn fresh(caller: &Caller) -> Caller {
    let mut config = (*caller.config).clone();
    config.resumption = Resumption::disabled();
    Caller {
        config: Arc::new(config),
        ..caller.clone()
    }
}

fn ping(caller: &Caller) {
    assert_eq!(caller.post("/ping", "{}").0, 200);
}

fn run_true(caller: &Caller) {
    assert_eq!(
        int(&caller.post("/run", r#"{"script":"true"}"#).1, "exit"),
        0
    );
}

fn median_run(caller: &Caller, count: usize) -> f64 {
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let start = Instant::now();
            run_true(caller);
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[count / 2]
}

fn ask(stream: &mut Stream, connection: &str) {
    let request =
        format!("POST /ping HTTP/1.1\r\nConnection: {connection}\r\nContent-Length: 2\r\n\r\n{{}}");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
}

fn pings_on_one_connection(caller: &Caller, count: u32) {
    let mut stream = caller.connect().unwrap();
    for _ in 0..count {
        ask(&mut stream, "keep-alive");
    }
}

/// Half-open connections that are held against the agent.
const CROWD: usize = 10_000;

/// Half-open connections and beginnings of handshakes from many addresses, without end; the last
/// [`CROWD`] are held.
fn crowd(port: u16, stop: &AtomicBool, size: &AtomicUsize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let mut held = std::collections::VecDeque::new();
    let mut n = 0u32;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let source = Ipv4Addr::from_bits(0x7f01_0000 + n % 2000);
        match tcp(port, Some(IpAddr::V4(source))) {
            Ok(mut socket) => {
                if n % 2 == 0 {
                    let _ = socket.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
                }
                held.push_back(socket);
                if held.len() > CROWD {
                    held.pop_front();
                }
                size.store(held.len(), Ordering::Relaxed);
            }
            Err(error) => panic!("{} held: {error}", held.len()),
        }
        // 2,000 a second: they keep coming while the honest runs are measured.
        std::thread::sleep(Duration::from_micros(500));
    }
    held.len()
}

/// CPU seconds per connection of a server that does nothing but TLS: blocking, one thread.
fn bare_server(ca: &Ca, agent: &Leaf, dispatcher: &Leaf, count: u32) -> f64 {
    let identity = Identity::from_pem(&agent.cert, &agent.key).unwrap();
    let chain = Arc::new(ChainVerifier::from_pem(&ca.pem).unwrap());
    let config = agent_server_config(&identity, chain, &system_clock()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let thread_cpu = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        let start = thread_cpu();
        for _ in 0..count {
            let (socket, _) = listener.accept().unwrap();
            let conn = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(conn, socket);
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
                .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                .unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        (thread_cpu() - start) / f64::from(count)
    });
    let caller = fresh(&Caller::new(port, Some(dispatcher)));
    for _ in 0..count {
        assert_eq!(caller.post("/ping", "{}").0, 200);
    }
    server.join().unwrap()
}

struct Process(u32);

impl Process {
    /// CPU seconds used so far, user and system.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / rustix::param::clock_ticks_per_second() as f64
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
