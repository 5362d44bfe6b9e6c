//! An agent of 0.12.3 (docs/compat/agent.md): its checks in their order, its two ways with text,
//! and the ends that its connections find.

use super::tls::{Lost, Stream};
use super::{bytes_as_text, response, text_as_bytes};
use crate::json::{self, Object, Value};
use ctrl_exec_protocol::json::Fields;
use ctrl_exec_protocol::tls::{self, Identity};
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::verify::{ChainVerifier, system_clock};
use ctrl_exec_protocol::{serial, wire};
use rustls::ServerConfig;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Header lines that are read (agent.md §1.2).
const HEADERS: usize = 32;
/// Largest body.
const BODY: i64 = 1_048_576;
/// How late each of the two session tickets is.
const LATE: Duration = Duration::from_millis(20);

/// What a script made of its arguments.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Exit status.
    pub exit: i64,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

type Script = Arc<dyn Fn(&[Vec<u8>]) -> Output + Send + Sync>;

/// An agent that is being set up.
pub struct AgentBuilder {
    config: Arc<ServerConfig>,
    state: State,
}

/// A running agent of 0.12.3; its threads live as long as the process.
pub struct Agent {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    host: String,
    version: String,
    executor: bool,
    /// So many connections of one address within so long.
    volume: Option<(usize, Duration)>,
    scripts: BTreeMap<String, Script>,
    revoked: Mutex<HashSet<String>>,
    arrivals: Mutex<HashMap<IpAddr, VecDeque<Instant>>>,
    results: Mutex<HashMap<String, String>>,
    /// Arguments as the scripts had them.
    ran: Mutex<Vec<Vec<Vec<u8>>>>,
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    alive: AtomicBool,
}

impl AgentBuilder {
    /// An agent in direct mode, with the release's default limit of 10 connections in 60 s.
    pub fn new(identity: &Identity, ca_pem: &str) -> Self {
        let trust = Arc::new(ChainVerifier::from_pem(ca_pem).unwrap());
        let config = tls::agent_server_config(identity, trust, &system_clock()).unwrap();
        let mut config = (*config).clone();
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
        config.send_tls13_tickets = 2;
        let state = State {
            host: "vm".into(),
            version: "0.12.3".into(),
            executor: false,
            volume: Some((10, Duration::from_secs(60))),
            scripts: BTreeMap::new(),
            revoked: Mutex::default(),
            arrivals: Mutex::default(),
            results: Mutex::default(),
            ran: Mutex::default(),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            alive: AtomicBool::new(true),
        };
        Self {
            config: Arc::new(config),
            state,
        }
    }

    /// With the executor: bytes instead of text, and no async runs.
    #[must_use]
    pub fn executor(mut self) -> Self {
        self.state.executor = true;
        self
    }

    /// With another limit of connections, or with none.
    #[must_use]
    pub fn volume(mut self, volume: Option<(usize, Duration)>) -> Self {
        self.state.volume = volume;
        self
    }

    /// With a script.
    #[must_use]
    pub fn script(
        mut self,
        name: &str,
        script: impl Fn(&[Vec<u8>]) -> Output + Send + Sync + 'static,
    ) -> Self {
        self.state.scripts.insert(name.into(), Arc::new(script));
        self
    }

    /// Starts it on a loopback address.
    pub fn start(self) -> Agent {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (config, state) = (self.config, Arc::new(self.state));
        let agent = Agent {
            address,
            state: Arc::clone(&state),
        };
        std::thread::spawn(move || {
            serve(&listener, &config, &state);
            state.alive.store(false, Ordering::SeqCst);
        });
        agent
    }
}

impl Agent {
    /// Puts a serial on its list of revoked ones.
    pub fn revoke(&self, serial: &str) {
        let serial = serial::canonical(serial);
        self.state.revoked.lock().unwrap().insert(serial);
    }

    /// Whether its process still accepts: a failed handshake ends it.
    pub fn is_alive(&self) -> bool {
        self.state.alive.load(Ordering::SeqCst)
    }

    /// The arguments of every script that ran, as it had them.
    pub fn ran(&self) -> Vec<Vec<Vec<u8>>> {
        self.state.ran.lock().unwrap().clone()
    }

    /// Method and path of every request that was read.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

/// The process that accepts: handshake, limit, then a child for each connection.
fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, state: &Arc<State>) {
    for tcp in listener.incoming().flatten() {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let Ok(peer) = tcp.peer_addr() else { return };
        let stream = match Stream::accept(tcp, config, LATE) {
            Ok(stream) => stream,
            // A failed accept is taken for a fatal one (agent.md, Q-1).
            Err(Lost::Handshake) => return,
            Err(Lost::Pipe(_)) => continue,
        };
        if !state.admits(peer.ip()) {
            // Without a word, not even of TLS.
            drop(stream);
            continue;
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || state.child(stream));
    }
}

impl State {
    fn admits(&self, peer: IpAddr) -> bool {
        let Some((most, window)) = self.volume else {
            return true;
        };
        let mut arrivals = self.arrivals.lock().unwrap();
        let times = arrivals.entry(peer).or_default();
        let now = Instant::now();
        while times
            .front()
            .is_some_and(|time| now.duration_since(*time) > window)
        {
            times.pop_front();
        }
        if times.len() >= most {
            return false;
        }
        times.push_back(now);
        true
    }

    fn child(&self, mut stream: Stream) {
        let serial = stream
            .peer_certificate()
            .and_then(|der| cert::facts(der).ok())
            .map(|facts| serial::canonical(&facts.serial_hex))
            .unwrap_or_default();
        let answer = if self.revoked.lock().unwrap().contains(&serial) {
            // Said before the request is read.
            Some((403, r#"{"error":"certificate revoked"}"#.to_owned()))
        } else {
            self.request(&mut stream)
        };
        // No answer: the child died, and its socket is closed as it is.
        if let Some((status, body)) = answer {
            stream.send(&response(status, &body));
            stream.close();
        }
    }

    fn request(&self, stream: &mut Stream) -> Option<(u16, String)> {
        let error = |status, text: &str| Some((status, wire::messages::error_body(text)));
        let Some(line) = stream.line() else {
            return error(400, "empty request");
        };
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (mut lines, mut length) = (0, 0_i64);
        while let Some(line) = stream.line().filter(|line| !line.is_empty()) {
            lines += 1;
            if lines > HEADERS {
                return error(431, "too many headers");
            }
            if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim_start().parse().unwrap_or(0);
                }
            }
        }
        if length > BODY {
            return error(413, "request too large");
        }
        // A negative length kills the child.
        let length = usize::try_from(length).ok()?;
        let body = match length {
            0 => Vec::new(),
            length => stream.sysread(length),
        };
        let requests = &self.requests;
        requests.lock().unwrap().push(format!("{method} {path}"));
        self.answer(method, path, &body)
    }

    /// `None` is a child that died.
    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        if let ("GET", Some(reqid)) = (method, path.strip_prefix("/result/")) {
            return Some(match self.results.lock().unwrap().get(reqid) {
                Some(record) => (200, record.clone()),
                None => (404, format!(r#"{{"status":"unknown","reqid":"{reqid}"}}"#)),
            });
        }
        match (method, path) {
            ("POST", "/run") => self.run(body),
            ("POST", "/ping") => {
                let reqid = wire::messages::reqid_of(body);
                let body = Fields::with_room(4)
                    .text("version", &self.version)
                    .flag("staged", false)
                    .text("reqid", &reqid)
                    .text("expiry", "Feb 24 13:29:34 2099 GMT")
                    .text("status", "ok")
                    .text("host", &self.host)
                    .finish();
                Some((200, body))
            }
            ("GET", "/capabilities") => Some((200, self.capabilities())),
            _ => Some((404, wire::messages::error_body("not found"))),
        }
    }

    fn capabilities(&self) -> String {
        let scripts: Vec<String> = self
            .scripts
            .keys()
            .map(|name| {
                Fields::with_room(4)
                    .text("profile", "default")
                    .text("path", &format!("/opt/ctrl-exec-scripts/{name}"))
                    .flag("executable", true)
                    .text("name", name)
                    .finish()
            })
            .collect();
        Fields::with_room(4)
            .raw("scripts", &format!("[{}]", scripts.join(",")))
            .raw("tags", "{}")
            .text("host", &self.host)
            .text("version", &self.version)
            .text("status", "ok")
            .finish()
    }

    fn run(&self, body: &[u8]) -> Option<(u16, String)> {
        let Some(request) = json::parse_object(body) else {
            // What one read has cut is no JSON either.
            return Some((200, r#"{"exit":-1,"error":"invalid JSON"}"#.into()));
        };
        let (name, reqid) = (
            json::text_of(&request, "script"),
            json::text_of(&request, "reqid"),
        );
        let refusal = |error: &str| {
            let body = Fields::with_room(4)
                .integer("exit", -1)
                .text("error", error)
                .text("reqid", &reqid)
                .text("script", &name)
                .finish();
            Some((200, body))
        };
        let Some(script) = self.scripts.get(&name) else {
            return refusal("script not permitted");
        };
        let detached = !matches!(json::text_of(&request, "async").as_str(), "" | "0");
        if detached && self.executor {
            return refusal(
                "async runs are not yet supported with the executor (privilege separation); run \
                 synchronously",
            );
        }
        let args = self.arguments(&request)?;
        self.ran.lock().unwrap().push(args.clone());
        let output = script(&args);
        if detached {
            let (stdout, stderr) = (self.text(output.stdout), self.text(output.stderr));
            // What is no UTF-8 kills the job, and its record says that it runs for ever.
            let record = match (stdout, stderr) {
                (Some(stdout), Some(stderr)) => Fields::with_room(4)
                    .text("status", "done")
                    .integer("exit", output.exit)
                    .text("stdout", &stdout)
                    .text("stderr", &stderr)
                    .finish(),
                _ => r#"{"status":"running"}"#.into(),
            };
            self.results.lock().unwrap().insert(reqid.clone(), record);
            let body = Fields::with_room(4)
                .text("reqid", &reqid)
                .text("status", "accepted")
                .text("script", &name)
                .finish();
            return Some((202, body));
        }
        let body = Fields::with_room(4)
            .text("stderr", &self.text(output.stderr)?)
            .integer("exit", output.exit)
            .text("script", &name)
            .text("stdout", &self.text(output.stdout)?)
            .text("reqid", &reqid)
            .finish();
        Some((200, body))
    }

    /// Arguments as a script gets them: the executor is sent one byte for each character and dies
    /// of one that is no byte; `exec` of a direct child is given UTF-8.
    fn arguments(&self, request: &Object) -> Option<Vec<Vec<u8>>> {
        let Some(Value::Array(args)) = request.get("args") else {
            return Some(Vec::new());
        };
        let args: Vec<String> = args.iter().map(json::scalar_text).collect::<Option<_>>()?;
        args.iter()
            .map(|arg| match self.executor {
                true => text_as_bytes(arg),
                false => Some(arg.clone().into_bytes()),
            })
            .collect()
    }

    /// Output as it goes into JSON.
    fn text(&self, output: Vec<u8>) -> Option<String> {
        match self.executor {
            true => Some(bytes_as_text(&output)),
            false => String::from_utf8(output).ok(),
        }
    }
}
