//! A record of a run, as either dispatcher or another version wrote it.

use ctrl_exec_dispatcher::model::RunRecord;

/// Any bytes are a record that can be asked, written and read again, or an error in words.
pub fn run(data: &[u8]) {
    let Ok(mut record) = RunRecord::parse("r1", data) else {
        return;
    };
    let open: Vec<String> = record
        .open_hosts()
        .iter()
        .map(ToString::to_string)
        .collect();
    let failed = record.failed_hosts();
    assert!(open.iter().all(|host| !failed.contains(host)));
    let _ = record.has_failure();
    record.recompute();
    let text = record.to_json();
    let again = RunRecord::parse("r1", text.as_bytes());
    assert_eq!(again.map(|again| again.to_json()), Ok(text));
}
