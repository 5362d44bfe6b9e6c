//! Messages of the pairing port (pki-and-pairing.md §7, agent.md §9).

use crate::json::{self, Bounds, Fields, JsonError, Scalar};
use crate::names;
use miniserde::Deserialize;
use std::fmt;
use std::net::IpAddr;

/// Largest pairing request body, in bytes.
pub const MAX_REQUEST: usize = 65_536;
/// Seconds that a request waits for the operator.
pub const APPROVAL_TIMEOUT_SECS: u32 = 600;

/// The confirmation code of a request: the first four bytes of SHA-256 over the CSR's PEM text
/// exactly as sent, big endian, modulo a million, six digits.
#[cfg(feature = "tls")]
pub fn code(csr_pem: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, csr_pem.as_bytes());
    code_of_digest(digest.as_ref())
}

#[cfg(feature = "tls")]
fn code_of_digest(digest: &[u8]) -> String {
    let number = digest
        .iter()
        .take(4)
        .fold(0_u32, |n, byte| (n << 8) | u32::from(*byte));
    format!("{:06}", number % 1_000_000)
}

/// What an agent asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PairRequest {
    /// Name the agent gives itself.
    pub hostname: String,
    /// PEM, exactly as generated: the code is made of it.
    pub csr: String,
    /// Echoed in the approval; empty when absent.
    pub nonce: String,
    /// How the dispatcher should reach the agent, if the agent said so.
    pub lookup_by: Option<LookupBy>,
    /// Port the agent serves on, if valid.
    pub port: Option<u16>,
    /// The agent's own address, if it looks like one.
    pub ip: Option<String>,
}

/// How an agent is addressed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LookupBy {
    /// By its name.
    #[default]
    Hostname,
    /// By its recorded address.
    Ip,
}

impl LookupBy {
    /// The word in files and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hostname => "hostname",
            Self::Ip => "ip",
        }
    }

    /// Reads the word; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "hostname" => Some(Self::Hostname),
            "ip" => Some(Self::Ip),
            _ => None,
        }
    }
}

/// Why a request is turned down at once; the text is the `reason` on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Name rule broken.
    InvalidHostname,
    /// Not JSON, not an object, or `csr`/`hostname` missing.
    InvalidRequest,
    /// As many requests wait as are allowed.
    QueueFull,
    /// Body over [`MAX_REQUEST`].
    TooLarge,
}

impl Refusal {
    /// Text of the `reason` member.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidHostname => "invalid hostname",
            Self::InvalidRequest => "invalid request",
            Self::QueueFull => "pairing queue full",
            Self::TooLarge => "request too large",
        }
    }

    /// The answer's body.
    pub fn render(self) -> String {
        Fields::with_room(2)
            .text("status", "error")
            .text("reason", self.reason())
            .finish()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl PairRequest {
    /// Reads a request body; optional members that do not fit their rule are dropped.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if body.len() > MAX_REQUEST {
            return Err(Refusal::TooLarge);
        }
        let asked: Asked =
            json::read_object(body, &Bounds::REQUEST).map_err(|_| Refusal::InvalidRequest)?;
        let required = |member: Scalar| {
            member
                .into_string()
                .filter(|text| !text.is_empty() && text != "0")
        };
        let (Some(hostname), Some(csr)) = (required(asked.hostname), required(asked.csr)) else {
            return Err(Refusal::InvalidRequest);
        };
        if !names::is_agent_name(&hostname) {
            return Err(Refusal::InvalidHostname);
        }
        let lookup_by = asked.lookup_by.into_string();
        let ip = asked.ip.into_string();
        Ok(Self {
            hostname,
            csr,
            nonce: asked.nonce.text(),
            lookup_by: lookup_by.as_deref().and_then(LookupBy::parse),
            port: asked.port.port(),
            ip: ip.filter(|ip| ip.parse::<IpAddr>().is_ok()),
        })
    }

    /// The request body.
    pub fn render(&self) -> String {
        Fields::with_room(6)
            .text("hostname", &self.hostname)
            .text("csr", &self.csr)
            .text("nonce", &self.nonce)
            .text_if("lookup_by", self.lookup_by.map(LookupBy::word))
            .count_if("port", self.port.map(u64::from))
            .text_if("ip", self.ip.as_deref())
            .finish()
    }
}

/// A request as it comes.
#[derive(Deserialize)]
struct Asked {
    hostname: Scalar,
    csr: Scalar,
    nonce: Scalar,
    lookup_by: Scalar,
    port: Scalar,
    ip: Scalar,
}

/// Everything that answers may hold.
#[derive(Deserialize)]
struct Told {
    status: Scalar,
    reqid: Scalar,
    reason: Scalar,
    cert: Scalar,
    ca: Scalar,
    nonce: Scalar,
    dispatcher_serial: Scalar,
    dispatcher_id: Scalar,
}

impl Told {
    fn read(body: &[u8]) -> Result<Self, AnswerError> {
        if body.is_empty() {
            return Err(AnswerError::Empty);
        }
        json::read_object(body, &Bounds::REQUEST).map_err(AnswerError::Json)
    }
}

/// The first answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ack {
    /// Queued under this id; a second answer follows.
    Pending {
        /// Queue id, 16 lower-case hex digits.
        reqid: String,
    },
    /// Turned down with this reason; nothing follows.
    Error {
        /// Text of the peer.
        reason: String,
    },
}

impl Ack {
    /// Reads the body of the first answer.
    pub fn parse(body: &[u8]) -> Result<Self, AnswerError> {
        let told = Told::read(body)?;
        match told.status.into_string().as_deref() {
            Some("pending") => {
                let reqid = told.reqid.text();
                // It is shown beside the code that the operator compares.
                if !names::is_queue_id(&reqid) {
                    return Err(AnswerError::BadId);
                }
                Ok(Self::Pending { reqid })
            }
            Some("error") => Ok(Self::Error {
                reason: told.reason.text(),
            }),
            _ => Err(AnswerError::Unexpected),
        }
    }

    /// The body of a first answer that queues the request.
    pub fn render_pending(reqid: &str) -> String {
        Fields::with_room(2)
            .text("status", "pending")
            .text("reqid", reqid)
            .finish()
    }
}

/// What an approved agent receives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Approval {
    /// The agent's certificate, PEM, leaf only.
    pub cert: String,
    /// The CA certificate, PEM.
    pub ca: String,
    /// The request's nonce.
    pub nonce: String,
    /// Canonical serial of the dispatcher's certificate; empty when unknown.
    pub dispatcher_serial: String,
    /// The dispatcher's stable id; empty when unknown.
    pub dispatcher_id: String,
}

/// The final answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The operator approved.
    Approved(Approval),
    /// Anything else.
    Denied {
        /// Text of the peer, `denied` when it gave none.
        reason: String,
    },
}

impl Outcome {
    /// Reads the body of the final answer. Any status but `approved` is a refusal.
    pub fn parse(body: &[u8]) -> Result<Self, AnswerError> {
        let told = Told::read(body)?;
        if told.status.into_string().as_deref() != Some("approved") {
            let mut reason = told.reason.text();
            if reason.is_empty() {
                reason.push_str("denied");
            }
            return Ok(Self::Denied { reason });
        }
        Ok(Self::Approved(Approval {
            cert: told.cert.text(),
            ca: told.ca.text(),
            nonce: told.nonce.text(),
            dispatcher_serial: told.dispatcher_serial.text(),
            dispatcher_id: told.dispatcher_id.text(),
        }))
    }

    /// The body of the final answer.
    pub fn render(&self) -> String {
        match self {
            Self::Approved(approval) => Fields::with_room(6)
                .text("status", "approved")
                .text("cert", &approval.cert)
                .text("ca", &approval.ca)
                .text("nonce", &approval.nonce)
                .text("dispatcher_serial", &approval.dispatcher_serial)
                .text("dispatcher_id", &approval.dispatcher_id)
                .finish(),
            Self::Denied { reason } => Fields::with_room(6)
                .text("status", "denied")
                .text("reason", reason)
                .finish(),
        }
    }
}

/// Why an answer of a pairing peer is not understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnswerError {
    /// Empty body.
    Empty,
    /// Not a JSON object.
    Json(JsonError),
    /// A status that has no place here.
    Unexpected,
    /// A request id that is none.
    BadId,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty body"),
            Self::Json(error) => error.fmt(f),
            Self::Unexpected => f.write_str("unexpected status"),
            Self::BadId => f.write_str("malformed request id"),
        }
    }
}

impl std::error::Error for AnswerError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[cfg(feature = "tls")]
    #[test]
    fn code_vectors_of_the_spec() {
        const HEAD: &str = "-----BEGIN CERTIFICATE REQUEST-----";
        const FOOT: &str = "-----END CERTIFICATE REQUEST-----";
        for (text, expected) in [
            (format!("{HEAD}\nMIIB\n{FOOT}\n"), "334026"),
            (format!("{HEAD}\nMIIB\n{FOOT}"), "868396"),
            (format!("{HEAD}\nYQ==\n{FOOT}\n"), "721725"),
            (format!("{HEAD}\nYQ==\n{FOOT}"), "197221"),
        ] {
            assert_eq!(code(&text), expected, "{text:?}");
        }
        assert_eq!(code_of_digest(&[0x00, 0x0f, 0x42, 0x40, 0xff]), "000000");
    }

    #[test]
    fn optional_members_are_dropped_when_they_do_not_fit() {
        let request = PairRequest::parse(
            br#"{"hostname":"a.b","csr":"x","lookup_by":"mac","port":"70000","ip":"1.2.3.999","more":[1]}"#,
        )
        .unwrap();
        assert_eq!(
            request,
            PairRequest {
                hostname: "a.b".into(),
                csr: "x".into(),
                ..PairRequest::default()
            }
        );
        let request = PairRequest::parse(
            br#"{"hostname":"a","csr":"x","lookup_by":"ip","port":"7443","ip":"fe80::1"}"#,
        )
        .unwrap();
        assert_eq!(
            (request.lookup_by, request.port, request.ip.as_deref()),
            (Some(LookupBy::Ip), Some(7443), Some("fe80::1"))
        );
    }

    #[test]
    fn refusals() {
        for (body, refusal) in [
            ("", Refusal::InvalidRequest),
            ("[]", Refusal::InvalidRequest),
            ("{}", Refusal::InvalidRequest),
            (r#"{"hostname":"a"}"#, Refusal::InvalidRequest),
            (r#"{"hostname":"0","csr":"x"}"#, Refusal::InvalidRequest),
            (r#"{"hostname":"","csr":"x"}"#, Refusal::InvalidRequest),
            (r#"{"hostname":"../x","csr":"x"}"#, Refusal::InvalidHostname),
        ] {
            assert_eq!(PairRequest::parse(body.as_bytes()), Err(refusal), "{body}");
        }
        assert_eq!(
            PairRequest::parse(&vec![b' '; MAX_REQUEST + 1]),
            Err(Refusal::TooLarge)
        );
        assert_eq!(
            Refusal::QueueFull.render(),
            r#"{"status":"error","reason":"pairing queue full"}"#
        );
    }

    #[test]
    fn answers() {
        assert_eq!(
            Ack::parse(Ack::render_pending("00ff00ff00ff00ff").as_bytes()),
            Ok(Ack::Pending {
                reqid: "00ff00ff00ff00ff".into()
            })
        );
        for reqid in ["00ff", "", "00FF00FF00FF00FF", "00ff00ff00ff00f\\n"] {
            let body = format!(r#"{{"status":"pending","reqid":"{reqid}"}}"#);
            assert_eq!(Ack::parse(body.as_bytes()), Err(AnswerError::BadId));
        }
        assert_eq!(Ack::parse(b""), Err(AnswerError::Empty));
        assert_eq!(Ack::parse(b"{}"), Err(AnswerError::Unexpected));
        assert_eq!(
            Outcome::parse(b"{}"),
            Ok(Outcome::Denied {
                reason: "denied".into()
            })
        );
        let approved = Outcome::Approved(Approval {
            cert: "c\n".into(),
            nonce: "n".into(),
            ..Approval::default()
        });
        assert_eq!(Outcome::parse(approved.render().as_bytes()), Ok(approved));
    }

    proptest! {
        #[test]
        fn requests_round_trip(csr in ".{1,200}", nonce in "[0-9a-f]{0,32}", port in proptest::option::of(1u16..)) {
            prop_assume!(csr != "0");
            let request = PairRequest { hostname: "host".into(), csr, nonce, port, lookup_by: Some(LookupBy::Ip), ip: Some("127.0.0.1".into()) };
            prop_assert_eq!(PairRequest::parse(request.render().as_bytes()), Ok(request));
        }
    }
}
