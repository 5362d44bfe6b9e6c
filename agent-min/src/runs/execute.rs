//! How a script is run: as a child of this process, or through the executor (agent.md §4).

use crate::executable;
use crate::runs::oom;
use crate::runs::outcome::Outcome;
use crate::runs::run::Run;
use ctrl_exec_host::random;
use ctrl_exec_protocol::frame::{self, ResponseDecoder};
use ctrl_exec_protocol::json;
use ctrl_exec_protocol::wire::messages::Ending;
use ctrl_exec_reactor::{
    Captured, ChildExit, ChildResult, ChildSpec, CloseReason, EndedBy, Output, Phase, RawLimits,
    SpawnError,
};
use std::ffi::OsString;
use std::io;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

/// `PATH` of scripts (agent.md §4.2).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables that scripts inherit when the agent has them.
const INHERITED: [&str; 7] = ["HOME", "LANG", "LC_ALL", "TZ", "TERM", "USER", "LOGNAME"];
/// How long the executor may take to accept and to read a request.
const EXECUTOR_PATIENCE: Duration = Duration::from_secs(10);
/// More than any wait: the executor says nothing until the script has ended.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Between the signals by which a script is ended, TERM and KILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// Variable by which everything that a script has started is found again.
const MARK: &str = "CTRL_EXEC_RUN";

/// The limits of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// Seconds the script may take to read its standard input.
    pub stdin_timeout: u32,
    /// Seconds until the script is killed; 0 = never.
    pub script_timeout: u32,
    /// Bytes kept of each output stream.
    pub max_output: usize,
}

/// The child process that runs a script in direct mode.
pub fn script_child(
    path: &str,
    args: &[String],
    env: Environment,
    stdin: Vec<u8>,
    limits: RunLimits,
    live: bool,
) -> ChildSpec {
    let tail = limits.max_output / 2;
    let capture = || match live {
        true => Output::Live,
        false => Output::Capture {
            head: limits.max_output - tail,
            tail,
        },
    };
    ChildSpec {
        args: args.iter().map(OsString::from).collect(),
        env,
        stdin,
        stdin_timeout: Duration::from_secs(limits.stdin_timeout.into()),
        stdout: capture(),
        stderr: capture(),
        timeout: seconds(limits.script_timeout),
        patience: Some(PATIENCE),
        // Without random numbers what leaves its parents and its session is not found again.
        mark: random::hex_id().ok().map(|id| format!("{MARK}={id}")),
        ..ChildSpec::new(path)
    }
}

/// What a child that has ended means for its caller. `oom_kills`: the kernel's count when it was
/// started.
pub fn child_outcome(result: ChildResult, limits: RunLimits, oom_kills: Option<u64>) -> Outcome {
    let (exit, signal) = match result.exit {
        ChildExit::Code(code) => (code, None),
        ChildExit::Signal(signal) => (126, u8::try_from(signal).ok()),
        ChildExit::TimedOut => (126, None),
    };
    let ending = Ending {
        signal,
        oom: oom::was_cause(oom_kills, signal, result.ended_by.is_some()),
        time_limit: result.ended_by == Some(EndedBy::Timeout),
        cancelled: result.ended_by == Some(EndedBy::Request),
    };
    let dropped = (result.stdout.dropped, result.stderr.dropped);
    let (mut stderr, stderr_gap) = text(result.stderr);
    let (stdout, stdout_gap) = text(result.stdout);
    if let Some(words) = words(&ending, limits) {
        if !stderr.is_empty() && !stderr.ends_with('\n') {
            stderr.push('\n');
        }
        stderr.push_str(&format!("ctrl-exec-agent: {words}\n"));
    }
    Outcome {
        exit,
        stdout,
        stderr,
        dropped,
        gaps: (stdout_gap, stderr_gap),
        ending,
    }
}

/// Why a script did not end by itself, for people.
fn words(ending: &Ending, limits: RunLimits) -> Option<String> {
    Some(if ending.time_limit {
        format!(
            "script ended after {} s, its time limit",
            limits.script_timeout
        )
    } else if ending.cancelled {
        "script cancelled".to_owned()
    } else if ending.oom {
        "script killed: the system ran out of memory".to_owned()
    } else {
        format!("script ended by signal {}", ending.signal?)
    })
}

/// What a child that could not be started means for its caller.
pub fn spawn_failure(path: &str, error: &SpawnError) -> Outcome {
    let (exit, stderr) = match error {
        SpawnError::Exec(error) => (
            127,
            format!(
                "ctrl-exec-agent: cannot execute '{path}': {}\n",
                executable::explain(path, error)
            ),
        ),
        other => (-1, other.to_string()),
    };
    Outcome {
        exit,
        stderr,
        ..Outcome::default()
    }
}

/// A request to the executor, as bytes.
///
/// # Errors
/// It does not fit the frame; the text says why.
pub fn executor_request(run: &Run, stdin: Vec<u8>) -> Result<Vec<u8>, String> {
    let request = frame::Request {
        reqid: run.request.reqid.clone().into_bytes(),
        dispatcher: run.dispatcher.clone().into_bytes(),
        script: run.request.script.clone().into_bytes(),
        stdin,
        args: run.executor_args(),
        extended: true,
        time_limit: run.request.time_limit,
        live: run.request.stream && !run.request.run_async,
    };
    request
        .encode()
        .map_err(|error| format!("executor request: {error}"))
}

/// Limits of the connection to the executor.
pub fn executor_limits() -> RawLimits {
    RawLimits {
        connect: EXECUTOR_PATIENCE,
        write: EXECUTOR_PATIENCE,
        read: FOR_EVER,
        total: None,
        max_received: usize::MAX,
        half_close: false,
    }
}

/// What the end of the connection to the executor means for the caller (agent.md §4.3).
pub fn executor_outcome(decoder: ResponseDecoder, reason: &CloseReason) -> Outcome {
    let complete = decoder.is_complete();
    let failure = match reason {
        _ if complete => None,
        CloseReason::Refused => Some(unreachable(io::ErrorKind::ConnectionRefused, None)),
        CloseReason::Io {
            phase: Phase::Connect,
            kind,
            errno,
        } => Some(unreachable(*kind, *errno)),
        CloseReason::Timeout(Phase::Connect) => Some(unreachable(io::ErrorKind::TimedOut, None)),
        CloseReason::Io {
            phase: Phase::Write,
            kind,
            errno,
        } => Some(format!(
            "executor write failed: {}",
            errno_text(*kind, *errno)
        )),
        CloseReason::Reset {
            phase: Phase::Write,
        } => Some("executor write failed: Broken pipe".to_owned()),
        CloseReason::Timeout(Phase::Write) => Some("executor write failed: timed out".to_owned()),
        CloseReason::Full => Some("executor unreachable: too many connections".to_owned()),
        _ => None,
    };
    if let Some(stderr) = failure {
        return Outcome {
            exit: -1,
            stderr,
            ..Outcome::default()
        };
    }
    match decoder.finish() {
        Ok(response) => {
            let dropped = (response.stdout.dropped, response.stderr.dropped);
            let (stdout, stdout_gap) = text(response.stdout);
            let (stderr, stderr_gap) = text(response.stderr);
            Outcome {
                ending: response.ended.map_or_else(Ending::default, |ended| Ending {
                    signal: ended.signal.and_then(|signal| u8::try_from(signal).ok()),
                    oom: ended.oom,
                    time_limit: ended.time_limit,
                    cancelled: ended.cancelled,
                }),
                exit: response.exit,
                dropped,
                gaps: (stdout_gap, stderr_gap),
                stdout,
                stderr,
            }
        }
        Err(error) => Outcome {
            exit: -1,
            stderr: error.to_string(),
            ..Outcome::default()
        },
    }
}

/// Seconds as a limit of time; 0 = none.
pub fn seconds(count: u32) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count.into()))
}

fn unreachable(kind: io::ErrorKind, errno: Option<i32>) -> String {
    format!("executor unreachable: {}", errno_text(kind, errno))
}

fn errno_text(kind: io::ErrorKind, errno: Option<i32>) -> String {
    errno.map_or_else(
        || kind.to_string(),
        |errno| io::Error::from_raw_os_error(errno).to_string(),
    )
}

/// Output as text, and how much of it is before the gap.
fn text(captured: Captured) -> (String, usize) {
    let mut text = match String::from_utf8(captured.head) {
        Ok(text) => text,
        Err(error) => json::lossy(error.as_bytes()).into_owned(),
    };
    let gap = text.len();
    text.push_str(&json::lossy(&captured.tail));
    (text, gap)
}

/// Variables and their values.
pub type Environment = Arc<[(OsString, OsString)]>;

/// What every script has in its environment (agent.md §4.2).
pub fn script_environment() -> Environment {
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
    iter::once(("PATH".into(), PATH.into()))
        .chain(inherited)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RunLimits = RunLimits {
        stdin_timeout: 1,
        script_timeout: 7,
        max_output: 100,
    };

    fn result(exit: ChildExit, stdout: &[u8]) -> ChildResult {
        ChildResult {
            exit,
            stdout: Captured {
                head: stdout.to_vec(),
                ..Captured::default()
            },
            stderr: Captured::default(),
            ended_by: None,
            stdin_unwritten: 0,
            stdin_timed_out: false,
            output_open: false,
        }
    }

    #[test]
    fn exits_map_as_the_reference_maps_them() {
        for (exit, code) in [
            (ChildExit::Code(0), 0),
            (ChildExit::Code(255), 255),
            (ChildExit::Signal(15), 126),
            (ChildExit::TimedOut, 126),
        ] {
            assert_eq!(child_outcome(result(exit, b""), LIMITS, None).exit, code);
        }
        let ended = |exit, by| {
            let result = ChildResult {
                ended_by: by,
                ..result(exit, b"")
            };
            child_outcome(result, LIMITS, None)
        };
        let outcome = ended(ChildExit::Signal(15), Some(EndedBy::Timeout));
        assert!(outcome.stderr.contains("after 7 s"), "{}", outcome.stderr);
        assert!(outcome.ending.time_limit && !outcome.ending.cancelled);
        let outcome = ended(ChildExit::Code(3), Some(EndedBy::Request));
        assert_eq!((outcome.exit, outcome.ending.signal), (3, None));
        assert!(outcome.ending.cancelled && !outcome.ending.time_limit);
        let outcome = ended(ChildExit::Signal(11), None);
        assert_eq!((outcome.exit, outcome.ending.signal), (126, Some(11)));
        assert_eq!(
            outcome.stderr,
            "ctrl-exec-agent: script ended by signal 11\n"
        );
        assert_eq!(ended(ChildExit::Code(0), None).ending, Ending::default());
        let not_found = SpawnError::Exec(io::Error::from_raw_os_error(2));
        let outcome = spawn_failure("/x", &not_found);
        assert_eq!(outcome.exit, 127);
        assert!(
            outcome.stderr.contains("No such file"),
            "{}",
            outcome.stderr
        );
        let no_fork = SpawnError::Fork(io::Error::from_raw_os_error(11));
        assert!(
            spawn_failure("/x", &no_fork)
                .stderr
                .starts_with("fork failed: ")
        );
    }

    #[test]
    fn output_that_is_not_utf8_is_replaced_and_text_is_kept() {
        assert_eq!(
            child_outcome(result(ChildExit::Code(0), b"caf\xe9!"), LIMITS, None).stdout,
            "caf\u{fffd}!"
        );
        assert_eq!(
            child_outcome(result(ChildExit::Code(0), "é".as_bytes()), LIMITS, None).stdout,
            "é"
        );
    }

    #[test]
    fn executor_failures_are_named() {
        let gone = CloseReason::Io {
            phase: Phase::Connect,
            kind: io::ErrorKind::NotFound,
            errno: Some(2),
        };
        let text = |reason: &CloseReason, bytes: &[u8]| {
            let mut decoder = ResponseDecoder::new(100);
            decoder.push(bytes);
            executor_outcome(decoder, reason).stderr
        };
        assert!(text(&gone, b"").starts_with("executor unreachable: No such file"));
        assert!(text(&CloseReason::Refused, b"").starts_with("executor unreachable: "));
        assert_eq!(
            text(&CloseReason::PeerClosed, b""),
            "executor closed before responding"
        );
        assert_eq!(
            text(&CloseReason::PeerClosed, b"\0\0"),
            "truncated executor response"
        );
        let whole = [0, 0, 0, 3, 0, 0, 0, 1, b'o', 0, 0, 0, 0];
        let mut decoder = ResponseDecoder::new(100);
        decoder.push(&whole);
        let outcome = executor_outcome(decoder, &CloseReason::PeerClosed);
        assert_eq!((outcome.exit, outcome.stdout.as_str()), (3, "o"));
    }
}
