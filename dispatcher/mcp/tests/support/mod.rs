//! A fake HTTP API, and a client that speaks the protocol with the real bridge.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Patience with a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A request that the fake API got.
#[derive(Clone, Debug)]
pub struct Asked {
    pub line: String,
    pub token: Option<String>,
    pub body: Value,
}

/// What the fake API answers.
pub enum Reply {
    Json(u16, Value),
    /// Events; each waits for its gate, if it has one.
    Events(Vec<(&'static str, Value)>, Option<Receiver<()>>),
}

/// An HTTP API whose answers a test decides.
pub struct FakeApi {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeApi {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { address, asked }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn lines(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|a| a.line.clone())
            .collect()
    }

    /// The bodies of requests to `path`.
    pub fn bodies(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        let to = asked.iter().filter(|a| a.line.ends_with(path));
        to.map(|a| a.body.clone()).collect()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers
            .get("content-length")
            .map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let asked = Asked {
            line: line.trim_end().trim_end_matches(" HTTP/1.1").to_owned(),
            token: headers.get("authorization").cloned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        log.lock().unwrap().push(asked.clone());
        match answer(&asked) {
            Reply::Json(status, body) => {
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes());
            }
            Reply::Events(events, gate) => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hello\n\n";
                let _ = stream.write_all(head.as_bytes());
                let count = events.len();
                for (n, (name, data)) in events.into_iter().enumerate() {
                    if let Some(gate) = gate.as_ref().filter(|_| n + 1 == count) {
                        let _ = gate.recv_timeout(PATIENCE);
                    }
                    let _ = stream.write_all(format!("event: {name}\ndata: {data}\n\n").as_bytes());
                }
                return;
            }
        }
    }
}

/// A fleet of three hosts: `load` with a schema on two of them, `plain` on all.
pub fn fleet() -> Value {
    let load = json!({"name": "load", "path": "/opt/load", "executable": true, "schema_version": "1", "schema": {
        "version": "1", "description": "Shows the load.", "read_only": true,
        "arguments": {"type": "object", "properties": {"minutes": {"type": "integer", "minimum": 1}, "hosts": {"type": "string"}}, "additionalProperties": false},
        "argv": [{"arg": "minutes", "flag": "-m"}, {"arg": "hosts"}],
    }});
    let plain = json!({"name": "plain", "path": "/opt/plain", "executable": true});
    json!({"ok": true, "hosts": {
        "r1": {"host": "r1", "status": "ok", "tags": {"site": "lab"}, "scripts": [load, plain]},
        "r2": {"host": "r2", "status": "ok", "tags": {"site": "hill"}, "scripts": [load, plain]},
        "r3": {"host": "r3", "status": "ok", "tags": {}, "scripts": [plain]},
    }})
}

/// The bridge on standard input and output, and what it said.
pub struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Value>,
    next: u64,
    /// Messages that were no answer to what was asked.
    pub told: Vec<Value>,
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctrl-exec-mcp"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CTRLEXEC_")) {
        command.env_remove(name);
    }
    command
}

impl Bridge {
    pub fn start(api: &str, more: &[(&str, &str)]) -> Self {
        let mut command = program();
        command
            .env("CTRLEXEC_API_URL", api)
            .envs(more.iter().copied());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, output): (Sender<Value>, _) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let message = serde_json::from_str(&line).unwrap_or(json!({ "no json": line }));
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            output,
            next: 1,
            told: Vec::new(),
        }
    }

    pub fn line(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
        input.flush().unwrap();
    }

    /// Sends a request; its id.
    pub fn send(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.line(
            &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string(),
        );
        id
    }

    pub fn notify(&mut self, method: &str, params: Value) {
        self.line(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string());
    }

    /// The next message.
    pub fn receive(&mut self) -> Value {
        self.output
            .recv_timeout(PATIENCE)
            .expect("a message from the bridge")
    }

    /// The answer to `id`; what else comes is kept in `told`.
    pub fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.receive();
            if message.get("id") == Some(&json!(id)) && message.get("method").is_none() {
                return message;
            }
            self.told.push(message);
        }
    }

    pub fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        self.answer(id)
    }

    /// Opens a session of a revision that has them.
    pub fn initialize(&mut self, revision: &str) -> Value {
        let answer = self.ask("initialize", json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}));
        self.notify("notifications/initialized", json!({}));
        answer
    }

    /// Ends the input, and waits for the end of the program.
    pub fn end(mut self) -> std::process::ExitStatus {
        self.input = None;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the bridge does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `params` of a request in revision 2026-07-28.
pub fn today(mut params: Value, capabilities: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    params
}
