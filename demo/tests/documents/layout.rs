//! Links lead somewhere, and tables can be read.

use crate::{cells, documents, prose, read, shown};
use std::path::Path;

/// What may stand in one cell of a table, in characters.
const MAX_CELL: usize = 120;

/// The name by which a heading is linked to.
fn anchor(title: &str) -> String {
    title
        .chars()
        .filter_map(|ch| match ch {
            ' ' => Some('-'),
            '-' | '_' => Some(ch),
            ch if ch.is_alphanumeric() => ch.to_lowercase().next(),
            _ => None,
        })
        .collect()
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    let headings = prose(text);
    let mut titles = headings
        .iter()
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| anchor(line.trim_start_matches('#').trim()));
    titles.any(|title| title == wanted)
}

/// The targets of the links of a line.
fn links(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("](") {
        rest = &rest[at + 2..];
        if let Some(end) = rest.find(')') {
            found.push(&rest[..end]);
        }
    }
    found
}

fn fault(document: &Path, text: &str, link: &str) -> Option<String> {
    if link.starts_with("http://") || link.starts_with("https://") {
        return None;
    }
    let (file, name) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        document.to_owned()
    } else {
        document.parent()?.join(file)
    };
    if !target.exists() {
        return Some(format!("{link}: there is no such file"));
    }
    if name.is_empty() {
        return None;
    }
    let found = if file.is_empty() {
        has_anchor(text, name)
    } else {
        has_anchor(&read(&target), name)
    };
    (!found).then(|| format!("{link}: there is no such heading"))
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    for path in documents() {
        let text = read(&path);
        for (number, line) in prose(&text) {
            for link in links(line) {
                if let Some(fault) = fault(&path, &text, link) {
                    faults.push(format!("{}:{number}: {fault}", shown(&path)));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_cell_of_a_table_is_a_paragraph() {
    let mut faults = Vec::new();
    for path in documents() {
        let text = read(&path);
        for (number, line) in prose(&text) {
            let long = cells(line)
                .iter()
                .any(|cell| cell.chars().count() > MAX_CELL);
            if line.starts_with('|') && long {
                faults.push(format!("{}:{number}", shown(&path)));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "cells of more than {MAX_CELL} characters:\n{}",
        faults.join("\n")
    );
}

#[test]
fn the_checks_find_faults() {
    assert_eq!(
        anchor("1.2 Order of `checks` (exact)"),
        "12-order-of-checks-exact"
    );
    assert_eq!(links("a [b](c.md) and [d](#e)"), ["c.md", "#e"]);
    let here = crate::repo().join("README.md");
    assert!(fault(&here, "# A\n", "docs/nowhere.md").is_some());
    assert!(fault(&here, "# A b\n", "#a-b").is_none());
    assert!(fault(&here, "# A b\n", "#a-c").is_some());
    assert_eq!(cells("| a | b\\|c |"), ["a", "b|c"]);
}
