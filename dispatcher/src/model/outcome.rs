//! How a call to a host ended.

/// The kinds of end a call can have, the gravest last.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// Done, with success.
    Ok,
    /// The script ran and failed.
    Failed,
    /// The agent refused by policy.
    Refused,
    /// The agent was not reached, or its answer made no sense: nothing runs there.
    Unreached,
    /// Never started.
    Skipped,
    /// The request went out whole and no end is known: it may still be running.
    Unknown,
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Failed,
        Self::Refused,
        Self::Unreached,
        Self::Skipped,
        Self::Unknown,
    ];

    /// The word in JSON and text.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unreached => "unreached",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }

    /// Whether it counts against `--max-failures`.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Ok | Self::Skipped)
    }
}

/// How far a failed call got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Finding the address.
    Name,
    /// Connecting.
    Connect,
    /// The TLS handshake, or what the peer thought of our certificate.
    Tls,
    /// The request was sent; its answer did not come or made no sense.
    Http,
}

impl Phase {
    /// The word shown and put into JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Http => "http",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Name, Self::Connect, Self::Tls, Self::Http]
            .into_iter()
            .find(|phase| phase.word() == word)
    }
}

/// Why a call did not succeed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// In words; they may be the agent's.
    pub error: String,
    /// How far the call got, where it got nowhere near an answer.
    pub phase: Option<Phase>,
}
