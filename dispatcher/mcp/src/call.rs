//! What a call means: hosts, and the command line of the script.

use crate::catalogue::Entry;
use crate::schema::{self, LIST, NESTED, Place};
use crate::{argv, text};
use serde_json::{Map, Value};

/// Hosts and arguments for a call of `entry` with `values`. `through` says that it came by
/// `run_script`, whose members have names of their own.
///
/// # Errors
/// One line for each fault.
pub fn prepare(
    entry: &Entry,
    mut values: Map<String, Value>,
    through: bool,
) -> Result<(Vec<String>, Vec<String>), Vec<String>> {
    let strings = |name: &str, value: Option<Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let strings: Option<Vec<String>> = items
                .into_iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect();
            strings
                .map(Some)
                .ok_or(vec![format!("{name}: not a list of strings")])
        }
        Some(_) => Err(vec![format!("{name}: not a list of strings")]),
    };
    let (hosts_name, tags_name) = if through {
        ("hosts", "tags")
    } else {
        (entry.input.hosts.as_str(), entry.input.tags.as_str())
    };
    let hosts = strings(hosts_name, values.remove(hosts_name))?;
    let tags = strings(tags_name, values.remove(tags_name))?.unwrap_or_default();
    if hosts.as_ref().is_some_and(Vec::is_empty) {
        return Err(vec![format!("{hosts_name}: an empty list names no host")]);
    }
    let hosts = entry
        .select(hosts.as_deref(), &tags)
        .map_err(|fault| vec![fault])?;
    let mut nested = |name: &str| match values.remove(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(vec![format!("{name}: not an object")]),
    };
    let own = match (&entry.input.place, through) {
        (Place::List, _) => {
            let args = strings(LIST, values.remove(LIST))?.unwrap_or_default();
            if let Some(name) = values.keys().next() {
                return Err(vec![format!(
                    "{}: this script takes only {LIST}",
                    text::harmless(name)
                )]);
            }
            if args.iter().any(|arg| arg.contains('\0')) {
                return Err(vec![format!(
                    "{LIST}: an argument of a program cannot hold a NUL character"
                )]);
            }
            return Ok((hosts, args));
        }
        (_, true) | (Place::Nested, false) => {
            let own = nested(NESTED)?;
            if let Some(name) = values.keys().next() {
                return Err(vec![format!(
                    "{}: arguments of the script stand in {NESTED}",
                    text::harmless(name)
                )]);
            }
            own
        }
        (Place::Beside, false) => values,
    };
    let empty = Map::new();
    let arguments = entry.arguments().unwrap_or(&empty);
    schema::check(arguments, &own)?;
    let template = entry
        .sidecar
        .as_ref()
        .and_then(|sidecar| sidecar.get("argv"));
    let properties = arguments.get("properties").and_then(Value::as_object);
    let argv = argv::render(template, properties, &own).map_err(|fault| vec![fault])?;
    Ok((hosts, argv))
}
