//! Who is meant: host words, ranges, patterns, `--all`, `--tags`, `--failed-of`, `--exclude`.

use crate::fleet::hostlist::{self, ListError};
use crate::model::AgentRecord;
use crate::model::host_word;
use crate::store::files::registry::{Registry, RegistryError};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// A selection as given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Host words: names, lists with commas, ranges (`ap[1-12]`), patterns over registry names.
    pub words: Vec<String>,
    /// Words for agents that are not meant.
    pub exclude: Vec<String>,
    /// Every registered agent.
    pub all: bool,
    /// Only agents with all these tags.
    pub tags: Option<TagFilter>,
    /// Only these names (from `--failed-of`).
    pub among: Option<Vec<String>>,
}

/// Why nothing was selected.
#[derive(Debug)]
pub enum SelectError {
    /// A pattern that fits no registered agent.
    NoMatch(String),
    /// A list that cannot be read.
    List(ListError),
    /// A word whose port is none.
    Port(String),
    /// An agent named with two ports.
    TwoPorts(String, u16, u16),
    /// Not to be called is an agent that does not exist: a slip of the pen, it must be supposed.
    ExcludedUnknown(String),
    /// No agent is left.
    Nobody,
    /// No agent has the tags.
    Untagged,
    /// Every agent meant is excluded.
    AllExcluded,
    /// `--all` together with host words.
    AllAndWords,
    /// The registry could not be read.
    Registry(RegistryError),
}

impl Selection {
    /// Whether anything says which hosts are meant.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && !self.all && self.tags.is_none() && self.among.is_none()
    }

    /// The host words meant, in the order given (patterns and whole-fleet selections by name), each
    /// agent once. Literal words are passed on as typed, registered or not.
    pub fn words(&self, registry: &Registry) -> Result<Vec<String>, SelectError> {
        if self.all && !self.words.is_empty() {
            return Err(SelectError::AllAndWords);
        }
        let by_tag = self.words.is_empty() && self.among.is_none();
        if let (Some(filter), true) = (&self.tags, by_tag) {
            let words = registry.tagged(&filter.0).map_err(SelectError::Registry)?;
            if words.is_empty() {
                return Err(SelectError::Untagged);
            }
            return self.without_excluded(words, registry);
        }
        let mut words = if !self.words.is_empty() {
            expand(&self.words, registry)?
        } else if let Some(among) = &self.among {
            once(among.clone())?
        } else {
            callable(registry)?
        };
        if let (Some(among), false) = (&self.among, self.words.is_empty()) {
            let among: HashSet<&str> = among.iter().map(|word| host_word::split(word).0).collect();
            words.retain(|word| among.contains(host_word::split(word).0));
        }
        if let Some(filter) = &self.tags {
            let mut kept = Vec::new();
            for word in words {
                match registry.load(host_word::split(&word).0) {
                    Ok(record) => {
                        if record.is_some_and(|record| filter.matches(&record)) {
                            kept.push(word);
                        }
                    }
                    // Its tags are not known: it is named and counted rather than left out.
                    Err(RegistryError::Damaged(_)) => kept.push(word),
                    Err(error) => return Err(SelectError::Registry(error)),
                }
            }
            words = kept;
            if words.is_empty() {
                return Err(SelectError::Untagged);
            }
        }
        if words.is_empty() {
            return Err(SelectError::Nobody);
        }
        self.without_excluded(words, registry)
    }

    fn without_excluded(
        &self,
        mut words: Vec<String>,
        registry: &Registry,
    ) -> Result<Vec<String>, SelectError> {
        if self.exclude.is_empty() {
            return Ok(words);
        }
        let excluded = expand(&self.exclude, registry)?;
        for word in &excluded {
            match registry.load(host_word::split(word).0) {
                Ok(None) => return Err(SelectError::ExcludedUnknown(word.clone())),
                Ok(Some(_)) | Err(RegistryError::Damaged(_)) => {}
                Err(error) => return Err(SelectError::Registry(error)),
            }
        }
        let excluded: HashSet<&str> = excluded.iter().map(|w| host_word::split(w).0).collect();
        words.retain(|word| !excluded.contains(host_word::split(word).0));
        if words.is_empty() {
            return Err(SelectError::AllExcluded);
        }
        Ok(words)
    }
}

/// Lists, ranges and patterns written out, each agent once.
fn expand(lists: &[String], registry: &Registry) -> Result<Vec<String>, SelectError> {
    let mut names: Option<Vec<String>> = None;
    let mut out = Vec::new();
    for list in lists {
        let room = hostlist::MAX_WORDS.saturating_sub(out.len());
        for word in hostlist::expand(list, room).map_err(SelectError::List)? {
            let (pattern, port) = name_and_port(&word)?;
            if !pattern.contains(['*', '?', '[']) {
                out.push(word);
                continue;
            }
            if names.is_none() {
                names = Some(callable(registry)?);
            }
            let before = out.len();
            for name in names.iter().flatten().filter(|name| glob(pattern, name)) {
                out.push(match port {
                    Some(port) => format!("{name}:{port}"),
                    None => name.clone(),
                });
            }
            if out.len() == before {
                return Err(SelectError::NoMatch(word));
            }
            // Many patterns that all mean the whole fleet must not add up.
            if out.len() > hostlist::MAX_WORDS {
                out = once(out)?;
            }
        }
    }
    once(out)
}

/// The name and port of a word. Unlike the reference, a number that is no port is not taken for the
/// default one.
fn name_and_port(word: &str) -> Result<(&str, Option<u16>), SelectError> {
    match host_word::split(word) {
        (name, Some(port)) => {
            let digits = &word[name.len() + 1..];
            if digits.parse() == Ok(port) {
                Ok((name, Some(port)))
            } else {
                Err(SelectError::Port(word.to_owned()))
            }
        }
        plain => Ok(plain),
    }
}

/// Each agent once, where it is first named. A port that is given with any of its words counts.
fn once(words: Vec<String>) -> Result<Vec<String>, SelectError> {
    let mut at: HashMap<String, usize> = HashMap::with_capacity(words.len());
    let mut out: Vec<String> = Vec::with_capacity(words.len());
    for word in words {
        let (name, port) = host_word::split(&word);
        let Some(&first) = at.get(name) else {
            at.insert(name.to_owned(), out.len());
            out.push(word);
            continue;
        };
        match (host_word::split(&out[first]).1, port) {
            (None, Some(_)) => out[first] = word,
            (Some(one), Some(other)) if one != other => {
                return Err(SelectError::TwoPorts(name.to_owned(), one, other));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The agents that a selection other than by name means: all but the revoked ones. One whose record
/// cannot be read is among them, so that it is told of.
fn callable(registry: &Registry) -> Result<Vec<String>, SelectError> {
    let listing = registry.list().map_err(SelectError::Registry)?;
    let records = listing.records.iter().filter(|r| r.revoked().is_none());
    let mut names: Vec<String> = records.map(|record| record.name().to_owned()).collect();
    names.extend(listing.damaged.into_iter().map(|damaged| damaged.name));
    names.sort_unstable();
    Ok(names)
}

/// `key=value[,key=value…]`; all must match exactly (dispatcher.md §3.6).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TagFilter(Vec<(String, String)>);

impl TagFilter {
    /// Reads a filter. Empty pieces are skipped; a value may be empty.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = Vec::new();
        for piece in text
            .split(',')
            .map(str::trim)
            .filter(|piece| !piece.is_empty())
        {
            match piece.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    pairs.push((key.to_owned(), value.to_owned()));
                }
                _ => return Err(format!("invalid tag filter '{piece}': expected key=value")),
            }
        }
        if pairs.is_empty() {
            return Err("empty tag filter: expected key=value[,key=value...]".to_owned());
        }
        Ok(Self(pairs))
    }

    /// Whether a record carries all the tags.
    pub fn matches(&self, record: &AgentRecord) -> bool {
        self.0
            .iter()
            .all(|(key, value)| record.tag(key).is_some_and(|tag| tag == value.as_str()))
    }
}

/// Shell pattern match: `*`, `?`, `[a-z]`, `[!…]`. Time is at most pattern × text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern, p, text[t]),
            Some(c) if *c == text[t] => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on when the class at `at` takes `c`. A `[` that is never closed matches
/// nothing.
fn class(pattern: &[char], at: usize, c: char) -> Option<usize> {
    let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
    let first = at + 1 + usize::from(negated);
    let mut i = first;
    let mut found = false;
    loop {
        let low = *pattern.get(i)?;
        if low == ']' && i > first {
            return (found != negated).then_some(i + 1);
        }
        match (pattern.get(i + 1), pattern.get(i + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                found |= (low..=*high).contains(&c);
                i += 3;
            }
            _ => {
                found |= low == c;
                i += 1;
            }
        }
    }
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMatch(pattern) => {
                write!(
                    f,
                    "no registered agent matches '{}'",
                    pattern.escape_debug()
                )
            }
            Self::List(error) => error.fmt(f),
            Self::Port(word) => write!(
                f,
                "'{}': a port is a number from 1 to 65535",
                word.escape_debug()
            ),
            Self::TwoPorts(name, one, other) => write!(
                f,
                "agent {} is named with two ports, {one} and {other}",
                name.escape_debug()
            ),
            Self::ExcludedUnknown(word) => write!(
                f,
                "--exclude names an unknown agent: {}",
                word.escape_debug()
            ),
            Self::Nobody => f.write_str("no registered agent is selected"),
            Self::Untagged => f.write_str(
                "no registered agent is selected: none meant has these tags. What tags agents have \
                 is learnt by 'ctrl-exec-dispatcher discover'",
            ),
            Self::AllExcluded => {
                f.write_str("no registered agent is selected: every one meant is excluded")
            }
            Self::AllAndWords => f.write_str("--all and host names exclude each other"),
            Self::Registry(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SelectError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use ctrl_exec_protocol::json::{Bounds, Json, Members};

    #[test]
    fn globs() {
        for (pattern, yes, no) in [
            ("web*", "web01", "db01"),
            ("*.lab", "a.lab", "a.lab2"),
            ("r?", "r1", "r12"),
            ("r[0-3a]", "ra", "r4"),
            ("r[!0-3]", "r4", "r1"),
            ("*a*b*", "xaybz", "xbya"),
            ("r[]x]", "r]", "rz"),
            ("r[1", "-", "r1"),
            ("**", "", "\0"),
        ] {
            if yes != "-" {
                assert!(glob(pattern, yes), "{pattern} {yes}");
            }
            if no != "\0" {
                assert!(!glob(pattern, no), "{pattern} {no}");
            }
        }
        // Would take for ever with naive backtracking.
        assert!(!glob(&"*a".repeat(40), &"a".repeat(39)));
    }

    #[test]
    fn tag_filters() {
        let mut record = AgentRecord::new("a");
        let tags = Members::parse(br#"{"site":"lab","n":3,"e":""}"#, &Bounds::RECORD).unwrap();
        record.tags = Some(tags);
        for (filter, expected) in [
            ("site=lab", true),
            ("site=lab,,n=3", true),
            ("site=lab,n=4", false),
            ("e=", true),
            ("missing=", false),
            ("site=Lab", false),
        ] {
            assert_eq!(
                TagFilter::parse(filter).unwrap().matches(&record),
                expected,
                "{filter}"
            );
        }
        for bad in ["", ",", "x", "=x", "a=b,c"] {
            assert!(TagFilter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn selections() {
        let dir = TempDir::new();
        let registry = Registry::new(dir.path());
        for (name, site) in [("r1", "a"), ("r2", "b"), ("s1", "a")] {
            let mut record = AgentRecord::new(name);
            record.tags = Some(Members::of([("site", Json::text(site))]));
            registry.register(&record).unwrap();
        }
        let select = |words: &[&str], all, tags: Option<&str>, among: Option<&[&str]>| {
            Selection {
                words: words.iter().map(|w| (*w).to_owned()).collect(),
                exclude: Vec::new(),
                all,
                tags: tags.map(|t| TagFilter::parse(t).unwrap()),
                among: among.map(|a| a.iter().map(|w| (*w).to_owned()).collect()),
            }
            .words(&registry)
            .map_err(|e| e.to_string())
        };
        let ok = |words: &[&str]| Ok(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            select(&["r*", "r1", "r1", "x:5"], false, None, None),
            ok(&["r1", "r2", "x:5"])
        );
        assert_eq!(select(&[], true, None, None), ok(&["r1", "r2", "s1"]));
        assert_eq!(select(&[], true, Some("site=a"), None), ok(&["r1", "s1"]));
        assert_eq!(select(&["r*"], false, Some("site=a"), None), ok(&["r1"]));
        assert_eq!(select(&[], false, None, Some(&["s1"])), ok(&["s1"]));
        assert_eq!(
            select(&["r1", "s1:9"], false, None, Some(&["s1"])),
            ok(&["s1:9"])
        );
        assert_eq!(
            select(&["r[1-3],r1", "r1:5", "r?:5"], false, None, None),
            ok(&["r1:5", "r2:5", "r3"])
        );
        for words in [
            &["r1:5", "r1:6"][..],
            &["r1:0"],
            &["r1:65536"],
            &["r[1-2]:99999"],
            &["r1,q*"],
            &["r[1-2"],
        ] {
            assert!(select(words, false, None, None).is_err(), "{words:?}");
        }
        let without = |words: &[&str], exclude: &[&str]| {
            Selection {
                words: words.iter().map(|w| (*w).to_owned()).collect(),
                exclude: exclude.iter().map(|w| (*w).to_owned()).collect(),
                all: words.is_empty(),
                ..Selection::default()
            }
            .words(&registry)
            .map_err(|e| e.to_string())
        };
        assert_eq!(without(&[], &["r[1-2]"]), ok(&["s1"]));
        assert_eq!(without(&["r1:9", "s1"], &["r*,r1:7"]), ok(&["s1"]));
        assert!(without(&["r1"], &["r1"]).is_err(), "nobody is left");
        assert!(without(&[], &["r[1-3]"]).is_err(), "r3 does not exist");
        assert!(without(&[], &["q*"]).is_err());
        assert!(select(&["q*"], false, None, None).is_err());
        assert!(select(&["r1"], true, None, None).is_err());
        assert!(select(&[], true, Some("site=z"), None).is_err());
    }
}
