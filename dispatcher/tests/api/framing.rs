//! What is taken for a request and what not (api.md §2, §3), and how long it is waited for.

use crate::client::{Api, Kept, command};
use crate::support::Root;
use std::io::Write;

#[test]
fn limits_of_a_request() {
    let root = Root::new();
    let api = Api::open(&root);
    let request = |count: usize| {
        let lines: String = (0..count).map(|n| format!("X{n}: y\r\n")).collect();
        format!("GET /health HTTP/1.0\r\n{lines}\r\n")
    };
    let lines = |count| api.raw(request(count).as_bytes());
    assert_eq!(lines(32).status, 200);
    let fault = lines(33).fault();
    let class = "request header fields too large";
    assert_eq!(
        fault,
        (431, class.into(), "more than 32 header lines".into())
    );
    let long = format!("GET /health HTTP/1.0\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    assert_eq!(api.raw(long.as_bytes()).status, 431);

    let body = |length: usize, body: &str| {
        let head = format!("POST /ping HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        api.raw(head.as_bytes())
    };
    let fault = body(1_048_577, "").fault();
    let class = "payload too large";
    assert_eq!(
        fault,
        (413, class.into(), "body exceeds 1048576 bytes".into())
    );
    let blanks = " ".repeat(1_048_576);
    assert_eq!(body(1_048_576, &blanks).fault().2, "invalid JSON body");
}

#[test]
fn an_empty_connection_is_told_so() {
    let root = Root::new();
    let api = Api::open(&root);
    let mut stream = api.connect();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 400 "), "{text}");
    assert!(text.contains("empty request"), "{text}");
    // The reference takes a first line of nothing for a request for "/".
    assert_eq!(api.raw(b"\r\n\r\n").fault().2, "empty request");
}

#[test]
fn old_clients_get_old_answers() {
    let root = Root::new();
    let api = Api::open(&root);
    let plain = api.raw(b"get /health\n\n");
    assert_eq!(plain.status, 200);
    let names: Vec<&str> = plain.head.lines().skip(1).collect();
    assert_eq!(
        names,
        ["Content-Type: application/json", "Content-Length: 30"]
    );
    assert!(plain.head.starts_with("HTTP/1.0 200 OK"), "{plain:?}");
    assert_eq!(api.raw(b"GET\r\n\r\n").json()["name"], "ctrl-exec-api");
}

#[test]
fn a_connection_stays_while_both_want_it() {
    let root = Root::new();
    let api = Api::open(&root);
    let mut kept = Kept::new(&api);
    for _ in 0..3 {
        kept.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = kept.answer();
        assert!(answer.head.starts_with("HTTP/1.1 200 "), "{answer:?}");
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
    }
    // Two at once are answered one after the other.
    kept.send(b"GET /health HTTP/1.1\r\n\r\nGET /nope HTTP/1.1\r\n\r\n");
    assert_eq!((kept.answer().status, kept.answer().status), (200, 404));
    kept.send(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(kept.answer().status, 200);
    assert!(kept.is_closed());
    // Who contradicts himself about the length gets no second request.
    let mut doubtful = Kept::new(&api);
    doubtful.send(b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(doubtful.answer().status, 200);
    assert!(doubtful.is_closed());
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let root = Root::new();
    let api = Api::open(&root);
    for head in [
        "POST /ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /ping HTTP/1.1\r\nContent-Length : 3\r\n\r\nabc",
        "POST /ping HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
        "POST /ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ] {
        assert_eq!(api.raw(head.as_bytes()).status, 400, "{head}");
    }
    // A body that ends early is no order.
    let mut stream = api.connect();
    let head =
        b"POST /run HTTP/1.1\r\nContent-Length: 50\r\n\r\n{\"hosts\":[\"a\"],\"script\":\"s\"}";
    stream.write_all(head).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert!(text.contains("incomplete request"), "{text}");
}

#[test]
fn methods_and_paths() {
    let root = Root::new();
    let api = Api::open(&root);
    for path in [
        "/nope",
        "/health/",
        "/health?x=1",
        "/%68ealth",
        "/status/ABCD",
        "/status/",
    ] {
        let (status, error, detail) = api.get(path).fault();
        let expected = format!("no route for GET {path}");
        assert_eq!((status, error, detail), (404, "not found".into(), expected));
    }
    for (method, path, allow) in [
        ("GET", "/run", "POST"),
        ("OPTIONS", "/run", "POST"),
        ("DELETE", "/discovery", "GET, POST"),
        ("POST", "/status/abcd", "GET"),
    ] {
        let answer = api.ask(method, path, "", "");
        assert_eq!(
            (answer.status, answer.header("Allow")),
            (405, Some(allow)),
            "{path}"
        );
    }
    // To HEAD goes no body, whatever the answer.
    let head = api.raw(b"HEAD /health HTTP/1.0\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (405, ""));
    assert!(head.header("Content-Length").is_some());
}

#[test]
fn half_of_tls_is_none() {
    let root = Root::new();
    let cert = root.path("etc/ctrl-exec/dispatcher.crt");
    let key = root.path("etc/ctrl-exec/dispatcher.key");
    let (cert, key) = (cert.display(), key.display());
    for (more, named) in [
        (format!("api_cert = {cert}\n"), "api_key"),
        (format!("api_key = {key}\n"), "api_cert"),
        (
            format!("api_cert = {cert}\napi_key = /nowhere\n"),
            "/nowhere",
        ),
        (format!("api_cert = {cert}\napi_key = {cert}\n"), "key"),
        (format!("api_client_ca = {cert}\n"), "api_cert"),
        ("api_port = x\n".to_owned(), "api_port"),
        ("api_bind = here\n".to_owned(), "api_bind"),
        ("api_max_children = 0\n".to_owned(), "api_max_children"),
        ("auth_hook_timeout = soon\n".to_owned(), "auth_hook_timeout"),
    ] {
        root.configure(&more);
        let output = command(&root).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{more}: {text}");
        assert!(text.contains(named), "{more}: {text}");
    }
}

#[test]
fn tls_with_and_without_certificates_of_clients() {
    let root = Root::new();
    let etc = root.path("etc/ctrl-exec");
    let etc = etc.display();
    let tls = format!("api_cert = {etc}/dispatcher.crt\napi_key = {etc}/dispatcher.key\n");
    let curl = |api: &Api, args: &[&str]| {
        let url = format!("https://{}/health", api.address);
        let output = std::process::Command::new("curl")
            .args(["-sS", "-k", "--max-time", "60"])
            .args(args)
            .arg(url)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let api = Api::start(&root, &format!("api_auth_default = allow\n{tls}"));
    assert!(curl(&api, &[]).contains("\"ok\":true"));
    // Who speaks no TLS, or nothing at all, holds up nobody.
    let mut plain = api.connect();
    plain.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
    let _silent = api.connect();
    assert!(curl(&api, &["--tlsv1.2", "--tls-max", "1.2"]).contains("\"ok\":true"));
    drop(api);
    let more = format!("api_auth_default = allow\n{tls}api_client_ca = {etc}/ca.crt\n");
    let api = Api::start(&root, &more);
    assert_eq!(curl(&api, &[]), "");
    let (cert, key) = (
        format!("{etc}/dispatcher.crt"),
        format!("{etc}/dispatcher.key"),
    );
    let shown = curl(&api, &["--cert", &cert, "--key", &key]);
    assert!(shown.contains("\"ok\":true"), "{shown}");
}
