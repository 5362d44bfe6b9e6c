//! How often the agent asks for memory: for a ping on a kept connection, and for a run.
//!
//! The allocator counts only on the thread that it is told to watch: the agent's, or that of a bare
//! rustls server that does the same exchange, which is the share that is not the agent's to save.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature")]

mod common;

use common::*;
use rustls::ServerConnection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a ping may cost beyond rustls, and a run in all.
const PING_BEYOND_RUSTLS: usize = 6;
const RUN: usize = 40;
const ROUNDS: usize = 50;

struct Counting;

/// A word, since 32-bit MIPS has no wider atomic.
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if WATCHED.try_with(Cell::get).unwrap_or(false) {
        COUNT.fetch_add(1, Ordering::Relaxed);
        trace();
    }
}

/// Notes from where memory was asked for, when `TRACE_ALLOCATIONS` is set.
fn trace() {
    if !TRACING.load(Ordering::Relaxed) {
        return;
    }
    WATCHED.set(false);
    let stack = std::backtrace::Backtrace::force_capture().to_string();
    // Names of functions stand after a number and a colon.
    let names = stack.lines().filter(|line| !line.trim().starts_with("at "));
    let names = names.map(|line| line.trim().split_once(": ").unwrap_or_default().1);
    let of_interest = |name: &&str| {
        let ours = name.contains("ctrl_exec") || name.contains("rustls::");
        ours || name.starts_with("std::")
    };
    let own: Vec<_> = names.filter(of_interest).skip(1).take(4).collect();
    *SITES.lock().unwrap().entry(own.join(" < ")).or_default() += 1;
    WATCHED.set(true);
}

static TRACING: AtomicBool = AtomicBool::new(false);
static SITES: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Prints what [`trace`] noted, for `rounds` exchanges, and forgets it.
fn print_sites(rounds: usize) {
    let sites = std::mem::take(&mut *SITES.lock().unwrap());
    for (site, count) in sites {
        println!("{:5.1} {site}", count as f64 / rounds as f64);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The agent of `host`, on a thread of this process that is watched.
fn serve(host: &Host) {
    let root = host.dir.path().to_path_buf();
    std::thread::spawn(move || {
        WATCHED.set(true);
        let code = ctrl_exec_agent::cli::run(["serve".into(), "--root".into(), root.into()]);
        panic!("the agent ended with {code}");
    });
    wait_for("the agent to listen", || tcp(host.port, None).is_ok());
}

fn kept(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: keep-alive\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request on a kept connection and reads one answer.
fn exchange(stream: &mut Stream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "closed");
        answer.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .unwrap();
            if body.len() >= length.parse().unwrap() {
                return body.to_owned();
            }
        }
    }
}

/// Allocations of the watched thread for one `exchange`, once everything is warm.
fn each(stream: &mut Stream, request: impl Fn(usize) -> String) -> usize {
    for n in 0..5 {
        exchange(stream, &request(n));
    }
    TRACING.store(
        std::env::var_os("TRACE_ALLOCATIONS").is_some(),
        Ordering::Relaxed,
    );
    let before = COUNT.load(Ordering::Relaxed);
    for n in 0..ROUNDS {
        let answer = exchange(stream, &request(100 + n));
        assert!(answer.contains(&format!("\"r{}\"", 100 + n)), "{answer}");
    }
    let count = (COUNT.load(Ordering::Relaxed) - before).div_ceil(ROUNDS);
    TRACING.store(false, Ordering::Relaxed);
    print_sites(ROUNDS);
    count
}

/// The same exchange as a ping's with a server of rustls alone.
fn bare_rustls(host: &Host) -> usize {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let cert = CertificateDer::from_pem_slice(host.agent.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(host.agent.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut conn = ServerConnection::new(Arc::new(config)).unwrap();
        WATCHED.set(true);
        let mut buffer = [0; 4096];
        loop {
            while conn.wants_write() {
                conn.write_tls(&mut socket).unwrap();
            }
            if conn.read_tls(&mut socket).unwrap_or(0) == 0 {
                return;
            }
            conn.process_new_packets().unwrap();
            while let Ok(n) = conn.reader().read(&mut buffer) {
                // The reqid stands at the end of the request.
                let reqid = &buffer[n - 14..n];
                let mut answer = *b"HTTP/1.0 200 OK\r\nContent-Length: 150\r\n\r\n{\"status\":\
                    \"ok\",\"host\":\"agent.example\",\"version\":\"0.13.0\",\"expiry\":\"Jan  1 \
                    00:00:00 2100 GMT\",\"cert_staged\":false,                          \
                    \"x\":              }";
                let end = answer.len() - 1;
                answer[end - 14..end].copy_from_slice(reqid);
                conn.writer().write_all(&answer).unwrap();
            }
        }
    });
    let caller = Caller::new(port, None);
    let mut stream = caller.connect().unwrap();
    each(&mut stream, ping)
}

fn ping(n: usize) -> String {
    kept("POST", "/ping", &format!("{{\"reqid\":\"r{n}\"}}"))
}

/// One test at a time: there is one count.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn a_ping_and_a_run_ask_for_little_memory() {
    let _turn = TURN.lock();
    let host = Host::new(&Ca::new());
    host.script("true", "#!/bin/sh\n");
    let rustls = bare_rustls(&host);
    serve(&host);
    let mut stream = host.caller().connect().unwrap();
    let pings = each(&mut stream, ping);
    let runs = each(&mut stream, |n| {
        let body = format!("{{\"script\":\"true\",\"args\":[\"a\",\"b\"],\"reqid\":\"r{n}\"}}");
        kept("POST", "/run", &body)
    });
    println!("allocations: ping {pings}, of which rustls {rustls}; run {runs}");
    assert!(
        pings <= rustls + PING_BEYOND_RUSTLS,
        "ping {pings}, rustls {rustls}"
    );
    assert!(runs <= RUN, "run {runs}");
}
