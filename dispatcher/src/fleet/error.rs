//! What can go wrong with a call, told apart by kind and never by text (dispatcher.md §10).

use crate::model::Phase;
use ctrl_exec_reactor::SLOWEST;
use std::fmt;
use std::time::Duration;

/// Largest request, head and body, that an agent of the reference reads: one TLS record
/// (dispatcher.md §8).
pub const PERL_REQUEST: usize = 16_384;

/// What went wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The name has no address.
    Unresolved,
    /// Nobody listens there.
    Refused,
    /// No way there.
    Unreachable,
    /// No connection in time.
    ConnectTimeout,
    /// The handshake did not end in time.
    TlsTimeout,
    /// No answer in time.
    ReadTimeout(Duration),
    /// The answer comes, or the request is taken, too slowly; so many bytes had come.
    TooSlow(usize),
    /// The time of the whole command was over.
    OutOfTime,
    /// The answers of all agents together are more than may wait in memory.
    NoRoom,
    /// The handshake failed, in words for people.
    Tls(String),
    /// Its certificate was made by another CA, or by nobody's.
    ForeignCa,
    /// Its certificate has ended.
    Expired {
        /// When, in OpenSSL's form.
        end: String,
        /// The agent's registry name.
        name: String,
    },
    /// It shows a certificate that was revoked here.
    Revoked,
    /// Its certificates were revoked here, at this time: it is not called.
    Barred(String),
    /// Its record cannot be read, in words.
    Record(String),
    /// It shows a certificate of this CA with another name than the one that was paired.
    WrongName {
        /// The name it shows.
        shown: String,
        /// The one that was paired.
        paired: String,
        /// The agent's registry name.
        name: String,
    },
    /// It cannot do what is asked, or is not known to be able to: it is not called.
    Lacks {
        /// What it cannot do.
        what: &'static str,
        /// Whether that is known.
        known: bool,
    },
    /// The peer closed before it sent anything.
    NoAnswer,
    /// The connection broke in the middle of the answer.
    Truncated,
    /// The answer is larger than we take.
    TooLarge,
    /// The answer is no HTTP, in words.
    BadAnswer(String),
    /// The request, of so many bytes, does not fit into the one TLS record that agents of the
    /// reference read.
    PerlLimit(usize),
    /// An agent of 0.12.3 hung up on us; with what it said when it was called again.
    PerlClosed(Option<String>),
    /// The operating system said no.
    Local(String),
    /// The operator stopped it while it was under way.
    Interrupted,
    /// It was never started: the run was stopped before its turn came.
    NotStarted,
}

/// A failed call: what went wrong, and where it went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallError {
    /// What went wrong.
    pub fault: Fault,
    /// The whole request had gone out, so that the agent may act on it.
    pub sent: bool,
    /// Address the call went to, not the registry name.
    pub address: String,
    /// Port it went to.
    pub port: u16,
}

impl CallError {
    /// How far the call got; `None` when it did not begin.
    pub fn phase(&self) -> Option<Phase> {
        Some(match self.fault {
            Fault::Unresolved => Phase::Name,
            Fault::Refused | Fault::Unreachable | Fault::ConnectTimeout | Fault::Local(_) => {
                Phase::Connect
            }
            Fault::Tls(_)
            | Fault::TlsTimeout
            | Fault::Revoked
            | Fault::WrongName { .. }
            | Fault::ForeignCa
            | Fault::Expired { .. } => Phase::Tls,
            Fault::ReadTimeout(_)
            | Fault::TooSlow(_)
            | Fault::OutOfTime
            | Fault::NoRoom
            | Fault::NoAnswer
            | Fault::PerlClosed(_)
            | Fault::Truncated
            | Fault::TooLarge
            | Fault::BadAnswer(_)
            | Fault::Interrupted => Phase::Http,
            Fault::NotStarted
            | Fault::PerlLimit(_)
            | Fault::Barred(_)
            | Fault::Lacks { .. }
            | Fault::Record(_) => return None,
        })
    }
}

impl fmt::Display for CallError {
    /// Messages hold the fragments that operators and the reference's tests look for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fault,
            sent: _,
            address,
            port,
        } = self;
        match fault {
            Fault::Unresolved => write!(
                f,
                "host '{address}' did not resolve - check the name or use an IP address"
            ),
            Fault::Refused => write!(
                f,
                "host '{address}' did not respond on port {port} - connection refused (agent not \
                 running, or wrong port?)"
            ),
            Fault::Unreachable => {
                write!(
                    f,
                    "host '{address}' is unreachable - no route to it from here"
                )
            }
            Fault::ConnectTimeout => write!(
                f,
                "host '{address}' did not respond on port {port} - connection timed out"
            ),
            Fault::TlsTimeout => {
                write!(
                    f,
                    "TLS handshake with '{address}' failed: connection timed out"
                )
            }
            Fault::ReadTimeout(_) => {
                write!(
                    f,
                    "host '{address}' sent no answer in time - connection timed out"
                )
            }
            Fault::TooSlow(bytes) => write!(
                f,
                "host '{address}' answers too slowly ({bytes} bytes came, then less than \
                 {SLOWEST} a second) - given up"
            ),
            Fault::OutOfTime => write!(
                f,
                "host '{address}' had not answered when the time of the command was over"
            ),
            Fault::NoRoom => write!(
                f,
                "answer of host '{address}' dropped: the answers of all hosts together do not fit \
                 into memory - ask fewer at a time (--batch)"
            ),
            Fault::ForeignCa => write!(
                f,
                "TLS handshake with '{address}' failed: its certificate is of another CA: paired \
                 with another dispatcher?"
            ),
            Fault::Expired { end, name } => write!(
                f,
                "TLS handshake with '{address}' failed: the agent's certificate ended on {end}: \
                 ced renew {name} --allow-expired"
            ),
            Fault::Tls(text) => write!(f, "TLS handshake with '{address}' failed: {text}"),
            Fault::Revoked => write!(
                f,
                "TLS handshake with '{address}' failed: it shows a certificate that was revoked"
            ),
            Fault::Barred(since) => write!(
                f,
                "not called: its certificates were revoked here ({since}); 'ced unrevoke' takes \
                 that back"
            ),
            Fault::WrongName {
                shown,
                paired,
                name,
            } => write!(
                f,
                "host '{address}' shows the certificate of '{shown}', and '{name}' was paired as \
                 '{paired}': nothing was sent. Another host at that address? If it is the right \
                 one: --accept-name for once, or 'ced edit-agent {name} --cert-name {shown}'"
            ),
            Fault::Lacks { what, known: true } => write!(
                f,
                "nothing was sent: this agent cannot {what} (release 0.12.3, or older than this \
                 dispatcher)"
            ),
            Fault::Lacks { what, known: false } => write!(
                f,
                "nothing was sent: it is not known whether this agent can {what}, and it did not \
                 answer a ping"
            ),
            Fault::Record(text) => f.write_str(text),
            Fault::NoAnswer => {
                write!(
                    f,
                    "host '{address}' closed the connection without sending any data back"
                )
            }
            Fault::PerlClosed(Some(reason)) => write!(
                f,
                "host '{address}' hung up on the request; called again, it says: {reason}"
            ),
            Fault::PerlClosed(None) => write!(
                f,
                "host '{address}' hung up on the request without an answer: with a Perl agent, this \
                 dispatcher's certificate is revoked there, or its rate limit is used up (by \
                 default 10 connections in 60 s)"
            ),
            Fault::Truncated => {
                write!(
                    f,
                    "host '{address}' closed the connection in the middle of its answer"
                )
            }
            Fault::TooLarge => write!(
                f,
                "answer of host '{address}' is too large (limit: max_answer in the configuration)"
            ),
            Fault::BadAnswer(text) => {
                write!(f, "host '{address}' did not answer in HTTP: {text}")
            }
            Fault::PerlLimit(size) => write!(
                f,
                "request of {size} bytes not sent to '{address}': a Perl agent takes at most \
                 {PERL_REQUEST}, use shorter arguments"
            ),
            Fault::Local(text) => write!(f, "cannot connect to '{address}': {text}"),
            Fault::Interrupted => f.write_str("interrupted while waiting for the answer"),
            Fault::NotStarted => f.write_str("not started: the run was stopped before its turn"),
        }
    }
}

impl std::error::Error for CallError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_the_documented_fragments() {
        let text = |fault| {
            CallError {
                sent: false,
                fault,
                address: "10.0.0.1".into(),
                port: 7443,
            }
            .to_string()
        };
        for (fault, fragments) in [
            (Fault::Unresolved, &["'10.0.0.1'", "did not resolve"][..]),
            (
                Fault::Refused,
                &[
                    "'10.0.0.1'",
                    "port 7443",
                    "connection refused",
                    "agent not running",
                ],
            ),
            (Fault::Unreachable, &["'10.0.0.1'", "is unreachable"]),
            (
                Fault::ConnectTimeout,
                &["'10.0.0.1'", "connection timed out"],
            ),
            (
                Fault::ReadTimeout(Duration::from_secs(1)),
                &["'10.0.0.1'", "connection timed out"],
            ),
            (
                Fault::Tls("x".into()),
                &["'10.0.0.1'", "TLS handshake", "failed"],
            ),
        ] {
            let message = text(fault);
            for fragment in fragments {
                assert!(message.contains(fragment), "{message} lacks {fragment}");
            }
        }
    }
}
