//! A request to be paired that waits in the queue (pki-and-pairing.md §7.4).

use ctrl_exec_protocol::json::{self, Bounds, Fields, Scalar};
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{self, LookupBy, PairRequest};
use miniserde::Deserialize;

/// One waiting request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// 16 lower-case hex digits.
    pub id: String,
    /// Name the agent gave itself.
    pub hostname: String,
    /// PEM exactly as sent.
    pub csr: String,
    /// To be echoed.
    pub nonce: String,
    /// The agent's own address if it reported a valid one, else the connection's.
    pub ip: String,
    /// Where the connection came from.
    pub source_ip: String,
    /// How the agent wants to be reached.
    pub lookup_by: Option<LookupBy>,
    /// Port the agent serves on.
    pub port: Option<u16>,
    /// Arrival, UTC.
    pub received: String,
    /// Six digits.
    pub code: String,
    /// Name of the source address, or empty.
    pub reverse_dns: String,
    /// That name resolves back to the source address.
    pub reverse_confirmed: bool,
    /// The agent asked as one of release 0.12.3 does.
    pub perl: bool,
}

/// What the operator decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// `<id>.approved`.
    Approved,
    /// `<id>.denied`.
    Denied,
}

/// What is known of the sender of a request besides its words: what DNS says about its address, and
/// of which release it seems to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identified {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// That name resolves to the address.
    pub confirmed: bool,
    /// It asks as agents of release 0.12.3 do: HTTP/1.0 without `Host`.
    pub perl: bool,
}

/// A queue file as it comes.
#[derive(Deserialize)]
struct Stored {
    hostname: Scalar,
    csr: Scalar,
    nonce: Scalar,
    ip: Scalar,
    source_ip: Scalar,
    lookup_by: Scalar,
    port: Scalar,
    received: Scalar,
    reverse_dns: Scalar,
    reverse_confirmed: Scalar,
    perl: Scalar,
}

impl Queued {
    /// What is queued of a request that came from `source` at `now`.
    pub fn of(
        request: &PairRequest,
        id: String,
        source: &str,
        identified: &Identified,
        now: Utc,
    ) -> Self {
        Self {
            ip: request.ip.clone().unwrap_or_else(|| source.to_owned()),
            id,
            hostname: request.hostname.clone(),
            csr: request.csr.clone(),
            nonce: request.nonce.clone(),
            source_ip: source.to_owned(),
            lookup_by: request.lookup_by,
            port: request.port,
            received: now.iso(),
            code: pairing::code(&request.csr),
            reverse_dns: identified.name.clone().unwrap_or_default(),
            reverse_confirmed: identified.confirmed,
            perl: identified.perl,
        }
    }

    /// Reads a queue file; `None` for what is no request.
    pub fn parse(id: &str, bytes: &[u8]) -> Option<Self> {
        let stored: Stored = json::read_object(bytes, &Bounds::REQUEST).ok()?;
        let csr = stored.csr.text();
        let lookup_by = stored.lookup_by.into_string();
        let queued = Self {
            id: id.to_owned(),
            hostname: stored.hostname.text(),
            nonce: stored.nonce.text(),
            ip: stored.ip.text(),
            source_ip: stored.source_ip.text(),
            lookup_by: lookup_by.as_deref().and_then(LookupBy::parse),
            port: stored.port.port(),
            received: stored.received.text(),
            // Not the one in the file: others may write there, and what is compared must be what
            // would be signed.
            code: pairing::code(&csr),
            csr,
            reverse_dns: stored.reverse_dns.text(),
            reverse_confirmed: stored.reverse_confirmed.is_true(),
            perl: stored.perl.is_true(),
        };
        (names::is_agent_name(&queued.hostname) && !queued.csr.is_empty()).then_some(queued)
    }

    /// The queue file.
    pub fn to_json(&self) -> String {
        let mut out = Fields::with_room(13);
        out.text("id", &self.id)
            .text("hostname", &self.hostname)
            .text("csr", &self.csr)
            .text("nonce", &self.nonce)
            .text("ip", &self.ip)
            .text("source_ip", &self.source_ip);
        match self.lookup_by {
            Some(by) => out.text("lookup_by", by.word()),
            None => out.raw("lookup_by", "null"),
        };
        match self.port {
            Some(port) => out.integer("port", port.into()),
            None => out.raw("port", "null"),
        };
        out.text("received", &self.received)
            .text("code", &self.code)
            .text("reverse_dns", &self.reverse_dns)
            .integer("reverse_confirmed", self.reverse_confirmed.into());
        if self.perl {
            out.integer("perl", 1);
        }
        out.finish()
    }
}
