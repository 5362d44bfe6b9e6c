//! The HTTP API, as its client.

use crate::config::Config;
use crate::text::harmless;
use serde_json::{Map, Value, json};
use std::fmt;
use std::time::Duration;

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// How long the API may take to connect, and to answer what contacts no script.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the API did not do what was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// HTTP status; none where there was no answer.
    pub status: Option<u16>,
    /// What the API, or the connection, said; harmless to show.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "the ctrl-exec API refused it ({status}): {}", self.text),
            None => write!(f, "the ctrl-exec API cannot be reached: {}", self.text),
        }
    }
}

/// Who asks: the token goes with every request, in the header and, for hooks that look there, in the
/// body.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Caller {
    /// The token, unless there is none.
    pub token: Option<String>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "(secret)");
        f.debug_struct("Caller").field("token", &token).finish()
    }
}

/// A client of the API.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    username: Option<String>,
}

impl Api {
    /// A client for the API that `config` names.
    ///
    /// # Errors
    /// When the file with certificates cannot be read or used.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("ctrl-exec-mcp/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca {
            let fault =
                |error: &dyn fmt::Display| format!("CTRLEXEC_CA: {}: {error}", path.display());
            let pem = std::fs::read(path).map_err(|error| fault(&error))?;
            let trusted =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| fault(&error))?;
            if trusted.is_empty() {
                return Err(fault(&"holds no certificate"));
            }
            builder = builder.tls_certs_only(trusted);
        }
        let http = builder
            .build()
            .map_err(|error| format!("cannot make a client: {error}"))?;
        Ok(Self {
            http,
            base: config.api.clone(),
            username: config.username.clone(),
        })
    }

    /// Starts `method path` with the caller's token.
    fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        caller: &Caller,
    ) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &caller.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `body` with who asks.
    fn signed(&self, mut body: Map<String, Value>, caller: &Caller) -> Value {
        if let Some(token) = &caller.token {
            body.insert("token".to_owned(), json!(token));
        }
        if let Some(username) = &self.username {
            body.insert("username".to_owned(), json!(username));
        }
        Value::Object(body)
    }

    /// A `GET` with a JSON answer.
    ///
    /// # Errors
    /// What the API refused, or that it could not be reached.
    pub async fn get(&self, path: &str, caller: &Caller) -> Result<Value, Refusal> {
        let request = self
            .request(reqwest::Method::GET, path, caller)
            .timeout(PATIENCE);
        read(request.send().await.map_err(unreached)?).await
    }

    /// A `POST` with a JSON answer, within `limit`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(
        &self,
        path: &str,
        body: Map<String, Value>,
        caller: &Caller,
        limit: Duration,
    ) -> Result<Value, Refusal> {
        let request = self
            .request(reqwest::Method::POST, path, caller)
            .timeout(limit);
        let request = request.json(&self.signed(body, caller));
        read(request.send().await.map_err(unreached)?).await
    }

    /// Every host's scripts.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn discovery(&self, caller: &Caller) -> Result<Value, Refusal> {
        self.post("/discovery", Map::new(), caller, 4 * PATIENCE)
            .await
    }

    /// Starts a run. The answer is a stream of events, or JSON where the API has no events.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn run(
        &self,
        body: Map<String, Value>,
        caller: &Caller,
    ) -> Result<reqwest::Response, Refusal> {
        let request = self
            .request(reqwest::Method::POST, "/run", caller)
            .header(
                reqwest::header::ACCEPT,
                "text/event-stream, application/json;q=0.5",
            )
            .json(&self.signed(body, caller));
        let answer = request.send().await.map_err(unreached)?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(refused(answer).await)
        }
    }

    /// Ends a run on its agents.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn cancel(&self, reqid: &str, caller: &Caller) -> Result<Value, Refusal> {
        let mut body = Map::new();
        body.insert("reqid".to_owned(), json!(reqid));
        self.post("/cancel", body, caller, 2 * PATIENCE).await
    }
}

/// True for an answer that is a stream of events.
pub fn is_stream(answer: &reqwest::Response) -> bool {
    let kind = answer.headers().get(reqwest::header::CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// The JSON of an answer.
///
/// # Errors
/// As [`Api::get`].
pub async fn read(answer: reqwest::Response) -> Result<Value, Refusal> {
    if !answer.status().is_success() {
        return Err(refused(answer).await);
    }
    let status = answer.status().as_u16();
    let body = bounded(answer, MAX_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| Refusal {
        status: Some(status),
        text: format!("its answer is no JSON: {error}"),
    })
}

async fn bounded(mut answer: reqwest::Response, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unreached)? {
        if body.len() + piece.len() > limit {
            return Err(Refusal {
                status: None,
                text: format!("its answer is longer than {limit} bytes"),
            });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// What the body of a refusal says: `error`, `detail` and the rest of its members.
async fn refused(answer: reqwest::Response) -> Refusal {
    let status = Some(answer.status().as_u16());
    let reason = answer
        .status()
        .canonical_reason()
        .unwrap_or("no reason")
        .to_owned();
    let body = bounded(answer, 64 << 10).await.unwrap_or_default();
    let text = match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Object(body)) => {
            let mut text = String::new();
            for (name, value) in &body {
                let value = match value {
                    Value::Bool(_) => continue,
                    Value::String(value) => value.clone(),
                    other => other.to_string(),
                };
                if !text.is_empty() {
                    text.push_str("; ");
                }
                if name != "error" {
                    text.push_str(name);
                    text.push_str(": ");
                }
                text.push_str(&value);
            }
            if text.is_empty() { reason } else { text }
        }
        _ => reason,
    };
    Refusal {
        status,
        text: crate::text::capped(&harmless(&text), 2000).0,
    }
}

/// A connection that failed, with its innermost cause.
pub fn unreached(error: reqwest::Error) -> Refusal {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    Refusal {
        status: None,
        text: harmless(&text),
    }
}
