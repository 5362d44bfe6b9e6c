//! How a request is carried out: a chain of steps, each of which the loop takes without waiting.

use super::app::App;
use super::feed::Feed;
use super::reply::Reply;
use crate::model::AppError;
use crate::tasks::auth::{Asked, Permit};
use std::sync::Arc;

/// What is to be done next for a request.
pub enum Step {
    /// Answer; the request is done.
    Answer(Reply),
    /// Put this to the hook (or to what stands in for one) and go on with the verdict.
    Ask(Box<Asked>, OnVerdict),
    /// What would block the loop: on a thread of its own.
    Work(Job),
    /// Send a run's events from this place on. `true`: the client counts among its readers already.
    Stream(Arc<Feed>, u64, bool),
}

/// Goes on with what the hook said.
pub type OnVerdict = Box<dyn FnOnce(Result<Permit, AppError>) -> Step + Send>;

/// Work for a thread.
pub type Job = Box<dyn FnOnce(&Arc<App>) -> Step + Send>;

impl Step {
    /// Asks; a denial is answered, and with a permit `then` goes on.
    pub fn ask(
        app: &Arc<App>,
        asked: impl Into<Asked>,
        then: impl FnOnce(Permit) -> Step + Send + 'static,
    ) -> Self {
        let generic = app.settings.generic_denials;
        Self::Ask(
            Box::new(asked.into()),
            Box::new(move |verdict| match verdict {
                Ok(permit) => then(permit),
                Err(error) => Self::Answer(Reply::of(&error, generic)),
            }),
        )
    }

    /// Work that ends in an answer or in an error of a task.
    pub fn work(job: impl FnOnce(&Arc<App>) -> Result<Reply, AppError> + Send + 'static) -> Self {
        Self::Work(Box::new(move |app| {
            Self::Answer(match job(app) {
                Ok(reply) => reply,
                Err(error) => Reply::of(&error, app.settings.generic_denials),
            })
        }))
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(reply) => f.debug_tuple("Answer").field(reply).finish(),
            Self::Ask(asked, _) => f.debug_tuple("Ask").field(asked).finish(),
            Self::Work(_) => f.write_str("Work"),
            Self::Stream(..) => f.write_str("Stream"),
        }
    }
}
