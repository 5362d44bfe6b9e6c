//! What the end of a connection means to the call that was made over it.

use super::call::Call;
use super::error::Fault;
use super::tls_fault;
use ctrl_exec_reactor::http::HttpError;
use ctrl_exec_reactor::{CloseReason, Phase};
use std::time::Duration;

/// Classifies the end of a connection that should have brought an answer.
pub(super) fn fault_of(reason: &CloseReason, step: Duration, call: &Call) -> Fault {
    match reason {
        CloseReason::Refused => Fault::Refused,
        CloseReason::Unreachable => Fault::Unreachable,
        CloseReason::Timeout(Phase::Connect) => Fault::ConnectTimeout,
        CloseReason::Timeout(Phase::Handshake) => Fault::TlsTimeout,
        CloseReason::Timeout(_) => Fault::ReadTimeout(step),
        CloseReason::TooSlow { bytes, .. } => Fault::TooSlow(*bytes),
        CloseReason::Tls { text, .. } => tls_fault::explain(text, &call.target.name),
        CloseReason::Eof {
            phase: Phase::Handshake,
            ..
        }
        | CloseReason::Reset {
            phase: Phase::Handshake,
        } => Fault::Tls(
            "the agent closed the connection (not an agent, or its rate limit, address list or \
             connection limit)"
                .to_owned(),
        ),
        // The words of its refusal are lost when our request came too soon.
        CloseReason::Reset {
            phase: Phase::Write | Phase::Response | Phase::Idle,
        }
        | CloseReason::PeerClosed
            if call.target.perl =>
        {
            Fault::PerlClosed(None)
        }
        CloseReason::Eof { partial: true, .. } | CloseReason::Http(HttpError::Truncated) => {
            Fault::Truncated
        }
        CloseReason::Eof { .. }
        | CloseReason::PeerClosed
        | CloseReason::Done
        | CloseReason::Http(HttpError::Empty) => Fault::NoAnswer,
        CloseReason::Http(HttpError::BodyTooLarge) | CloseReason::TooLarge => Fault::TooLarge,
        CloseReason::Http(HttpError::Overloaded) => Fault::NoRoom,
        CloseReason::Http(error) => Fault::BadAnswer(error.to_string()),
        CloseReason::Reset {
            phase: Phase::Connect,
        } => Fault::Refused,
        CloseReason::Io {
            phase: Phase::Connect,
            ..
        }
        | CloseReason::Full
        | CloseReason::Local => Fault::Local(reason.to_string()),
        CloseReason::Reset { .. } | CloseReason::Io { .. } => Fault::BadAnswer(reason.to_string()),
    }
}

/// Whether a connection that ended so had taken the whole of a request that was given to it. An
/// alert is the agent's word that it would not talk to us: nothing was acted on.
pub(super) fn is_sent(reason: &CloseReason) -> bool {
    match reason {
        CloseReason::Timeout(phase)
        | CloseReason::Reset { phase }
        | CloseReason::Eof { phase, .. }
        | CloseReason::Io { phase, .. }
        | CloseReason::TooSlow { phase, .. } => *phase == Phase::Response,
        CloseReason::Tls { phase, text } => {
            *phase == Phase::Response && !text.contains("received fatal alert")
        }
        CloseReason::Refused | CloseReason::Unreachable | CloseReason::Full => false,
        _ => true,
    }
}
