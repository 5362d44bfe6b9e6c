//! The dispatcher of 0.12.3 as agents see it: its HTTP library and its way with text.

use super::bytes_as_text;
use crate::ca::Leaf;
use crate::client::{Caller, split};
use ctrl_exec_protocol::json::Fields;

/// A dispatcher of 0.12.3 that calls one agent.
pub struct Dispatcher {
    caller: Caller,
}

/// What came of a call.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The JSON.
    pub body: String,
}

impl Dispatcher {
    /// One that shows this certificate.
    pub fn new(port: u16, leaf: &Leaf) -> Self {
        Self {
            caller: Caller::new(port, Some(leaf)),
        }
    }

    /// `run` with arguments as bytes of a command line. `more` are further members, such as
    /// `"async":true`.
    pub fn run(&self, script: &str, args: &[&[u8]], reqid: &str, more: &str) -> Answer {
        let args: Vec<String> = args.iter().map(|arg| bytes_as_text(arg)).collect();
        let mut body = Fields::with_room(4);
        body.text("token", "")
            .texts("args", &args)
            .text("username", "op")
            .text("reqid", reqid)
            .text("script", script);
        let mut body = body.finish();
        if !more.is_empty() {
            body.pop();
            body = format!("{body},{more}}}");
        }
        self.post("/run", &body)
    }

    /// Any `POST`, in the form that was recorded.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.send(&format!(
            "POST {path} HTTP/1.1\r\n{}Content-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
            self.head(),
            body.len()
        ))
    }

    /// Any `GET`.
    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\n{}\r\n", self.head()))
    }

    fn head(&self) -> String {
        format!(
            "TE: deflate,gzip;q=0.3\r\nConnection: TE, close\r\nHost: 127.0.0.1:{}\r\n\
             User-Agent: libwww-perl/6.68\r\n",
            self.caller.port
        )
    }

    fn send(&self, request: &str) -> Answer {
        let (status, body) = split(&self.caller.raw(request.as_bytes()).unwrap());
        Answer { status, body }
    }
}
