//! From a host word to where the agent listens (dispatcher.md §7).

use super::call::{Route, Target};
use super::error::Fault;
use crate::model::AgentRecord;
pub use crate::model::host_word::split;
use crate::store::files::registry::{Damaged, Registry, RegistryError};
use ctrl_exec_protocol::names::AGENT_PORT;
use ctrl_exec_protocol::wire::pairing::LookupBy;
use std::fmt;

/// Why words could not be resolved.
#[derive(Debug)]
pub enum AddressError {
    /// These are not registered.
    Unknown(Vec<String>),
    /// The registry could not be read.
    Registry(RegistryError),
}

/// The target of a registered agent, for a word with or without port and an optional `--port`.
///
/// `--port` replaces the default port wherever it comes from, and no other: the reference drops
/// the default from its target strings before it looks at the option.
pub fn target(record: &AgentRecord, word_port: Option<u16>, option: Option<u16>) -> Target {
    let address = match record.lookup_by() {
        LookupBy::Ip if !record.ip().is_empty() => record.ip(),
        _ => record.hostname(),
    };
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let port = word_port.unwrap_or_else(|| record.port());
    let port = if port == AGENT_PORT {
        option.unwrap_or(port)
    } else {
        port
    };
    Target {
        name: record.name().to_owned(),
        route: Route::Dial {
            address: address.to_owned(),
            port,
        },
        knows: record.dispatcher_serial().to_owned(),
        perl: record.is_perl(),
        executor: record.executor,
        paired: record.noted_cn().map(str::to_owned),
        features: record.features().map(str::to_owned),
        rate: record.rate(),
        obstacle: record
            .revoked()
            .map(|since| Fault::Barred(since.to_owned())),
    }
}

/// What stands for an agent whose record cannot be read: its call fails with the reason, and the
/// others go on.
fn unreadable(damaged: &Damaged) -> Target {
    Target {
        obstacle: Some(Fault::Record(damaged.to_string())),
        ..target(&AgentRecord::new(&damaged.name), None, None)
    }
}

/// Resolves all words, or says which are not registered.
pub fn resolve<S: AsRef<str>>(
    registry: &Registry,
    words: &[S],
    option: Option<u16>,
) -> Result<Vec<Target>, AddressError> {
    let mut targets = Vec::with_capacity(words.len());
    let mut unknown = Vec::new();
    for word in words {
        let (name, port) = split(word.as_ref());
        match registry.load(name) {
            Ok(Some(record)) => targets.push(target(&record, port, option)),
            Ok(None) => unknown.push(word.as_ref().to_owned()),
            Err(RegistryError::Damaged(damaged)) => targets.push(unreadable(&damaged)),
            Err(error) => return Err(AddressError::Registry(error)),
        }
    }
    if unknown.is_empty() {
        Ok(targets)
    } else {
        Err(AddressError::Unknown(unknown))
    }
}

/// Resolves names of a run record: those no longer registered are used as they are.
pub fn resolve_or_pass<S: AsRef<str>>(
    registry: &Registry,
    names: &[S],
    option: Option<u16>,
) -> Result<Vec<Target>, RegistryError> {
    names
        .iter()
        .map(|name| {
            let (name, port) = split(name.as_ref());
            match registry.load(name) {
                Ok(Some(record)) => Ok(target(&record, port, option)),
                Ok(None) => Ok(target(&AgentRecord::new(name), port, option)),
                Err(RegistryError::Damaged(damaged)) => Ok(unreadable(&damaged)),
                Err(error) => Err(error),
            }
        })
        .collect()
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(words) => {
                let words: Vec<_> = words.iter().map(|w| w.escape_debug().to_string()).collect();
                write!(
                    f,
                    "unknown agent: {}\nOnly registered agents can be addressed - run \
                     'ctrl-exec-dispatcher list-agents' to see them.",
                    words.join(", ")
                )
            }
            Self::Registry(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_at_the_last_colon() {
        assert_eq!(split("a"), ("a", None));
        assert_eq!(split("a:7600"), ("a", Some(7600)));
        assert_eq!(split("a:0"), ("a", Some(7443)));
        assert_eq!(split("a:65536"), ("a", Some(7443)));
        assert_eq!(split("a:99999999999999999999"), ("a", Some(7443)));
        assert_eq!(split("a:b"), ("a:b", None));
        assert_eq!(split("a:"), ("a:", None));
        assert_eq!(split("a:1:2"), ("a:1", Some(2)));
    }

    #[test]
    fn the_matrix() {
        type Case = (
            &'static str,
            &'static str,
            u16,
            Option<u16>,
            Option<u16>,
            &'static str,
            u16,
        );
        // (lookup_by, ip, stored port, port of the word, --port) -> address, port
        let table: &[Case] = &[
            ("hostname", "10.0.0.1", 7443, None, None, "vm.example", 7443),
            ("ip", "10.0.0.1", 7443, None, None, "10.0.0.1", 7443),
            ("ip", "", 7443, None, None, "vm.example", 7443),
            ("dns", "10.0.0.1", 7443, None, None, "vm.example", 7443),
            ("ip", "10.0.0.1", 7600, None, None, "10.0.0.1", 7600),
            ("ip", "10.0.0.1", 7600, Some(7700), None, "10.0.0.1", 7700),
            ("ip", "10.0.0.1", 7600, None, Some(9000), "10.0.0.1", 7600),
            ("ip", "10.0.0.1", 7443, None, Some(9000), "10.0.0.1", 9000),
            (
                "ip",
                "10.0.0.1",
                7600,
                Some(7443),
                Some(9000),
                "10.0.0.1",
                9000,
            ),
            ("ip", "10.0.0.1", 7600, Some(7443), None, "10.0.0.1", 7443),
            ("ip", "fe80::7443", 7443, None, None, "fe80::7443", 7443),
            ("ip", "[::1]", 7443, None, Some(1), "::1", 1),
        ];
        for (lookup, ip, stored, word, option, address, port) in table {
            let mut record = AgentRecord::new("vm");
            record.hostname = Some("vm.example".into());
            record.ip = Some((*ip).into());
            record.lookup_by = LookupBy::parse(lookup);
            record.port = Some(*stored);
            let got = target(&record, *word, *option);
            assert_eq!(
                (got.address(), got.port()),
                (*address, *port),
                "{lookup} {ip} {stored}"
            );
            assert_eq!(got.name, "vm");
        }
    }
}
