//! The auth hook (dispatcher.md §14): asked before a command does anything, and anything but a
//! clean exit 0 is a denial.

mod api;

pub use api::{Asked, Tokens, api_question};

use super::dispatcher::Dispatcher;
use crate::model::{AppError, Kind};
use ctrl_exec_host::exec_bit;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::{Denial, HookEnd, HookRequest};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_reactor::{ChildExit, ChildSpec, Config, Event, Output, Reactor};
use std::path::Path;
use std::time::Duration;

/// How long a hook without a limit may take to read its standard input.
const READING: Duration = Duration::from_secs(3600);

/// Proof that the hook was asked and agreed, or that there is none. Tasks ask for it.
#[derive(Debug)]
pub struct Permit(());

/// What came of asking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Allowed, or why not.
    pub result: Result<(), Denial>,
    /// Whether the hook had to be killed for taking too long.
    pub timed_out: bool,
}

/// A question that is to be put to the hook. A front end with a loop of its own spawns the child
/// there and hands its end back; [`authorise`] does both on a loop made for it.
#[derive(Debug)]
pub enum Question {
    /// There is no hook: go on.
    None(Permit),
    /// Start this, and give its end to [`conclude`].
    Ask(Box<ChildSpec>),
}

/// Looks whether the hook has to be asked, and how.
///
/// # Errors
/// A hook that is not executable, which is a denial, or a bad setting.
pub fn question(dispatcher: &Dispatcher, request: &HookRequest) -> Result<Question, AppError> {
    let Some(hook) = dispatcher.config.auth_hook() else {
        let line = line(request, "pass", "no hook configured").field("DISPATCHER", "");
        dispatcher.log.log(Level::Info, &line);
        return Ok(Question::None(Permit(())));
    };
    let limit = dispatcher.config.auth_hook_timeout()?;
    match child(hook, limit, request) {
        Ok(spec) => Ok(Question::Ask(Box::new(spec))),
        Err(denial) => decide(
            dispatcher,
            request,
            Answer {
                result: Err(denial),
                timed_out: false,
            },
        )
        .map(Question::None),
    }
}

/// Decides by how the hook ended; `None` when it could not be started.
///
/// # Errors
/// A denial.
pub fn conclude(
    dispatcher: &Dispatcher,
    request: &HookRequest,
    exit: Option<ChildExit>,
) -> Result<Permit, AppError> {
    decide(dispatcher, request, answer(exit))
}

/// Asks the hook, if there is one, and waits for it.
///
/// # Errors
/// A denial, with the hook's exit status as its code; or a bad setting.
pub fn authorise(dispatcher: &Dispatcher, request: &HookRequest) -> Result<Permit, AppError> {
    match question(dispatcher, request)? {
        Question::None(permit) => Ok(permit),
        Question::Ask(spec) => conclude(dispatcher, request, wait_for(*spec)),
    }
}

/// Runs a hook by itself and waits for it.
pub fn ask(hook: &Path, limit: Option<Duration>, request: &HookRequest) -> Answer {
    match child(hook, limit, request) {
        Ok(spec) => answer(wait_for(spec)),
        Err(denial) => Answer {
            result: Err(denial),
            timed_out: false,
        },
    }
}

/// The hook as a child. It gets our environment without any `ENVEXEC_*`, the variables of the
/// contract and one JSON object on standard input, which it need not read. A request that does not
/// fit the environment is denied. The limit covers writing and waiting; then its whole
/// process group is killed.
fn child(hook: &Path, limit: Option<Duration>, request: &HookRequest) -> Result<ChildSpec, Denial> {
    let not_executable = || Denial::not_executable(&hook.display().to_string());
    exec_bit::check(hook).map_err(|_| not_executable())?;
    let program = std::path::absolute(hook).map_err(|_| not_executable())?;
    let env = request.environment(std::env::vars_os())?;
    Ok(ChildSpec {
        env: env.into(),
        stdin: request.stdin_json().into_bytes(),
        stdin_timeout: limit.unwrap_or(READING),
        stdout: Output::Null,
        stderr: Output::Null,
        timeout: limit,
        grace: Duration::ZERO,
        ..ChildSpec::new(program)
    })
}

fn wait_for(spec: ChildSpec) -> Option<ChildExit> {
    let mut reactor = Reactor::new(Config::default()).ok()?;
    reactor.spawn(spec).ok()?;
    loop {
        if let Some(Event::Child { result, .. }) = reactor.next(None).ok()? {
            return Some(result.exit);
        }
    }
}

fn answer(exit: Option<ChildExit>) -> Answer {
    let end = match exit {
        None => HookEnd::NotStarted,
        Some(ChildExit::Code(code)) => HookEnd::Exited(code),
        Some(ChildExit::Signal(_)) => HookEnd::Signalled,
        Some(ChildExit::TimedOut) => HookEnd::TimedOut,
    };
    Answer {
        result: end.verdict(),
        timed_out: end == HookEnd::TimedOut,
    }
}

fn decide(
    dispatcher: &Dispatcher,
    request: &HookRequest,
    answer: Answer,
) -> Result<Permit, AppError> {
    let log = &dispatcher.log;
    if answer.timed_out {
        let limit = dispatcher.config.auth_hook_timeout()?.unwrap_or_default();
        let line = Line::new("auth-hook-timeout").field("TIMEOUT", limit.as_secs());
        log.log(Level::Warning, &line);
    }
    let hook = dispatcher.config.auth_hook().unwrap_or(Path::new(""));
    match answer.result {
        Ok(()) => {
            let line = line(request, "pass", "").field("HOOK", hook.display());
            log.log(Level::Info, &line);
            Ok(Permit(()))
        }
        Err(denial) => {
            let line = line(request, "deny", &denial.reason).field("HOOK", hook.display());
            log.log(Level::Warning, &line);
            Err(AppError {
                code: Some(denial.code),
                ..AppError::new(Kind::Denied, denial.reason)
            })
        }
    }
}

fn line(request: &HookRequest, result: &str, reason: &str) -> Line {
    let user = match request.username.as_str() {
        "" => "(none)",
        user => user,
    };
    Line::new("auth")
        .field("RESULT", result)
        .field("REASON", reason)
        .field("AUTHACTION", request.action)
        .field("USER", user)
        .field("IP", &request.source_ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Instant;

    fn hook(dir: &TempDir, body: &str) -> PathBuf {
        let path = dir.path().join("hook");
        // Written elsewhere and renamed, so that no test thread forking meanwhile holds it open
        // for writing (ETXTBSY).
        let fresh = dir.path().join("hook.new");
        std::fs::write(&fresh, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }

    fn request() -> HookRequest {
        HookRequest {
            action: "run",
            script: "s".into(),
            hosts: vec!["a".into(), "b:1".into()],
            args: vec!["x y".into(), "l1\nl2".into()],
            ..HookRequest::default()
        }
    }

    fn outcome(body: &str, limit: Option<Duration>) -> Result<(), (i32, String)> {
        let dir = TempDir::new();
        for _ in 0..50 {
            let answer = ask(&hook(&dir, body), limit, &request());
            // Another test's fork may hold the script open for an instant.
            match answer.result {
                Err(denial) if denial.code == 1 && body == "exit 0" => continue,
                result => return result.map_err(|d| (d.code, d.reason)),
            }
        }
        panic!("never ran");
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(30));

    #[test]
    fn exit_codes() {
        assert_eq!(outcome("exit 0", LONG), Ok(()));
        assert_eq!(outcome("exit 1", LONG), Err((1, "denied".into())));
        assert_eq!(outcome("exit 2", LONG), Err((2, "bad credentials".into())));
        assert_eq!(
            outcome("exit 3", LONG),
            Err((3, "insufficient privilege".into()))
        );
        assert_eq!(outcome("exit 7", None), Err((7, "hook exited 7".into())));
    }

    #[test]
    fn a_signal_is_no_consent() {
        assert_eq!(outcome("kill -9 $$", LONG), Err((1, "denied".into())));
        assert_eq!(outcome("kill -15 $$", LONG), Err((1, "denied".into())));
    }

    #[test]
    fn a_hanging_hook_is_killed_with_its_children() {
        let dir = TempDir::new();
        let started = Instant::now();
        let path = hook(&dir, "sleep 300 & sleep 300");
        let answer = ask(&path, Some(Duration::from_millis(300)), &request());
        assert!(answer.timed_out);
        assert_eq!(answer.result.unwrap_err().code, 1);
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn missing_or_not_executable() {
        let dir = TempDir::new();
        let path = dir.path().join("none");
        assert!(
            ask(&path, LONG, &request())
                .result
                .unwrap_err()
                .reason
                .contains("not found")
        );
        assert!(
            ask(dir.path(), LONG, &request()).result.is_err(),
            "a directory is no hook"
        );
        let plain = hook(&dir, "exit 0");
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(ask(&plain, LONG, &request()).result.is_err());
    }

    #[test]
    fn the_contract() {
        let dir = TempDir::new();
        let out = dir.path().join("out");
        let body = format!(
            "[ $# = 0 ] || exit 9; {{ cat; echo; printf '%s\\n' \"$ENVEXEC_ACTION|$ENVEXEC_HOSTS|\
             $ENVEXEC_ARGS_JSON|$PATH\"; }} > {}",
            out.display()
        );
        let path = hook(&dir, &body);
        assert_eq!(ask(&path, LONG, &request()).result, Ok(()));
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains(r#""args":["x y","l1\nl2"]"#), "{text}");
        assert!(text.contains(r#"run|a,b:1|["x y","l1\nl2"]|/"#), "{text}");
    }

    #[test]
    fn a_hook_that_reads_nothing_does_not_hold_us_up() {
        let dir = TempDir::new();
        let path = hook(&dir, "exit 0");
        let mut request = request();
        // More than a pipe holds, less than an environment variable may be.
        request.args = vec!["x".repeat(100_000)];
        assert_eq!(ask(&path, LONG, &request).result, Ok(()));
    }

    #[test]
    fn padding_does_not_hide_an_argument_from_the_hook() {
        let dir = TempDir::new();
        let path = hook(
            &dir,
            "case \" $ENVEXEC_ARGS \" in *\" forbidden \"*) exit 3;; esac",
        );
        for padding in [10, 66_000, 131_072, 1 << 20] {
            let mut request = request();
            request.args = vec!["forbidden".into(), "x".repeat(padding)];
            assert!(ask(&path, LONG, &request).result.is_err(), "{padding}");
        }
    }
}
