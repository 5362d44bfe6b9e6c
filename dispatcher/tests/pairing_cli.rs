//! Pairing through the real program: background start and stop, list, approve, deny, and what is
//! said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::wire::pairing::{self, Ack, Outcome, PairRequest};
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};
use ctrl_exec_protocol::x509::verify::system_clock;
use ctrl_exec_protocol::x509::{cert, csr, verify};
use rustls::{ClientConnection, StreamOwned};

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A root directory; whatever runs in it is stopped with the test.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!(
            "ctrl-exec-pairing-cli-{}-{number}",
            std::process::id()
        ));
        let _ = std::fs::remove_dir_all(&dir);
        let etc = dir.join("etc/ctrl-exec");
        std::fs::create_dir_all(&etc).unwrap();
        let path = |name: &str| etc.join(name).display().to_string();
        let config = format!(
            "cert = {}\nkey = {}\nca = {}\ndispatcher_id = disp\n",
            path("d.crt"),
            path("d.key"),
            path("ca.crt")
        );
        std::fs::write(etc.join("ctrl-exec.conf"), config).unwrap();
        let root = Self(dir);
        root.ok(&["setup-ca"]);
        root.ok(&["setup-ctrl-exec"]);
        root
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ctrl-exec-dispatcher"))
            .arg("--root")
            .arg(&self.0)
            .args(args)
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(output.status.success(), "{args:?}: {text}");
        text
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts pairing mode in the background; where it listens.
    fn start(&self) -> SocketAddr {
        let port = ctrl_exec_testkit::ports::claim().unwrap();
        let text = self.ok(&["pairing-mode", "start", "--port", &port.to_string()]);
        assert!(text.contains(&format!("port {port}")), "{text}");
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.run(&["pairing-mode", "stop"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn response(client: &mut Client) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    client.read_exact(&mut body).unwrap();
    body
}

fn pair(address: SocketAddr, name: &str, csr: &str) -> (Client, String) {
    let config = tls::pairing_client_config(&system_clock()).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let connection = ClientConnection::new(config, tls::server_name("dispatcher")).unwrap();
    let mut client = StreamOwned::new(connection, socket);
    let request = PairRequest {
        hostname: name.to_owned(),
        csr: csr.to_owned(),
        ..PairRequest::default()
    };
    let body = request.render();
    let text = format!(
        "POST /pair HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(text.as_bytes()).unwrap();
    match Ack::parse(&response(&mut client)).unwrap() {
        Ack::Pending { reqid } => (client, reqid),
        Ack::Error { reason } => panic!("{reason}"),
    }
}

fn new_csr(name: &str) -> String {
    let key = PrivateKey::from_pem(&keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    csr::create(&key, name).unwrap()
}

#[test]
fn a_session_in_the_background() {
    let root = Root::new();
    let address = root.start();
    // Success means that it listens; a second start is refused.
    let csr = new_csr("router1.example");
    let (mut client, reqid) = pair(address, "router1.example", &csr);
    assert!(
        root.fails(&["pairing-mode", "start"])
            .contains("runs already")
    );

    let list = root.ok(&["list-requests"]);
    assert!(
        list.contains(&reqid) && list.contains(&pairing::code(&csr)),
        "{list}"
    );
    // What is approved is what was compared, off a terminal too.
    let code = pairing::code(&csr);
    let unseen = root.fails(&["approve", &reqid]);
    assert!(unseen.contains("--code"), "{unseen}");
    let other = format!("{:06}", (code.parse::<u32>().unwrap() + 1) % 1_000_000);
    let differs = root.fails(&["approve", &reqid, "--code", &other]);
    assert!(differs.contains(&code), "{differs}");
    let text = root.ok(&[
        "approve",
        &reqid,
        "--code",
        &code,
        "--lookup-by",
        "ip",
        "--agent-port",
        "7600",
    ]);
    assert!(
        text.contains("lookup_by=ip   addr=127.0.0.1:7600"),
        "{text}"
    );
    let Outcome::Approved(approval) = Outcome::parse(&response(&mut client)).unwrap() else {
        panic!()
    };
    assert_eq!(approval.dispatcher_id, "disp");
    let leaf = cert::from_pem(&approval.cert).unwrap();
    verify::verify_leaf(&approval.ca, &leaf, Utc::now().0).unwrap();
    assert!(root.ok(&["list-agents"]).contains("router1.example"));

    // One that cannot be signed: marked in the list, refused with the reason, still there.
    let weak = include_str!("fixtures/csr/rsa-1024.pem");
    let (mut client, reqid) = pair(address, "weak", weak);
    let list = root.ok(&["list-requests"]);
    assert!(
        list.contains("cannot be signed: CSR public key too small"),
        "{list}"
    );
    assert!(
        root.fails(&["approve", &reqid, "--code", &pairing::code(weak)])
            .contains("need >= 2048")
    );
    root.ok(&["deny", &reqid]);
    let reason = "rejected by operator".to_owned();
    let denied = Outcome::parse(&response(&mut client)).unwrap();
    assert_eq!(denied, Outcome::Denied { reason });
    assert!(
        root.fails(&["approve", "0011223344556677", "--code", "000000"])
            .contains("no pending request")
    );

    // A stop tells who waits, and is over when it returns.
    let (mut client, _) = pair(address, "b", &new_csr("b"));
    root.ok(&["pairing-mode", "stop"]);
    let reason = "pairing mode stopped".to_owned();
    let stopped = Outcome::parse(&response(&mut client)).unwrap();
    assert_eq!(stopped, Outcome::Denied { reason });
    assert!(TcpStream::connect(address).is_err());
    assert!(!root.0.join("var/lib/ctrl-exec/pairing-mode.pid").exists());
    assert!(root.ok(&["pairing-mode", "stop"]).contains("not running"));
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let root = Root::new();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = root.fails(&["pairing-mode", "start", "--port", &port]);
    assert!(error.contains("cannot listen on"), "{error}");
    let pid_file = root.0.join("var/lib/ctrl-exec/pairing-mode.pid");
    assert!(!pid_file.exists());
    // A stale pid file is no listener: another program has that number.
    std::fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
    drop(taken);
    root.start();
    root.ok(&["pairing-mode", "stop"]);
    std::fs::remove_file(root.0.join("etc/ctrl-exec/d.key")).unwrap();
    let error = root.fails(&["pairing-mode", "start"]);
    assert!(error.contains("d.key"), "{error}");
}

#[test]
fn a_killed_listener_leaves_a_stale_pid_file_that_is_no_obstacle() {
    let root = Root::new();
    root.start();
    let pid_file = root.0.join("var/lib/ctrl-exec/pairing-mode.pid");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let killed = Command::new("kill")
        .args(["-9", pid.trim()])
        .status()
        .unwrap();
    assert!(killed.success());
    // It is gone a moment later; then the file is stale, and a new listener starts.
    for _ in 0..1000 {
        if root.ok(&["pairing-mode", "stop"]).contains("stale") {
            break;
        }
    }
    root.start();
}
