//! One request to one agent, and what came of it.

use super::error::{CallError, Fault};
use crate::model::Rate;
use ctrl_exec_protocol::capture::Captured;
use ctrl_exec_reactor::http::{Response, render_request};
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;

/// How an agent is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Route {
    /// A connection is made to it.
    Dial {
        /// Address literal or host name.
        address: String,
        /// TCP port.
        port: u16,
    },
}

/// Where one call goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Registry name; results are keyed by it.
    pub name: String,
    /// The way there.
    pub route: Route,
    /// Serial of ours that the agent confirmed last, or empty: while that is the one before a
    /// rotation, the old certificate is presented.
    pub knows: String,
    /// Whether the agent is known to be of release 0.12.3 or older.
    pub perl: bool,
    /// Whether it has an executor, where that is known.
    pub executor: Option<bool>,
    /// The name in the certificate that was paired; `None` where the record does not say.
    pub paired: Option<String>,
    /// What it can do beyond release 0.12.3, words with spaces between; `None` when it has not told.
    pub features: Option<String>,
    /// The pace set for it; `None`: the usual one.
    pub rate: Option<Rate>,
    /// Why it must not be called, or cannot be: the call ends with this before it begins.
    pub obstacle: Option<Fault>,
}

impl Target {
    /// The address literal or host name.
    pub fn address(&self) -> &str {
        let Route::Dial { address, .. } = &self.route;
        address
    }

    /// Whether it can do something beyond release 0.12.3, such as `cancel`; `None` when it has not
    /// told.
    pub fn can(&self, feature: &str) -> Option<bool> {
        let words = self.features.as_ref()?;
        Some(words.split(' ').any(|word| word == feature))
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        let Route::Dial { port, .. } = &self.route;
        *port
    }
}

/// The certificate and trust that a call is made with. Copies are the same identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What is shown, and what is trusted.
    pub config: Arc<ClientConfig>,
    /// What is shown instead, once, to an agent that refuses the serial of the first.
    pub other: Option<Arc<ClientConfig>>,
}

impl Identity {
    /// An identity without another.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self {
            config,
            other: None,
        }
    }

    /// The same, and another for agents that refuse it.
    #[must_use]
    pub fn or(mut self, other: Option<&Self>) -> Self {
        self.other = other.map(|other| Arc::clone(&other.config));
        self
    }

    /// Whether connections made with the one do for the other.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

/// One request to one agent.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where it goes.
    pub target: Target,
    /// Who we are.
    pub identity: Identity,
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path, such as `/run`.
    pub path: String,
    /// Body of a `POST`; shared by the calls of a fleet.
    pub body: Option<Arc<str>>,
    /// Whether the agent's certificate is wanted in the answer.
    pub want_certificate: bool,
    /// Whether the answer is a few lines ([`SMALL_ANSWER`](super::SMALL_ANSWER)), whatever the
    /// plan's limit.
    pub small_answer: bool,
    /// Whether the request may be sent a second time when a kept connection turns out to have
    /// been closed: it changes nothing, or the same thing again.
    pub repeatable: bool,
    /// Whether the answer may come in pieces, while the script runs.
    pub stream: bool,
}

impl Call {
    /// A `GET`.
    pub fn get(target: Target, identity: Identity, path: impl Into<String>) -> Self {
        Self {
            target,
            identity,
            method: "GET",
            path: path.into(),
            body: None,
            want_certificate: false,
            small_answer: false,
            repeatable: true,
            stream: false,
        }
    }

    /// A `POST` of a JSON body.
    pub fn post(
        target: Target,
        identity: Identity,
        path: impl Into<String>,
        body: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            method: "POST",
            body: Some(body.into()),
            repeatable: false,
            ..Self::get(target, identity, path)
        }
    }

    /// The same call, whose answer is at most [`SMALL_ANSWER`](super::SMALL_ANSWER) bytes.
    #[must_use]
    pub fn small(mut self) -> Self {
        self.small_answer = true;
        self
    }

    /// The same call, which may be sent again where a kept connection has gone.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// The bytes of the request.
    pub(super) fn bytes(&self, keep_alive: bool) -> Vec<u8> {
        let (address, port) = (self.target.address(), self.target.port());
        let host = if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        };
        let body = self.body.as_deref();
        render_request(self.method, &self.path, &host, body, keep_alive)
    }

    /// The answer of a call that failed.
    pub(super) fn failed(&self, fault: Fault, sent: bool, rtt: Duration) -> Answer {
        Answer {
            rtt,
            result: Err(CallError {
                sent,
                ..self.refusal(fault)
            }),
            certificate: None,
            output: None,
        }
    }

    /// Why this call was not made, or led to nothing.
    pub fn refusal(&self, fault: Fault) -> CallError {
        CallError {
            fault,
            sent: false,
            address: self.target.address().to_owned(),
            port: self.target.port(),
        }
    }
}

/// What came of a call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// From the first step to the last byte.
    pub rtt: Duration,
    /// The agent's response, of whatever status, or why there is none.
    pub result: Result<Response, CallError>,
    /// The agent's certificate, if it was wanted and the handshake got so far.
    pub certificate: Option<Vec<u8>>,
    /// Standard output and standard error, where the answer came in pieces: what was kept of them,
    /// also when it broke off.
    pub output: Option<Box<[Captured; 2]>>,
}

impl Answer {
    /// Whether it shows an agent of 0.12.3 that was not known as one: those speak HTTP/1.0. Ours,
    /// asked to keep the connection, answer in HTTP/1.1, but for what they say when they stop.
    pub fn shows_perl(&self, call: &Call) -> bool {
        let answered = self.result.as_ref();
        !call.target.perl
            && answered.is_ok_and(|response| response.status / 100 == 2 && response.is_http_10())
    }

    /// Bytes of the response.
    pub(super) fn size(&self) -> usize {
        let body = self.result.as_ref();
        let outputs = self.output.iter().flat_map(|outputs| outputs.iter());
        body.map_or(0, |response| response.body.len())
            + outputs
                .map(|output| output.head.len() + output.tail.len())
                .sum::<usize>()
    }
}
