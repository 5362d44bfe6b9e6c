//! Why something was not done, for whichever front end asked.

use super::lock::Holder;
use std::fmt;

/// The kinds of error, each with an exit status and an HTTP status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// What was asked makes no sense.
    Usage,
    /// An agent, request or run of that name is not known.
    NotFound,
    /// The auth hook said no.
    Denied,
    /// A lock is held.
    Locked,
    /// It is over already.
    Ended,
    /// It collides with what is there.
    Conflict,
    /// Configuration or certificates do not do.
    Setup,
    /// A file or the operating system.
    System,
}

impl Kind {
    /// Exit status of a command that ends so (dispatcher.md §4).
    pub fn exit(self) -> u8 {
        match self {
            Self::Denied | Self::Locked | Self::Ended => 1,
            _ => 3,
        }
    }

    /// Status of an HTTP answer.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Usage => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Locked | Self::Conflict | Self::Ended => 409,
            Self::Setup | Self::System => 500,
        }
    }
}

/// An error with its kind and one message for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppError {
    /// What kind of error.
    pub kind: Kind,
    /// What is wrong, and with what.
    pub message: String,
    /// The auth hook's exit status, where that said no.
    pub code: Option<i32>,
    /// The locks that others hold, as `host:script`.
    pub conflicts: Vec<String>,
    /// The host words that name no registered agent.
    pub unknown: Vec<String>,
    /// Who holds them.
    pub holders: Vec<Holder>,
}

impl AppError {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            code: None,
            conflicts: Vec::new(),
            unknown: Vec::new(),
            holders: Vec::new(),
        }
    }

    /// What was asked makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A file or the operating system.
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(Kind::System, message)
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AppError {}
