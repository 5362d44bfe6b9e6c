//! The contract with an auth hook: environment, standard input and exit codes
//! (agent.md §8, dispatcher.md §14). The programs run the hook; this says what it sees.

use crate::json::{Fields, array_of};
use std::ffi::OsString;

/// Largest environment variable, `NAME=value` with its final NUL, that `execve` takes
/// (`MAX_ARG_STRLEN` of a kernel with 4 KiB pages).
pub const MAX_ENV_STRING: usize = 131_072;

/// What the names of all variables of the contract begin with.
pub const ENV_PREFIX: &str = "ENVEXEC_";

/// Who submitted an asynchronous run whose status is asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Submitter {
    /// Advisory user name.
    pub username: String,
    /// Address the submission came from.
    pub source_ip: String,
}

/// One question to a hook.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HookRequest {
    /// `run`, `ping`, `discovery`, `rotate`, `status`, `api`.
    pub action: &'static str,
    /// Script name, or empty.
    pub script: String,
    /// Host words as typed; empty on the agent.
    pub hosts: Vec<String>,
    /// Arguments of the request.
    pub args: Vec<String>,
    /// Advisory user name.
    pub username: String,
    /// Token of the request.
    pub token: String,
    /// Address the request came from.
    pub source_ip: String,
    /// Id of the calling dispatcher; empty on the dispatcher.
    pub dispatcher: String,
    /// Live serial of the calling dispatcher, lower-case hex, not canonicalised.
    pub dispatcher_serial: String,
    /// Request id of a status question, else empty.
    pub reqid: String,
    /// Submitter of the run that a status question is about.
    pub submitter: Option<Submitter>,
    /// `YYYY-MM-DDTHH:MM:SSZ`.
    pub timestamp: String,
}

impl HookRequest {
    /// The hook's whole environment: `inherited` without any `ENVEXEC_*`, whoever set it, and the
    /// variables of this question.
    ///
    /// # Errors
    /// A denial when a value cannot be shown whole: it is longer than the kernel takes, or holds a
    /// NUL byte. A hook that judges what it sees must never see less than what will happen.
    pub fn environment(
        &self,
        inherited: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<(OsString, OsString)>, Denial> {
        let ours = self.env()?;
        let prefix = ENV_PREFIX.as_bytes();
        let mut env: Vec<(OsString, OsString)> = inherited
            .into_iter()
            .filter(|(name, _)| !name.as_encoded_bytes().starts_with(prefix))
            .collect();
        env.extend(
            ours.into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        Ok(env)
    }

    /// The variables of this question.
    fn env(&self) -> Result<Vec<(&'static str, String)>, Denial> {
        let submitter = self.submitter.clone().unwrap_or_default();
        let env = vec![
            ("ENVEXEC_ACTION", self.action.to_owned()),
            ("ENVEXEC_SCRIPT", self.script.clone()),
            ("ENVEXEC_HOSTS", self.hosts.join(",")),
            ("ENVEXEC_ARGS", self.args.join(" ")),
            ("ENVEXEC_ARGS_JSON", array_of(&self.args)),
            ("ENVEXEC_USERNAME", self.username.clone()),
            ("ENVEXEC_TOKEN", self.token.clone()),
            ("ENVEXEC_SOURCE_IP", self.source_ip.clone()),
            ("ENVEXEC_DISPATCHER", self.dispatcher.clone()),
            ("ENVEXEC_DISPATCHER_SERIAL", self.dispatcher_serial.clone()),
            ("ENVEXEC_REQID", self.reqid.clone()),
            ("ENVEXEC_SUBMITTER", submitter.username),
            ("ENVEXEC_SUBMITTER_IP", submitter.source_ip),
            ("ENVEXEC_TIMESTAMP", self.timestamp.clone()),
        ];
        for (name, value) in &env {
            if name.len() + value.len() + 2 > MAX_ENV_STRING {
                return Err(Denial::unfit(name, "is too long"));
            }
            if value.contains('\0') {
                return Err(Denial::unfit(name, "holds a NUL byte"));
            }
        }
        Ok(env)
    }

    /// The object written to the hook's standard input, without a newline.
    pub fn stdin_json(&self) -> String {
        let submitter = self.submitter.as_ref().map(|submitter| {
            Fields::with_room(2)
                .text("username", &submitter.username)
                .text("source_ip", &submitter.source_ip)
                .finish()
        });
        Fields::with_room(12)
            .text("action", self.action)
            .text("script", &self.script)
            .texts("hosts", &self.hosts)
            .texts("args", &self.args)
            .text("username", &self.username)
            .text("token", &self.token)
            .text("source_ip", &self.source_ip)
            .text("dispatcher", &self.dispatcher)
            .text("dispatcher_serial", &self.dispatcher_serial)
            .text("reqid", &self.reqid)
            .raw("submitter", submitter.as_deref().unwrap_or("null"))
            .text("timestamp", &self.timestamp)
            .finish()
    }
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HookEnd {
    /// It exited with this code.
    Exited(i32),
    /// A signal ended it. The reference takes this for consent; it is a denial.
    Signalled,
    /// It did not end in time and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted,
}

impl HookEnd {
    /// `Ok` when the hook allows; else the reason and its code.
    pub fn verdict(self) -> Result<(), Denial> {
        let (code, reason) = match self {
            Self::Exited(0) => return Ok(()),
            Self::Exited(2) => (2, "bad credentials".to_owned()),
            Self::Exited(3) => (3, "insufficient privilege".to_owned()),
            Self::Exited(n) if n != 1 => (n, format!("hook exited {n}")),
            Self::Exited(_) | Self::Signalled | Self::TimedOut | Self::NotStarted => {
                (1, "denied".to_owned())
            }
        };
        Err(Denial { code, reason })
    }
}

/// Why a hook denied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// Exit code that stands for the denial, never 0.
    pub code: i32,
    /// Text for the caller.
    pub reason: String,
}

impl Denial {
    /// A variable of the hook's environment cannot hold its value.
    fn unfit(name: &str, fault: &str) -> Self {
        Self {
            code: 1,
            reason: format!("the request does not fit the auth hook: {name} {fault}"),
        }
    }

    /// The configured hook is missing or not executable.
    pub fn not_executable(path: &str) -> Self {
        Self {
            code: 1,
            reason: format!("auth hook not found or not executable: {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn verdicts() {
        assert_eq!(HookEnd::Exited(0).verdict(), Ok(()));
        for (end, code, reason) in [
            (HookEnd::Exited(1), 1, "denied"),
            (HookEnd::Exited(2), 2, "bad credentials"),
            (HookEnd::Exited(3), 3, "insufficient privilege"),
            (HookEnd::Exited(7), 7, "hook exited 7"),
            (HookEnd::Signalled, 1, "denied"),
            (HookEnd::TimedOut, 1, "denied"),
            (HookEnd::NotStarted, 1, "denied"),
        ] {
            assert_eq!(
                end.verdict(),
                Err(Denial {
                    code,
                    reason: reason.to_owned()
                })
            );
        }
    }

    #[test]
    fn environment_and_stdin_hold_the_request() {
        let request = HookRequest {
            action: "run",
            script: "backup".into(),
            hosts: vec!["a".into(), "b:9".into()],
            args: vec!["x y".into(), "l\n".into()],
            timestamp: "2026-01-01T00:00:00Z".into(),
            ..HookRequest::default()
        };
        let env = request.env().unwrap();
        let value = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
        assert_eq!(value("ENVEXEC_HOSTS"), Some("a,b:9"));
        assert_eq!(value("ENVEXEC_ARGS"), Some("x y l\n"));
        assert_eq!(value("ENVEXEC_ARGS_JSON"), Some("[\"x y\",\"l\\n\"]"));
        assert_eq!(env.len(), 14);
        let text = request.stdin_json();
        let object = json::Members::parse(text.as_bytes(), &json::Bounds::REQUEST).unwrap();
        assert_eq!(object.len(), 12);
        assert_eq!(object.get("submitter").unwrap().as_str(), "null");
    }

    fn os(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        let pair = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_does_not_fit_the_environment_denies() {
        let fits = |request: &HookRequest| request.environment(os(&[("A", "1")])).is_ok();
        // `ENVEXEC_TOKEN=` and the final NUL take 15 bytes.
        let token = |length: usize| HookRequest {
            token: "x".repeat(length),
            ..HookRequest::default()
        };
        assert!(fits(&token(MAX_ENV_STRING - 15)));
        assert!(!fits(&token(MAX_ENV_STRING - 14)));
        // Every member that a caller can fill, by length and by NUL.
        let long = "x".repeat(MAX_ENV_STRING);
        for text in [long.as_str(), "ro\0ot"] {
            let base = HookRequest::default;
            let text = || text.to_owned();
            for request in [
                HookRequest {
                    args: vec!["forbidden".into(), text()],
                    ..base()
                },
                HookRequest {
                    args: vec![text()],
                    ..base()
                },
                HookRequest {
                    hosts: vec![text()],
                    ..base()
                },
                HookRequest {
                    script: text(),
                    ..base()
                },
                HookRequest {
                    username: text(),
                    ..base()
                },
                HookRequest {
                    token: text(),
                    ..base()
                },
                HookRequest {
                    reqid: text(),
                    ..base()
                },
                HookRequest {
                    submitter: Some(Submitter {
                        username: text(),
                        source_ip: String::new(),
                    }),
                    ..base()
                },
            ] {
                let denial = request.environment([]).unwrap_err();
                assert_eq!(denial.code, 1);
                assert!(
                    denial
                        .reason
                        .starts_with("the request does not fit the auth hook: ENVEXEC_")
                );
            }
        }
        // JSON may be twice as long as the words it is made of.
        let quotes = HookRequest {
            args: vec!["\"".repeat(MAX_ENV_STRING / 2)],
            ..HookRequest::default()
        };
        assert!(
            quotes
                .environment([])
                .unwrap_err()
                .reason
                .contains("ENVEXEC_ARGS_JSON")
        );
    }

    #[test]
    fn nothing_of_the_contract_is_inherited() {
        let inherited = os(&[
            ("PATH", "/bin"),
            ("ENVEXEC_ARGS", "safe"),
            ("ENVEXEC_OTHER", "x"),
        ]);
        let env = HookRequest::default().environment(inherited).unwrap();
        let of = |name: &str| {
            env.iter()
                .filter(|(n, _)| n.as_os_str() == name)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("PATH").len(), 1);
        assert_eq!(of("ENVEXEC_OTHER").len(), 0);
        assert_eq!(of("ENVEXEC_ARGS"), [&("ENVEXEC_ARGS".into(), "".into())]);
    }
}
