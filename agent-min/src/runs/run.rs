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
}

impl Run {
    /// What the script reads on its standard input.
    pub fn stdin(&self, now: Utc) -> String {
        ScriptContext {
            request: &self.request,
            peer_ip: &self.peer_ip,
            dispatcher: &self.dispatcher,
            timestamp: &now.iso(),
        }
        .render()
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
