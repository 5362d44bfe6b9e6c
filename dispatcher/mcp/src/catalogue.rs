//! The tools of a fleet: one for each script and version of its schema.

use crate::names::tool_name;
use crate::schema::{self, Input};
use crate::text::{capped, harmless};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A script in one version, and the hosts that have it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the tool.
    pub name: String,
    /// Name of the script.
    pub script: String,
    /// Version of the schema; none for a script without sidecar.
    pub version: Option<String>,
    /// The sidecar.
    pub sidecar: Option<Map<String, Value>>,
    /// Hosts that have it, with their tags.
    pub hosts: BTreeMap<String, BTreeMap<String, String>>,
    /// Its input.
    pub input: Input,
}

impl Entry {
    /// The schema of the script's own arguments.
    pub fn arguments(&self) -> Option<&Map<String, Value>> {
        self.sidecar.as_ref()?.get("arguments")?.as_object()
    }

    /// A boolean of the sidecar.
    fn says(&self, name: &str) -> Option<bool> {
        self.sidecar.as_ref()?.get(name)?.as_bool()
    }

    /// It changes nothing.
    pub fn read_only(&self) -> bool {
        self.says("read_only").unwrap_or(false)
    }

    /// It may destroy something.
    pub fn destructive(&self) -> bool {
        self.says("destructive").unwrap_or(!self.read_only())
    }

    /// Doing it twice is as doing it once.
    pub fn idempotent(&self) -> bool {
        self.says("idempotent").unwrap_or(false)
    }

    /// What clients are told that it does.
    pub fn description(&self) -> String {
        let said = self
            .sidecar
            .as_ref()
            .and_then(|s| s.get("description"))
            .and_then(Value::as_str);
        let said = said.map(|text| capped(&harmless(text), 4000).0);
        let count = self.hosts.len();
        let hosts = if count == 1 {
            "1 host".to_owned()
        } else {
            format!("{count} hosts")
        };
        match said {
            Some(text) => format!(
                "{text}\n\nRuns the script {} on {hosts} of the fleet.",
                self.script
            ),
            None => format!(
                "Runs the script {} on {hosts} of the fleet; it has no description.",
                self.script
            ),
        }
    }

    /// The hosts that a call means.
    ///
    /// # Errors
    /// One line that names the hosts or tags that do not fit.
    pub fn select(&self, hosts: Option<&[String]>, tags: &[String]) -> Result<Vec<String>, String> {
        let mut chosen: Vec<String> = match hosts {
            None => self.hosts.keys().cloned().collect(),
            Some(hosts) => {
                let unknown: Vec<_> = hosts
                    .iter()
                    .filter(|h| !self.hosts.contains_key(*h))
                    .map(|h| harmless(h))
                    .collect();
                if !unknown.is_empty() {
                    let known: Vec<_> = self.hosts.keys().map(String::as_str).collect();
                    return Err(format!(
                        "not hosts with this script: {}; it is on: {}",
                        unknown.join(", "),
                        capped(&known.join(", "), 1000).0
                    ));
                }
                let once: BTreeSet<_> = hosts.iter().cloned().collect();
                once.into_iter().collect()
            }
        };
        for tag in tags {
            let (key, value) = tag
                .split_once('=')
                .map_or((tag.as_str(), None), |(k, v)| (k, Some(v)));
            chosen.retain(|host| {
                let tags = self.hosts.get(host);
                tags.and_then(|tags| tags.get(key))
                    .is_some_and(|has| value.is_none_or(|v| v == has))
            });
        }
        if chosen.is_empty() {
            return Err("no host has this script and all these tags".to_owned());
        }
        Ok(chosen)
    }
}

/// Every tool, sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// The tools.
    pub entries: Vec<Entry>,
    /// Hosts that did not answer, and why.
    pub silent: BTreeMap<String, String>,
}

impl Catalogue {
    /// Reads an answer to `/discovery`. What is not as the API documents it is left out.
    pub fn read(discovery: &Value) -> Self {
        type Key = (String, Option<String>, String);
        let mut found: BTreeMap<Key, Entry> = BTreeMap::new();
        let mut silent = BTreeMap::new();
        let empty = Map::new();
        let hosts = discovery
            .get("hosts")
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        for (host, answer) in hosts {
            if answer.get("status").and_then(Value::as_str) != Some("ok") {
                let error = answer
                    .get("error")
                    .and_then(Value::as_str)
                    .unwrap_or("no answer");
                silent.insert(host.clone(), capped(&harmless(error), 300).0);
                continue;
            }
            let tags = answer
                .get("tags")
                .and_then(Value::as_object)
                .unwrap_or(&empty);
            let tags: BTreeMap<String, String> = tags
                .iter()
                .map(|(k, v)| {
                    (
                        k.clone(),
                        v.as_str().map_or_else(|| v.to_string(), str::to_owned),
                    )
                })
                .collect();
            for script in answer
                .get("scripts")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let Some(name) = script.get("name").and_then(Value::as_str) else {
                    continue;
                };
                if script.get("executable") == Some(&Value::Bool(false)) {
                    continue;
                }
                let sidecar = script.get("schema").and_then(Value::as_object);
                let version = script
                    .get("schema_version")
                    .and_then(Value::as_str)
                    .filter(|_| sidecar.is_some());
                let body = sidecar.map(canonical).unwrap_or_default();
                let key = (name.to_owned(), version.map(str::to_owned), body);
                let entry = found.entry(key).or_insert_with(|| Entry {
                    name: String::new(),
                    script: name.to_owned(),
                    version: version.map(str::to_owned),
                    sidecar: sidecar.cloned(),
                    hosts: BTreeMap::new(),
                    input: schema::input(None, &[]),
                });
                entry.hosts.insert(host.clone(), tags.clone());
            }
        }
        let mut variants: BTreeMap<String, usize> = BTreeMap::new();
        for (script, ..) in found.keys() {
            *variants.entry(script.clone()).or_default() += 1;
        }
        let mut entries: Vec<Entry> = found
            .into_iter()
            .map(|((script, version, body), mut entry)| {
                let identity = format!("{}\0{body}", version.as_deref().unwrap_or_default());
                entry.name = tool_name(&script, &identity, variants.get(&script) == Some(&1));
                let hosts: Vec<String> = entry.hosts.keys().cloned().collect();
                entry.input = schema::input(entry.arguments(), &hosts);
                entry
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Self { entries, silent }
    }

    /// The tool called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// JSON with sorted members: alike for alike values.
fn canonical(object: &Map<String, Value>) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(object) => {
                let mut members: Vec<_> = object.iter().collect();
                members.sort_by(|a, b| a.0.cmp(b.0));
                Value::Object(
                    members
                        .into_iter()
                        .map(|(k, v)| (k.clone(), sorted(v)))
                        .collect(),
                )
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(&Value::Object(object.clone())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fleet() -> Value {
        let one = json!({"version": "1", "description": "Shows load", "read_only": true, "arguments": {"properties": {"n": {"type": "integer"}}}});
        let same = json!({"arguments": {"properties": {"n": {"type": "integer"}}}, "read_only": true, "version": "1", "description": "Shows load"});
        let other = json!({"version": "1", "description": "Shows all"});
        let script = |schema: &Value| json!({"name": "load", "executable": true, "schema": schema, "schema_version": "1"});
        json!({"ok": true, "hosts": {
            "r1": {"status": "ok", "tags": {"site": "lab", "n": 4}, "scripts": [script(&one), {"name": "plain", "executable": true}]},
            "r2": {"status": "ok", "tags": {"site": "lab"}, "scripts": [script(&same), {"name": "plain", "executable": true}]},
            "r3": {"status": "ok", "tags": {}, "scripts": [script(&other), {"name": "load2", "executable": false}, {"name": 5}]},
            "r4": {"status": "error", "error": "\u{1b}[31mrefused"},
            "r5": 7,
        }})
    }

    #[test]
    fn one_tool_for_each_script_and_body() {
        let catalogue = Catalogue::read(&fleet());
        let seen: Vec<_> = catalogue
            .entries
            .iter()
            .map(|e| {
                (
                    e.script.as_str(),
                    e.hosts.keys().cloned().collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen.contains(&("load", vec!["r1".into(), "r2".into()])));
        assert!(seen.contains(&("load", vec!["r3".into()])));
        assert!(catalogue.get("plain").is_some() && catalogue.get("load").is_none());
        assert_eq!(catalogue.silent["r4"], "\\u{1b}[31mrefused");
        assert_eq!(catalogue.silent.len(), 2);
        let load = &catalogue
            .entries
            .iter()
            .find(|e| e.hosts.len() == 2 && e.script == "load")
            .unwrap();
        assert!(load.read_only() && !load.destructive() && !load.idempotent());
        assert!(catalogue.get("plain").unwrap().destructive());
    }

    #[test]
    fn hosts_are_chosen_by_name_and_tag() {
        let catalogue = Catalogue::read(&fleet());
        let plain = catalogue.get("plain").unwrap();
        let select = |hosts: Option<&[&str]>, tags: &[&str]| {
            let hosts = hosts.map(|h| h.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            let tags: Vec<_> = tags.iter().map(|s| (*s).to_owned()).collect();
            plain.select(hosts.as_deref(), &tags)
        };
        assert_eq!(select(None, &[]).unwrap(), ["r1", "r2"]);
        assert_eq!(select(Some(&["r2", "r2"]), &[]).unwrap(), ["r2"]);
        assert_eq!(select(None, &["site=lab", "n=4"]).unwrap(), ["r1"]);
        assert_eq!(select(None, &["n"]).unwrap(), ["r1"]);
        assert!(
            select(None, &["site=moon"])
                .unwrap_err()
                .contains("no host")
        );
        assert!(
            select(Some(&["r3"]), &[])
                .unwrap_err()
                .starts_with("not hosts with this script: r3; it is on: r1, r2")
        );
    }

    #[test]
    fn nonsense_is_an_empty_catalogue() {
        for text in [
            "null",
            "[]",
            "{}",
            r#"{"hosts":[]}"#,
            r#"{"hosts":{"a":{"status":"ok","scripts":"x"}}}"#,
        ] {
            assert!(
                Catalogue::read(&serde_json::from_str(text).unwrap())
                    .entries
                    .is_empty()
            );
        }
    }
}
