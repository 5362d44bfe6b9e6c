//! Messages as bytes.

/// The reason phrase the agent sends with `status` (agent.md §1.3).
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// A response with a JSON body, head and body in one buffer so that they leave in one TLS record
/// while they fit. Without `keep_alive` the bytes are exactly those of agent.md §1.3; with it the
/// version is 1.1 and a `Connection: keep-alive` line is added.
pub fn render_response(status: u16, body: &str, keep_alive: bool) -> Vec<u8> {
    let (version, connection) = if keep_alive {
        ("1.1", "Connection: keep-alive\r\n")
    } else {
        ("1.0", "")
    };
    let head = format!(
        "HTTP/{version} {status} {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{connection}\r\n",
        phrase(status),
        body.len(),
    );
    joined(head, body)
}

/// A request, head and body in one buffer (dispatcher.md §8: a Perl peer needs them in one TLS
/// record). `host` may carry a port. A body brings `Content-Type` and `Content-Length`.
///
/// The caller vouches that `method`, `path` and `host` hold neither blanks nor control
/// characters; any that are there are left out, so that no header can be smuggled in.
pub fn render_request(
    method: &str,
    path: &str,
    host: &str,
    body: Option<&str>,
    keep_alive: bool,
) -> Vec<u8> {
    let clean = |text: &str| -> String {
        text.chars()
            .filter(|c| !c.is_control() && !c.is_whitespace())
            .collect()
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n",
        clean(method),
        clean(path),
        clean(host),
    );
    if let Some(body) = body {
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    head.push_str("\r\n");
    joined(head, body.unwrap_or(""))
}

fn joined(head: String, body: &str) -> Vec<u8> {
    let mut bytes = head.into_bytes();
    bytes.reserve_exact(body.len());
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_bytes_are_those_of_the_reference() {
        assert_eq!(
            render_response(413, "{\"error\":\"request too large\"}", false),
            b"HTTP/1.0 413 Content Too Large\r\nContent-Type: application/json\r\n\
              Content-Length: 29\r\n\r\n{\"error\":\"request too large\"}"
        );
    }

    #[test]
    fn keep_alive_is_announced() {
        assert_eq!(
            render_response(200, "{}", true),
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
              Connection: keep-alive\r\n\r\n{}"
        );
    }

    #[test]
    fn length_counts_bytes_not_characters() {
        let bytes = render_response(200, "\"\u{e9}\"", false);
        assert!(
            String::from_utf8(bytes)
                .unwrap()
                .contains("Content-Length: 4\r\n")
        );
    }

    #[test]
    fn requests() {
        assert_eq!(
            render_request("GET", "/capabilities", "r1:7443", None, false),
            b"GET /capabilities HTTP/1.1\r\nHost: r1:7443\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            render_request("POST", "/ping", "r1", Some("{}"), true),
            b"POST /ping HTTP/1.1\r\nHost: r1\r\nConnection: keep-alive\r\n\
              Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        assert_eq!(
            render_request("GET", "/x\r\nEvil: 1", "h\n", None, false),
            b"GET /xEvil:1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        );
    }
}
