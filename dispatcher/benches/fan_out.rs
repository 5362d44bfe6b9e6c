//! What a fan-out costs: `cargo bench -p ctrl-exec-dispatcher`.
//!
//! The dispatcher is the real program; the agents are one helper process that speaks the real
//! protocol on all of 127.0.0.0/8. The yardstick is measured in the same run: bare mutual-TLS
//! handshakes of the same keys, client and server in memory, without sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Root;
use support::fleet::{self, Fleet};

const HELPER: &str = "CTRL_EXEC_BENCH_FLEET";

fn main() {
    if let Ok(dir) = std::env::var(HELPER) {
        helper(&dir);
    }
    let root = Root::new();
    root.configure("read_timeout = 30\n");
    let bare = bare_handshakes(&root, 2_000);
    let both = bare.0 + bare.1;
    println!(
        "bare handshake: client {:.3} ms, server {:.3} ms",
        bare.0, bare.1
    );
    let (mut fleet, ports) = start_helper(&root);

    println!("\nping --all --parallel 512");
    println!(
        "{:>7} {:>9} {:>9} {:>12} {:>15} {:>15} {:>9}",
        "agents", "wall s", "CPU s", "CPU ms/agent", "x bare (both)", "x bare (client)", "peak MB"
    );
    let mut registered = 0;
    for agents in [100, 1_000, 5_000, 20_000] {
        while registered < agents {
            register(&root, registered, ports[0]);
            registered += 1;
        }
        let used = measure(&root, &["ping", "--all", "--json", "--parallel", "512"]);
        let each = used.cpu * 1e3 / f64::from(u32::try_from(agents).unwrap());
        println!(
            "{agents:>7} {:>9.2} {:>9.2} {each:>12.3} {:>15.2} {:>15.2} {:>9.1}",
            used.wall,
            used.cpu,
            each / both,
            each / bare.0,
            used.peak
        );
        assert_eq!(used.lines.matches("\"status\":\"ok\"").count(), agents);
    }

    let mut walls: Vec<f64> = (0..50)
        .map(|_| measure(&root, &["run", "a00001", "true"]).wall * 1e3)
        .collect();
    walls.sort_by(f64::total_cmp);
    println!(
        "\nrun on one agent, process start included: median {:.1} ms, worst {:.1} ms",
        walls[25], walls[49]
    );

    // A tenth refuses, a tenth hangs, a tenth answers garbage.
    let first = root;
    let root = Root::empty();
    // The fleet's certificates are of the first root's CA.
    std::fs::remove_dir_all(root.path("etc")).unwrap();
    support::copy(&fleet.etc, &root.path("etc"));
    root.configure("read_timeout = 30\n");
    for n in 0..10_000 {
        register(&root, n, ports.get(n % 10).copied().unwrap_or(ports[0]));
    }
    let used = measure(&root, &["ping", "--all", "--json", "--parallel", "1500"]);
    println!(
        "\n10,000 agents, 1,000 each refuse, hang, answer garbage; time-out 30 s, --parallel 1500: \
         wall {:.1} s, CPU {:.1} s, peak {:.0} MB; ok {}, connect {}, tls {}",
        used.wall,
        used.cpu,
        used.peak,
        used.lines.matches("\"status\":\"ok\"").count(),
        used.lines.matches("\"phase\":\"connect\"").count(),
        used.lines.matches("\"phase\":\"tls\"").count(),
    );

    let listed = Root::new();
    for n in 0..50_000 {
        register(&listed, n, 7443);
    }
    measure(&listed, &["list-agents"]);
    println!(
        "\nlist-agents, 50,000 agents: {:.2} s",
        measure(&listed, &["list-agents"]).wall
    );
    let _ = fleet.child.kill();
    let _ = fleet.child.wait();
    drop(first);
}

fn register(root: &Root, n: usize, port: u16) {
    root.register(
        &format!("a{n:05}"),
        SocketAddr::from((fleet::address(n), port)),
    );
}

/// Mean CPU milliseconds of one handshake, of the client's calls and of the server's.
fn bare_handshakes(root: &Root, count: u32) -> (f64, f64) {
    let etc = root.path("etc/ctrl-exec");
    let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
    let own = Identity::from_pem(&read("dispatcher.crt"), &read("dispatcher.key")).unwrap();
    let (agent, _) = root.agent_identity("fleet", 825);
    let trust = Arc::new(ChainVerifier::from_pem(&root.ca_pem()).unwrap());
    let clock = system_clock();
    let client_config =
        tls::dispatcher_client_config(&own, Arc::clone(&trust), &clock, false).unwrap();
    let server_config = tls::agent_server_config(&agent, trust, &clock).unwrap();
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap(),
            u32::try_from(time.tv_nsec).unwrap(),
        )
    };
    let (mut client_time, mut server_time) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..count {
        let begun = now();
        let name = tls::server_name("127.0.0.1");
        let mut client = rustls::ClientConnection::new(Arc::clone(&client_config), name).unwrap();
        client_time += now() - begun;
        let mut server = rustls::ServerConnection::new(Arc::clone(&server_config)).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking()
            || server.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            let begun = now();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let middle = now();
            let mut input = wire.as_slice();
            while !input.is_empty() {
                server.read_tls(&mut input).unwrap();
                server.process_new_packets().unwrap();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let end = now();
            let mut input = wire.as_slice();
            while !input.is_empty() {
                client.read_tls(&mut input).unwrap();
                client.process_new_packets().unwrap();
            }
            wire.clear();
            client_time += (middle - begun) + (now() - end);
            server_time += end - middle;
        }
    }
    let mean = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(count);
    (mean(client_time), mean(server_time))
}

struct Helper {
    child: Child,
    etc: PathBuf,
}

fn start_helper(root: &Root) -> (Helper, Vec<u16>) {
    let etc = root.path("etc");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(HELPER, root.path("."))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ports = line
        .split_whitespace()
        .map(|port| port.parse().unwrap())
        .collect();
    (Helper { child, etc }, ports)
}

/// The fleet's process.
fn helper(dir: &str) -> ! {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let root = std::mem::ManuallyDrop::new(Root::at(dir));
    let (identity, _) = root.agent_identity("fleet", 825);
    let fleet = Fleet::start(&identity, &root.ca_pem(), false, |_, request| {
        let body = match &*request.path() {
            "/ping" => {
                r#"{"status":"ok","host":"fleet","version":"0.13.0","expiry":"Feb 24 13:29:34 2099 GMT","staged":false,"reqid":"r"}"#
            }
            _ => r#"{"script":"true","exit":0,"stdout":"","stderr":"","reqid":"r"}"#,
        };
        (200, body.to_owned())
    });
    println!(
        "{} {} {} {}",
        fleet.port,
        support::ports::claim().unwrap(),
        fleet::hanging_port(),
        fleet::garbage_port()
    );
    loop {
        std::thread::park();
    }
}

struct Used {
    wall: f64,
    cpu: f64,
    peak: f64,
    lines: String,
}

/// Runs a command and reads what it used out of /proc before it is reaped.
fn measure(root: &Root, args: &[&str]) -> Used {
    let begun = Instant::now();
    let out = root.path("out");
    let mut child = root
        .command(args)
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let proc = format!("/proc/{}", child.id());
    let mut peak = 0.0_f64;
    let mut pause = Duration::from_micros(200);
    let cpu = loop {
        let stat = std::fs::read_to_string(format!("{proc}/stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        if fields[0] == "Z" {
            // Clock ticks are hundredths of a second.
            break (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap())
                / 100.0;
        }
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
        if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) {
            let kb: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            peak = peak.max(kb / 1024.0);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    };
    let wall = begun.elapsed().as_secs_f64();
    child.wait().unwrap();
    Used {
        wall,
        cpu,
        peak,
        lines: std::fs::read_to_string(out).unwrap(),
    }
}
