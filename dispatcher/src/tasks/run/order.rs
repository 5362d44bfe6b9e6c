//! What is to be run, and the locks and targets it needs.

use super::super::dispatcher::{Dispatcher, new_reqid};
use crate::fleet::Target;
use crate::fleet::address;
use crate::model::{AppError, Origin};
use crate::store::locks::{Held, LockError};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RunRequest;

/// What is to be run, where and for whom.
#[derive(Clone, Debug, Default)]
pub struct RunOrder {
    /// Host words, as [`Dispatcher::select`] gives them.
    pub words: Vec<String>,
    /// Port in place of the default one.
    pub port: Option<u16>,
    /// The script.
    pub script: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Who asks; advisory.
    pub username: String,
    /// Token for hooks and scripts.
    pub token: String,
    /// Address the order came from.
    pub source_ip: String,
    /// Who gave it, for the record.
    pub by: Origin,
}

impl RunOrder {
    /// The question to the auth hook about this order.
    pub fn hook_request(&self) -> HookRequest {
        HookRequest {
            action: "run",
            script: self.script.clone(),
            hosts: self.words.clone(),
            args: self.args.clone(),
            username: self.username.clone(),
            token: self.token.clone(),
            source_ip: self.source_ip.clone(),
            timestamp: Utc::now().iso(),
            ..HookRequest::default()
        }
    }
}

/// A run that has its locks and targets.
pub(super) struct Ready {
    pub(super) words: Vec<String>,
    pub(super) targets: Vec<Target>,
    pub(super) request: RunRequest,
    pub(super) by: Origin,
    pub(super) held: Held,
}

pub(super) fn prepare(
    dispatcher: &Dispatcher,
    order: RunOrder,
    run_async: bool,
) -> Result<Ready, AppError> {
    let held = match dispatcher.locks().acquire(&order.words, &order.script) {
        Ok(held) => held,
        Err(error) => {
            if let LockError::Held(pairs) = &error {
                let line = Line::new("lock-conflict").field("LOCKS", pairs.join(","));
                dispatcher.log.log(Level::Warning, &line);
            }
            return Err(error.into());
        }
    };
    let targets = address::resolve(&dispatcher.agents(), &order.words, order.port)?;
    Ok(Ready {
        targets,
        request: RunRequest {
            script: order.script,
            args: order.args,
            reqid: new_reqid()?,
            username: order.username,
            token: order.token,
            run_async,
            ..RunRequest::default()
        },
        words: order.words,
        by: order.by,
        held,
    })
}
