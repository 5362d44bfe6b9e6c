//! The pairing listener over real sockets: the recorded requests of the reference's client, the
//! two answers on one connection, and every way in which a peer can be a nuisance.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ctrl_exec_dispatcher::ca::{CaDir, CaOptions, IdentityFiles, setup_ca, setup_dispatcher};
use ctrl_exec_dispatcher::pairing::{
    Console, Desk, Ended, Listener, ListenerOptions, Operator, Overrides, Queue, Queued, RateLimit,
};
use ctrl_exec_dispatcher::store::files::registry::Registry;
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::http::render_request;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::tls;
use ctrl_exec_protocol::wire::pairing::{Ack, Outcome, PairRequest};
use ctrl_exec_protocol::x509::keys::{self, KeyType, PrivateKey};
use ctrl_exec_protocol::x509::verify::system_clock;
use ctrl_exec_protocol::x509::{cert, csr, verify};
use ctrl_exec_reactor::Waker;
use ctrl_exec_testkit::json::{self, Object, Value};
use rustls::{ClientConnection, StreamOwned};

type Client = StreamOwned<ClientConnection, TcpStream>;

const PATIENCE: Duration = Duration::from_secs(60);

/// A dispatcher in a temporary directory.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("ctrl-exec-pairing-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let place = Self { dir };
        let authority = setup_ca(&place.ca(), &CaOptions::default(), Utc::now()).unwrap();
        let files = place.files();
        setup_dispatcher(
            &authority,
            &files,
            None,
            KeyType::EcdsaP256,
            825,
            Utc::now(),
        )
        .unwrap();
        place
    }

    fn ca(&self) -> CaDir {
        CaDir::new(self.dir.join("etc"))
    }

    fn files(&self) -> IdentityFiles {
        IdentityFiles::new(self.dir.join("etc/d.crt"), self.dir.join("etc/d.key"))
    }

    fn desk(&self) -> Desk {
        Desk {
            issued: ctrl_exec_dispatcher::store::files::issued::Issued::new(
                self.dir.join("issued"),
            ),
            root: ctrl_exec_host::paths::Root::at(self.dir.join("root")),
            queue: Queue::new(self.dir.join("pairing")),
            registry: Registry::new(self.dir.join("agents")),
            ca: self.ca(),
            cert: self.files().cert,
            dispatcher_id: "perl-disp".to_owned(),
        }
    }

    fn log(&self) -> Syslog {
        Syslog::open("test", &Root::at(&self.dir))
    }

    fn approve(&self, id: &str) -> String {
        let overrides = Overrides::default();
        self.desk()
            .approve(id, &overrides, &self.log(), Utc::now())
            .unwrap()
            .text()
    }

    fn pending(&self) -> Vec<Queued> {
        self.desk().queue.pending().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Watcher {
    events: Sender<String>,
    quit: Arc<AtomicBool>,
}

impl Operator for Watcher {
    fn arrived(&mut self, queued: &Queued) {
        let _ = self.events.send(format!("arrived {}", queued.hostname));
    }

    fn gone(&mut self, queued: &Queued, why: &str) {
        let _ = self.events.send(format!("gone {}: {why}", queued.hostname));
    }

    fn draining(&mut self, waiting: usize) {
        let _ = self.events.send(format!("draining {waiting}"));
    }

    fn input(&mut self) -> bool {
        self.quit.load(Ordering::Relaxed)
    }
}

/// A listener at work.
struct Running {
    address: SocketAddr,
    events: Receiver<String>,
    quit: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Ended>>,
}

impl Running {
    fn start(place: &Place, change: impl FnOnce(&mut ListenerOptions)) -> Self {
        let mut options = ListenerOptions {
            bind: "127.0.0.1:0".parse().unwrap(),
            rate: RateLimit {
                limit: 0,
                ..RateLimit::default()
            },
            poll: Duration::from_millis(20),
            ..ListenerOptions::default()
        };
        change(&mut options);
        let identity = place.files().load().unwrap();
        let listener = Listener::bind(options, &identity, place.desk().queue).unwrap();
        let (sender, events) = channel();
        let quit = Arc::new(AtomicBool::new(false));
        let (address, waker) = (listener.address(), listener.waker());
        let (mut watcher, log) = (
            Watcher {
                events: sender,
                quit: Arc::clone(&quit),
            },
            place.dir.clone(),
        );
        let thread = std::thread::spawn(move || {
            let log = Syslog::open("test", &Root::at(log));
            listener.run(&mut watcher, &log).unwrap()
        });
        Self {
            address,
            events,
            quit,
            waker,
            thread: Some(thread),
        }
    }

    fn event(&self) -> String {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    fn stop(&mut self) -> Ended {
        self.quit.store(true, Ordering::Relaxed);
        self.waker.wake().unwrap();
        self.join()
    }

    fn join(&mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

fn connect(address: SocketAddr) -> Client {
    let config = tls::pairing_client_config(&system_clock()).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = ClientConnection::new(config, tls::server_name("dispatcher")).unwrap();
    StreamOwned::new(client, socket)
}

/// One whole response: its head and its body. Empty when the peer closed first.
fn response(client: &mut Client) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8];
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return (String::from_utf8_lossy(&head).into_owned(), Vec::new()),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .expect("Content-Length")
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    (head, body)
}

fn post(body: &str) -> String {
    format!(
        "POST /pair HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn request(name: &str) -> PairRequest {
    let key = PrivateKey::from_pem(&keys::generate(KeyType::EcdsaP256).unwrap()).unwrap();
    PairRequest {
        hostname: name.to_owned(),
        csr: csr::create(&key, name).unwrap(),
        nonce: "00ff".to_owned(),
        ..PairRequest::default()
    }
}

/// Sends a request and returns its queue id with the open connection.
fn pair(address: SocketAddr, name: &str) -> (Client, String) {
    let mut client = connect(address);
    client
        .write_all(post(&request(name).render()).as_bytes())
        .unwrap();
    let (_, body) = response(&mut client);
    match Ack::parse(&body).unwrap() {
        Ack::Pending { reqid } => (client, reqid),
        Ack::Error { reason } => panic!("{reason}"),
    }
}

fn outcome(client: &mut Client) -> Outcome {
    Outcome::parse(&response(client).1).unwrap()
}

fn denied(reason: &str) -> Outcome {
    Outcome::Denied {
        reason: reason.to_owned(),
    }
}

/// The listener sends an answer before it clears the queue.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn recordings() -> Vec<Object> {
    let text = include_str!("fixtures/pairing-transcripts.json");
    let Value::Array(cases) = json::parse_value(text.as_bytes()).unwrap() else {
        panic!("no array")
    };
    cases
        .into_iter()
        .map(|case| match case {
            Value::Object(case) => case,
            _ => panic!("no object"),
        })
        .collect()
}

fn recorded(name: &str) -> Object {
    let found = recordings()
        .into_iter()
        .find(|case| json::str_of(case, "case") == Some(name));
    found.expect(name)
}

/// Head and members of a recorded response, whose member order is random.
fn parsed(response: &str) -> (String, Object) {
    let (head, body) = response.split_once("\r\n\r\n").expect(response);
    (
        head.to_owned(),
        json::parse_object(body.as_bytes()).unwrap(),
    )
}

#[test]
fn refusals_are_answered_as_recorded() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    for name in ["invalid hostname", "missing csr", "not json"] {
        let case = recorded(name);
        let mut client = connect(running.address);
        client
            .write_all(json::str_of(&case, "request").unwrap().as_bytes())
            .unwrap();
        let (head, body) = response(&mut client);
        let text = head + &String::from_utf8(body).unwrap();
        let theirs = json::str_of(&case, "first_response").unwrap();
        let (ours, theirs) = (parsed(&text), parsed(theirs));
        assert_eq!(ours.0, theirs.0, "{name}");
        assert_eq!(
            json::line(&Value::Object(ours.1)),
            json::line(&Value::Object(theirs.1))
        );
        assert_eq!(response(&mut client).0, "", "{name}: closed afterwards");
    }
    assert!(place.pending().is_empty());
}

#[test]
fn the_recorded_request_is_approved() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    let case = recorded("approved");
    let mut client = connect(running.address);
    client
        .write_all(json::str_of(&case, "request").unwrap().as_bytes())
        .unwrap();
    let (head, body) = response(&mut client);
    let theirs = parsed(json::str_of(&case, "first_response").unwrap());
    assert_eq!(head.trim_end(), theirs.0);
    let Ack::Pending { reqid } = Ack::parse(&body).unwrap() else {
        panic!()
    };
    assert_eq!(running.event(), "arrived router1.example");

    // The queue file says what theirs said.
    let queued = place.pending().remove(0);
    let Value::Object(file) = &case["queue_file"] else {
        panic!()
    };
    let text = |key: &str| json::text_of(file, key);
    assert_eq!(
        (
            queued.code.clone(),
            queued.csr.clone(),
            queued.nonce.clone()
        ),
        (text("code"), text("csr"), text("nonce"))
    );
    assert_eq!((queued.port, queued.lookup_by), (Some(7443), None));
    assert_eq!(
        (queued.ip.as_str(), queued.source_ip.as_str()),
        ("127.0.0.1", "127.0.0.1")
    );

    let said = place.approve(&reqid);
    let theirs = json::str_of(&case, "operator_output").unwrap();
    let mut ours = said.replace(&reqid, "d8e1eeea3bf5ffd8");
    if !queued.reverse_confirmed {
        // This machine has no name for 127.0.0.1; the recording's had.
        ours.push_str("    ctrl-exec-dispatcher edit-agent router1.example --rename localhost\n");
    }
    assert_eq!(ours, theirs);

    let (head, body) = response(&mut client);
    assert!(
        head.starts_with("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n"),
        "{head}"
    );
    let Outcome::Approved(approval) = Outcome::parse(&body).unwrap() else {
        panic!()
    };
    assert_eq!(approval.nonce, "00112233445566778899aabbccddeeff");
    assert_eq!(approval.dispatcher_id, "perl-disp");
    let leaf = cert::from_pem(&approval.cert).unwrap();
    let facts = verify::verify_leaf(&approval.ca, &leaf, Utc::now().0).unwrap();
    assert_eq!(facts.subject_cn.as_deref(), Some("router1.example"));
    assert_eq!(
        response(&mut client).0,
        "",
        "closed after the second answer"
    );
    eventually("queue cleaned up", || {
        std::fs::read_dir(place.desk().queue.dir()).unwrap().count() == 0
    });
}

#[test]
fn the_recorded_p256_request_is_approved_by_us_and_the_other_one_denied() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    for (name, approve) in [("P-256 CSR, approve", true), ("denied", false)] {
        let case = recorded(name);
        let mut client = connect(running.address);
        client
            .write_all(json::str_of(&case, "request").unwrap().as_bytes())
            .unwrap();
        let Ack::Pending { reqid } = Ack::parse(&response(&mut client).1).unwrap() else {
            panic!()
        };
        if approve {
            place.approve(&reqid);
            assert!(matches!(outcome(&mut client), Outcome::Approved(_)));
        } else {
            place.desk().deny(&reqid, &place.log()).unwrap();
            let (head, body) = response(&mut client);
            let theirs = parsed(json::str_of(&case, "second_response").unwrap());
            assert_eq!(head.trim_end(), theirs.0);
            assert_eq!(
                Outcome::parse(&body).unwrap(),
                denied("rejected by operator")
            );
        }
    }
}

/// The reference's client: a bare TCP probe, then one request with everything in it.
#[test]
fn the_references_client_is_served() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    drop(TcpStream::connect(running.address).unwrap());
    let case = recorded("reference client: what it sends (a bare TCP probe comes first)");
    let Value::Array(connections) = &case["connections"] else {
        panic!()
    };
    let Value::String(bytes) = &connections[1] else {
        panic!()
    };
    let mut client = connect(running.address);
    client.write_all(bytes.as_bytes()).unwrap();
    let Ack::Pending { reqid } = Ack::parse(&response(&mut client).1).unwrap() else {
        panic!()
    };
    let queued = place.pending().remove(0);
    assert_eq!(
        (queued.hostname.as_str(), queued.code.as_str()),
        ("vm", "829186")
    );
    place.approve(&reqid);
    let Outcome::Approved(approval) = outcome(&mut client) else {
        panic!()
    };
    let leaf = cert::facts_from_pem(&approval.cert).unwrap();
    assert_eq!(leaf.key, cert::KeyKind::Rsa { bits: 4096 });
    // How it asked tells what it is.
    let record = place.desk().registry.require("vm").unwrap();
    assert!(record.is_perl(), "{}", record.to_json());
}

#[test]
fn an_agent_that_names_the_host_is_not_of_0_12_3() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    let body = request("new").render();
    let host = "dispatcher:7444";
    // Who goes away is withdrawn.
    let mut held = Vec::new();
    for (name, bytes) in [
        (
            "1.1 with Host",
            render_request("POST", "/pair", host, Some(&body), false),
        ),
        (
            "1.0 with Host",
            post(&body)
                .replace("\r\n\r\n", "\r\nHost: d\r\n\r\n")
                .into_bytes(),
        ),
    ] {
        let mut client = connect(running.address);
        client.write_all(&bytes).unwrap();
        response(&mut client);
        held.push(client);
        let queued = place.pending();
        assert!(queued.iter().all(|queued| !queued.perl), "{name}");
    }
    assert_eq!(place.pending().len(), 2);
}

#[test]
fn split_bodies_are_read_whole() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    let text = post(&request("a").render());
    let mut client = connect(running.address);
    // The reference would read the first record only.
    for piece in text.as_bytes().chunks(100) {
        client.write_all(piece).unwrap();
        client.flush().unwrap();
    }
    assert!(matches!(
        Ack::parse(&response(&mut client).1).unwrap(),
        Ack::Pending { .. }
    ));
}

#[test]
fn bodies_at_and_over_the_limit() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    let base = request("big").render();
    let padded = |length: usize| {
        let pad = length - base.len() - r#","x":"""#.len();
        let mut text = base.clone();
        text.pop();
        format!("{text},\"x\":\"{}\"}}", "y".repeat(pad))
    };
    let mut client = connect(running.address);
    client.write_all(post(&padded(65_536)).as_bytes()).unwrap();
    assert!(matches!(
        Ack::parse(&response(&mut client).1).unwrap(),
        Ack::Pending { .. }
    ));
    let mut client = connect(running.address);
    client.write_all(post(&padded(65_537)).as_bytes()).unwrap();
    let ack = Ack::parse(&response(&mut client).1).unwrap();
    assert_eq!(
        ack,
        Ack::Error {
            reason: "request too large".to_owned()
        }
    );
    // As recorded, with nothing but the length: the answer is not lost to a reset.
    let mut client = connect(running.address);
    client
        .write_all(b"POST /pair HTTP/1.0\r\nContent-Length: 70000\r\n\r\n")
        .unwrap();
    client.write_all(&[b'x'; 30_000]).unwrap();
    let ack = Ack::parse(&response(&mut client).1).unwrap();
    assert_eq!(
        ack,
        Ack::Error {
            reason: "request too large".to_owned()
        }
    );
}

#[test]
fn odd_requests_get_an_answer() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    let fine = request("a").render();
    for (text, expected) in [
        (post("[1,2]"), Some("invalid request")),
        (
            post("{\"csr\":\"0\",\"hostname\":\"a\"}"),
            Some("invalid request"),
        ),
        (
            "POST /pair HTTP/1.0\r\n\r\n".to_owned(),
            Some("invalid request"),
        ),
        ("\r\n\r\n".to_owned(), Some("invalid request")),
        // Method, path and version do not matter.
        (
            post(&fine).replace("POST /pair HTTP/1.0", "GET /else HTTP/1.1"),
            None,
        ),
    ] {
        let mut client = connect(running.address);
        client.write_all(text.as_bytes()).unwrap();
        let body = response(&mut client).1;
        match (Ack::parse(&body).unwrap(), expected) {
            (Ack::Error { reason }, Some(expected)) => assert_eq!(reason, expected, "{text}"),
            (Ack::Pending { .. }, None) => {}
            (ack, _) => panic!("{text}: {ack:?}"),
        }
    }
}

#[test]
fn a_decision_written_by_a_foreign_process_is_sent_unchanged() {
    let place = Place::new();
    let running = Running::start(&place, |_| {});
    let (mut client, reqid) = pair(running.address, "a");
    let bytes = "{\"status\":\"approved\",  \"cert\":\"x\",\"odd\":1}";
    let path = place.desk().queue.dir().join(format!("{reqid}.approved"));
    std::fs::write(path.with_extension("tmp"), bytes).unwrap();
    std::fs::rename(path.with_extension("tmp"), path).unwrap();
    assert_eq!(response(&mut client).1, bytes.as_bytes());
}

#[test]
fn the_queue_is_limited_and_freed_when_an_agent_goes() {
    let place = Place::new();
    let running = Running::start(&place, |options| options.max_queue = 2);
    let (first, _) = pair(running.address, "a");
    let (_second, _) = pair(running.address, "b");
    let refused = || {
        let mut client = connect(running.address);
        client
            .write_all(post(&request("c").render()).as_bytes())
            .unwrap();
        Ack::parse(&response(&mut client).1).unwrap()
    };
    assert_eq!(
        refused(),
        Ack::Error {
            reason: "pairing queue full".to_owned()
        }
    );
    drop(first);
    assert_eq!(running.event(), "arrived a");
    assert_eq!(running.event(), "arrived b");
    assert_eq!(running.event(), "gone a: the agent closed the connection");
    assert!(matches!(refused(), Ack::Pending { .. }));
}

/// Connects from another address of this host.
fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let made = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&made, &SocketAddr::from((source, 0))).unwrap();
    connect(&made, &address).unwrap();
    let stream = TcpStream::from(made);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn pair_from(source: [u8; 4], address: SocketAddr, name: &str) -> (Client, Ack) {
    let config = tls::pairing_client_config(&system_clock()).unwrap();
    let client = ClientConnection::new(config, tls::server_name("dispatcher")).unwrap();
    let mut client = StreamOwned::new(client, connect_from(source, address));
    client
        .write_all(post(&request(name).render()).as_bytes())
        .unwrap();
    let ack = Ack::parse(&response(&mut client).1).unwrap();
    (client, ack)
}

#[test]
fn one_address_cannot_fill_the_queue() {
    let place = Place::new();
    let mut running = Running::start(&place, |_| {});
    let mut greedy: Vec<Client> = (0..10)
        .map(|n| pair_from([127, 0, 0, 2], running.address, &format!("greedy{n}")))
        .map(|(client, ack)| {
            assert!(matches!(ack, Ack::Pending { .. }));
            client
        })
        .collect();
    let (_, ack) = pair_from([127, 0, 0, 2], running.address, "greedy-more");
    assert!(matches!(ack, Ack::Error { .. }), "its own queue is full");
    // Somebody else gets a place, and the latest of the many gives way.
    let (mut honest, ack) = pair_from([127, 0, 0, 3], running.address, "honest");
    let Ack::Pending { reqid } = ack else {
        panic!("{ack:?}")
    };
    let mut last = greedy.pop().unwrap();
    let (_, body) = response(&mut last);
    assert!(matches!(Ack::parse(&body), Ok(Ack::Error { .. })));
    let names: Vec<String> = place.pending().into_iter().map(|q| q.hostname).collect();
    assert_eq!(names.len(), 10);
    assert!(names.contains(&"honest".to_owned()) && !names.contains(&"greedy9".to_owned()));
    place.approve(&reqid);
    assert!(matches!(outcome(&mut honest), Outcome::Approved(_)));
    assert_eq!(running.stop(), Ended::Stopped);
}

#[test]
fn thirteen_addresses_cannot_fill_the_slots() {
    let place = Place::new();
    let running = Running::start(&place, |options| {
        options.handshake = Duration::from_secs(120);
        options.rate = RateLimit::default();
    });
    // Ten each is what the rate limit lets through; all stay open and silent.
    let idle: Vec<TcpStream> = (0..13)
        .flat_map(|n| (0..10).map(move |_| n))
        .map(|n| connect_from([127, 0, 1, n], running.address))
        .collect();
    // Two honest agents, one after the other, of addresses of their own.
    for n in 0..2 {
        let (_, ack) = pair_from([127, 0, 2, n], running.address, "honest");
        assert!(matches!(ack, Ack::Pending { .. }), "{ack:?}");
    }
    drop(idle);
}

#[test]
fn codes_are_limited() {
    let place = Place::new();
    let running = Running::start(&place, |options| options.max_queue = 2);
    let mut shown = 0;
    for n in 0..8 {
        let (client, ack) = pair_from([127, 0, 0, 2], running.address, &format!("a{n}"));
        if matches!(ack, Ack::Pending { .. }) {
            shown += 1;
        }
        drop(client);
        eventually("withdrawn", || place.pending().is_empty());
    }
    assert_eq!(shown, 4, "twice the length of the queue");
    let (_, ack) = pair_from([127, 0, 0, 3], running.address, "other");
    assert!(matches!(ack, Ack::Pending { .. }));
}

#[test]
fn nobody_decides_in_time() {
    let place = Place::new();
    let running = Running::start(&place, |o| o.approval = Duration::from_millis(100));
    let (mut client, _) = pair(running.address, "a");
    assert_eq!(outcome(&mut client), denied("approval timeout"));
    eventually("queue cleaned up", || place.pending().is_empty());
}

#[test]
fn too_many_connections_of_one_address_are_refused_without_a_byte() {
    let place = Place::new();
    let rate = RateLimit {
        limit: 3,
        ..RateLimit::default()
    };
    let running = Running::start(&place, |options| options.rate = rate);
    for _ in 0..3 {
        let mut client = connect(running.address);
        client.write_all(post("x").as_bytes()).unwrap();
        assert!(!response(&mut client).1.is_empty());
    }
    let mut socket = TcpStream::connect(running.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0u8];
    assert!(matches!(socket.read(&mut byte), Ok(0) | Err(_)));
}

#[test]
fn silent_and_garbage_peers_hold_nobody_up() {
    let place = Place::new();
    let running = Running::start(&place, |options| {
        options.handshake = Duration::from_millis(300);
        options.request = Duration::from_millis(300);
        options.max_conns = 40;
    });
    let silent: Vec<TcpStream> = (0..15)
        .map(|_| TcpStream::connect(running.address).unwrap())
        .collect();
    for socket in &silent[..5] {
        let _ = (&*socket).write_all(b"GARBAGE\r\n\r\n");
    }
    let mut halfway = connect(running.address);
    halfway
        .write_all(b"POST /pair HTTP/1.0\r\nContent-Le")
        .unwrap();
    let (mut client, reqid) = pair(running.address, "a");
    place.approve(&reqid);
    assert!(matches!(outcome(&mut client), Outcome::Approved(_)));
    // Each of them is sent away when its time is over.
    for socket in silent {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        let _ = (&socket).read_to_end(&mut all);
    }
    let mut rest = Vec::new();
    let _ = halfway.read_to_end(&mut rest);
}

#[test]
fn after_the_session_those_who_wait_may_still_be_approved() {
    let place = Place::new();
    let mut running = Running::start(&place, |o| o.session = Duration::from_secs(2));
    let (mut client, reqid) = pair(running.address, "a");
    assert_eq!(running.event(), "arrived a");
    assert_eq!(running.event(), "draining 1");
    assert!(
        TcpStream::connect(running.address).is_err(),
        "the port is closed"
    );
    place.approve(&reqid);
    assert!(matches!(outcome(&mut client), Outcome::Approved(_)));
    drop(client);
    assert_eq!(running.join(), Ended::Timeout);
}

#[test]
fn a_stop_tells_those_who_wait() {
    let place = Place::new();
    let mut running = Running::start(&place, |_| {});
    let (mut client, _) = pair(running.address, "a");
    let began = Instant::now();
    let reader = std::thread::spawn(move || outcome(&mut client));
    assert_eq!(running.stop(), Ended::Stopped);
    assert_eq!(reader.join().unwrap(), denied("pairing mode stopped"));
    assert!(began.elapsed() < PATIENCE);
    assert!(place.pending().is_empty());
}

#[test]
fn a_port_in_use_is_said() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ListenerOptions {
        bind: taken.local_addr().unwrap(),
        ..Default::default()
    };
    let identity = place.files().load().unwrap();
    let error = Listener::bind(options, &identity, place.desk().queue)
        .err()
        .unwrap();
    assert!(
        error.to_string().starts_with("cannot listen on 127.0.0.1:"),
        "{error}"
    );
}

#[test]
fn the_console_approves_and_quits() {
    let place = Place::new();
    let options = ListenerOptions {
        bind: "127.0.0.1:0".parse().unwrap(),
        poll: Duration::from_millis(20),
        ..ListenerOptions::default()
    };
    let identity = place.files().load().unwrap();
    let listener = Listener::bind(options, &identity, place.desk().queue).unwrap();
    let address = listener.address();
    let (keyboard, mut typing) = UnixStream::pair().unwrap();
    let (mut screen_reader, screen) = UnixStream::pair().unwrap();
    let console = Console::start(
        place.desk(),
        place.log(),
        std::io::BufReader::new(keyboard),
        listener.waker(),
        screen,
    );
    let mut console = console.unwrap();
    let dir = place.dir.clone();
    let session = std::thread::spawn(move || {
        let log = Syslog::open("test", &Root::at(dir));
        listener.run(&mut console, &log).unwrap()
    });
    let (mut client, reqid) = pair(address, "a");
    typing.write_all(b"a\n").unwrap();
    assert!(matches!(outcome(&mut client), Outcome::Approved(_)));
    typing.write_all(b"q\n").unwrap();
    assert_eq!(session.join().unwrap(), Ended::Stopped);
    let mut text = String::new();
    screen_reader.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("Pairing request from a") && text.contains(&reqid),
        "{text}"
    );
    assert!(text.contains("Approved 'a'"), "{text}");
    eventually("queue cleaned up", || {
        place.desk().queue.decision(&reqid).is_none()
    });
}
