//! What is known of an async run on one host (dispatcher.md §12.2).

use super::reply::RunEnd;
use super::result::Reply;
use ctrl_exec_protocol::json::{Json, Members};

/// How far it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EntryState {
    /// The agent took it on, or may have.
    Accepted,
    /// It runs.
    Running,
    /// It is over.
    Done(Box<RunEnd>),
    /// The agent knows nothing of it, or not any more.
    Expired,
    /// It was not taken on: the script was running already.
    Busy,
    /// It was not taken on.
    Error,
    /// A word of another version.
    Other(String),
}

impl EntryState {
    /// The word in records.
    pub fn word(&self) -> &str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Done(_) => "done",
            Self::Expired => "expired",
            Self::Busy => "busy",
            Self::Error => "error",
            Self::Other(word) => word,
        }
    }
}

/// An async run on one host.
#[derive(Clone, Debug)]
pub struct HostEntry {
    /// How far it is.
    pub state: EntryState,
    /// Why it was not taken on.
    pub error: Option<String>,
    /// Why its state could not be learned lately.
    pub fetch_error: Option<String>,
    /// Members of other versions.
    pub more: Members,
}

impl HostEntry {
    /// An entry of this state and nothing more.
    pub fn new(state: EntryState) -> Self {
        Self {
            state,
            error: None,
            fetch_error: None,
            more: Members::new(),
        }
    }

    /// Whether it may still change.
    pub fn is_open(&self) -> bool {
        matches!(self.state, EntryState::Accepted | EntryState::Running)
    }

    /// Whether it counts as failed for `wait` and `--failed-of`.
    pub fn is_failed(&self) -> bool {
        match &self.state {
            EntryState::Accepted | EntryState::Running => false,
            EntryState::Done(end) => end.exit != Some(0),
            _ => true,
        }
    }

    /// Reads an entry of a record.
    pub fn from_object(mut object: Members) -> Self {
        let status = object.take_text("status").unwrap_or_default();
        let state = match status.as_str() {
            "accepted" => EntryState::Accepted,
            "running" => EntryState::Running,
            "done" => EntryState::Done(Box::new(RunEnd::take(&mut object))),
            "expired" => EntryState::Expired,
            "busy" => EntryState::Busy,
            "error" => EntryState::Error,
            _ => EntryState::Other(status),
        };
        Self {
            state,
            error: object.take_text("error"),
            fetch_error: object.take_text("fetch_error"),
            more: object,
        }
    }

    /// The entry as records keep it.
    pub fn object(&self) -> Members {
        let mut object = self.more.clone();
        object.set("status", Json::text(self.state.word()));
        object.set_text("error", self.error.as_deref());
        object.set_text("fetch_error", self.fetch_error.as_deref());
        if let EntryState::Done(end) = &self.state {
            end.put(&mut object);
        }
        object
    }
}
