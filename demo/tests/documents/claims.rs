//! What the documents say of configuration files and of the log is what the programs do.

use crate::{cells, files, prose, quoted, read, repo};
use ctrl_exec_protocol::config::AgentConf;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One row of a table of keys.
struct Key {
    name: String,
    default: String,
    example: String,
}

/// The rows of the tables below the headings `from` up to the next heading that is not deeper.
fn keys(page: &str, from: &str) -> Vec<Key> {
    let depth = from.chars().take_while(|ch| *ch == '#').count();
    let mut rows = Vec::new();
    let mut inside = false;
    for (_, line) in prose(page) {
        if line.starts_with('#') {
            let here = line.chars().take_while(|ch| *ch == '#').count();
            inside = line == from || (inside && here > depth);
            continue;
        }
        let row = cells(line);
        if inside && line.starts_with("| `") && row.len() == 4 {
            let name = row[0].trim_matches('`').to_owned();
            let example = row[3].trim_matches('`').to_owned();
            let default = row[1].clone();
            rows.push(Key {
                name,
                default,
                example,
            });
        }
    }
    rows
}

/// Everything in double quotes in the sources below `dir`, without their tests.
fn literals(dir: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&repo().join(dir), &[".rs"]) {
        let text = source(&path);
        found.extend(
            text.split('"')
                .enumerate()
                .filter(|(index, _)| index % 2 == 1)
                .map(|(_, word)| word.to_owned()),
        );
        // A quotation mark in a character or a comment shifts the others: both readings count.
        found.extend(text.split('"').map(str::to_owned));
    }
    found
}

/// A source file up to its unit tests.
fn source(path: &Path) -> String {
    let text = read(path);
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn is_key(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Whether the parser of `agent.conf` knows the key in a section that begins with `head`.
fn known(head: &str, key: &str) -> bool {
    ["1", "x", "/x", "yes", "err", "own", "10/60/300"]
        .iter()
        .any(
            |value| match AgentConf::parse(&format!("{head}{key} = {value}\n"), "f") {
                Ok((_, warnings)) => warnings.iter().all(|w| !w.message.contains("unknown")),
                Err(_) => true,
            },
        )
}

/// Both directions for one section of `agent.conf`.
fn agent_conf(head: &str, documented: &[Key], ignored: &[&str]) {
    let names: BTreeSet<&str> = documented.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names.len(), documented.len(), "a key stands there twice");
    for key in documented {
        let text = format!("{head}{} = {}\n", key.name, key.example);
        let (_, warnings) = AgentConf::parse(&text, "CONFIG.md")
            .unwrap_or_else(|error| panic!("the example of {}: {error}", key.name));
        let warnings: Vec<_> = warnings.iter().map(|warning| &warning.message).collect();
        assert!(warnings.is_empty(), "{}: {warnings:?}", key.name);
        let default = key.default.trim_matches('`');
        if key.default.starts_with('`') && !default.starts_with('/') && default != "script_timeout"
        {
            let base = AgentConf::parse(head, "f").expect("a section");
            let text = format!("{head}{} = {default}\n", key.name);
            let (conf, _) = AgentConf::parse(&text, "f").expect("a default");
            if key.name == "unix_sockets" {
                continue;
            }
            assert_eq!(conf, base.0, "the default of {}", key.name);
        }
    }
    let missing: Vec<String> = literals("crates/protocol/src/config")
        .into_iter()
        .filter(|word| is_key(word) && known(head, word) && !ignored.contains(&word.as_str()))
        .filter(|word| !names.contains(word.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "agent.conf takes {missing:?} after {head:?}, and CONFIG.md does not say so"
    );
}

#[test]
fn every_key_of_agent_conf_is_documented_and_the_reverse() {
    let page = read(&repo().join("docs/guide/CONFIG.md"));
    let mut top = Vec::new();
    for heading in [
        "### Listening",
        "### Who may connect",
        "### What may run",
        "### Limits",
        "### Asynchronous runs and renewal",
    ] {
        let rows = keys(&page, heading);
        assert!(!rows.is_empty(), "{heading}");
        top.extend(rows);
    }
    let without_effect = [
        "pairing_port",
        "pairing_max_queue",
        "dispatcher_serial_path",
        "dispatcher_cn",
    ];
    for key in without_effect {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
    agent_conf("", &top, &without_effect);
    let profile = keys(&page, "### Profiles");
    assert!(profile.len() > 10, "{}", profile.len());
    agent_conf("[profile p]\n", &profile, &[]);
}

/// The keys of `ctrl-exec.conf` that the dispatcher asks for.
fn asked_for() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&repo().join("dispatcher/src"), &[".rs"]) {
        let text: String = source(&path)
            .chars()
            .filter(|ch| !ch.is_whitespace())
            .collect();
        for call in [
            "settings.text(\"",
            "settings().text(\"",
            "settings.required(\"",
            "settings().required(\"",
            "settings.flag(\"",
            "settings().flag(\"",
            "config.number(\"",
            "self.number(\"",
            "days(\"",
        ] {
            found.extend(
                text.split(call)
                    .skip(1)
                    .filter_map(|rest| rest.split('"').next())
                    .map(str::to_owned),
            );
        }
    }
    found
}

#[test]
fn every_key_of_ctrl_exec_conf_is_documented_and_the_reverse() {
    let page = read(&repo().join("docs/guide/CONFIG.md"));
    let rows = keys(&page, "## ctrl-exec.conf");
    let names: BTreeSet<String> = rows.iter().map(|key| key.name.clone()).collect();
    assert_eq!(names.len(), rows.len(), "a key stands there twice");
    let asked = asked_for();
    assert!(asked.len() > 12, "{asked:?}");
    for key in &asked {
        assert!(
            names.contains(key),
            "ced reads '{key}', and CONFIG.md does not say so"
        );
    }
    let literals = literals("dispatcher/src");
    for key in &rows {
        assert!(
            literals.contains(&key.name),
            "CONFIG.md has '{}', which nothing in the dispatcher names",
            key.name
        );
    }
}

/// What the sources of one program log: each action, and all names of fields.
fn logged(dirs: &[&str]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut actions, mut fields) = (BTreeSet::new(), BTreeSet::new());
    for path in dirs
        .iter()
        .flat_map(|dir| files(&repo().join(dir), &[".rs"]))
    {
        if path.ends_with("tests.rs") {
            continue;
        }
        let text: String = source(&path)
            .chars()
            .filter(|ch| !ch.is_whitespace())
            .collect();
        let after = |call: &str| -> Vec<String> {
            text.split(call)
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .map(str::to_owned)
                .collect()
        };
        let is_action = |word: &String| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        };
        actions.extend(after("Line::new(\"").into_iter().filter(is_action));
        // Where a closure makes the line, the actions are what it is called with.
        if text.contains("Line::new(action)") {
            for call in ["=line(\"", "(line(\"", "line(&\""] {
                actions.extend(after(call).into_iter().filter(is_action));
            }
        }
        let is_field = |word: &String| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        };
        fields.extend(after(".field(\"").into_iter().filter(is_field));
    }
    (actions, fields)
}

/// The tables of LOGGING.md: for each program's heading, action and fields.
fn documented_lines(page: &str) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut programs: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let mut program = String::new();
    for (_, line) in prose(page) {
        if let Some(title) = line.strip_prefix("## ") {
            program = title.to_owned();
        }
        let row = cells(line);
        if line.starts_with("| `") && row.len() == 4 {
            let fields: BTreeSet<String> = row[2]
                .split(|ch: char| !(ch.is_ascii_uppercase() || ch == '_'))
                .filter(|word| word.len() > 1)
                .map(str::to_owned)
                .collect();
            for action in quoted(&row[0]) {
                programs
                    .entry(program.clone())
                    .or_default()
                    .entry(action)
                    .or_default()
                    .extend(fields.clone());
            }
        }
    }
    programs
}

#[test]
fn every_line_of_the_log_is_documented_and_the_reverse() {
    let page = read(&repo().join("docs/guide/LOGGING.md"));
    let documented = documented_lines(&page);
    for (program, dirs) in [
        ("The agent", vec!["agent-min/src", "crates/host/src"]),
        ("The executor", vec!["executor-c-compat/src"]),
        ("The dispatcher", vec!["dispatcher/src", "crates/host/src"]),
    ] {
        let lines = &documented[program];
        let (actions, fields) = logged(&dirs);
        assert!(!actions.is_empty(), "{program}");
        let told: BTreeSet<String> = lines.values().flatten().cloned().collect();
        let missing: Vec<&String> = actions
            .iter()
            .filter(|action| !lines.contains_key(*action))
            .chain(fields.difference(&told))
            .collect();
        assert!(
            missing.is_empty(),
            "{program} logs {missing:?}, and LOGGING.md does not say so"
        );
        let literals: BTreeSet<String> = dirs.iter().flat_map(|dir| literals(dir)).collect();
        for action in lines.keys() {
            assert!(
                literals.contains(action),
                "LOGGING.md has ACTION={action}, which {program} does not log"
            );
        }
        for field in &told {
            assert!(
                literals.contains(field),
                "LOGGING.md has {field}=, which {program} does not log"
            );
        }
    }
}

/// The tests that a table names: a file in the first backquotes, functions in the others.
fn named_tests(row: &str) -> Vec<(String, String)> {
    let words = quoted(row);
    let mut file = String::new();
    let mut found = Vec::new();
    for word in words {
        if word.contains('/') {
            file = word;
        } else {
            found.push((file.clone(), word));
        }
    }
    found
}

#[test]
fn every_test_that_the_audit_page_names_exists() {
    let page = read(&repo().join("docs/SECURITY-AUDIT.md"));
    let mut count = 0;
    for (number, line) in prose(&page) {
        let row = cells(line);
        let Some(last) = row
            .last()
            .filter(|cell| line.starts_with('|') && cell.contains('/'))
        else {
            continue;
        };
        for (file, test) in named_tests(last) {
            count += 1;
            let text = read(&repo().join(&file));
            let there =
                text.contains(&format!("fn {test}(")) || text.contains(&format!("def {test}("));
            assert!(there, "line {number}: {file} has no test {test}");
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn every_source_file_that_a_document_names_exists() {
    let mut faults = Vec::new();
    for path in crate::documents() {
        let text = read(&path);
        for (number, line) in prose(&text) {
            for word in quoted(line) {
                let file = word.split(':').next().unwrap_or_default();
                let ours = file.contains('/') && !file.contains([' ', '<', '*', '…', '{']);
                if ours && file.ends_with(".rs") && !repo().join(file).is_file() {
                    faults.push(format!("{}:{number}: {file}", crate::shown(&path)));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rows of the table below the heading `heading` of ARCHITECTURE.md.
fn architecture(heading: &str) -> Vec<Vec<String>> {
    let page = read(&repo().join("docs/design/ARCHITECTURE.md"));
    let mut inside = false;
    let mut rows = Vec::new();
    for (_, line) in prose(&page) {
        if line.starts_with("## ") {
            inside = line == heading;
        }
        if inside && line.starts_with("| ") && !line.starts_with("| crate") {
            rows.push(cells(line));
        }
    }
    assert!(rows.len() > 5, "{heading}");
    rows
}

/// The crates of others that the members need to be built, without those of their tests.
fn dependencies() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&repo(), &["Cargo.toml"]) {
        let text = read(&path);
        if path.parent() == Some(&repo()) || crate::shown(&path).starts_with("fuzz") {
            continue;
        }
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line == "[dependencies]";
                continue;
            }
            let name: String = line
                .chars()
                .take_while(|ch| ch.is_ascii_alphanumeric() || *ch == '-' || *ch == '_')
                .collect();
            if inside && !name.is_empty() && !name.starts_with("ctrl-exec-") {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn every_dependency_has_its_reason() {
    let rows = architecture("## Dependencies, and why each is there");
    let told: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| row[0].split(", "))
        .map(|name| match name.trim() {
            "rustls-webpki" => "webpki".to_owned(),
            name => name.to_owned(),
        })
        .collect();
    let needed = dependencies();
    let missing: Vec<_> = needed.difference(&told).collect();
    let gone: Vec<_> = told.difference(&needed).collect();
    assert!(
        missing.is_empty(),
        "without a reason in ARCHITECTURE.md: {missing:?}"
    );
    assert!(
        gone.is_empty(),
        "in ARCHITECTURE.md, and no member needs it: {gone:?}"
    );
}

/// Lines of code: without tests, comments and empty lines.
fn code_lines(path: &Path) -> usize {
    let all = if path.is_dir() {
        files(path, &[".rs", ".py"])
    } else {
        vec![path.to_owned()]
    };
    all.iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .map(|file| {
            let text = source(file);
            let lines = text.lines().map(str::trim);
            lines
                .filter(|line| {
                    !line.is_empty() && !line.starts_with("//") && !line.starts_with('#')
                })
                .count()
        })
        .sum()
}

#[test]
fn what_is_written_by_hand_is_told_with_its_size() {
    let mut faults = Vec::new();
    for row in architecture("## What is written by hand") {
        if row[0] == "what" || row[0].starts_with("---") {
            continue;
        }
        let lines: usize = quoted(&row[1])
            .iter()
            .map(|path| {
                let path = repo().join(path);
                assert!(path.exists(), "{}", path.display());
                code_lines(&path)
            })
            .sum();
        let told: usize = row[2].replace(',', "").parse().expect("a number of lines");
        let near = told * 4 / 5..=told * 6 / 5 + 10;
        if !near.contains(&lines) {
            faults.push(format!("{}: {lines} lines, not {told}", row[0]));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The words that stand in quotation marks after `mark`, in any of the files.
fn after(paths: &[&str], mark: &str) -> BTreeSet<String> {
    paths
        .iter()
        .flat_map(|path| {
            let text: String = source(&repo().join(path)).split_whitespace().collect();
            text.split(mark)
                .skip(1)
                .filter_map(|rest| rest.split('"').next().map(str::to_owned))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_verb_and_option_is_documented() {
    let page = read(&repo().join("docs/reference/DISPATCHER.md"));
    let verbs = after(&["dispatcher/src/front/cli/table.rs"], "name:\"");
    assert!(verbs.len() > 20, "{verbs:?}");
    let text: String = source(&repo().join("dispatcher/src/front/cli/flags.rs"))
        .split_whitespace()
        .collect();
    let options: BTreeSet<String> = text
        .split("flag!(")
        .skip(1)
        .filter_map(|rest| rest.split('"').nth(1).map(|name| format!("--{name}")))
        .collect();
    assert!(options.len() > 20, "{options:?}");
    let agent = read(&repo().join("docs/reference/AGENT.md"));
    let agents = after(&["agent-min/src/cli/args.rs"], "name:\"");
    assert!(agents.len() > 5, "{agents:?}");
    let missing: Vec<String> = verbs
        .iter()
        .filter(|verb| !page.contains(&format!("`{verb}`")))
        .chain(options.iter().filter(|option| !page.contains(*option)))
        .chain(agents.iter().filter(|option| !agent.contains(*option)))
        .cloned()
        .collect();
    assert!(missing.is_empty(), "in no reference page: {missing:?}");
}

/// The words of states between two marks of a source file: `Self::Name … => "word"`.
fn state_words(file: &str) -> BTreeSet<String> {
    let source = read(&repo().join(file));
    let lines = source.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("Self::") && line.ends_with("\","))
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_state_of_a_run_is_documented_and_the_reverse() {
    let page = read(&repo().join("docs/reference/RUNS.md"));
    let (_, dispatcher) = page
        .split_once("## On the dispatcher")
        .expect("the heading");
    let (dispatcher, _) = dispatcher.split_once("\n## ").expect("another heading");
    let documented: BTreeSet<String> = dispatcher
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    let outcomes = state_words("dispatcher/src/model/outcome.rs");
    assert!(outcomes.contains("unknown"), "{outcomes:?}");
    let entries = state_words("dispatcher/src/model/entry.rs");
    assert!(entries.contains("expired"), "{entries:?}");
    // The phases stand in the same file as the outcomes.
    let phases = ["name", "connect", "tls", "http"].map(str::to_owned);
    let known: BTreeSet<String> = outcomes
        .union(&entries)
        .filter(|word| !phases.contains(word))
        .cloned()
        .collect();
    assert_eq!(known, documented);
}
