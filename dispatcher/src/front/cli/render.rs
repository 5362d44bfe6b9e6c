//! Results as text, laid out as the reference does.

use super::out::{clean, script_output};
use crate::jval::{self, Object};
use crate::store::files::runs;
use crate::tasks::Outcome;
use std::fmt::Write;

/// One sync run result (dispatcher.md §3.1).
pub fn run_result(result: &Object) -> String {
    let host = host(result);
    let mut text = format!("==> {host}  [{}", verdict(result));
    let _ = write!(text, "  exit:{}", exit(result));
    for (label, key) in [("", "rtt"), ("req:", "reqid")] {
        if let Some(value) = jval::text(result, key) {
            let _ = write!(text, "  {label}{}", clean(&value));
        }
    }
    text.push_str("]\n");
    text.push_str(&body(result));
    text
}

/// Error line and output of a result.
fn body(result: &Object) -> String {
    let mut text = String::new();
    if let Some(error) = jval::text(result, "error") {
        let _ = write!(text, "    ERROR: {}", clean(&error));
        match Outcome::of(result) {
            Outcome::Refused => text.push_str(" [refused]"),
            Outcome::Unreached => {
                let phase = jval::str_or_empty(result, "phase");
                let _ = write!(text, " [not reached: {}]", clean(phase));
            }
            _ => {}
        }
        text.push('\n');
    }
    text.push_str(&outputs(result));
    text
}

/// Standard output (on a terminal filtered), standard error under its label; blank ones are left
/// out.
fn outputs(result: &Object) -> String {
    let mut text = String::new();
    let stdout = &*script_output(jval::str_or_empty(result, "stdout"));
    if !stdout.trim().is_empty() {
        text.push_str(stdout);
        if !stdout.ends_with('\n') {
            text.push('\n');
        }
    }
    let stderr = &*script_output(jval::str_or_empty(result, "stderr"));
    if !stderr.trim().is_empty() {
        let _ = writeln!(text, "    STDERR: {stderr}");
    }
    for (stream, key) in [
        ("stdout", "stdout_truncated"),
        ("stderr", "stderr_truncated"),
    ] {
        if let Some(dropped) = jval::integer(result, key) {
            let _ = writeln!(
                text,
                "    NOTE: {dropped} bytes are missing in the middle of {stream}"
            );
        }
    }
    text
}

/// One async submission.
pub fn async_result(result: &Object) -> String {
    let host = host(result);
    let error = clean(&jval::text(result, "error").unwrap_or_default());
    match jval::str_or_empty(result, "status") {
        "accepted" => {
            format!(
                "==> {host}  [accepted  {}]\n",
                clean(jval::str_or_empty(result, "rtt"))
            )
        }
        "busy" => format!("==> {host}  [BUSY: {error}]\n"),
        _ => format!("==> {host}  [ERROR: {error}]\n"),
    }
}

/// The head of the ping table.
pub fn ping_head() -> String {
    let head = ping_row("HOST", "STATUS", "RTT", "CERT EXPIRY", "VERSION");
    format!("{head}{}\n", "-".repeat(85))
}

/// One line of the ping table. An error stands where the certificate's end would.
pub fn ping_result(result: &Object) -> String {
    let text = |key| clean(&jval::text(result, key).unwrap_or_default());
    let host = host(result);
    match text("error") {
        error if error.is_empty() => ping_row(
            &host,
            &text("status"),
            &text("rtt"),
            &text("expiry"),
            &text("version"),
        ),
        error => {
            let note = match Outcome::of(result) {
                Outcome::Refused => " [refused]".to_owned(),
                Outcome::Unreached => format!(" [not reached: {}]", text("phase")),
                _ => String::new(),
            };
            format!(
                "{host:<30}  {:<8}  {:<8}  {error}{note}\n",
                text("status"),
                text("rtt")
            )
        }
    }
}

fn ping_row(host: &str, status: &str, rtt: &str, expiry: &str, version: &str) -> String {
    let row = format!("{host:<30}  {status:<8}  {rtt:<8}  {expiry:<28}  {version}");
    format!("{}\n", row.trim_end())
}

/// A run record (dispatcher.md §3.2).
pub fn record(record: &Object) -> String {
    let word = |key| clean(jval::str_or_empty(record, key));
    let state = if jval::truthy(record, "complete") {
        "COMPLETE"
    } else {
        "PENDING"
    };
    let mut text = format!(
        "Request {}  (script: {})  [{state}]\n",
        word("reqid"),
        word("script")
    );
    if jval::str_or_empty(record, "mode") != "async" {
        for result in runs::results(record) {
            text.push_str(&run_result(result));
        }
        return text;
    }
    for (name, entry) in runs::host_entries(record) {
        let status = jval::str_or_empty(entry, "status");
        let name = clean(name);
        match status {
            "done" => {
                let _ = writeln!(text, "==> {name}  [done  exit:{}]", exit(entry));
                text.push_str(&outputs(entry));
            }
            "accepted" | "running" => {
                let _ = writeln!(text, "==> {name}  [{status}]");
                if let Some(error) = jval::text(entry, "fetch_error") {
                    let _ = writeln!(text, "    (fetch pending: {})", clean(&error));
                }
            }
            other => {
                let _ = writeln!(text, "==> {name}  [{}]", clean(other).to_uppercase());
                if let Some(error) = jval::text(entry, "error") {
                    let _ = writeln!(text, "    ERROR: {}", clean(&error));
                }
            }
        }
    }
    text
}

/// Results with equal ends and outputs shown once, under the list of their hosts.
pub fn folded<'a>(results: impl Iterator<Item = &'a Object>) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let mut by_text = std::collections::HashMap::new();
    for result in results {
        let text = format!(
            "[{}  exit:{}]\n{}",
            verdict(result),
            exit(result),
            body(result)
        );
        let group = *by_text.entry(text.clone()).or_insert_with(|| {
            groups.push((text, Vec::new()));
            groups.len() - 1
        });
        groups[group]
            .1
            .push(clean(jval::str_or_empty(result, "host")));
    }
    let mut text = String::new();
    for (body, mut hosts) in groups {
        hosts.sort();
        let count = hosts.len();
        let _ = write!(
            text,
            "==> {}  ({count} host(s))  {body}",
            fold_names(&hosts)
        );
    }
    text
}

/// `web[01-03,07],db` for sorted names.
pub fn fold_names(names: &[String]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < names.len() {
        let (stem, digits) = split_digits(&names[at]);
        let mut numbers: Vec<(u64, &str)> = Vec::new();
        let mut end = at;
        while let Some(name) = names.get(end) {
            let (other, number) = split_digits(name);
            let same = other == stem && number.len() == digits.len() && !digits.is_empty();
            match number.parse() {
                Ok(value) if same => numbers.push((value, number)),
                _ => break,
            }
            end += 1;
        }
        if numbers.len() < 2 {
            parts.push(names[at].clone());
            at += 1;
            continue;
        }
        parts.push(format!("{stem}[{}]", ranges(&numbers)));
        at = end;
    }
    parts.join(",")
}

fn ranges(numbers: &[(u64, &str)]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < numbers.len() {
        let mut end = at;
        while numbers
            .get(end + 1)
            .is_some_and(|next| next.0 <= numbers[end].0 + 1)
        {
            end += 1;
        }
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(numbers[at].1);
        if numbers[end].0 > numbers[at].0 {
            let _ = write!(out, "-{}", numbers[end].1);
        }
        at = end + 1;
    }
    out
}

fn split_digits(name: &str) -> (&str, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    // More digits than a number holds are part of the name.
    let stem = if name.len() - stem.len() > 18 {
        name
    } else {
        stem
    };
    name.split_at(stem.len())
}

fn verdict(result: &Object) -> &'static str {
    if jval::integer(result, "exit") == Some(0) {
        "OK"
    } else {
        "FAIL"
    }
}

fn exit(result: &Object) -> i64 {
    jval::integer(result, "exit").unwrap_or(-1)
}

/// `name` or `name (name the agent gives itself)`.
fn host(result: &Object) -> String {
    let name = clean(jval::str_or_empty(result, "host"));
    match jval::str_or_empty(result, "reported_hostname") {
        "" => name,
        reported => format!("{name} ({})", clean(reported)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Object {
        jval::parse_object(json.as_bytes()).unwrap()
    }

    #[test]
    fn run_results() {
        let ok = object(r#"{"host":"vm","exit":0,"rtt":"141ms","reqid":"r","stdout":"out"}"#);
        assert_eq!(run_result(&ok), "==> vm  [OK  exit:0  141ms  req:r]\nout\n");
        let bad = object(
            r#"{"host":"vm","reported_hostname":"vm.x","exit":-1,"rtt":"1ms","reqid":"r",
                "error":"no\u001b[2J","outcome":"unreached","phase":"connect","stderr":"e\n"}"#,
        );
        assert_eq!(
            run_result(&bad),
            "==> vm (vm.x)  [FAIL  exit:-1  1ms  req:r]\n    ERROR: no\\u{1b}[2J [not reached: \
             connect]\n    STDERR: e\n\n"
        );
    }

    #[test]
    fn names_fold() {
        let fold =
            |names: &[&str]| fold_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(fold(&["a1", "a2", "a3", "a7", "b"]), "a[1-3,7],b");
        assert_eq!(fold(&["w01", "w02", "w10"]), "w[01-02,10]");
        assert_eq!(fold(&["w1", "w01"]), "w1,w01");
        assert_eq!(fold(&["x"]), "x");
        assert_eq!(fold(&["1", "2"]), "[1-2]");
        assert_eq!(
            fold(&["n99999999999999999999", "n99999999999999999998"])
                .matches(',')
                .count(),
            1
        );
    }

    #[test]
    fn equal_outputs_fold() {
        let results = [
            object(r#"{"host":"b2","exit":0,"stdout":"x\n","rtt":"1ms"}"#),
            object(r#"{"host":"c","exit":1,"stdout":"x\n","rtt":"2ms"}"#),
            object(r#"{"host":"b1","exit":0,"stdout":"x\n","rtt":"3ms"}"#),
        ];
        assert_eq!(
            folded(results.iter()),
            "==> b[1-2]  (2 host(s))  [OK  exit:0]\nx\n==> c  (1 host(s))  [FAIL  exit:1]\nx\n"
        );
    }
}
