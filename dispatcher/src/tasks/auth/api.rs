//! Who may do what over HTTP (api.md §5.1): with a hook, what the hook says; without one, what
//! `api_auth_default` says. The command line's callers are let through without a hook; these not.

use super::{Permit, Question, line, question};
use crate::model::{AppError, Kind};
use crate::tasks::dispatcher::Dispatcher;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;

/// Code of a denial that no hook gave.
const NO_HOOK: i32 = 1;

/// [`question`] for a caller over HTTP.
///
/// # Errors
/// A denial, or a bad setting.
pub fn api_question(dispatcher: &Dispatcher, request: &HookRequest) -> Result<Question, AppError> {
    if dispatcher.config.auth_hook().is_some() {
        return question(dispatcher, request);
    }
    let (allow, reason) = if dispatcher.config.api_auth_default() {
        (true, "no-hook-allow")
    } else {
        (false, "no-hook-deny")
    };
    let word = if allow { "pass" } else { "deny" };
    let line = line(request, word, reason).field("DISPATCHER", "");
    if allow {
        dispatcher.log.log(Level::Info, &line);
        return Ok(Question::None(Permit(())));
    }
    dispatcher.log.log(Level::Warning, &line);
    Err(AppError {
        code: Some(NO_HOOK),
        ..AppError::new(Kind::Denied, "no auth hook configured")
    })
}
