//! Fan-out over kept connections of one long-lived engine: `cargo bench -p ctrl-exec-dispatcher
//! --bench kept`. The agents are one process that speaks the real protocol on 127.0.0.0/8.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use ctrl_exec_dispatcher::fleet::{Call, Engine, EngineOptions, Identity, Plan, Route, Target};
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Root;
use support::fleet::{self, Fleet};

const HELPER: &str = "CTRL_EXEC_BENCH_KEPT";
const AGENTS: usize = 10_000;
const ROUNDS: usize = 10;

fn main() {
    raise_file_limit();
    if let Ok(dir) = std::env::var(HELPER) {
        helper(&dir);
    }
    let root = Root::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(HELPER, root.path("."))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let port: u16 = line.trim().parse().unwrap();

    let read = |name: &str| std::fs::read_to_string(root.path("etc/ctrl-exec").join(name)).unwrap();
    let own = tls::Identity::from_pem(&read("dispatcher.crt"), &read("dispatcher.key")).unwrap();
    let trust = Arc::new(ChainVerifier::from_pem(&root.ca_pem()).unwrap());
    let config = tls::dispatcher_client_config(&own, trust, &system_clock(), false).unwrap();
    let identity = Identity::new(config);
    let calls: Vec<Call> = (0..AGENTS)
        .map(|n| {
            let target = Target {
                name: format!("a{n:05}"),
                route: Route::Dial {
                    address: fleet::address(n).to_string(),
                    port,
                },
                knows: String::new(),
                perl: false,
                executor: None,
                features: None,
                paired: None,
                rate: None,
                obstacle: None,
            };
            Call::post(target, identity.clone(), "/run", r#"{"script":"true"}"#)
        })
        .collect();
    let engine = Engine::new(EngineOptions {
        keep: Some(Duration::from_secs(300)),
        ..EngineOptions::default()
    });
    println!(
        "{AGENTS} agents, parallel 512, {} core(s) for dispatcher and agents together",
        std::thread::available_parallelism().unwrap()
    );
    println!("{:>8} {:>9} {:>12}", "round", "wall s", "agents/s");
    let mut best = 0.0_f64;
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let answers = engine.all(calls.clone(), Plan::new(512, Duration::from_secs(60)));
        let wall = begun.elapsed().as_secs_f64();
        let good = answers
            .iter()
            .filter(|answer| answer.result.is_ok())
            .count();
        assert_eq!(good, AGENTS);
        let rate = AGENTS as f64 / wall;
        let name = if round == 0 {
            "connect".to_owned()
        } else {
            best = best.max(rate);
            round.to_string()
        };
        println!("{name:>8} {wall:>9.2} {rate:>12.0}");
    }
    println!("best over kept connections: {best:.0} agents/s (goal 10,000)");
    drop(engine);
    let _ = child.kill();
    let _ = child.wait();
}

/// The fleet's process.
fn helper(dir: &str) -> ! {
    let root = std::mem::ManuallyDrop::new(Root::at(dir));
    let (identity, _) = root.agent_identity("fleet", 825);
    let fleet = Fleet::start(&identity, &root.ca_pem(), true, |_, _| {
        let body = r#"{"script":"true","exit":0,"stdout":"","stderr":"","reqid":"r"}"#;
        (200, body.to_owned())
    });
    println!("{}", fleet.port);
    loop {
        std::thread::park();
    }
}

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
