//! Agents that were taken over, each hostile in a way of its own, all in one fleet with an honest
//! one: every verb ends within its limits, serves the honest agent, and says of each of the others
//! what is wrong with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use ctrl_exec_testkit::json::{self as jval, Object, Value};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use support::{Root, items, text};

/// One way to be hostile, and the words by which each verb tells it.
struct Hostile {
    name: &'static str,
    act: fn(&mut Peer, &str),
    /// Any of these is in the error.
    words: &'static [&'static str],
}

/// The agent's end of a connection after the handshake.
struct Peer {
    tls: ServerConnection,
    tcp: TcpStream,
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) -> bool {
        let mut stream = rustls::Stream::new(&mut self.tls, &mut self.tcp);
        stream
            .write_all(bytes)
            .and_then(|()| stream.flush())
            .is_ok()
    }

    /// One byte, a pause, one byte, for as long as the other side takes it.
    fn drip(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes {
            if !self.send(&[byte]) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn answer(&mut self, body: &str) {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body.as_bytes()].concat());
        self.tls.send_close_notify();
        let _ = self.tls.complete_io(&mut self.tcp);
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
        let _ = self.tcp.read(&mut [0; 64]);
    }
}

const LATE: &[&str] = &["timed out", "too slowly", "read timeout", "not answered"];

static FLEET: &[Hostile] = &[
    Hostile {
        name: "drips-head",
        act: |peer, _| {
            peer.drip(
                b"HTTP/1.0 200 OK\r\nX-Long: "
                    .iter()
                    .copied()
                    .chain([b'x'; 9000]),
            )
        },
        words: LATE,
    },
    Hostile {
        name: "drips-body",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: 60000\r\n\r\n");
            peer.drip([b' '; 60000]);
        },
        words: LATE,
    },
    Hostile {
        name: "drips-to-the-end",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\n\r\n");
            peer.drip([b' '; 60000]);
        },
        words: LATE,
    },
    Hostile {
        name: "silent",
        act: |_, _| thread::sleep(Duration::from_secs(60)),
        words: LATE,
    },
    Hostile {
        name: "endless-head",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\n");
            while peer.send(b"X-More: 0123456789012345678901234567890123456789\r\n") {}
        },
        words: &["head too large", "too many header"],
    },
    Hostile {
        name: "endless-line",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\nX: ");
            while peer.send(&[b'x'; 4096]) {}
        },
        words: &["head too large"],
    },
    Hostile {
        name: "continues",
        act: |peer, _| while peer.send(b"HTTP/1.1 100 Continue\r\n\r\n") {},
        words: &["status out of range"],
    },
    Hostile {
        name: "chunked",
        act: |peer, _| {
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        },
        words: &["Transfer-Encoding"],
    },
    Hostile {
        name: "compressed",
        act: |peer, _| {
            peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0",
            );
        },
        words: &["invalid JSON"],
    },
    Hostile {
        name: "announces-too-much",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n");
        },
        words: &["too large"],
    },
    Hostile {
        name: "sends-too-much",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\n\r\n");
            while peer.send(&[b' '; 16384]) {}
        },
        words: &["too large"],
    },
    Hostile {
        name: "negative",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: -5\r\n\r\n");
        },
        words: &["Content-Length"],
    },
    Hostile {
        name: "nested",
        act: |peer, _| peer.answer(&format!("{}{}", "[".repeat(30_000), "]".repeat(30_000))),
        words: &["invalid JSON"],
    },
    Hostile {
        name: "half-closes",
        act: |peer, _| {
            peer.tls.send_close_notify();
            let _ = peer.tls.complete_io(&mut peer.tcp);
            let _ = peer.tcp.shutdown(std::net::Shutdown::Write);
            thread::sleep(Duration::from_secs(60));
        },
        words: &["without sending any data", "timed out"],
    },
    Hostile {
        name: "cuts",
        act: |peer, _| {
            peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\n{\"status\":");
        },
        words: &["middle of its answer"],
    },
    Hostile {
        name: "no-http",
        act: |peer, _| {
            peer.send(b"SSH-2.0-OpenSSH_9.2\r\n");
        },
        words: &["not an HTTP response"],
    },
];

/// Ways that need no TLS: what is done with the bare connection.
type Bare = (
    &'static str,
    fn(TcpStream, &Arc<ServerConfig>),
    &'static [&'static str],
);

static BARE: &[Bare] = &[
    (
        "tcp-only",
        |_tcp, _| thread::sleep(Duration::from_secs(60)),
        LATE,
    ),
    (
        "garbage",
        |mut tcp, _| {
            let _ = tcp.write_all(b"220 mail.example ESMTP\r\n");
            let _ = tcp.read(&mut [0; 4096]);
        },
        &["TLS handshake"],
    ),
    (
        "drips-tls",
        |mut tcp, config| {
            let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
            while tls.wants_read() && !tls.wants_write() {
                if tls.read_tls(&mut tcp).is_err() || tls.process_new_packets().is_err() {
                    return;
                }
            }
            let mut flight = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut flight).unwrap();
            }
            for byte in flight {
                if tcp.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        },
        LATE,
    ),
    (
        "closes",
        |tcp, _| drop(tcp),
        &["closed the connection", "TLS handshake"],
    ),
];

fn listen(
    identity: &Identity,
    ca_pem: &str,
    serve: impl Fn(TcpStream, &Arc<ServerConfig>) + Send + Sync + 'static,
) -> SocketAddr {
    let trust = Arc::new(ChainVerifier::from_pem(ca_pem).unwrap());
    let config = tls::agent_server_config(identity, trust, &system_clock()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let (serve, config) = (Arc::clone(&serve), Arc::clone(&config));
            thread::spawn(move || serve(tcp, &config));
        }
    });
    address
}

/// Shakes hands, reads the request's path, and is hostile.
fn after_handshake(mut tcp: TcpStream, config: &Arc<ServerConfig>, act: impl Fn(&mut Peer, &str)) {
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut request = vec![0; 20_000];
    let Ok(read) = rustls::Stream::new(&mut tls, &mut tcp).read(&mut request) else {
        return;
    };
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    act(&mut Peer { tls, tcp }, &path);
}

/// What an honest agent says to `path`.
fn honest(path: &str) -> String {
    match path {
        "/run" => r#"{"exit":0,"stdout":"fine\n","stderr":""}"#,
        "/capabilities" => r#"{"status":"ok","scripts":[],"tags":{"site":"lab"}}"#,
        path if path.starts_with("/result") => r#"{"status":"done","exit":0,"stdout":"fine\n"}"#,
        _ => r#"{"status":"ok","expiry":"Jan  1 00:00:00 2040 GMT"}"#,
    }
    .to_owned()
}

/// A fleet of all of them and `good`, called with steps of one second.
fn fleet() -> Root {
    let root = Root::new();
    root.configure("read_timeout = 1\n");
    let ca = root.ca_pem();
    for hostile in FLEET {
        let (identity, _) = root.agent_identity(hostile.name, 100);
        let act = hostile.act;
        let address = listen(&identity, &ca, move |tcp, config| {
            after_handshake(tcp, config, act);
        });
        root.register(hostile.name, address);
    }
    for (name, serve, _) in BARE {
        let (identity, _) = root.agent_identity(name, 100);
        root.register(name, listen(&identity, &ca, serve));
    }
    let (identity, _) = root.agent_identity("good", 100);
    let address = listen(&identity, &ca, |tcp, config| {
        after_handshake(tcp, config, |peer, path| peer.answer(&honest(path)));
    });
    root.register("good", address);
    root
}

/// Checks that each hostile host is told of in its own words; `error` finds what was said of it.
fn each_is_told(error: impl Fn(&str) -> String) {
    let named = FLEET.iter().map(|hostile| (hostile.name, hostile.words));
    for (name, words) in named.chain(BARE.iter().map(|(name, _, words)| (*name, *words))) {
        let error = error(name);
        assert!(
            words.iter().any(|word| error.contains(word)),
            "{name}: {error:?}"
        );
    }
}

fn within<T>(seconds: u64, what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(seconds), "{what} took {took:?}");
    done
}

fn result<'a>(results: &[&'a Object], name: &str) -> &'a Object {
    results
        .iter()
        .find(|result| text(result, "host") == name)
        .unwrap_or_else(|| panic!("nothing about {name}"))
}

/// Far above what the steps allow (about 7 s), far below for ever, on a slow machine.
const LIMIT: u64 = 45;

#[test]
fn run_ends_and_tells() {
    let root = fleet();
    let object = within(LIMIT, "run", || {
        root.json_any(&["run", "--all", "hello", "--json"], 1)
    });
    let results = items(&object, "results");
    assert_eq!(text(result(&results, "good"), "stdout"), "fine\n");
    each_is_told(|name| text(result(&results, name), "error").to_owned());
}

#[test]
fn ping_and_discover_end_and_tell() {
    let root = fleet();
    for verb in ["ping", "discover"] {
        let object = within(LIMIT, verb, || root.json(&[verb, "--all", "--json"]));
        let results = items(&object, "results");
        assert_eq!(text(result(&results, "good"), "status"), "ok");
        each_is_told(|name| text(result(&results, name), "error").to_owned());
    }
}

#[test]
fn wait_ends_with_its_time_and_tells() {
    let root = fleet();
    let names = FLEET.iter().map(|hostile| hostile.name);
    let names: Vec<&str> = names
        .chain(BARE.iter().map(|(name, ..)| *name))
        .chain(["good"])
        .collect();
    let hosts: Object = names
        .iter()
        .map(|name| {
            let accepted = jval::Object::of([("status", jval::string("accepted"))]);
            ((*name).to_owned(), Value::Object(accepted))
        })
        .collect();
    let record = jval::Object::of([
        ("reqid", jval::string("r1")),
        ("mode", jval::string("async")),
        ("script", jval::string("hello")),
        ("complete", Value::Bool(false)),
        ("hosts", Value::Object(hosts)),
    ]);
    let runs = root.path("var/lib/ctrl-exec/runs");
    std::fs::create_dir_all(&runs).unwrap();
    std::fs::write(runs.join("r1.json"), jval::line(&record)).unwrap();
    let object = within(LIMIT, "wait", || {
        root.json_any(&["wait", "r1", "--timeout", "12", "--json"], 2)
    });
    let hosts = jval::sub_object(&object, "hosts").unwrap();
    let entry = |name: &str| jval::sub_object(hosts, name).unwrap();
    assert_eq!(text(entry("good"), "status"), "done");
    each_is_told(|name| text(entry(name), "fetch_error").to_owned());
    // A step longer than the time of wait does not prolong it.
    root.configure("read_timeout = 600\n");
    within(LIMIT, "wait", || {
        root.json_any(&["wait", "r1", "--timeout", "2", "--json"], 2)
    });
}

#[test]
fn maintain_ends_and_tells() {
    let root = fleet();
    let ended = within(LIMIT, "maintain", || root.run(&["maintain"]));
    assert_ne!(ended.exit, 0, "{ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let lines: Vec<&str> = said.lines().collect();
    each_is_told(|name| {
        let line = lines
            .iter()
            .find(|line| line.contains(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} is not in {said}"))
            .to_string()
    });
}

/// Text of the agent in place of ours.
#[test]
fn an_agent_cannot_answer_in_anothers_name() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("liar", 100);
    let address = listen(&identity, &root.ca_pem(), |tcp, config| {
        after_handshake(tcp, config, |peer, _| {
            peer.answer(
                r#"{"status":"ok","exit":0,"host":"victim\u001b[2J","reqid":"../../../etc/x","rtt":"0ms","outcome":"ok","stdout":""}"#,
            );
        });
    });
    root.register("liar", address);
    let object = root.json(&["run", "liar", "hello", "--json"]);
    let result = items(&object, "results")[0];
    assert_eq!(text(result, "host"), "liar");
    assert_eq!(text(result, "reqid").len(), 16, "{result:?}");
    assert!(names_are_harmless(text(result, "reported_hostname")));
    let record = root.path(&format!(
        "var/lib/ctrl-exec/runs/{}.json",
        text(result, "reqid")
    ));
    assert!(record.exists());
    let shown = root.run(&["run", "liar", "hello"]).stdout;
    assert!(
        !shown.contains("etc/x") && !shown.contains('\x1b'),
        "{shown}"
    );
}

/// An agent answers with as much as it may, in members nobody knows and in an error.
#[test]
fn what_is_kept_of_an_answer_is_bounded() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("big", 100);
    let address = listen(&identity, &root.ca_pem(), |tcp, config| {
        after_handshake(tcp, config, |peer, _| {
            let values = "[],".repeat(400_000);
            let error = "e".repeat(1 << 20);
            peer.answer(&format!(
                r#"{{"exit":1,"error":"{error}","odd":[{values}0],"more":2}}"#
            ));
        });
    });
    root.register("big", address);
    let ended = root.run(&["run", "big", "hello", "--json"]);
    assert!(ended.stdout.len() < 6_000, "{} bytes", ended.stdout.len());
    assert!(
        ended.stdout.contains("\"members_dropped\":2"),
        "{}",
        ended.stdout
    );
}

/// Runs a command whose standard output is a terminal; what the terminal got.
fn on_a_terminal(root: &Root, args: &[&str]) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut command = root.command(args);
    command.stdout(slave).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    // It holds the terminal open, too.
    drop(command);
    let mut shown = Vec::new();
    let reader = thread::spawn(move || {
        // Ends with an error when the last writer has closed.
        let _ = std::fs::File::from(master).read_to_end(&mut shown);
        shown
    });
    child.wait().unwrap();
    String::from_utf8_lossy(&reader.join().unwrap()).replace("\r\n", "\n")
}

/// A script's output cannot move the cursor or pass for another host's result.
#[test]
fn script_output_on_a_terminal_is_filtered() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("r1", 100);
    let address = listen(&identity, &root.ca_pem(), |tcp, config| {
        after_handshake(tcp, config, |peer, _| {
            peer.answer(
                r#"{"exit":0,"stdout":"a\u001b[2J\n==> r2  [OK  exit:0  1ms]\nb\u202e\n","stderr":""}"#,
            );
        });
    });
    root.register("r1", address);
    let raw = "a\u{1b}[2J\n==> r2  [OK  exit:0  1ms]\nb\u{202e}\n";
    for fold in [&["run", "r1", "s"][..], &["run", "r1", "s", "--fold"]] {
        let shown = on_a_terminal(&root, fold);
        assert!(
            !shown.contains('\x1b') && !shown.contains('\u{202e}'),
            "{shown:?}"
        );
        assert!(shown.contains("\n| ==> r2 "), "{shown:?}");
        let forced = on_a_terminal(&root, &[fold, &["--raw"]].concat());
        assert!(forced.contains(raw), "{forced:?}");
    }
    assert!(
        root.run(&["run", "r1", "s"]).stdout.contains(raw),
        "redirected"
    );
}

fn names_are_harmless(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

#[test]
fn a_reader_that_stops_is_no_reason_to_hang() {
    // A request that the agent does not take: as large as requests may be, against a peer that
    // reads nothing after the handshake.
    let root = Root::new();
    root.configure("read_timeout = 1\n");
    let (identity, _) = root.agent_identity("deaf", 100);
    let address = listen(&identity, &root.ca_pem(), |mut tcp, config| {
        let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
        while tls.is_handshaking() {
            match tls.complete_io(&mut tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        thread::sleep(Duration::from_secs(60));
    });
    root.register("deaf", address);
    let argument = "x".repeat(100_000);
    let args: Vec<&str> = ["run", "deaf", "hello", "--"]
        .into_iter()
        .chain(std::iter::repeat_n(argument.as_str(), 9))
        .collect();
    let ended = within(LIMIT, "run", || root.run(&args));
    assert_eq!(ended.exit, 1, "{ended:?}");
    // The system's buffers may have taken all of it: then nobody can say that nothing runs.
    assert!(
        ended.stdout.contains("not reached") || ended.stdout.contains("may still be running"),
        "{ended:?}"
    );
}
