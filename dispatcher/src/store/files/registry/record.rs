//! One agent's record (dispatcher.md §6.2): read leniently, written back with everything it held.

use crate::model::json::{self as jval, Object, Value};
use ctrl_exec_protocol::names::AGENT_PORT;
use ctrl_exec_protocol::time::Utc;

/// Field with the version an agent of the reference told; ours only.
pub const AGENT_VERSION: &str = "agent_version";

/// What stands for the version of an agent of the reference that has not told it.
pub const SOME_PERL_VERSION: &str = "0.12";

/// Field that says whether the agent hands its scripts to an executor, where its answers showed
/// it: `yes` or `no`; ours only.
pub const EXECUTOR: &str = "executor";

/// Field with what the agent can do beyond release 0.12.3, as its answers told: words with spaces
/// between, `-` for nothing; ours only.
pub const FEATURES: &str = "features";
/// The word for an agent whose rate limit does not count a trusted dispatcher's connections.
const UNPACED: &str = "unpaced";
/// Most of these words that are kept, and the longest.
const MAX_FEATURES: usize = 32;
const MAX_FEATURE: usize = 32;

/// What [`FEATURES`] is to say of an agent that told these.
pub fn noted_features(told: &[String]) -> String {
    let is_word = |word: &&String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        !word.is_empty() && word.len() <= MAX_FEATURE && word.bytes().all(plain)
    };
    let words: Vec<&str> = told
        .iter()
        .filter(is_word)
        .take(MAX_FEATURES)
        .map(String::as_str)
        .collect();
    if words.is_empty() {
        return "-".to_owned();
    }
    words.join(" ")
}

/// Field with the pace at which the agent may be called: `N/SECONDS` or `off`; ours only.
pub const RATE: &str = "rate";

/// How many connections an agent takes in how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rate {
    /// As many as one likes.
    Off,
    /// So many, 1 or more, in so many seconds, 1 or more.
    Within(u32, u32),
}

impl Rate {
    /// Reads `off` or `N/SECONDS`: 1 to 100,000 connections in 1 to 86,400 s.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Self::Off);
        }
        let (count, seconds) = text.split_once('/')?;
        let number = |text: &str, most: u32| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits)?;
            (1..=most).contains(&number).then_some(number)
        };
        Some(Self::Within(
            number(count, 100_000)?,
            number(seconds, 86_400)?,
        ))
    }
}

/// Whether a version is the reference's.
pub fn is_perl_version(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(0)), Some(Ok(minor))) => minor <= 12,
        _ => version == "UNINSTALLED",
    }
}

/// Most tags that are kept of an agent.
pub const MAX_TAGS: usize = 64;
/// Longest tag, and longest value of one, in bytes.
pub const MAX_TAG: usize = 256;

/// The tags an agent sent, as far as they are kept: names and values that are text, within
/// [`MAX_TAGS`] and [`MAX_TAG`]. The number says how many were left out.
pub fn bounded_tags(sent: &Object) -> (Object, usize) {
    let mut kept = Object::new();
    let mut total = 0;
    for (key, value) in sent.iter() {
        total += 1;
        let fits = match value {
            Value::String(text) => text.len() <= MAX_TAG,
            Value::Number(number) => number.as_str().len() <= MAX_TAG,
            _ => false,
        };
        if fits && key.len() <= MAX_TAG && kept.len() < MAX_TAGS {
            kept.insert(key.to_owned(), value.clone());
        }
    }
    let left_out = total - kept.len();
    (kept, left_out)
}

/// How an agent's address is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LookupBy {
    /// Resolve the record's host name.
    Hostname,
    /// Use the record's address.
    Ip,
}

impl LookupBy {
    /// The word used in records and options.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hostname => "hostname",
            Self::Ip => "ip",
        }
    }

    /// Reads the word; `None` for anything but `ip` and `hostname`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "ip" => Some(Self::Ip),
            "hostname" => Some(Self::Hostname),
            _ => None,
        }
    }
}

/// What an agent is believed to trust (pki-and-pairing.md §9.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SerialStatus {
    /// It confirmed the current serial.
    Current,
    /// It has to be told the new serial.
    Pending,
    /// It was not told in time; it must be paired again, or wait for the next rotation.
    Stale,
    /// Never known.
    Unknown,
}

impl SerialStatus {
    /// The word used in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Pending => "pending",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }
}

/// A registry record. The raw object is kept, so fields of other versions survive an update.
#[derive(Clone, Debug)]
pub struct Record {
    name: String,
    raw: Object,
}

impl Record {
    /// A new, empty record for `name`.
    pub fn new(name: &str) -> Self {
        Self::from_raw(name, Object::new())
    }

    /// A record as read from `<name>.json`; the file name is the key, `hostname` follows it.
    pub fn from_raw(name: &str, raw: Object) -> Self {
        Self {
            name: name.to_owned(),
            raw,
        }
    }

    /// The registry name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole object.
    pub fn raw(&self) -> &Object {
        &self.raw
    }

    /// The whole object, given away.
    pub fn into_raw(self) -> Object {
        self.raw
    }

    /// A string field, or `""`.
    pub fn text(&self, key: &str) -> &str {
        jval::str_or_empty(&self.raw, key)
    }

    /// The host name to resolve: the field, else the registry name.
    pub fn hostname(&self) -> &str {
        match self.text("hostname") {
            "" => &self.name,
            name => name,
        }
    }

    /// The address literal, or `""`.
    pub fn ip(&self) -> &str {
        self.text("ip")
    }

    /// The port; numeric strings count, and what is out of range is the default port.
    pub fn port(&self) -> u16 {
        jval::integer(&self.raw, "port")
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .unwrap_or(AGENT_PORT)
    }

    /// How to find the agent; anything but `ip` reads as `hostname`.
    pub fn lookup_by(&self) -> LookupBy {
        LookupBy::parse(self.text("lookup_by")).unwrap_or(LookupBy::Hostname)
    }

    /// The agent certificate's end, as text in OpenSSL's form.
    pub fn expiry(&self) -> &str {
        self.text("expiry")
    }

    /// What the agent is believed to trust; unknown words read as unknown.
    pub fn serial_status(&self) -> SerialStatus {
        match self.text("serial_status") {
            "current" => SerialStatus::Current,
            "pending" => SerialStatus::Pending,
            "stale" => SerialStatus::Stale,
            _ => SerialStatus::Unknown,
        }
    }

    /// Canonical serial of ours that the agent last confirmed, or `""`.
    pub fn dispatcher_serial(&self) -> &str {
        self.text("dispatcher_serial")
    }

    /// Common name the agent was paired with. Ours only; older records do not have it, and then
    /// it is the registry name (dispatcher.md §17.3).
    pub fn paired_cn(&self) -> &str {
        match self.text("paired_cn") {
            "" => &self.name,
            name => name,
        }
    }

    /// The same where the record says it; those that release 0.12.3 made do not.
    pub fn noted_cn(&self) -> Option<&str> {
        Some(self.text("paired_cn")).filter(|name| !name.is_empty())
    }

    /// Since when the agent's certificates are barred, if they are. Ours only; the record stays, so
    /// that nobody takes the name for a free one.
    pub fn revoked(&self) -> Option<&str> {
        match self.text("revoked") {
            "" => None,
            since => Some(since),
        }
    }

    /// Serial of the certificate the agent showed last, or was given at pairing, in lower-case hex;
    /// `""` when none was seen. Ours only.
    pub fn cert_serial(&self) -> &str {
        self.text("cert_serial")
    }

    /// End of a renewed certificate that the agent has and does not show yet, in OpenSSL's form, or
    /// `""`. Ours only.
    pub fn staged_expiry(&self) -> &str {
        self.text("staged_expiry")
    }

    /// Removes a field.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.raw.remove(key);
        self
    }

    /// Whether the agent's version, as its last ping told, is the reference's: `0.12` or older, or
    /// run from a source tree. Ours only; unknown means no.
    pub fn is_perl(&self) -> bool {
        is_perl_version(self.text(AGENT_VERSION))
    }

    /// Whether the agent has an executor; `None` when nothing has shown it.
    pub fn executor(&self) -> Option<bool> {
        match self.text(EXECUTOR) {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        }
    }

    /// What the agent can do beyond release 0.12.3, words with spaces between; `None` when it has
    /// not told.
    pub fn features(&self) -> Option<&str> {
        if self.is_perl() {
            return Some("");
        }
        match self.text(FEATURES) {
            "" => None,
            words => Some(words),
        }
    }

    /// The pace set for the agent, else what it has told of its limit; `None` where nothing is
    /// known, or what is set cannot be read.
    pub fn rate(&self) -> Option<Rate> {
        let told = || {
            let mut words = self.features()?.split(' ');
            words.any(|word| word == UNPACED).then_some(Rate::Off)
        };
        match self.text(RATE) {
            "" => told(),
            set => Rate::parse(set),
        }
    }

    /// Cached tags: string to string.
    pub fn tag(&self, key: &str) -> Option<std::borrow::Cow<'_, str>> {
        jval::text(jval::sub_object(&self.raw, "tags")?, key)
    }

    /// Sets a string field.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.raw.insert(key.to_owned(), jval::string(value));
        self
    }

    /// Sets the port.
    pub fn set_port(&mut self, port: u16) -> &mut Self {
        self.raw
            .insert("port".to_owned(), jval::int(i64::from(port)));
        self
    }

    /// Sets the tags.
    pub fn set_tags(&mut self, tags: Object) -> &mut Self {
        self.raw.insert("tags".to_owned(), Value::Object(tags));
        self
    }

    /// Sets the serial status.
    pub fn set_serial_status(&mut self, status: SerialStatus) -> &mut Self {
        self.set("serial_status", status.word())
    }

    /// The agent accepted `serial` at `now`.
    pub fn confirm_serial(&mut self, serial: &str, now: Utc) -> &mut Self {
        self.set("dispatcher_serial", serial)
            .set("serial_confirmed", now.iso())
            .set_serial_status(SerialStatus::Current)
    }

    /// Renames the record; `hostname` follows. The common name it was paired with is kept, so
    /// that renewal goes on working.
    pub fn rename(&mut self, new: &str) -> &mut Self {
        let cn = self.paired_cn().to_owned();
        self.set("paired_cn", cn);
        new.clone_into(&mut self.name);
        self.set("hostname", new)
    }

    /// Compact JSON of the record.
    pub fn to_json(&self) -> String {
        jval::line(&self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        Record::from_raw("vm", jval::parse_object(json.as_bytes()).unwrap())
    }

    #[test]
    fn odd_fields_have_defaults() {
        for (json, port) in [
            ("{}", 7443),
            (r#"{"port":"7600"}"#, 7600),
            (r#"{"port":0}"#, 7443),
            (r#"{"port":65536}"#, 7443),
            (r#"{"port":"x"}"#, 7443),
            (r#"{"port":65535}"#, 65535),
        ] {
            assert_eq!(record(json).port(), port, "{json}");
        }
        let record = record(r#"{"lookup_by":"dns","serial_status":"what"}"#);
        assert_eq!(record.lookup_by(), LookupBy::Hostname);
        assert_eq!(record.serial_status(), SerialStatus::Unknown);
        assert_eq!(record.hostname(), "vm");
        assert_eq!(record.paired_cn(), "vm");
    }

    #[test]
    fn versions_of_the_reference() {
        for (version, perl) in [
            ("0.12.3", true),
            ("0.9", true),
            ("UNINSTALLED", true),
            ("0.13.0", false),
            ("", false),
            ("1.2.3", false),
        ] {
            assert_eq!(is_perl_version(version), perl, "{version}");
        }
    }

    #[test]
    fn rename_keeps_the_paired_name_and_unknown_fields() {
        let mut record = record(r#"{"hostname":"vm","future":[1,2]}"#);
        record.rename("attic").rename("cellar");
        assert_eq!(
            record.to_json(),
            r#"{"future":[1,2],"hostname":"cellar","paired_cn":"vm"}"#
        );
    }
}
