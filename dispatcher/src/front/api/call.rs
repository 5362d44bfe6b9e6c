//! One request as routes see it: read once, checked as far as all have it in common.

use super::app::App;
use super::reply::Reply;
use crate::tasks::auth::Permit;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::http::Request;
use ctrl_exec_protocol::json::{Bounds, Members, Raw, Scalar};
use ctrl_exec_protocol::time::Utc;
use std::net::IpAddr;
use std::sync::Arc;

/// A fleet's worth of hosts and arguments; a body of 1 MiB could make much more of itself.
const BOUNDS: Bounds = Bounds {
    max_nodes: 200_000,
    max_depth: 32,
};

/// Hosts of one request. The reference has 500, and dies of more.
const MAX_HOSTS: usize = 20_000;

/// The body of a request.
#[derive(Debug)]
pub enum Body {
    /// There is none. `0` counts as none, as in the reference.
    Missing,
    /// It is no JSON object.
    Bad,
    /// The members.
    Object(Members),
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// What everything works with.
    pub app: Arc<App>,
    /// The method, in capitals.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
    /// The part of the path that a route's `{…}` stands for.
    pub param: String,
    /// The body.
    pub body: Body,
    /// The token: that of the body, else that of `Authorization: Bearer`.
    pub token: String,
    /// Who asks.
    pub peer: IpAddr,
    /// The client would rather have events.
    pub wants_events: bool,
    /// The last event that the client has seen.
    pub last_event: Option<String>,
    /// The gate's permit, for routes that ask nothing further.
    pub permit: Option<Permit>,
}

impl Call {
    /// Reads a request.
    pub fn new(app: Arc<App>, request: &Request, peer: IpAddr) -> Self {
        let target = request.path();
        let target = if target.is_empty() {
            "/".into()
        } else {
            target
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (target.into_owned(), None),
        };
        let body = match request.body.as_slice() {
            b"" | b"0" => Body::Missing,
            bytes => Members::parse(bytes, &BOUNDS).map_or(Body::Bad, Body::Object),
        };
        let token = match &body {
            Body::Object(members) => members.get("token").and_then(Raw::string),
            _ => None,
        };
        let token = token.filter(|token| !token.is_empty());
        let token = token.unwrap_or_else(|| bearer(request));
        Self {
            method: request.method().to_ascii_uppercase(),
            path,
            query,
            param: String::new(),
            token,
            body,
            peer,
            wants_events: request
                .headers
                .all("Accept")
                .any(|value| accepts(value, b"text/event-stream")),
            last_event: request
                .headers
                .one("Last-Event-ID")
                .ok()
                .flatten()
                .map(str::to_owned),
            permit: None,
            app,
        }
    }

    /// The target as it was sent.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// A question to the hook about this request.
    pub fn hook_request(&self, action: &'static str) -> HookRequest {
        HookRequest {
            action,
            token: self.token.clone(),
            source_ip: self.peer.to_string(),
            timestamp: Utc::now().iso(),
            ..HookRequest::default()
        }
    }

    /// The members of a body that has to be there.
    ///
    /// # Errors
    /// The answer to one that is not there, or is no object.
    pub fn members(&self) -> Result<&Members, Reply> {
        match &self.body {
            Body::Missing => Err(Reply::bad("request body required")),
            Body::Bad => Err(Reply::bad("invalid JSON body")),
            Body::Object(members) => Ok(members),
        }
    }

    /// The value of a parameter of the query, decoded. An empty one counts as absent.
    pub fn query_value(&self, name: &str) -> Option<String> {
        let pairs = self.query.as_deref().unwrap_or_default().split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        let value = decoded(value);
        (!value.is_empty()).then_some(value)
    }

    /// The names of parameters that this route does not know.
    pub fn unknown_query<'a>(&'a self, known: &'a [&str]) -> Option<&'a str> {
        let pairs = self.query.as_deref().unwrap_or_default().split('&');
        pairs
            .map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key))
            .find(|key| !key.is_empty() && !known.contains(key))
    }
}

/// The host words of a body.
///
/// # Errors
/// The answer to a body without them.
pub fn hosts(members: &Members) -> Result<Vec<String>, Reply> {
    let items = members.get("hosts").into_iter().flat_map(Raw::items);
    let words: Vec<Option<String>> = items.map(Raw::string).collect();
    if words.is_empty() {
        return Err(Reply::bad("hosts must be a non-empty array"));
    }
    if words.len() > MAX_HOSTS {
        return Err(Reply::bad(format!("too many hosts (max {MAX_HOSTS})")));
    }
    let words: Option<Vec<String>> = words.into_iter().collect();
    words.ok_or_else(|| Reply::bad("hosts must be an array of strings"))
}

/// A string member that may be absent or null.
///
/// # Errors
/// The answer to another type.
pub fn text(members: &Members, key: &str) -> Result<String, Reply> {
    match members.get(key).map(Raw::scalar) {
        None | Some(Scalar::Null) => Ok(String::new()),
        Some(Scalar::Text(text)) => Ok(text),
        Some(_) => Err(Reply::bad(format!("{key} must be a string"))),
    }
}

fn bearer(request: &Request) -> String {
    let last = request.headers.all("Authorization").last();
    let last = last.and_then(|value| std::str::from_utf8(value).ok());
    let mut words = last.unwrap_or_default().split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(scheme), Some(token), None) if scheme.eq_ignore_ascii_case("bearer") => {
            token.to_owned()
        }
        _ => String::new(),
    }
}

/// Whether a header's list of media types names this one.
fn accepts(list: &[u8], wanted: &[u8]) -> bool {
    list.split(|byte| *byte == b',')
        .map(|part| part.split(|byte| *byte == b';').next().unwrap_or_default())
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// Percent-decoding; what is no UTF-8 then is replaced.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| {
            let hex = std::str::from_utf8(hex).ok()?;
            u8::from_str_radix(hex, 16).ok()
        });
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decoded("a%20b+c%zz%4"), "a b c%zz%4");
        assert_eq!(decoded("%C3%A9%ff"), "é\u{fffd}");
    }

    #[test]
    fn media_types_are_found_in_lists() {
        let events = b"text/event-stream".as_slice();
        assert!(accepts(
            b"application/json, Text/event-stream;q=0.9",
            events
        ));
        assert!(!accepts(b"text/event-streams", events));
    }
}
