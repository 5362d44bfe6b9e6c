//! One run that passed every check.

use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{RunRequest, ScriptContext};
use std::rc::Rc;

/// A run that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What was asked.
    pub request: RunRequest,
    /// The script's path.
    pub path: String,
    /// Id of the dispatcher that asked.
    pub dispatcher: String,
    /// Its address.
    pub peer_ip: String,
    /// Live serial of the certificate it came with.
    pub serial: Rc<str>,
    /// Whether characters of arguments stand for bytes on their way to the executor.
    pub byte_args: bool,
}

impl Run {
    /// What the script reads on its standard input: its context, and on the lines after it what the
    /// caller has for it, which is kept here no longer.
    pub fn take_stdin(&mut self, now: Utc) -> Vec<u8> {
        let context = ScriptContext {
            request: &self.request,
            peer_ip: &self.peer_ip,
            dispatcher: &self.dispatcher,
            timestamp: &now.iso(),
        };
        let mut bytes = context.render().into_bytes();
        if let Some(input) = self.request.input.take() {
            bytes.reserve_exact(1 + input.len());
            bytes.push(b'\n');
            bytes.extend_from_slice(&input);
        }
        bytes
    }

    /// Its arguments as the executor is to pass them on. A character that is no byte leaves its
    /// argument as UTF-8.
    pub fn executor_args(&self) -> Vec<Vec<u8>> {
        let bytes = |arg: &String| -> Option<Vec<u8>> {
            arg.chars().map(|c| u8::try_from(c).ok()).collect()
        };
        let args = self.request.args.iter();
        args.map(|arg| {
            let mapped = if self.byte_args { bytes(arg) } else { None };
            mapped.unwrap_or_else(|| arg.clone().into_bytes())
        })
        .collect()
    }

    /// Seconds after which its script is ended: the earlier of the agent's own limit and the
    /// caller's; 0 = never.
    pub fn time_limit(&self, configured: u32) -> u32 {
        match self.request.time_limit {
            Some(asked) if configured == 0 => asked,
            Some(asked) => asked.min(configured),
            None => configured,
        }
    }

    /// The identity of its async record.
    pub fn id(&self) -> RunId {
        RunId {
            reqid: self.request.reqid.clone(),
            owner: self.dispatcher.clone(),
            script: self.request.script.clone(),
        }
    }
}

/// One run's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunId {
    /// The request id.
    pub reqid: String,
    /// The dispatcher that asked.
    pub owner: String,
    /// The script's name.
    pub script: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stand_for_bytes_where_they_can() {
        let run = |byte_args| Run {
            request: RunRequest {
                args: vec![
                    "gr\u{c3}\u{bc}n".into(),
                    "\u{20ac}\u{e9}".into(),
                    "a\n".into(),
                ],
                ..RunRequest::default()
            },
            path: "/s".into(),
            dispatcher: "d".into(),
            peer_ip: "::1".into(),
            serial: "".into(),
            byte_args,
        };
        assert_eq!(
            run(true).executor_args(),
            ["gr\u{fc}n".as_bytes(), "\u{20ac}\u{e9}".as_bytes(), b"a\n"]
        );
        assert_eq!(run(false).executor_args()[0], b"gr\xc3\x83\xc2\xbcn");
    }
}
