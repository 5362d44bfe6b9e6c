//! Handshakes with OpenSSL, which is what Perl peers speak, over loopback: the reference's own
//! X.509 v1 certificates and ours, both roles, TLS 1.2 and 1.3, and the versions and suites that
//! must not work. Skipped, with a word, where there is no `openssl` command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, Clock};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// A day after the certificates were made; OpenSSL is told the same with `-attime`.
const NOW: i64 = 1_795_500_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn path(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    root.join(name).to_str().unwrap().to_owned()
}

fn identity(name: &str) -> Identity {
    let read = |suffix| std::fs::read_to_string(path(&format!("{name}.{suffix}"))).unwrap();
    Identity::from_pem(&read("crt"), &read("key")).unwrap()
}

fn trust() -> Arc<ChainVerifier> {
    let text = std::fs::read_to_string(path("reference/ca.crt")).unwrap();
    Arc::new(ChainVerifier::from_pem(&text).unwrap())
}

fn clock() -> Clock {
    Arc::new(|| NOW)
}

fn openssl(args: &[&str]) -> Option<Child> {
    let spawned = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match spawned {
        Ok(child) => Some(child),
        Err(_) => {
            eprintln!("SKIPPED: no openssl command");
            None
        }
    }
}

/// Our agent's side against `openssl s_client`. `Some(true)` when data went through.
fn s_client(server: &Identity, client: Option<&str>, more: &[&str]) -> Option<Result<(), String>> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let at = NOW.to_string();
    let ca = path("reference/ca.crt");
    let mut args: Vec<String> = ["s_client", "-quiet", "-connect", &address, "-CAfile", &ca]
        .map(str::to_owned)
        .to_vec();
    args.extend(["-verify_return_error", "-attime", &at].map(str::to_owned));
    if let Some(client) = client {
        let (cert, key) = (
            path(&format!("{client}.crt")),
            path(&format!("{client}.key")),
        );
        args.extend(["-cert".to_owned(), cert, "-key".to_owned(), key]);
    }
    args.extend(more.iter().map(|word| (*word).to_owned()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = openssl(&args)?;
    let config = tls::agent_server_config(server, trust(), &clock()).unwrap();
    let Some(socket) = accept(&listener, &mut child) else {
        return Some(Err("openssl itself refused".to_owned()));
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    // It may be gone already, with a word about its options.
    let _ = child.stdin.as_mut().unwrap().write_all(b"ping\n");
    let mut line = [0u8; 5];
    let result = stream
        .read_exact(&mut line)
        .map_err(|error| error.to_string());
    if result.is_ok() {
        assert_eq!(&line, b"ping\n");
        stream.write_all(b"pong\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut answer)
            .unwrap();
        assert_eq!(answer, "pong\n");
    }
    drop(stream);
    let _ = child.kill();
    let _ = child.wait();
    Some(result)
}

/// The connection of the child; `None` when it ended without one.
fn accept(listener: &TcpListener, child: &mut Child) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(false).unwrap();
            return Some(socket);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(Instant::now() < deadline, "openssl does not connect");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Our dispatcher's side against `openssl s_server`, which demands a client certificate.
fn s_server(server: &str, client: &Identity, more: &[&str]) -> Option<Result<(), String>> {
    let port = ctrl_exec_testkit::ports::claim().unwrap();
    let (cert, key) = (
        path(&format!("{server}.crt")),
        path(&format!("{server}.key")),
    );
    let (accept, at, ca) = (
        format!("127.0.0.1:{port}"),
        NOW.to_string(),
        path("reference/ca.crt"),
    );
    let mut args = vec!["s_server", "-accept", &accept, "-cert", &cert, "-key", &key];
    args.extend([
        "-CAfile",
        &ca,
        "-Verify",
        "1",
        "-verify_return_error",
        "-attime",
        &at,
        "-rev",
    ]);
    args.extend(more);
    let mut child = openssl(&args)?;
    // It says so when it listens.
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ACCEPT") {
        line.clear();
        assert_ne!(
            out.read_line(&mut line).unwrap(),
            0,
            "s_server did not start"
        );
    }
    let config = tls::dispatcher_client_config(client, trust(), &clock(), false).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let connection = ClientConnection::new(config, tls::server_name("agent")).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    // `-rev` sends each line back reversed.
    let mut answer = [0u8; 5];
    let result = stream
        .write_all(b"ping\n")
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|error| error.to_string());
    if result.is_ok() {
        assert_eq!(&answer, b"gnip\n");
    }
    let _ = child.kill();
    let _ = child.wait();
    Some(result)
}

#[test]
fn openssl_clients_reach_our_agent() {
    let certificates = [
        "reference/dispatcher",
        "certs/v1-p256",
        "certs/v1-p384",
        "certs/v1-ed25519",
    ];
    for client in certificates {
        for server in ["reference/agent", "certs/v1-p256"] {
            for version in ["-tls1_2", "-tls1_3"] {
                let Some(result) = s_client(&identity(server), Some(client), &[version]) else {
                    return;
                };
                assert_eq!(result, Ok(()), "{client} -> {server} {version}");
            }
        }
    }
}

#[test]
fn our_dispatcher_reaches_openssl_servers() {
    for server in ["reference/agent", "certs/v1-p256", "certs/v1-ed25519"] {
        for client in ["reference/dispatcher", "certs/v1-p256"] {
            for version in ["-tls1_2", "-tls1_3"] {
                let Some(result) = s_server(server, &identity(client), &[version]) else {
                    return;
                };
                assert_eq!(result, Ok(()), "{client} -> {server} {version}");
            }
        }
    }
}

#[test]
fn what_must_not_connect() {
    let agent = identity("reference/agent");
    let dispatcher = Some("reference/dispatcher");
    for (client, more) in [
        (None, &["-tls1_3"][..]),
        (None, &["-tls1_2"]),
        (Some("certs/impostor-leaf"), &[]),
        // SECLEVEL=0 lets OpenSSL itself offer these.
        (dispatcher, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]),
        (dispatcher, &["-tls1_2", "-cipher", "AES256-GCM-SHA384"]),
        (
            dispatcher,
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"],
        ),
        (
            dispatcher,
            &["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"],
        ),
        (dispatcher, &["-tls1_2", "-sigalgs", "RSA+SHA1"]),
    ] {
        let Some(result) = s_client(&agent, client, more) else {
            return;
        };
        assert!(result.is_err(), "{client:?} {more:?}");
    }
    let Some(result) = s_server(
        "certs/impostor-leaf",
        &identity("reference/dispatcher"),
        &[],
    ) else {
        return;
    };
    assert!(result.unwrap_err().contains("invalid peer certificate"));
}

/// The suites of the reference, each by itself.
#[test]
fn every_suite_of_the_reference() {
    for (server, suite) in [
        ("reference/agent", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("reference/agent", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("certs/v1-p256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("certs/v1-p256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("reference/agent", "TLS_AES_256_GCM_SHA384"),
        ("reference/agent", "TLS_CHACHA20_POLY1305_SHA256"),
        ("certs/v1-p256", "TLS_AES_128_GCM_SHA256"),
    ] {
        let more = if suite.starts_with("TLS_") {
            ["-tls1_3", "-ciphersuites", suite]
        } else {
            ["-tls1_2", "-cipher", suite]
        };
        let client = Some("reference/dispatcher");
        let Some(result) = s_client(&identity(server), client, &more) else {
            return;
        };
        assert_eq!(result, Ok(()), "{suite}");
    }
}
