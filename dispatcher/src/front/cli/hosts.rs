//! Lists of hosts from files (`@FILE`, `--hosts-file`) and from standard input (`-`).

use crate::fleet::hostlist::MAX_WORDS;
use crate::model::AppError;
use ctrl_exec_host::bounded::Bounded;
use std::io;
use std::path::Path;

/// Largest list, in bytes.
const MAX_LIST: u64 = 8 << 20;

/// Words with lists read in their place. `input` says whether standard input has been read, which
/// can be done once.
pub fn read<'a>(
    words: impl Iterator<Item = &'a str>,
    input: &mut bool,
) -> Result<Vec<String>, AppError> {
    let mut out = Vec::new();
    for word in words {
        match word.strip_prefix('@') {
            Some("") => return Err(AppError::usage("'@' needs the name of a file: @FILE")),
            Some(path) => out.extend(listed(path, input)?),
            None if word == "-" => out.extend(listed(word, input)?),
            None => out.push(word.to_owned()),
        }
    }
    Ok(out)
}

/// The words in a file, or on standard input (`-`): separated by white space or commas, up to `#` in
/// each line.
pub fn listed(path: &str, input: &mut bool) -> Result<Vec<String>, AppError> {
    let shown = if path == "-" { "standard input" } else { path };
    let fail = |why: &dyn std::fmt::Display| {
        AppError::usage(format!("list of hosts {}: {why}", shown.escape_debug()))
    };
    let reader = Bounded::new(MAX_LIST).any_kind();
    let bytes = if path == "-" {
        if std::mem::replace(input, true) {
            return Err(fail(&"can be read only once"));
        }
        reader.read_from(io::stdin().lock())
    } else {
        reader.read(Path::new(path))
    }
    .map_err(|error| fail(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| fail(&"is not valid UTF-8"))?;
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        for word in line.split_whitespace() {
            let at = |why: &str| fail(&format!("line {}: {why}", number + 1));
            if word.starts_with('@') || word == "-" {
                return Err(at("a list cannot name another list"));
            }
            let word = word.trim_end_matches(',').trim_start_matches(',');
            if !word.is_empty() {
                words.push(word.to_owned());
            }
            if words.len() > MAX_WORDS {
                return Err(at(&format!("more than {MAX_WORDS} hosts")));
            }
        }
    }
    if words.is_empty() {
        return Err(fail(&"names no host"));
    }
    Ok(words)
}
