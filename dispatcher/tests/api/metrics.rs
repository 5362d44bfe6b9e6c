//! What is counted, in the form that Prometheus reads.

use crate::client::Api;
use crate::support::agent::{Act, Agent};
use crate::support::{Root, ports};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample));
    let line = line.unwrap_or_else(|| panic!("{sample} is not in {text}"));
    line.trim().parse().unwrap()
}

/// `promtool`, where there is one: Debian has it in its package of prometheus.
fn promtool(args: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped());
    let Ok(mut child) = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        eprintln!("SKIPPED: promtool {args:?} is not there to ask");
        return;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}\n{input}");
}

#[test]
fn metrics_say_what_happened() {
    let root = Root::new();
    let (identity, _) = root.agent_identity("a", 825);
    let agent = Agent::start(&identity, &root.ca_pem(), |_| {
        Act::Keep(200, r#"{"exit":0,"stdout":"","stderr":""}"#.into())
    });
    root.register("a", agent.address);
    root.register("gone", ([127, 0, 0, 1], ports::claim().unwrap()).into());
    std::fs::write(root.path("var/lib/ctrl-exec/agents/bad.json"), "{").unwrap();
    let api = Api::open(&root);
    assert_eq!(
        api.post("/run", r#"{"hosts":["a","gone"],"script":"s"}"#)
            .status,
        200
    );
    assert_eq!(api.get("/nope").status, 404);
    crate::live::queued(&root, "ap1");
    let answer = api.get("/metrics");
    let text = &answer.body;
    let media = answer.header("Content-Type").unwrap();
    assert!(media.starts_with("text/plain; version=0.0.4"), "{media}");
    for (sample, expected) in [
        ("ctrl_exec_agents{state=\"paired\"}", 2.0),
        ("ctrl_exec_agents{state=\"damaged\"}", 1.0),
        ("ctrl_exec_agent_certificates_ending{days=\"7\"}", 0.0),
        ("ctrl_exec_pairing_requests", 1.0),
        ("ctrl_exec_http_answers_total{status=\"200\"}", 1.0),
        ("ctrl_exec_http_answers_total{status=\"404\"}", 1.0),
        ("ctrl_exec_http_requests_in_flight", 1.0),
        ("ctrl_exec_run_hosts_total{outcome=\"ok\"}", 1.0),
        ("ctrl_exec_run_hosts_total{outcome=\"unreached\"}", 1.0),
        ("ctrl_exec_run_duration_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("ctrl_exec_run_duration_seconds_count", 1.0),
    ] {
        assert!(
            (value(text, sample) - expected).abs() < 1e-9,
            "{sample}: {text}"
        );
    }
    assert!(value(text, "ctrl_exec_agent_certificate_left_min_seconds") > 100.0 * 86_400.0);
    assert!(!text.contains("gone"), "no agent is a label");
    // Each family is told of before its samples, and no sample stands twice.
    let mut seen = std::collections::BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => family = rest.split(' ').next().unwrap(),
            None if line.starts_with('#') => {}
            None => {
                assert!(line.starts_with(family), "{line} under {family}");
                assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line}");
            }
        }
    }
    promtool(&["check", "metrics"], text);
}

/// What the files beside the packages name is what is served.
#[test]
fn dashboard_and_alerts_name_what_there_is() {
    let root = Root::new();
    let api = Api::open(&root);
    let text = api.get("/metrics").body;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus");
    for file in ["alerts.yml", "dashboard.json"] {
        let content = std::fs::read_to_string(dir.join(file)).unwrap();
        let mut names: Vec<&str> = content
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("ctrl_exec_"))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() > 3, "{file}: {names:?}");
        for name in names {
            let family = ["_bucket", "_sum", "_count"]
                .into_iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            // Absent where no agent is registered.
            let known = text.contains(&format!("# TYPE {family} "));
            assert!(
                known || family.ends_with("_left_min_seconds"),
                "{file}: {name}"
            );
        }
    }
    let alerts = dir.join("alerts.yml");
    promtool(&["check", "rules", alerts.to_str().unwrap()], "");
    let dashboard = std::fs::read_to_string(dir.join("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 4);
}
