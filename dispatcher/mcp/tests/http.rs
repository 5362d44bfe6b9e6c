//! The bridge over streamable HTTP: every caller with its own token, and nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{FakeApi, PATIENCE, Reply, fleet, program, today};

struct Served {
    child: Child,
    address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(api: &FakeApi, more: &[(&str, &str)]) -> Served {
    let port = ctrl_exec_testkit::ports::claim().unwrap();
    let mut command = program();
    command
        .env("CTRLEXEC_API_URL", api.url())
        .env("CTRLEXEC_TOKEN", "never-this")
        .envs(more.iter().copied());
    let child = command
        .arg("--http")
        .arg(port.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the bridge does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Served { child, address }
}

/// Sends one request on a connection of its own; status, head and body of the answer.
fn post(address: SocketAddr, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!(
        "POST / HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all((head + "\r\n" + body).as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn request(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
}

/// The headers that revision 2026-07-28 wants.
fn standard<'a>(method: &'a str, name: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", method),
    ];
    headers.extend(name.map(|name| ("Mcp-Name", name)));
    headers
}

fn api() -> FakeApi {
    FakeApi::start(
        |asked| match (asked.token.as_deref(), asked.line.as_str()) {
            (Some("Bearer good"), "POST /discovery") => Reply::Json(200, fleet()),
            (Some("Bearer good"), "POST /run") => Reply::Json(
                200,
                json!({"ok": true, "reqid": "1f", "results": [{"host": "r1", "exit": 0, "stdout": "fine"}]}),
            ),
            _ => Reply::Json(403, json!({"ok": false, "error": "denied", "code": 1})),
        },
    )
}

#[test]
fn each_caller_has_its_own_token() {
    let api = api();
    let served = serve(&api, &[]);
    let call = request(
        "tools/call",
        &today(
            json!({"name": "plain", "arguments": {"hosts": ["r1"]}}),
            json!({}),
        ),
    );
    for (token, expected) in [
        (Some("Bearer good"), "fine"),
        (Some("Bearer bad"), "denied"),
        (Some("Basic good"), "denied"),
        (None, "denied"),
    ] {
        let mut headers = standard("tools/call", Some("plain"));
        headers.extend(token.map(|token| ("Authorization", token)));
        let (status, _, body) = post(served.address, &headers, &call);
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(expected), "{token:?} {body}");
    }
    let sent: Vec<_> = api
        .asked
        .lock()
        .unwrap()
        .iter()
        .map(|a| format!("{:?} {}", a.token, a.body))
        .collect();
    assert!(
        !sent.iter().any(|line| line.contains("never-this")),
        "{sent:?}"
    );
}

#[test]
fn pages_of_others_and_contradicting_headers_are_refused() {
    let api = api();
    let served = serve(
        &api,
        &[
            ("CTRLEXEC_MCP_ORIGINS", "https://desk.example:443"),
            ("CTRLEXEC_MCP_HOSTS", "bridge.example"),
        ],
    );
    let list = request("tools/list", &today(json!({}), json!({})));
    let with = |more: &[(&'static str, &'static str)]| {
        let mut headers = standard("tools/list", None);
        headers.push(("Authorization", "Bearer good"));
        headers.extend(more);
        post(served.address, &headers, &list).0
    };
    assert_eq!(with(&[]), 200);
    assert_eq!(with(&[("Origin", "https://desk.example")]), 200);
    assert_eq!(with(&[("Host", "bridge.example")]), 200);
    assert_eq!(with(&[("Origin", "http://localhost:1")]), 403);
    assert_eq!(with(&[("Origin", "https://evil.example")]), 403);
    assert_eq!(with(&[("Origin", "null")]), 403);
    assert_eq!(with(&[("Host", "evil.example")]), 403);
    let mut wrong = standard("tools/call", Some("load"));
    wrong.push(("Authorization", "Bearer good"));
    assert_eq!(post(served.address, &wrong, &list).0, 400);
    let call = request(
        "tools/call",
        &today(json!({"name": "plain", "arguments": {}}), json!({})),
    );
    assert_eq!(
        post(served.address, &standard("tools/call", Some("load")), &call).0,
        400
    );
    assert_eq!(
        post(
            served.address,
            &[("MCP-Protocol-Version", "1999-01-01")],
            &list
        )
        .0,
        400
    );
}

#[test]
fn sessions_of_older_revisions() {
    let api = api();
    let served = serve(&api, &[]);
    let open = request(
        "initialize",
        &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}),
    );
    let (status, head, body) = post(served.address, &[("Authorization", "Bearer good")], &open);
    assert!(
        status == 200 && body.contains("2025-06-18"),
        "{status} {body}"
    );
    let session = head
        .lines()
        .find_map(|line| line.strip_prefix("mcp-session-id: "))
        .unwrap()
        .trim()
        .to_owned();
    let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    let headers = |token| {
        [
            ("Mcp-Session-Id", session.as_str()),
            ("MCP-Protocol-Version", "2025-06-18"),
            ("Authorization", token),
        ]
    };
    assert_eq!(post(served.address, &headers("Bearer good"), &told).0, 202);
    let list = request("tools/list", &json!({}));
    let (status, _, body) = post(served.address, &headers("Bearer good"), &list);
    assert!(
        status == 200 && body.contains("\"load\""),
        "{status} {body}"
    );
    // The session gives nobody else's token away.
    let (_, _, body) = post(served.address, &headers("Bearer other"), &list);
    assert!(body.contains("denied"), "{body}");
    let (status, ..) = post(
        served.address,
        &[
            ("Mcp-Session-Id", "0123"),
            ("MCP-Protocol-Version", "2025-06-18"),
        ],
        &list,
    );
    assert_eq!(status, 404);
}

#[test]
fn large_broken_and_slow_requests() {
    let api = api();
    let served = serve(&api, &[]);
    let (status, ..) = post(served.address, &[], &"x".repeat((1 << 20) + 1));
    assert_eq!(status, 413);
    for junk in ["", "{", "[]", "{\"jsonrpc\":\"2.0\"}"] {
        let (status, ..) = post(served.address, &standard("tools/list", None), junk);
        assert!((400..500).contains(&status), "{junk} {status}");
    }
    // 300 that say nothing: those beyond the limit are closed, and none stops the others for ever.
    let idle: Vec<_> = (0..300)
        .flat_map(|_| TcpStream::connect(served.address))
        .collect();
    drop(idle);
    let list = request("tools/list", &today(json!({}), json!({})));
    let begun = Instant::now();
    loop {
        let mut headers = standard("tools/list", None);
        headers.push(("Authorization", "Bearer good"));
        if post(served.address, &headers, &list).0 == 200 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody is served any more");
        std::thread::sleep(Duration::from_millis(50));
    }
}
