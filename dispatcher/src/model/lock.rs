//! Who holds the lock of a host and a script.

use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::fmt;

/// What the lock of a host and a script says of the run that took it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LockNote {
    /// The run's request id.
    pub reqid: String,
    /// Registry name of the host.
    pub host: String,
    /// When it was taken, in seconds since 1970.
    pub since: i64,
    /// When the run is over whatever the agent says; `None` when it has no limit.
    pub until: Option<i64>,
    /// Who ordered it; may be empty.
    pub user: String,
}

impl LockNote {
    /// The note as a line of text.
    pub fn render(&self) -> String {
        let until = self
            .until
            .map_or_else(|| "-".to_owned(), |at| at.to_string());
        let user: String = self.user.chars().filter(|c| !c.is_control()).collect();
        let Self {
            reqid, host, since, ..
        } = self;
        format!("{reqid} {host} {since} {until} {user}\n")
    }

    /// Reads [`render`](Self::render)'s line. Anything else, also what other programs write into a
    /// lock file, is no note.
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.strip_suffix('\n')?;
        let mut parts = line.splitn(5, ' ');
        let reqid = parts.next()?.to_owned();
        let host = parts.next()?.to_owned();
        let since = parts.next()?.parse().ok()?;
        let until = match parts.next()? {
            "-" => None,
            at => Some(at.parse().ok()?),
        };
        let user = parts.next()?.to_owned();
        let is_run = ctrl_exec_protocol::names::is_reqid(&reqid) && !host.is_empty();
        is_run.then_some(Self {
            reqid,
            host,
            since,
            until,
            user,
        })
    }
}

/// Who holds the lock of a host and a script.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Host word, or what its lock file makes of it.
    pub host: String,
    /// The script, likewise.
    pub script: String,
    /// A command holds it now. Otherwise a run whose end is not known has left it.
    pub live: bool,
    /// What is known of the run.
    pub note: Option<LockNote>,
}

impl Holder {
    /// `host:script`.
    pub fn pair(&self) -> String {
        format!("{}:{}", self.host, self.script)
    }

    /// For JSON.
    pub fn object(&self) -> Members {
        let mut object = Members::of([
            ("host", Json::text(&*self.host)),
            ("script", Json::text(&*self.script)),
            ("live", Json::flag(self.live)),
        ]);
        if let Some(note) = &self.note {
            object.set_text("reqid", Some(&*note.reqid));
            object.set_integer("since", Some(note.since));
            object.set_integer("until", note.until);
            object.set_text("user", Some(&*note.user));
        }
        object
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pair())?;
        let Some(note) = &self.note else {
            return Ok(());
        };
        write!(f, " (run {}", note.reqid)?;
        if !note.user.is_empty() {
            write!(f, " of {}", note.user)?;
        }
        write!(f, " since {}", Utc(note.since).iso())?;
        if !self.live {
            let host = &note.host;
            write!(
                f,
                ", its end is not known: 'ced running {host}' asks the agent; one restarted since \
                 cannot tell, and --despite-unknown {} passes over it",
                note.reqid
            )?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_lines() {
        let note = LockNote {
            reqid: "r1".into(),
            host: "vm".into(),
            since: 7,
            until: Some(9),
            user: "ann b".into(),
        };
        for note in [
            LockNote {
                until: None,
                ..note.clone()
            },
            note,
        ] {
            assert_eq!(LockNote::parse(&note.render()), Some(note));
        }
        for nonsense in [
            "",
            "\n",
            "123\n",
            "a b c d e\n",
            "r1 vm 7 - x",
            "r1 vm 7 - \u{1b}",
        ] {
            assert_eq!(LockNote::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
