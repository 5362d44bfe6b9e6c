//! Which paths a route's path stands for.

/// Whether `path` is what `pattern` stands for, and what its `{…}` stands for: lower-case hex digits,
/// as request ids have them, and nothing else.
pub fn fits<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let (_, after) = rest.split_once('}')?;
    let param = path.strip_prefix(before)?.strip_suffix(after)?;
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (!param.is_empty() && param.bytes().all(hex)).then_some(param)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn only_exact_paths_fit() {
        assert_eq!(fits("/health", "/health"), Some(""));
        assert_eq!(fits("/health", "/health/"), None);
        assert_eq!(fits("/status/{reqid}", "/status/0af"), Some("0af"));
        for path in [
            "/status/",
            "/status/0AF",
            "/status/a/",
            "/status/a/events",
            "/status/%61",
        ] {
            assert_eq!(fits("/status/{reqid}", path), None, "{path}");
        }
        assert_eq!(
            fits("/status/{reqid}/events", "/status/1/events"),
            Some("1")
        );
        assert_eq!(fits("/status/{reqid}/events", "/status//events"), None);
        assert_eq!(fits("/s/{x}s", "/s/s"), None);
    }
}
