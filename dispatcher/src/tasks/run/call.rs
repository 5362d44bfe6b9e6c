//! The request of a run, in the form its agent understands.

use crate::fleet::{Call, Fault, Identity, Target};
use crate::model::{HostResult, RunEnd, Submission, Submitted};
use ctrl_exec_protocol::wire::messages::{RUN_INPUT, RunRequest};
use std::sync::Arc;

/// Why a run with input is not for an agent. Which of ours can, they say themselves: the others do not
/// know the path.
pub(super) fn input_lacks() -> Fault {
    Fault::Lacks {
        what: "give input to a script (--stdin)",
        known: true,
    }
}

/// The body of a run, made once for the whole fleet.
#[derive(Clone, Debug)]
pub(super) struct RunBody {
    pub(super) body: Arc<str>,
    pub(super) perl: Arc<str>,
    pub(super) path: &'static str,
    pub(super) stream: bool,
}

impl RunBody {
    /// Renders a request. Agents of the reference hand each character of an argument to the script
    /// as one byte and die of one above U+00FF, so what they get is text whose characters are the
    /// bytes meant (dispatcher.md §8).
    pub(super) fn new(request: &RunRequest) -> Self {
        let bytes = |text: &String| text.bytes().map(char::from).collect::<String>();
        let perl = RunRequest {
            args: request.args.iter().map(bytes).collect(),
            username: bytes(&request.username),
            token: bytes(&request.token),
            ..request.clone()
        };
        Self {
            body: request.render().into(),
            perl: perl.render().into(),
            path: if request.input.is_some() {
                RUN_INPUT
            } else {
                "/run"
            },
            stream: request.stream,
        }
    }
}

pub(super) fn run_call(target: Target, identity: Identity, body: &RunBody) -> Call {
    // In direct mode its scripts get characters; with an executor, and where nothing has shown
    // which, bytes.
    let bytes = target.perl && target.executor != Some(false);
    let text = if bytes { &body.perl } else { &body.body };
    let mut target = target;
    if target.perl && body.path == RUN_INPUT {
        target.obstacle.get_or_insert(input_lacks());
    }
    Call {
        stream: body.stream,
        ..Call::post(target, identity, body.path, Arc::clone(text))
    }
}

/// What an answer has shown of an agent of 0.12.3.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// That it is one, which was not known.
    pub(super) perl: bool,
    /// Whether it has an executor.
    pub(super) executor: Option<bool>,
}

impl Shown {
    /// What an answer shows of who gave it; `mode` looks at the result of an agent of 0.12.3.
    pub(super) fn of(call: &Call, perl: bool, mode: impl FnOnce() -> Option<bool>) -> Self {
        let executor = if perl || call.target.perl {
            mode()
        } else {
            None
        };
        Self {
            perl,
            executor: executor.filter(|_| executor != call.target.executor),
        }
    }
}

/// What the output of an agent of 0.12.3 shows of its mode: with an executor, characters stand for
/// bytes, and are taken for them. Plain ASCII shows nothing.
pub(super) fn executor_shown_by_output(reply: &mut RunEnd) -> Option<bool> {
    if reply.unmap_output() {
        return Some(true);
    }
    let outputs = [&reply.stdout, &reply.stderr];
    let wide = |text: &String| text.chars().any(|c| c > '\u{ff}');
    outputs.into_iter().flatten().any(wide).then_some(false)
}

/// What its answer to a submission shows: it takes none where it has an executor.
pub(super) fn executor_shown_by_submission(result: &HostResult<Submission>) -> Option<bool> {
    match result.reply.submitted {
        Submitted::Accepted => Some(false),
        Submitted::Busy => None,
        Submitted::No => {
            let error = result.error().unwrap_or_default();
            error
                .starts_with("async runs are not yet supported with the executor")
                .then_some(true)
        }
    }
}
