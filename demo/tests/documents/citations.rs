//! `agent.md §2.1`, `design §3`, `docs/reference/PKI.md`: every citation in a source file resolves.

use crate::{files, read, repo, shown};
use std::collections::BTreeMap;

/// The sections of one document: `2`, `2.1`, and `9.1` also for item 1 of the list in section 9;
/// `Q-3` for an entry of that name.
fn sections(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chapter = String::new();
    for line in text.lines() {
        if line.starts_with('#') {
            let title = line.trim_start_matches('#').trim();
            let number: String = title
                .chars()
                .take_while(|ch| ch.is_ascii_digit() || *ch == '.')
                .collect();
            let number = number.trim_end_matches('.').to_owned();
            if !number.is_empty() {
                chapter.clone_from(&number);
                found.push(number);
            }
        } else if let Some((item, _)) = line.split_once(". ") {
            if !item.is_empty() && item.bytes().all(|byte| byte.is_ascii_digit()) {
                found.push(format!("{chapter}.{item}"));
            }
        } else if let Some(rest) = line.strip_prefix("**[Q-") {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            found.push(format!("Q-{number}"));
        }
        if let Some(rest) = line.strip_prefix("**[Q-") {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            found.push(format!("Q-{number}"));
        }
    }
    found
}

/// What a citation may name, by the word before the `§`.
fn known() -> BTreeMap<String, Vec<String>> {
    let compat = repo().join("docs/compat");
    let mut known: BTreeMap<String, Vec<String>> = files(&compat, &[".md"])
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default();
            (name.to_string_lossy().into_owned(), sections(&read(path)))
        })
        .collect();
    let design = read(&repo().join("docs/design/DECISIONS.md"));
    known.insert("design".to_owned(), sections(&design));
    known
}

/// The text of a source file with its comments joined over line ends.
fn joined(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_start();
        line.trim_start_matches("//!")
            .trim_start_matches("///")
            .trim_start_matches("//")
            .trim_start_matches('#')
            .trim()
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// The faults of one text, and how many citations it has.
fn check(text: &str, known: &BTreeMap<String, Vec<String>>) -> (usize, Vec<String>) {
    let text = joined(text);
    let mut document: Option<String> = None;
    let (mut count, mut faults) = (0, Vec::new());
    let mut words = text.split_whitespace().peekable();
    let mut before = String::new();
    while let Some(word) = words.next() {
        let plain = word.trim_matches(|ch: char| !ch.is_alphanumeric() && ch != '§');
        // A standard of somebody else: its sections are not ours.
        if ["RFC", "X.690", "X.509", "X.680"].contains(&plain) {
            document = None;
            before = "RFC".to_owned();
            continue;
        }
        if let Some(name) = known.keys().find(|name| {
            let at = |prefix: char| word.trim_start_matches(prefix).starts_with(name.as_str());
            (name.ends_with(".md") && (at('(') || at('`') || at('"'))) || plain == name.as_str()
        }) {
            let next = words.peek().is_some_and(|next| next.starts_with('§'));
            if name != "design" || next {
                document = Some(name.clone());
                before.clear();
            }
        }
        // `agent.md §15 Q-5` and `agent.md Q-16`.
        for mark in word.split(['–', ',', ')', ';', ':']) {
            let section = if let Some(at) = mark.find('§') {
                let number: String = mark[at + '§'.len_utf8()..]
                    .chars()
                    .take_while(|ch| ch.is_ascii_digit() || *ch == '.')
                    .collect();
                number.trim_end_matches('.').to_owned()
            } else if mark.starts_with("Q-")
                && mark[2..].starts_with(|ch: char| ch.is_ascii_digit())
            {
                let number: String = mark[2..].chars().take_while(char::is_ascii_digit).collect();
                format!("Q-{number}")
            } else {
                continue;
            };
            if section.is_empty() || before == "RFC" {
                continue;
            }
            count += 1;
            match &document {
                None => faults.push(format!("§{section} of which document?")),
                Some(name) => {
                    if !known
                        .get(name)
                        .is_some_and(|sections| sections.contains(&section))
                    {
                        faults.push(format!("{name} has no section {section}"));
                    }
                }
            }
        }
    }
    (count, faults)
}

#[test]
fn every_section_that_the_code_cites_exists() {
    let known = known();
    let (mut count, mut faults) = (0, Vec::new());
    for path in files(&repo(), &[".rs", ".py", ".sh"]) {
        if shown(&path).starts_with("demo/tests/documents/") {
            continue;
        }
        let (cited, wrong) = check(&read(&path), &known);
        count += cited;
        faults.extend(
            wrong
                .iter()
                .map(|fault| format!("{}: {fault}", shown(&path))),
        );
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 100, "only {count} citations were found");
}

#[test]
fn every_document_that_the_code_names_exists() {
    let mut faults = Vec::new();
    for path in files(
        &repo(),
        &[".rs", ".py", ".sh", ".toml", ".service", "run", "build"],
    ) {
        // The names in the tests of these checks are wrong on purpose.
        if shown(&path).starts_with("demo/tests/documents/") {
            continue;
        }
        for word in
            read(&path).split(|ch: char| !ch.is_ascii_alphanumeric() && !"/._-".contains(ch))
        {
            let word = word.trim_end_matches('.');
            if word.starts_with("docs/") && word.ends_with(".md") && !repo().join(word).is_file() {
                faults.push(format!("{}: {word}", shown(&path)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn citations_that_do_not_resolve_are_found() {
    let known = known();
    let (count, faults) = check(
        "//! One (agent.md §2.1), two (agent.md §2,\n//! dispatcher.md §9.2, §9.3); RFC 5280 §77.\n",
        &known,
    );
    assert_eq!((count, faults), (4, Vec::new()));
    let bad = [
        "/// (agent.md §99)",
        "/// (agent.md §2.1, §2.99)",
        "/// (agent.md Q-77)",
        "/// (pki-and-pairing.md\n/// §4; design §33)",
        "/// §3 of nothing",
    ];
    for text in bad {
        let (_, faults) = check(text, &known);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
    }
}
