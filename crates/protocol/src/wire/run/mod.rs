//! `POST /run` and `GET /result/<reqid>`: a run from its request to its result.

mod answer;
mod reply;
mod request;
mod stored;
mod told;

pub use answer::{AsyncReply, RunAnswer, refusal_of_busy, run_refusal, unknown_members};
pub use reply::{Ending, Output, RunReply};
pub use request::{MAX_INPUT, RUN_INPUT, RunRequest, RunRequestError, ScriptContext};
pub use stored::{ResultReply, RunHead};
