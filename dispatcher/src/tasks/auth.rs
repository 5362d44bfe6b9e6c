//! The auth hook (dispatcher.md §14): asked before a command does anything, and anything but a
//! clean exit 0 is a denial.

use ctrl_exec_protocol::hook::{Denial, HookEnd, HookRequest};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What came of asking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Allowed, or why not.
    pub result: Result<(), Denial>,
    /// Whether the hook had to be killed for taking too long.
    pub timed_out: bool,
}

/// Runs the hook and waits for it. It gets our environment without any `ENVEXEC_*`, the variables
/// of the contract and one JSON object on standard input, which it need not read. A request that
/// does not fit the environment is denied. The limit covers writing and waiting;
/// then the hook's whole process group is killed.
pub fn ask(hook: &Path, limit: Option<Duration>, request: &HookRequest) -> Verdict {
    let executable = std::fs::metadata(hook)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if !executable {
        let denial = Denial::not_executable(&hook.display().to_string());
        return Verdict {
            result: Err(denial),
            timed_out: false,
        };
    }
    let env = match request.environment(std::env::vars_os()) {
        Ok(env) => env,
        Err(denial) => {
            return Verdict {
                result: Err(denial),
                timed_out: false,
            };
        }
    };
    let end = run(hook, limit, env, request);
    Verdict {
        result: end.verdict(),
        timed_out: end == HookEnd::TimedOut,
    }
}

fn run(
    hook: &Path,
    limit: Option<Duration>,
    env: Vec<(OsString, OsString)>,
    request: &HookRequest,
) -> HookEnd {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let child = Command::new(hook)
        .env_clear()
        .envs(env)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let Ok(mut child) = child else {
        return HookEnd::NotStarted;
    };
    if let Some(mut stdin) = child.stdin.take() {
        let text = request.stdin_json();
        // Its own thread, as a hook that reads nothing must not hold us up; it ends when the
        // hook's end of the pipe closes. A hook that does not read is fine.
        std::thread::spawn(move || {
            let _ = stdin.write_all(text.as_bytes());
        });
    }
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return status.code().map_or(HookEnd::Signalled, HookEnd::Exited);
            }
            Ok(None) => {}
            Err(_) => return HookEnd::NotStarted,
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            kill(&mut child);
            return HookEnd::TimedOut;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill(child: &mut Child) {
    // The hook is not reaped yet, so its process id cannot be somebody else's.
    if let Some(group) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait().map(|status| status.signal());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::path::PathBuf;

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
            let verdict = ask(&hook(&dir, body), limit, &request());
            // Another test's fork may hold the script open for an instant.
            match verdict.result {
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
        let verdict = ask(&path, Some(Duration::from_millis(300)), &request());
        assert!(verdict.timed_out);
        assert_eq!(verdict.result.unwrap_err().code, 1);
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
            let verdict = ask(&path, LONG, &request);
            assert!(verdict.result.is_err(), "{padding}");
        }
    }
}
