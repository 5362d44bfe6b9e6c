//! The contract with an auth hook: environment, standard input and exit codes
//! (agent.md §8, dispatcher.md §14). The programs run the hook; this says what it sees.

use crate::json;

/// Largest environment variable made of request data, in bytes. A longer `ENVEXEC_ARGS` or
/// `ENVEXEC_ARGS_JSON` would make `execve` fail (`MAX_ARG_STRLEN` is 131,072), so the value is left
/// out and the hook reads standard input, which always holds everything.
pub const MAX_ENV_VALUE: usize = 65_536;

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
    /// The variables that are added to the hook's environment. NUL bytes, which no environment can
    /// hold, are dropped from values.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let submitter = self.submitter.clone().unwrap_or_default();
        let mut env = vec![
            ("ENVEXEC_ACTION", self.action.to_owned()),
            ("ENVEXEC_SCRIPT", self.script.clone()),
            ("ENVEXEC_HOSTS", self.hosts.join(",")),
            ("ENVEXEC_ARGS", self.args.join(" ")),
            ("ENVEXEC_ARGS_JSON", json::string_array(&self.args)),
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
        env.retain(|(_, value)| value.len() <= MAX_ENV_VALUE);
        for (_, value) in &mut env {
            value.retain(|c| c != '\0');
        }
        env
    }

    /// The object written to the hook's standard input, without a newline.
    pub fn stdin_json(&self) -> String {
        let submitter = match &self.submitter {
            None => "null".to_owned(),
            Some(s) => json::object()
                .str("username", &s.username)
                .str("source_ip", &s.source_ip)
                .finish(),
        };
        json::object()
            .str("action", self.action)
            .str("script", &self.script)
            .strings("hosts", &self.hosts)
            .strings("args", &self.args)
            .str("username", &self.username)
            .str("token", &self.token)
            .str("source_ip", &self.source_ip)
            .str("dispatcher", &self.dispatcher)
            .str("dispatcher_serial", &self.dispatcher_serial)
            .str("reqid", &self.reqid)
            .raw("submitter", &submitter)
            .str("timestamp", &self.timestamp)
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
            args: vec!["x y".into(), "l\n".into(), "n\0ul".into()],
            timestamp: "2026-01-01T00:00:00Z".into(),
            ..HookRequest::default()
        };
        let env = request.env();
        let value = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
        assert_eq!(value("ENVEXEC_HOSTS"), Some("a,b:9"));
        assert_eq!(value("ENVEXEC_ARGS"), Some("x y l\n nul"));
        assert_eq!(
            value("ENVEXEC_ARGS_JSON"),
            Some("[\"x y\",\"l\\n\",\"n\\u0000ul\"]")
        );
        assert_eq!(env.len(), 14);
        let object =
            json::parse_object(request.stdin_json().as_bytes(), &json::Bounds::REQUEST).unwrap();
        assert_eq!(object.len(), 12);
        assert!(matches!(object.get("submitter"), Some(json::Value::Null)));
    }

    #[test]
    fn oversize_values_stay_out_of_the_environment() {
        let request = HookRequest {
            args: vec!["x".repeat(MAX_ENV_VALUE + 1)],
            ..HookRequest::default()
        };
        assert!(
            request
                .env()
                .iter()
                .all(|(k, _)| !k.starts_with("ENVEXEC_ARGS"))
        );
        assert!(request.stdin_json().len() > MAX_ENV_VALUE);
    }
}
