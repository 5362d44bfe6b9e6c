//! The page about the API says what the program does: its table is the program's, and each of its
//! examples is run.

use crate::client::{Api, BIN};
use crate::support::Root;
use crate::support::agent::{Act, Agent};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/API.md")
}

/// The table of routes as the page has it.
fn table() -> String {
    let output = Command::new(BIN).arg("--openapi").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut text =
        String::from("| method | path | what | body | answers |\n|---|---|---|---|---|\n");
    let name = |schema: &Value| {
        let place = schema["$ref"].as_str().unwrap_or_default();
        place.rsplit('/').next().unwrap_or_default().to_owned()
    };
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let body = name(&operation["requestBody"]["content"]["application/json"]["schema"]);
            let body = if body.is_empty() {
                String::new()
            } else {
                format!("`{body}`")
            };
            let common = ["400", "403", "413", "431", "500", "503"];
            let answers = operation["responses"].as_object().unwrap().keys();
            let answers: Vec<&str> = answers
                .map(String::as_str)
                .filter(|status| !common.contains(status))
                .collect();
            let summary = operation["summary"].as_str().unwrap();
            let method = method.to_ascii_uppercase();
            let answers = answers.join(", ");
            text.push_str(&format!(
                "| {method} | `{path}` | {summary} | {body} | {answers} |\n"
            ));
        }
    }
    text
}

#[test]
fn the_table_of_the_page_is_that_of_the_program() {
    let text = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once("<!-- routes -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- /routes -->").unwrap();
    let expected = table();
    if std::env::var_os("CTRL_EXEC_WRITE_DOCS").is_some() {
        let text = format!("{before}<!-- routes -->\n{expected}<!-- /routes -->{after}");
        std::fs::write(page(), text).unwrap();
        return;
    }
    assert_eq!(
        found, expected,
        "CTRL_EXEC_WRITE_DOCS=1 cargo test writes it"
    );
}

#[test]
fn every_example_of_the_page_works() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("web01", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |request| {
        let body = String::from_utf8_lossy(&request.body);
        match &*request.path() {
            "/run" if body.contains("async") => Act::Keep(202, r#"{"status":"accepted"}"#.into()),
            "/cancel" => Act::Keep(200, r#"{"status":"ok","cancelled":["x"]}"#.into()),
            path if path.starts_with("/result") => Act::Keep(200, r#"{"status":"running"}"#.into()),
            "/run" => Act::Keep(200, r#"{"exit":0,"stdout":"fine\n","stderr":""}"#.into()),
            _ => Act::Keep(
                200,
                r#"{"status":"ok","scripts":[{"name":"check"}]}"#.into(),
            ),
        }
    });
    root.register("web01", agent.address);
    let api = Api::open(&root);
    let ran = api
        .post("/run", r#"{"hosts":["web01"],"script":"x"}"#)
        .json();
    let order = r#"{"hosts":["web01"],"script":"y","async":true}"#;
    let under_way = api.post("/run", order).json();
    let queued = crate::live::queued(&root, "ap1");
    let text = std::fs::read_to_string(page()).unwrap();
    let document = Command::new(BIN).arg("--openapi").output().unwrap();
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("curl "))
        .collect();
    for line in &lines {
        let output = Command::new("sh")
            .args(["-c", line])
            .env("API", format!("http://{}", api.address))
            .env("REQID", ran["reqid"].as_str().unwrap())
            .env("UNDER_WAY", under_way["reqid"].as_str().unwrap())
            .env("ID", &queued.id)
            .env("CODE", &queued.code)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let start = path.split('{').next().unwrap();
            let end = path.split('}').nth(1).unwrap_or_default();
            let has = lines.iter().any(|line| {
                let posts = line.contains(" -d ");
                let bare = line.split("$API").nth(1).unwrap();
                let bare = bare.split(['?', '"']).next().unwrap();
                let same = bare == path
                    || (start != path
                        && bare.starts_with(start)
                        && bare[start.len()..].contains('/') != end.is_empty()
                        && bare.ends_with(end));
                same && posts == (method == "post")
            });
            assert!(has, "{method} {path} has no example");
        }
    }
}
