//! Who is meant: host words, glob patterns, `--all`, `--tags`, `--failed-of`.

use crate::fleet::address;
use crate::store::files::registry::{Record, Registry, RegistryError};
use std::collections::HashSet;
use std::fmt;

/// A selection as given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Host words; those with `*`, `?` or `[` are patterns over registry names.
    pub words: Vec<String>,
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
    /// No agent is left.
    Nobody,
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

    /// The host words meant, in the order given (patterns and whole-fleet selections by name).
    /// Literal words are passed on as typed, registered or not.
    pub fn words(&self, registry: &Registry) -> Result<Vec<String>, SelectError> {
        if self.all && !self.words.is_empty() {
            return Err(SelectError::AllAndWords);
        }
        let mut words = if !self.words.is_empty() {
            self.expand(registry)?
        } else if let Some(among) = &self.among {
            among.clone()
        } else {
            callable(registry)?
        };
        if let (Some(among), false) = (&self.among, self.words.is_empty()) {
            let among: HashSet<&str> = among.iter().map(String::as_str).collect();
            words.retain(|word| among.contains(address::split(word).0));
        }
        if let Some(filter) = &self.tags {
            let mut kept = Vec::new();
            for word in words {
                match registry.load(address::split(&word).0) {
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
        }
        if words.is_empty() {
            Err(SelectError::Nobody)
        } else {
            Ok(words)
        }
    }

    fn expand(&self, registry: &Registry) -> Result<Vec<String>, SelectError> {
        let mut names: Option<Vec<String>> = None;
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for word in &self.words {
            if !word.contains(['*', '?', '[']) {
                seen.insert(word.clone());
                out.push(word.clone());
                continue;
            }
            if names.is_none() {
                names = Some(callable(registry)?);
            }
            let mut any = false;
            for name in names.iter().flatten().filter(|name| glob(word, name)) {
                any = true;
                if seen.insert(name.clone()) {
                    out.push(name.clone());
                }
            }
            if !any {
                return Err(SelectError::NoMatch(word.clone()));
            }
        }
        Ok(out)
    }
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
    pub fn matches(&self, record: &Record) -> bool {
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
            Self::NoMatch(pattern) => write!(f, "no registered agent matches '{pattern}'"),
            Self::Nobody => f.write_str("no registered agent is selected"),
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
        let mut record = Record::new("a");
        let tags = crate::model::json::parse_object(br#"{"site":"lab","n":3,"e":""}"#).unwrap();
        record.set_tags(tags);
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
            let mut record = Record::new(name);
            record.set_tags(crate::model::json::object([(
                "site",
                crate::model::json::string(site),
            )]));
            registry.register(&record).unwrap();
        }
        let select = |words: &[&str], all, tags: Option<&str>, among: Option<&[&str]>| {
            Selection {
                words: words.iter().map(|w| (*w).to_owned()).collect(),
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
            ok(&["r1", "r2", "r1", "r1", "x:5"])
        );
        assert_eq!(select(&[], true, None, None), ok(&["r1", "r2", "s1"]));
        assert_eq!(select(&[], true, Some("site=a"), None), ok(&["r1", "s1"]));
        assert_eq!(select(&["r*"], false, Some("site=a"), None), ok(&["r1"]));
        assert_eq!(select(&[], false, None, Some(&["s1"])), ok(&["s1"]));
        assert_eq!(
            select(&["r1", "s1:9"], false, None, Some(&["s1"])),
            ok(&["s1:9"])
        );
        assert!(select(&["q*"], false, None, None).is_err());
        assert!(select(&["r1"], true, None, None).is_err());
        assert!(select(&[], true, Some("site=z"), None).is_err());
    }
}
