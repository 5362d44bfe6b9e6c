//! Results as text, laid out as the reference does.

use super::out::{self, clean, script_output};
use crate::fleet::hostlist;
use crate::model::{
    Cancelled, Capabilities, EntryState, HostResult, Mode, Outcome, Pong, Problem, RunEnd,
    RunRecord, Running, Submission, Submitted,
};
use std::fmt::Write;

/// One sync run result (dispatcher.md §3.1).
pub fn run_result(result: &HostResult<RunEnd>) -> String {
    let mut text = format!("==> {}  [{}", host(result), verdict(result));
    let _ = write!(text, "  exit:{}  {}", exit(result), result.rtt_text());
    if let Some(reqid) = &result.reply.reqid {
        let _ = write!(text, "  req:{}", clean(reqid));
    }
    text.push_str("]\n");
    text.push_str(&body(result));
    text
}

/// A result with the host before every line: for standard output, and for standard error.
pub fn prefixed(result: &HostResult<RunEnd>) -> (String, String) {
    let (name, end) = (clean(&result.host), &result.reply);
    let stdout = out::prefixed(&name, end.stdout_parts(), false);
    let mut stderr = out::prefixed(&name, end.stderr_parts(), true);
    stderr.push_str(&prefixed_end(result));
    (stdout, stderr)
}

/// What a result says beside its output, with the host before every line: for standard error.
pub fn prefixed_end(result: &HostResult<RunEnd>) -> String {
    let (name, end) = (clean(&result.host), &result.reply);
    let mut text = String::new();
    if let Some(problem) = &result.problem {
        let note = note(result.outcome, problem);
        let _ = writeln!(text, "{name}: ERROR: {}{note}", clean(&problem.error));
    }
    for note in notes(end) {
        let _ = writeln!(text, "{name}: NOTE: {note}");
    }
    if let Some(status) = end.exit.filter(|status| *status > 0) {
        let _ = writeln!(text, "{name}: exit {status}");
    }
    text
}

/// What is to be said of an output beside it: a gap of which the place is known is marked in it.
fn notes(end: &RunEnd) -> Vec<String> {
    let cut = [
        ("stdout", end.stdout_truncated, end.stdout_parts()),
        ("stderr", end.stderr_truncated, end.stderr_parts()),
    ];
    let mut notes: Vec<String> = cut
        .iter()
        .filter(|(_, _, parts)| parts.gap.is_none())
        .filter_map(|(stream, dropped, _)| {
            let dropped = (*dropped)?;
            Some(format!(
                "{dropped} bytes are missing in the middle of {stream}"
            ))
        })
        .collect();
    notes.extend(end.death());
    notes
}

/// Error line and output of a result.
fn body(result: &HostResult<RunEnd>) -> String {
    let mut text = String::new();
    if let Some(problem) = &result.problem {
        let _ = writeln!(
            text,
            "    ERROR: {}{}",
            clean(&problem.error),
            note(result.outcome, problem)
        );
    }
    text.push_str(&outputs(&result.reply));
    text
}

/// What kind of end an error line tells of.
fn note(outcome: Outcome, problem: &Problem) -> String {
    match outcome {
        Outcome::Refused => " [refused]".to_owned(),
        Outcome::Unknown => " [may still be running]".to_owned(),
        Outcome::Unreached => {
            let phase = problem.phase.map_or("", |phase| phase.word());
            format!(" [not reached: {phase}]")
        }
        _ => String::new(),
    }
}

/// Standard output as it is, standard error under its label; blank ones are left out. On a
/// terminal, what would steer it is shown instead of obeyed.
fn outputs(end: &RunEnd) -> String {
    let mut text = String::new();
    let stdout = &*script_output(end.stdout_parts());
    if !stdout.trim().is_empty() {
        text.push_str(stdout);
        if !stdout.ends_with('\n') {
            text.push('\n');
        }
    }
    let stderr = &*script_output(end.stderr_parts());
    if !stderr.trim().is_empty() {
        let _ = writeln!(text, "    STDERR: {stderr}");
    }
    for note in notes(end) {
        let _ = writeln!(text, "    NOTE: {note}");
    }
    text
}

/// One async submission.
pub fn async_result(result: &HostResult<Submission>) -> String {
    let host = host(result);
    let error = clean(result.error().unwrap_or_default());
    match (result.reply.submitted, result.outcome) {
        (Submitted::Accepted, _) => format!("==> {host}  [accepted  {}]\n", result.rtt_text()),
        (Submitted::Busy, _) => format!("==> {host}  [BUSY: {error}]\n"),
        (Submitted::No, Outcome::Unknown) => {
            format!("==> {host}  [UNKNOWN: {error}; it may be running]\n")
        }
        (Submitted::No, _) => format!("==> {host}  [ERROR: {error}]\n"),
    }
}

/// The head of the table of what runs.
pub fn running_head() -> String {
    let head = running_row("HOST", "REQID", "SCRIPT", "SECONDS", "MODE");
    format!("{head}{}\n", "-".repeat(85))
}

/// What an agent runs, a line each; nothing when it runs nothing.
pub fn running(result: &HostResult<Running>) -> String {
    let host = host(result);
    if let Some(problem) = &result.problem {
        let error = clean(&problem.error);
        return format!("{host:<30}  {error}{}\n", note(result.outcome, problem));
    }
    let runs = result.reply.runs.iter().flatten();
    let rows = runs.map(|run| {
        running_row(
            &host,
            &clean(&run.reqid),
            &clean(&run.script),
            &run.seconds.to_string(),
            if run.run_async { "async" } else { "sync" },
        )
    });
    rows.collect()
}

fn running_row(host: &str, reqid: &str, script: &str, seconds: &str, mode: &str) -> String {
    format!("{host:<30}  {reqid:<16}  {script:<20}  {seconds:<7}  {mode}\n")
}

/// What an agent ends.
pub fn cancelled(result: &HostResult<Cancelled>) -> String {
    let host = host(result);
    if let Some(problem) = &result.problem {
        let error = clean(&problem.error);
        return format!(
            "==> {host}  [NOT CANCELLED]\n    ERROR: {error}{}\n",
            note(result.outcome, problem)
        );
    }
    let ids = result.reply.cancelled.as_deref().unwrap_or_default();
    if ids.is_empty() {
        return format!("==> {host}  [nothing ran]\n");
    }
    format!("==> {host}  [cancelled: {}]\n", clean(&ids.join(", ")))
}

/// The head of the ping table.
pub fn ping_head() -> String {
    let head = ping_row("HOST", "STATUS", "RTT", "CERT EXPIRY", "VERSION");
    format!("{head}{}\n", "-".repeat(85))
}

/// One line of the ping table. An error stands where the certificate's end would.
pub fn ping_result(result: &HostResult<Pong>) -> String {
    let text = |text: &Option<String>| clean(text.as_deref().unwrap_or_default());
    let (host, rtt, pong) = (host(result), result.rtt_text(), &result.reply);
    match &result.problem {
        None => ping_row(
            &host,
            &text(&pong.status),
            &rtt,
            &text(&pong.expiry),
            &text(&pong.version),
        ),
        Some(problem) => format!(
            "{host:<30}  {:<8}  {rtt:<8}  {}{}\n",
            text(&pong.status),
            clean(&problem.error),
            note(result.outcome, problem)
        ),
    }
}

fn ping_row(host: &str, status: &str, rtt: &str, expiry: &str, version: &str) -> String {
    let row = format!("{host:<30}  {status:<8}  {rtt:<8}  {expiry:<28}  {version}");
    format!("{}\n", row.trim_end())
}

/// What an agent offers.
pub fn capabilities(result: &HostResult<Capabilities>) -> String {
    let word = |text: &Option<String>| clean(text.as_deref().unwrap_or_default());
    let reply = &result.reply;
    let mut text = format!(
        "==> {}  [{}  {}",
        clean(&result.host),
        word(&reply.status),
        result.rtt_text()
    );
    if reply.version.is_some() {
        let _ = write!(text, "  {}", word(&reply.version));
    }
    text.push_str("]\n");
    if let Some(problem) = &result.problem {
        let error = clean(&problem.error);
        let _ = writeln!(text, "    ERROR: {error}{}", note(result.outcome, problem));
    }
    if let Some(tags) = reply.tags.as_ref().filter(|tags| !tags.is_empty()) {
        let tags: Vec<String> = tags
            .iter()
            .map(|(key, value)| {
                let value = value.text().unwrap_or_default();
                format!("{}={}", clean(key), clean(&value))
            })
            .collect();
        let _ = writeln!(text, "    tags: {}", tags.join(", "));
    }
    for script in reply.scripts.iter().flatten() {
        let note = if script.executable {
            ""
        } else {
            "  (not executable)"
        };
        let _ = writeln!(
            text,
            "    {:<24}  {}{note}",
            word(&script.name),
            word(&script.path)
        );
    }
    text
}

/// A run record (dispatcher.md §3.2).
pub fn record(record: &RunRecord) -> String {
    let state = if record.complete {
        "COMPLETE"
    } else {
        "PENDING"
    };
    let mut text = format!(
        "Request {}  (script: {})  [{state}]\n",
        clean(&record.reqid),
        clean(&record.script)
    );
    let entries = match &record.mode {
        Mode::Sync { words, results } => {
            for result in results {
                text.push_str(&run_result(result));
            }
            if !record.complete {
                let left = words.len().saturating_sub(results.len());
                let _ = writeln!(text, "{left} host(s) have not ended, as far as is known.");
            }
            return text;
        }
        Mode::Async { entries } => entries,
    };
    for (name, entry) in entries {
        let name = clean(name);
        match &entry.state {
            EntryState::Done(end) => {
                let _ = writeln!(text, "==> {name}  [done  exit:{}]", end.exit.unwrap_or(-1));
                text.push_str(&outputs(end));
            }
            EntryState::Accepted | EntryState::Running => {
                let _ = writeln!(text, "==> {name}  [{}]", entry.state.word());
                if let Some(error) = &entry.fetch_error {
                    let _ = writeln!(text, "    (fetch pending: {})", clean(error));
                }
            }
            other => {
                let _ = writeln!(text, "==> {name}  [{}]", clean(other.word()).to_uppercase());
                if let Some(error) = &entry.error {
                    let _ = writeln!(text, "    ERROR: {}", clean(error));
                }
            }
        }
    }
    text
}

/// Results with equal ends and outputs shown once, under the list of their hosts.
pub fn folded(results: &[HostResult<RunEnd>]) -> String {
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
        groups[group].1.push(clean(&result.host));
    }
    let mut text = String::new();
    for (body, hosts) in groups {
        let count = hosts.len();
        let _ = write!(
            text,
            "==> {}  ({count} host(s))  {body}",
            hostlist::fold(&hosts)
        );
    }
    text
}

fn verdict(result: &HostResult<RunEnd>) -> &'static str {
    if result.reply.exit == Some(0) {
        "OK"
    } else {
        "FAIL"
    }
}

fn exit(result: &HostResult<RunEnd>) -> i64 {
    result.reply.exit.unwrap_or(-1)
}

/// `name` or `name (name the agent gives itself)`.
fn host<T>(result: &HostResult<T>) -> String {
    let name = clean(&result.host);
    match &result.reported {
        None => name,
        // Made harmless when it was read.
        Some(reported) => format!("{name} ({reported})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctrl_exec_protocol::json::{Bounds, Members};

    fn object(text: &str) -> HostResult<RunEnd> {
        HostResult::from_object(Members::parse(text.as_bytes(), &Bounds::RECORD).unwrap())
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
    fn equal_outputs_fold() {
        let results = [
            object(r#"{"host":"b2","exit":0,"stdout":"x\n","rtt":"1ms"}"#),
            object(r#"{"host":"c","exit":1,"stdout":"x\n","rtt":"2ms"}"#),
            object(r#"{"host":"b1","exit":0,"stdout":"x\n","rtt":"3ms"}"#),
        ];
        assert_eq!(
            folded(&results),
            "==> b[1-2]  (2 host(s))  [OK  exit:0]\nx\n==> c  (1 host(s))  [FAIL  exit:1]\nx\n"
        );
    }
}
