//! A server of our own, and a client that believes nothing.

use crate::support::Root;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub const BIN: &str = env!("CARGO_BIN_EXE_ctrl-exec-api");
/// Generous: machines of tests are slow and loaded.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Api {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<(Mutex<String>, Condvar)>,
    document: Value,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Status, `error` and `detail`.
    pub fn fault(&self) -> (u16, String, String) {
        let body = self.json();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        (self.status, text("error"), text("detail"))
    }
}

pub fn command(root: &Root) -> Command {
    let mut command = Command::new(BIN);
    command
        .arg("--root")
        .arg(root.path("."))
        .env_remove("ENVEXEC_TOKEN")
        .stdin(Stdio::null());
    command
}

impl Api {
    /// Starts the server with these lines of configuration, on a port that the system chooses.
    pub fn start(root: &Root, more: &str) -> Self {
        root.configure(&format!("api_port = 0\n{more}"));
        Self::spawn(command(root))
    }

    /// The usual one: no hook, everybody is let in.
    pub fn open(root: &Root) -> Self {
        Self::start(root, "api_auth_default = allow\n")
    }

    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut text = kept.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                kept.1.notify_all();
            }
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.split_once("listening on ").and_then(|(_, rest)| {
            let (address, _) = rest.split_once(',')?;
            address.parse().ok()
        });
        let Some(address) = address else {
            let status = child.wait().unwrap();
            let text = log.0.lock().unwrap().clone();
            panic!("it did not start: {status} {line:?} {text}");
        };
        let document = Command::new(BIN).arg("--openapi").output().unwrap();
        Self {
            child,
            address,
            log,
            document: serde_json::from_slice(&document.stdout).unwrap(),
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What comes back for these bytes until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that refuses early may close before all is sent.
        let _ = stream.write_all(bytes);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let text = String::from_utf8(all).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Answer {
            status: status.unwrap_or_else(|| panic!("no HTTP: {text:?}")),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// A request, its answer checked against the document.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = match body {
            "" => String::new(),
            body => format!("Content-Length: {}\r\n", body.len()),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let answer = self.raw(format!("{head}{headers}{length}\r\n{body}").as_bytes());
        self.check(method, path, &answer);
        answer
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "", body)
    }

    /// An answer has to be one that the document tells of, with a body of its schema.
    pub fn check(&self, method: &str, path: &str, answer: &Answer) {
        let media = answer.header("Content-Type").unwrap_or_default();
        let schema = self.schema(method, path, answer.status, media);
        let Some(schema) = schema else {
            panic!("{method} {path}: not in the document: {answer:?}");
        };
        if media != "application/json" {
            return;
        }
        let whole = serde_json::json!({
            "allOf": [schema],
            "components": self.document["components"],
        });
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let body = answer.json();
        let faults: Vec<String> = validator
            .iter_errors(&body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            faults.is_empty(),
            "{method} {path}: {faults:?} in {answer:?}"
        );
    }

    fn schema(&self, method: &str, path: &str, status: u16, media: &str) -> Option<Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let bare = path.split_once('?').map_or(path, |(bare, _)| bare);
        let hex = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let found = paths
            .iter()
            .find(|(pattern, _)| match pattern.split_once('{') {
                None => *pattern == bare,
                Some((before, rest)) => {
                    let after = rest.split_once('}').unwrap().1;
                    let param = bare
                        .strip_prefix(before)
                        .and_then(|p| p.strip_suffix(after));
                    param.is_some_and(hex)
                }
            });
        let operation = found.and_then(|(_, item)| item.get(method.to_ascii_lowercase()));
        // A query where none is taken makes another path of it.
        let takes_query = |operation: &&Value| {
            let params = operation["parameters"].as_array();
            params.is_some_and(|params| params.iter().any(|param| param["in"] == "query"))
        };
        match operation.filter(|operation| bare == path || takes_query(operation)) {
            Some(operation) => {
                let response = &operation["responses"][status.to_string()];
                response["content"][media].get("schema").cloned()
            }
            // What is in no document cannot say what it answers.
            None => matches!(status, 400 | 403 | 404 | 405 | 413 | 431 | 503)
                .then(|| serde_json::json!({"$ref": "#/components/schemas/ErrorResponse"})),
        }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits until the log has these words.
    pub fn await_log(&self, words: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        let mut text = self.log.0.lock().unwrap();
        while !text.contains(words) {
            let left = limit.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{words} is not in {text}");
            text = self.log.1.wait_timeout(text, left).unwrap().0;
        }
        text.clone()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").arg(name).arg(pid).status().unwrap();
        assert!(done.success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> i32 {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < limit, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Memory that it has, in KiB.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that stays.
pub struct Kept {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Kept {
    pub fn new(api: &Api) -> Self {
        Self {
            stream: api.connect(),
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer.
    pub fn answer(&mut self) -> Answer {
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.more();
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec()).unwrap();
        let mut answer = Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: String::new(),
        };
        let length: usize = answer.header("Content-Length").unwrap().parse().unwrap();
        while self.buffer.len() < head_end + 4 + length {
            self.more();
        }
        let body = self.buffer[head_end + 4..head_end + 4 + length].to_vec();
        answer.body = String::from_utf8(body).unwrap();
        self.buffer.drain(..head_end + 4 + length);
        answer
    }

    fn more(&mut self) {
        let mut chunk = [0; 65_536];
        let read = self.stream.read(&mut chunk).unwrap();
        assert!(
            read > 0,
            "closed: {:?}",
            String::from_utf8_lossy(&self.buffer)
        );
        self.buffer.extend_from_slice(&chunk[..read]);
    }

    /// Whether the server has closed it, with nothing more said.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 16]), Ok(0) | Err(_))
    }
}
