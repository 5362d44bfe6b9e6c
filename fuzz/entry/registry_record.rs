//! A registry record, as a dispatcher of either kind, a full disk or an agent's tags left it.

use ctrl_exec_dispatcher::fleet::address;
use ctrl_exec_dispatcher::model::json;
use ctrl_exec_dispatcher::store::files::registry::{
    MAX_TAG, MAX_TAGS, Record, bounded_tags, salvage,
};

/// Any bytes are a record that every getter reads, or none; what is saved of a damaged one is
/// small, and a record again.
pub fn run(data: &[u8]) {
    if let Some(raw) = json::parse_object(data) {
        let mut record = Record::from_raw("r1", raw);
        let target = address::target(&record, None, Some(1));
        assert_ne!(target.port(), 0);
        assert_eq!(target.name, "r1");
        let _ = (record.lookup_by(), record.serial_status(), record.expiry());
        let _ = (record.revoked(), record.cert_serial(), record.is_perl());
        record.rename("r2");
        let again = json::parse_object(record.to_json().as_bytes()).map(|raw| json::line(&raw));
        assert_eq!(again, Some(record.to_json()));
        if let Some(tags) = json::sub_object(record.raw(), "tags") {
            tags_are_bounded(tags);
        }
        tags_are_bounded(record.raw());
    }
    let saved = json::line(&salvage(data));
    assert!(json::parse_object(saved.as_bytes()).is_some());
}

fn tags_are_bounded(sent: &json::Object) {
    let (kept, left_out) = bounded_tags(sent);
    assert!(kept.len() <= MAX_TAGS);
    assert_eq!(kept.len() + left_out, sent.len());
    for (key, value) in kept.iter() {
        assert!(key.len() <= MAX_TAG);
        assert!(
            json::line(value).len() <= 6 * MAX_TAG + 2,
            "a string or a number"
        );
    }
}
