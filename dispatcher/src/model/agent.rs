//! What is recorded of an agent (dispatcher.md §6.2): read leniently, written back with everything
//! the record held.

use super::tags::bounded_tags;
use ctrl_exec_protocol::json::{Bounds, JsonError, Members};
use ctrl_exec_protocol::names::AGENT_PORT;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::LookupBy;
use std::borrow::Cow;

/// What stands for the version of an agent of the reference that has not told it.
pub const SOME_PERL_VERSION: &str = "0.12";

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

/// Whether a version is the reference's: `0.12` or older, or run from a source tree.
pub fn is_perl_version(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(0)), Some(Ok(minor))) => minor <= 12,
        _ => version == "UNINSTALLED",
    }
}

/// The word for an agent whose rate limit does not count a trusted dispatcher's connections.
const UNPACED: &str = "unpaced";
/// Most words of [`AgentRecord::features`] that are kept, and the longest.
const MAX_FEATURES: usize = 32;
const MAX_FEATURE: usize = 32;

/// What [`AgentRecord::features`] is to say of an agent that told these.
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

    /// Reads the word; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        let all = [Self::Current, Self::Pending, Self::Stale, Self::Unknown];
        all.into_iter().find(|status| status.word() == word)
    }
}

/// What is recorded of an agent. Members of other versions, and members of another form than
/// expected, are kept as they came; a field that is set takes the place of one of its name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AgentRecord {
    /// The registry name.
    pub name: String,
    /// The name to resolve.
    pub hostname: Option<String>,
    /// Its address, as a literal.
    pub ip: Option<String>,
    /// Where it listens.
    pub port: Option<u16>,
    /// Which of both is used.
    pub lookup_by: Option<LookupBy>,
    /// When it was paired.
    pub paired: Option<String>,
    /// End of its certificate, in OpenSSL's form.
    pub expiry: Option<String>,
    /// Id of the pairing request.
    pub reqid: Option<String>,
    /// Canonical serial of ours that it last confirmed.
    pub dispatcher_serial: Option<String>,
    /// When it was last to be told a new one.
    pub serial_broadcast: Option<String>,
    /// When it confirmed it.
    pub serial_confirmed: Option<String>,
    /// What it is believed to trust.
    pub serial_status: Option<SerialStatus>,
    /// Cached tags.
    pub tags: Option<Members>,
    /// Common name it was paired with. This and what follows is ours only.
    pub paired_cn: Option<String>,
    /// The version it told, where that is the reference's.
    pub agent_version: Option<String>,
    /// Whether it hands its scripts to an executor, where its answers showed it.
    pub executor: Option<bool>,
    /// What it can do beyond release 0.12.3, as its answers told: words with spaces between, `-` for
    /// nothing.
    pub features: Option<String>,
    /// The pace at which it may be called: `N/SECONDS` or `off`.
    pub rate: Option<String>,
    /// Serial of the certificate it showed last, or was given at pairing, in lower-case hex.
    pub cert_serial: Option<String>,
    /// End of a renewed certificate that it has and does not show yet.
    pub staged_expiry: Option<String>,
    /// Since when its certificates are barred. The record stays, so that nobody takes the name for
    /// a free one.
    pub revoked: Option<String>,
    /// The serial of ours that it was last told to forget.
    pub retired_serial: Option<String>,
    /// Digest of the CA certificates that it trusts; `none` for one of release 0.12.3, which does not
    /// tell.
    pub ca_digest: Option<String>,
    /// Everything else.
    pub more: Members,
}

impl AgentRecord {
    /// A new, empty record for `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Reads what stands in `<name>.json`; the file name is the key, `hostname` follows it.
    ///
    /// # Errors
    /// It is not JSON, no object, or absurdly large in number of values.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, JsonError> {
        Ok(Self::from_members(
            name,
            Members::parse(text, &Bounds::RECORD)?,
        ))
    }

    /// A record of these members.
    pub fn from_members(name: &str, mut more: Members) -> Self {
        let mut record = Self::new(name);
        for (key, field) in record.texts_mut() {
            *field = more.take_text(key);
        }
        // A word or number of another form than we write stays as it is.
        let port = more.get("port").and_then(|port| port.as_str().parse().ok());
        record.port = port.filter(|port| *port != 0);
        let word = |key: &str| more.get(key).and_then(|word| word.string());
        record.lookup_by = word("lookup_by").and_then(|word| LookupBy::parse(&word));
        record.serial_status = word("serial_status").and_then(|word| SerialStatus::parse(&word));
        record.executor = match word("executor").as_deref() {
            Some("yes") => Some(true),
            Some("no") => Some(false),
            _ => None,
        };
        record.tags = more.object("tags");
        for (key, is_known) in [
            ("port", record.port.is_some()),
            ("lookup_by", record.lookup_by.is_some()),
            ("serial_status", record.serial_status.is_some()),
            ("executor", record.executor.is_some()),
            ("tags", record.tags.is_some()),
        ] {
            if is_known {
                more.remove(key);
            }
        }
        record.more = more;
        record
    }

    /// The whole record.
    pub fn members(&self) -> Members {
        let mut all = self.more.clone();
        for (key, field) in self.texts() {
            all.set_text(key, field.as_deref());
        }
        all.set_integer("port", self.port.map(i64::from));
        all.set_text("lookup_by", self.lookup_by.map(LookupBy::word));
        all.set_text("serial_status", self.serial_status.map(SerialStatus::word));
        let executor = |has: bool| if has { "yes" } else { "no" };
        all.set_text("executor", self.executor.map(executor));
        if let Some(tags) = &self.tags {
            all.set("tags", tags.clone());
        }
        all
    }

    /// Compact JSON of the record.
    pub fn to_json(&self) -> String {
        self.members().render()
    }

    /// The registry name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host name to resolve: the field, else the registry name.
    pub fn hostname(&self) -> &str {
        given(&self.hostname).unwrap_or(&self.name)
    }

    /// The address literal, or `""`.
    pub fn ip(&self) -> &str {
        self.ip.as_deref().unwrap_or_default()
    }

    /// The port; numeric strings count, and what is out of range is the default port.
    pub fn port(&self) -> u16 {
        let spelled_otherwise = || self.more.get("port")?.scalar().port();
        self.port.or_else(spelled_otherwise).unwrap_or(AGENT_PORT)
    }

    /// How to find the agent; anything but `ip` reads as `hostname`.
    pub fn lookup_by(&self) -> LookupBy {
        self.lookup_by.unwrap_or(LookupBy::Hostname)
    }

    /// The agent certificate's end, as text in OpenSSL's form, or `""`.
    pub fn expiry(&self) -> &str {
        self.expiry.as_deref().unwrap_or_default()
    }

    /// When the agent was paired, or `""`.
    pub fn paired(&self) -> &str {
        self.paired.as_deref().unwrap_or_default()
    }

    /// What the agent is believed to trust; unknown words read as unknown.
    pub fn serial_status(&self) -> SerialStatus {
        self.serial_status.unwrap_or(SerialStatus::Unknown)
    }

    /// Canonical serial of ours that the agent last confirmed, or `""`.
    pub fn dispatcher_serial(&self) -> &str {
        self.dispatcher_serial.as_deref().unwrap_or_default()
    }

    /// Common name the agent was paired with. Older records do not have it, and then it is the
    /// registry name (dispatcher.md §17.3).
    pub fn paired_cn(&self) -> &str {
        given(&self.paired_cn).unwrap_or(&self.name)
    }

    /// The same where the record says it; those that release 0.12.3 made do not.
    pub fn noted_cn(&self) -> Option<&str> {
        given(&self.paired_cn)
    }

    /// What the agent can do beyond release 0.12.3, words with spaces between; `None` when it has
    /// not told.
    pub fn features(&self) -> Option<&str> {
        if self.is_perl() {
            return Some("");
        }
        given(&self.features)
    }

    /// Since when the agent's certificates are barred, if they are.
    pub fn revoked(&self) -> Option<&str> {
        given(&self.revoked)
    }

    /// Serial of the certificate the agent showed last; `""` when none was seen.
    pub fn cert_serial(&self) -> &str {
        self.cert_serial.as_deref().unwrap_or_default()
    }

    /// End of a renewed certificate that the agent does not show yet, or `""`.
    pub fn staged_expiry(&self) -> &str {
        self.staged_expiry.as_deref().unwrap_or_default()
    }

    /// Digest of the CA certificates that the agent trusts, `none`, or `""` when nothing was heard.
    pub fn ca_digest(&self) -> &str {
        self.ca_digest.as_deref().unwrap_or_default()
    }

    /// Whether the agent's version, as its last ping told, is the reference's; unknown means no.
    pub fn is_perl(&self) -> bool {
        self.agent_version.as_deref().is_some_and(is_perl_version)
    }

    /// The pace set for the agent, else what it has told of its limit; `None` where nothing is
    /// known, or what is set cannot be read.
    pub fn rate(&self) -> Option<Rate> {
        let told = || {
            let mut words = self.features()?.split(' ');
            words.any(|word| word == UNPACED).then_some(Rate::Off)
        };
        match given(&self.rate) {
            None => told(),
            Some(set) => Rate::parse(set),
        }
    }

    /// A cached tag.
    pub fn tag(&self, key: &str) -> Option<Cow<'_, str>> {
        self.tags.as_ref()?.text(key)
    }

    /// The agent accepted `serial` at `now`.
    pub fn confirm_serial(&mut self, serial: &str, now: Utc) {
        self.dispatcher_serial = Some(serial.to_owned());
        self.serial_confirmed = Some(now.iso());
        self.serial_status = Some(SerialStatus::Current);
    }

    /// Renames the record; `hostname` follows. The common name it was paired with is kept, so
    /// that renewal goes on working.
    pub fn rename(&mut self, new: &str) {
        self.paired_cn = Some(self.paired_cn().to_owned());
        new.clone_into(&mut self.name);
        self.hostname = Some(new.to_owned());
    }

    fn texts(&self) -> [(&'static str, &Option<String>); 17] {
        [
            ("hostname", &self.hostname),
            ("ip", &self.ip),
            ("paired", &self.paired),
            ("expiry", &self.expiry),
            ("reqid", &self.reqid),
            ("dispatcher_serial", &self.dispatcher_serial),
            ("serial_broadcast", &self.serial_broadcast),
            ("serial_confirmed", &self.serial_confirmed),
            ("paired_cn", &self.paired_cn),
            ("agent_version", &self.agent_version),
            ("features", &self.features),
            ("rate", &self.rate),
            ("cert_serial", &self.cert_serial),
            ("staged_expiry", &self.staged_expiry),
            ("revoked", &self.revoked),
            ("retired_serial", &self.retired_serial),
            ("ca_digest", &self.ca_digest),
        ]
    }

    fn texts_mut(&mut self) -> [(&'static str, &mut Option<String>); 17] {
        [
            ("hostname", &mut self.hostname),
            ("ip", &mut self.ip),
            ("paired", &mut self.paired),
            ("expiry", &mut self.expiry),
            ("reqid", &mut self.reqid),
            ("dispatcher_serial", &mut self.dispatcher_serial),
            ("serial_broadcast", &mut self.serial_broadcast),
            ("serial_confirmed", &mut self.serial_confirmed),
            ("paired_cn", &mut self.paired_cn),
            ("agent_version", &mut self.agent_version),
            ("features", &mut self.features),
            ("rate", &mut self.rate),
            ("cert_serial", &mut self.cert_serial),
            ("staged_expiry", &mut self.staged_expiry),
            ("revoked", &mut self.revoked),
            ("retired_serial", &mut self.retired_serial),
            ("ca_digest", &mut self.ca_digest),
        ]
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Largest member of a record that is kept when a whole one is too large.
const MAX_MEMBER: usize = 4096;

/// What is left of a record: all of one that is only too large, else the fields that can be made
/// out.
pub fn salvage(bytes: &[u8]) -> Members {
    let mut kept = Members::new();
    if let Ok(whole) = Members::parse(bytes, &Bounds::RECORD) {
        for (key, value) in whole.iter() {
            if let ("tags", Some(tags)) = (key, Members::from_raw(value)) {
                kept.set(key, bounded_tags(&tags).0);
            } else if key.len() <= MAX_MEMBER && value.as_str().len() <= MAX_MEMBER {
                kept.set(key, value);
            }
        }
        return kept;
    }
    let text = String::from_utf8_lossy(bytes);
    let names = AgentRecord::default().texts().map(|(name, _)| name);
    for field in names
        .into_iter()
        .chain(["lookup_by", "serial_status", "executor"])
    {
        kept.set_text(field, string_after(&text, field));
    }
    kept.set_integer("port", number_after(&text, "port"));
    kept
}

/// The value of `"field":"value"`, whole and without escapes.
fn string_after<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let rest = after(text, field)?.strip_prefix('"')?;
    let (value, _) = rest.split_once('"')?;
    let plain = |c: char| !c.is_control() && c != '\\';
    (value.len() <= 256 && value.chars().all(plain)).then_some(value)
}

/// The value of `"field":number`; the number ends before something else.
fn number_after(text: &str, field: &str) -> Option<i64> {
    let rest = after(text, field)?;
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest.get(..end)?.parse().ok()
}

fn after<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{field}\""))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> AgentRecord {
        AgentRecord::parse("vm", json.as_bytes()).unwrap()
    }

    #[test]
    fn odd_fields_have_defaults_and_stay() {
        for (json, port) in [
            ("{}", 7443),
            (r#"{"port":"7600"}"#, 7600),
            (r#"{"port":7600.0}"#, 7600),
            (r#"{"port":0}"#, 7443),
            (r#"{"port":65536}"#, 7443),
            (r#"{"port":"x"}"#, 7443),
            (r#"{"port":65535}"#, 65535),
        ] {
            assert_eq!(record(json).port(), port, "{json}");
            assert_eq!(record(json).to_json(), json);
        }
        let odd =
            r#"{"executor":"maybe","ip":7,"lookup_by":"dns","serial_status":"what","tags":[]}"#;
        let mut record = record(odd);
        assert_eq!(record.lookup_by(), LookupBy::Hostname);
        assert_eq!(record.serial_status(), SerialStatus::Unknown);
        assert_eq!((record.executor, record.tags.clone()), (None, None));
        assert_eq!((record.hostname(), record.ip()), ("vm", ""));
        assert_eq!(record.paired_cn(), "vm");
        assert_eq!(record.to_json(), odd);
        record.ip = Some("::1".into());
        record.executor = Some(true);
        record.port = Some(1);
        assert!(record.to_json().contains(r#""executor":"yes","ip":"::1""#));
        assert_eq!(record.port(), 1);
    }

    #[test]
    fn every_field_is_read_and_written_under_its_name() {
        let text = r#"{"agent_version":"0.12.3","ca_digest":"d","cert_serial":"4a","dispatcher_serial":"4b","executor":"no","expiry":"e","features":"cancel","hostname":"h","ip":"i","lookup_by":"ip","paired":"p","paired_cn":"cn","port":7600,"rate":"5/60","reqid":"q","retired_serial":"4c","revoked":"r","serial_broadcast":"b","serial_confirmed":"c","serial_status":"stale","staged_expiry":"s","tags":{"n":1.0,"site":"lab"},"x":{"deep":[1,"a",null,1.5]}}"#;
        let record = record(text);
        assert_eq!(record.to_json(), text);
        assert_eq!(record.more.render(), r#"{"x":{"deep":[1,"a",null,1.5]}}"#);
        assert_eq!(record.hostname(), "h");
        assert_eq!(record.ip(), "i");
        assert_eq!(record.lookup_by(), LookupBy::Ip);
        assert_eq!((record.paired(), record.expiry()), ("p", "e"));
        assert_eq!(record.dispatcher_serial(), "4b");
        assert_eq!(record.serial_status(), SerialStatus::Stale);
        assert_eq!(record.paired_cn(), "cn");
        assert_eq!((record.is_perl(), record.executor), (true, Some(false)));
        assert_eq!(record.features.as_deref(), Some("cancel"));
        assert_eq!(
            (record.features(), record.noted_cn()),
            (Some(""), Some("cn"))
        );
        assert_eq!(record.rate(), Some(Rate::Within(5, 60)));
        assert_eq!(record.cert_serial(), "4a");
        assert_eq!(record.staged_expiry(), "s");
        assert_eq!(record.revoked(), Some("r"));
        assert_eq!(record.tag("site").as_deref(), Some("lab"));
        assert_eq!(record.tag("n").as_deref(), Some("1.0"));
        assert_eq!(record.tag("no"), None);
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
        record.rename("attic");
        record.rename("cellar");
        assert_eq!(
            record.to_json(),
            r#"{"future":[1,2],"hostname":"cellar","paired_cn":"vm"}"#
        );
    }
}
