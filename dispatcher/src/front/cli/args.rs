//! A parsed command line.

use super::flags::Flag;

/// A parsed command line.
#[derive(Debug)]
pub struct Args {
    pub(super) given: Vec<(&'static str, String)>,
    /// Positional words after the verb, before `--`.
    pub words: Vec<String>,
    /// What follows `--`; `None` without it.
    pub rest: Option<Vec<String>>,
}

impl Args {
    /// The last value given for a flag.
    pub fn value(&self, flag: &Flag) -> Option<&str> {
        self.given
            .iter()
            .rev()
            .find(|(name, _)| *name == flag.name)
            .map(|(_, v)| v.as_str())
    }

    /// All values given for a flag.
    pub fn values<'a>(&'a self, flag: &'a Flag) -> impl Iterator<Item = &'a str> {
        let given = self.given.iter().filter(|(name, _)| *name == flag.name);
        given.map(|(_, value)| value.as_str())
    }

    /// Whether a flag was given.
    pub fn has(&self, flag: &Flag) -> bool {
        self.value(flag).is_some()
    }

    /// A number flag's value; its range was checked when parsing.
    pub fn number<N: TryFrom<i64>>(&self, flag: &Flag) -> Option<N> {
        self.value(flag)
            .and_then(|text| text.parse::<i64>().ok())
            .and_then(|n| n.try_into().ok())
    }
}
