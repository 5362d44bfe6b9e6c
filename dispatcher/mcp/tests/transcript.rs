//! The session that docs/reference/MCP-SESSION.md shows is one that happened. To record it anew:
//! `CTRLEXEC_RECORD=1 cargo test -p ctrl-exec-mcp --test transcript`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::json;
use std::fmt::Write as _;
use support::{Bridge, FakeApi, Reply, fleet, today};

/// Replaces what differs from run to run.
fn steady(text: &str) -> String {
    let Some(at) = text.find("BEGIN ") else {
        return text.to_owned();
    };
    let word: String = text[at + 6..]
        .chars()
        .take_while(char::is_ascii_hexdigit)
        .collect();
    text.replace(&word, "5f2c91d07a3e4b68")
}

#[test]
fn the_documented_session_happens() {
    let api = FakeApi::start(|asked| match asked.line.as_str() {
        "POST /discovery" => Reply::Json(200, fleet()),
        "POST /run" => Reply::Events(
            vec![
                (
                    "start",
                    json!({"reqid": "9b2f6c0d11e4a875", "hosts": ["r1", "r2"]}),
                ),
                (
                    "end",
                    json!({"host": "r1", "exit": 0, "stdout": "0.12 0.08 0.01\n", "stderr": ""}),
                ),
                (
                    "end",
                    json!({"host": "r2", "exit": -1, "error": "host 'r2' did not respond on port 7443 - connection refused (agent not running, or wrong port?)"}),
                ),
                ("done", json!({"ok": true, "reqid": "9b2f6c0d11e4a875"})),
            ],
            None,
        ),
        _ => Reply::Json(
            404,
            json!({"ok": false, "error": "not found", "detail": "no result for reqid 77"}),
        ),
    });
    let mut bridge = Bridge::start(&api.url(), &[("CTRLEXEC_TOKEN", "secret")]);
    let mut page = String::from(
        "# A session with the tool bridge\n\n\
         Recorded by a test (`dispatcher/mcp/tests/transcript.rs`) with the real program, revision 2026-07-28, \
         standard input and output. `>` is what the client sent, `<` what the bridge answered. The fleet has the \
         script `load` with a schema on `r1` and `r2`, and `plain` without one. `_meta` of requests is left out.\n",
    );
    for (title, method, params) in [
        ("What the bridge can do", "server/discover", json!({})),
        ("The tools", "tools/list", json!({})),
        (
            "A call: one host is away, the other answers",
            "tools/call",
            json!({"name": "load", "arguments": {"minutes": 5}}),
        ),
        (
            "A call that the script's schema refuses: nothing is sent",
            "tools/call",
            json!({"name": "load", "arguments": {"minutes": 0}}),
        ),
        (
            "A run that is not known",
            "tools/call",
            json!({"name": "run_status", "arguments": {"reqid": "77"}}),
        ),
        (
            "A tool that does not exist",
            "tools/call",
            json!({"name": "format-disk", "arguments": {}}),
        ),
    ] {
        let answer = bridge.ask(method, today(params.clone(), json!({})));
        let member = if answer.get("error").is_some() {
            "error"
        } else {
            "result"
        };
        let shown = steady(&serde_json::to_string_pretty(&answer[member]).unwrap());
        let sent = json!({"method": method, "params": params});
        write!(
            page,
            "\n## {title}\n\n```json\n> {sent}\n< {{\"{member}\":\n{shown}}}\n```\n"
        )
        .unwrap();
        if let Some(text) = answer["result"]["content"][0]["text"].as_str() {
            write!(
                page,
                "\nThe text of it:\n\n```\n{}```\n",
                steady(text).trim_end().to_owned() + "\n"
            )
            .unwrap();
        }
    }
    let page = page.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/MCP-SESSION.md"
    );
    if std::env::var_os("CTRLEXEC_RECORD").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let documented = std::fs::read_to_string(path).unwrap();
    assert_eq!(documented, page, "record it anew, and read what changed");
}
