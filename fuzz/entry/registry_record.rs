//! A registry record, as a dispatcher of either kind, a full disk or an agent's tags left it.

use ctrl_exec_dispatcher::fleet::address;
use ctrl_exec_dispatcher::model::{AgentRecord, MAX_TAG, MAX_TAGS, bounded_tags, salvage};
use ctrl_exec_protocol::json::{Bounds, Members};

/// Any bytes are a record that every getter reads and that is written as it was, or none; what is
/// saved of a damaged one is small, and a record again.
pub fn run(data: &[u8]) {
    if let Ok(mut record) = AgentRecord::parse("r1", data) {
        let given = Members::parse(data, &Bounds::RECORD);
        assert_eq!(given.as_ref(), Ok(&record.members()));
        let target = address::target(&record, None, Some(1));
        assert_ne!(target.port(), 0);
        assert_eq!(target.name, "r1");
        let _ = (record.lookup_by(), record.serial_status(), record.expiry());
        let _ = (record.revoked(), record.cert_serial(), record.is_perl());
        record.rename("r2");
        let again = AgentRecord::parse("r2", record.to_json().as_bytes());
        assert_eq!(again.map(|again| again.to_json()), Ok(record.to_json()));
        if let Some(tags) = &record.tags {
            tags_are_bounded(tags);
        }
        tags_are_bounded(&record.members());
    }
    let saved = salvage(data);
    let again = Members::parse(saved.render().as_bytes(), &Bounds::RECORD);
    assert_eq!(again, Ok(saved));
}

fn tags_are_bounded(sent: &Members) {
    let (kept, left_out) = bounded_tags(sent);
    assert!(kept.len() <= MAX_TAGS);
    assert_eq!(kept.len() + left_out, sent.len());
    for (key, value) in kept.iter() {
        assert!(key.len() <= MAX_TAG);
        let size = value.as_str().len();
        assert!(size <= 6 * MAX_TAG + 2, "a string or a number");
    }
}
