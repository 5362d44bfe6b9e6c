//! Tags that agents give themselves.

use ctrl_exec_protocol::json::Members;

/// Most tags that are kept of an agent.
pub const MAX_TAGS: usize = 64;
/// Longest tag, and longest value of one, in bytes.
pub const MAX_TAG: usize = 256;

/// The tags an agent sent, as far as they are kept: names and values that are text, within
/// [`MAX_TAGS`] and [`MAX_TAG`]. The number says how many were left out.
pub fn bounded_tags(sent: &Members) -> (Members, usize) {
    let mut kept = Members::new();
    for (key, value) in sent.iter() {
        let fits = value.text().is_some_and(|text| text.len() <= MAX_TAG);
        if fits && key.len() <= MAX_TAG && kept.len() < MAX_TAGS {
            kept.set(key, value);
        }
    }
    let left_out = sent.len() - kept.len();
    (kept, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctrl_exec_protocol::json::Json;

    #[test]
    fn tags_are_bounded() {
        let mut sent = Members::new();
        for n in 0..100 {
            sent.set(&format!("t{n:03}"), Json::text("v"));
        }
        sent.set("a-long", Json::text("v".repeat(MAX_TAG + 1)));
        sent.set(&"b".repeat(MAX_TAG + 1), Json::text("v"));
        sent.set("c-object", Members::new());
        sent.set("d-number", Json::integer(5));
        sent.set("e-longest", Json::text("\n".repeat(MAX_TAG)));
        let (kept, left_out) = bounded_tags(&sent);
        assert_eq!((kept.len(), left_out), (64, 41));
        assert!(kept.contains("d-number") && !kept.contains("c-object"));
        assert!(kept.contains("e-longest"));
    }
}
