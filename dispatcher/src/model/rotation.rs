//! What is known about the last rotation (pki-and-pairing.md §9.1). Members of other versions are
//! kept.

use super::agent::{AgentRecord, SerialStatus};
use ctrl_exec_protocol::json::{Bounds, Json, JsonError, Members};
use ctrl_exec_protocol::time::{DAY, Utc};

/// Serials before the previous one that agents may still trust. Ours only.
const UNRETIRED: &str = "unretired_serials";

/// A rotation that is about to be made. Ours only.
const NEXT: &str = "next";

/// What is known about the last rotation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotationState {
    current_serial: Option<String>,
    previous_serial: Option<String>,
    rotated_at: Option<String>,
    overlap_expires: Option<String>,
    overlap_days: Option<i64>,
    previous_retired: Option<String>,
    unretired: Vec<String>,
    more: Members,
}

impl RotationState {
    /// Reads what `rotation.json` holds.
    ///
    /// # Errors
    /// It is not JSON, or no object.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let mut more = Members::parse(text, &Bounds::RECORD)?;
        let unretired = more.texts(UNRETIRED);
        if !unretired.is_empty() {
            more.remove(UNRETIRED);
        }
        Ok(Self {
            current_serial: more.take_text("current_serial"),
            previous_serial: more.take_text("previous_serial"),
            rotated_at: more.take_text("rotated_at"),
            overlap_expires: more.take_text("overlap_expires"),
            overlap_days: more.take_integer("overlap_days"),
            previous_retired: more.take_text("previous_retired"),
            unretired,
            more,
        })
    }

    /// The state in a text; an empty one if it is none.
    pub fn of_text(text: &str) -> Self {
        Self::parse(text.as_bytes()).unwrap_or_default()
    }

    /// The whole state.
    pub fn members(&self) -> Members {
        let mut all = self.more.clone();
        all.set_text("current_serial", self.current_serial.as_deref())
            .set_text("previous_serial", self.previous_serial.as_deref())
            .set_text("rotated_at", self.rotated_at.as_deref())
            .set_text("overlap_expires", self.overlap_expires.as_deref())
            .set_integer("overlap_days", self.overlap_days)
            .set_text("previous_retired", self.previous_retired.as_deref());
        if !self.unretired.is_empty() {
            all.set(UNRETIRED, Json::texts(&self.unretired));
        }
        all
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        self.members().render()
    }

    /// Canonical serial of the present certificate.
    pub fn current_serial(&self) -> &str {
        self.current_serial.as_deref().unwrap_or_default()
    }

    /// Canonical serial of the one before, until it is retired; else empty.
    pub fn previous_serial(&self) -> &str {
        self.previous_serial.as_deref().unwrap_or_default()
    }

    /// When the last rotation was.
    pub fn rotated_at(&self) -> &str {
        self.rotated_at.as_deref().unwrap_or_default()
    }

    /// End of the overlap.
    pub fn overlap_expires(&self) -> Option<Utc> {
        Utc::parse_iso(self.overlap_expires.as_deref()?)
    }

    /// Length of the overlap in days.
    pub fn overlap_days(&self) -> i64 {
        self.overlap_days.unwrap_or(30)
    }

    /// When the previous serial was taken back.
    pub fn previous_retired(&self) -> Option<&str> {
        self.previous_retired.as_deref()
    }

    /// Serials that were previous once and were not taken back yet.
    pub fn unretired(&self) -> &[String] {
        &self.unretired
    }

    /// Notes a rotation. A serial that was previous until now is remembered for retirement: the
    /// reference forgets it, so that agents trust it for ever (DEVIATE).
    pub(crate) fn rotated(&mut self, current: &str, old: Option<&str>, overlap: u32, now: Utc) {
        let before = self.previous_serial().to_owned();
        if !before.is_empty() && old != Some(before.as_str()) && !self.unretired.contains(&before) {
            self.unretired.push(before);
        }
        let expires = Utc(now.0 + i64::from(overlap) * DAY);
        self.current_serial = Some(current.to_owned());
        self.previous_serial = Some(old.unwrap_or_default().to_owned());
        self.rotated_at = Some(now.iso());
        self.overlap_expires = Some(expires.iso());
        self.overlap_days = Some(i64::from(overlap));
        self.previous_retired = None;
    }

    /// Notes a rotation that is about to be made; [`settle`](Self::settle) makes it one.
    pub(crate) fn announce(&mut self, next: &str, old: Option<&str>, overlap: u32, now: Utc) {
        let next = Members::of([
            ("serial", Json::text(next)),
            ("previous", Json::text(old.unwrap_or_default())),
            ("rotated_at", Json::text(now.iso())),
            ("overlap_days", Json::integer(i64::from(overlap))),
        ]);
        self.more.set(NEXT, next);
    }

    /// Whether a rotation was announced and it is not noted what became of it.
    pub(crate) fn is_announced(&self) -> bool {
        self.more.contains(NEXT)
    }

    /// A rotation was announced: it has happened if `actual` is the serial of our certificate, and
    /// has not otherwise. Whether there was one.
    pub(crate) fn settle(&mut self, actual: &str) -> bool {
        if !self.is_announced() {
            return false;
        }
        let next = self.more.object(NEXT).unwrap_or_default();
        self.more.remove(NEXT);
        if next.text("serial").is_some_and(|serial| serial == actual) {
            let old = next.text("previous").filter(|old| !old.is_empty());
            let overlap = next.integer("overlap_days").unwrap_or(30);
            let at = next.text("rotated_at").and_then(|at| Utc::parse_iso(&at));
            self.rotated(
                actual,
                old.as_deref(),
                overlap.try_into().unwrap_or(30),
                at.unwrap_or_else(Utc::now),
            );
        }
        true
    }

    /// What an agent knows of our certificate: its record says which serial it confirmed last, and
    /// that alone counts, so that a rotation need not be written into every record.
    pub fn standing(&self, record: &AgentRecord) -> SerialStatus {
        let (knows, current) = (record.dispatcher_serial(), self.current_serial());
        match record.serial_status() {
            stored if current.is_empty() => stored,
            _ if knows == current => SerialStatus::Current,
            SerialStatus::Stale => SerialStatus::Stale,
            SerialStatus::Unknown => SerialStatus::Unknown,
            // No pair of ours is left that it knows.
            _ if self.unretired().iter().any(|serial| serial == knows) => SerialStatus::Stale,
            _ => SerialStatus::Pending,
        }
    }

    /// Notes that a serial was taken back (or given up).
    pub(crate) fn retired(&mut self, serial: &str, now: Utc) {
        self.unretired.retain(|other| other != serial);
        if self.previous_serial() == serial {
            self.previous_serial = None;
            self.previous_retired = Some(now.iso());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_as_it_was_read() {
        for text in [
            "{}",
            r#"{"current_serial":"4a","overlap_days":30,"overlap_expires":"2026-12-22T13:33:35Z","previous_serial":"4b","rotated_at":"2026-11-22T13:33:35Z","unretired_serials":["4c","4d"],"x":{"y":1.0}}"#,
            r#"{"current_serial":7,"overlap_days":"x","previous_retired":"t","unretired_serials":5}"#,
        ] {
            let state = RotationState::parse(text.as_bytes()).unwrap();
            assert_eq!(state.to_json(), text);
        }
        assert!(RotationState::parse(b"[]").is_err());
    }

    #[test]
    fn serials_that_were_previous_are_remembered_until_they_are_retired() {
        let mut state = RotationState::parse(br#"{"x":1}"#).unwrap();
        let day = |n: i64| Utc(1_800_000_000 + n * DAY);
        state.rotated("4a", None, 10, day(0));
        assert_eq!((state.previous_serial(), state.overlap_days()), ("", 10));
        assert_eq!(state.overlap_expires(), Some(day(10)));
        state.rotated("4b", Some("4a"), 10, day(1));
        state.rotated("4c", Some("4b"), 10, day(2));
        // Once more with the same pair, after a crash.
        state.rotated("4c", Some("4b"), 10, day(2));
        assert_eq!(state.unretired(), ["4a"]);
        state.retired("4a", day(3));
        assert!(state.unretired().is_empty());
        assert_eq!(
            (state.previous_serial(), state.previous_retired()),
            ("4b", None)
        );
        state.retired("4b", day(4));
        assert_eq!(state.previous_serial(), "");
        assert_eq!(state.previous_retired(), Some(day(4).iso().as_str()));
        state.rotated("4d", Some("4c"), 10, day(5));
        assert_eq!(state.previous_retired(), None);
        assert!(state.to_json().contains(r#""x":1"#));
    }
}
