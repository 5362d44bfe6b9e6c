//! What is to be run, and the locks and targets it needs.

use super::super::dispatcher::{Dispatcher, new_reqid};
use crate::fleet::address::{self, AddressError};
use crate::fleet::{Fault, Target};
use crate::model::{AppError, Holder, Origin};
use crate::store::locks::{Held, LockError};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::{HookRequest, Submitter};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::{MAX_INPUT, RunRequest};

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
    /// The agents end the script after so many seconds.
    pub time_limit: Option<u32>,
    /// Runs whose locks are passed over where they left them, as their end is not known.
    pub despite_unknown: Vec<String>,
    /// Who asks; advisory.
    pub username: String,
    /// Token for hooks and scripts.
    pub token: String,
    /// Address the order came from.
    pub source_ip: String,
    /// Who gave it, for the record.
    pub by: Origin,
    /// Who gave it over HTTP, for the record.
    pub submitter: Option<Submitter>,
    /// Whether output is wanted while it comes ([`Event::Output`](crate::tasks::Event::Output)).
    pub follow: bool,
    /// What the scripts are to read behind their context, at most
    /// [`MAX_INPUT`](ctrl_exec_protocol::wire::messages::MAX_INPUT) bytes.
    pub input: Option<Vec<u8>>,
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

/// What an agent must be able to do for a time limit.
const TIME_LIMIT: &str = "time_limit";

/// The words of the agents of which it is not known whether they can do what an order wants of
/// them. A [ping](super::super::ping) of these finds out; without it they are refused.
///
/// # Errors
/// Unknown agents, or the registry's.
pub fn must_ask(dispatcher: &Dispatcher, order: &RunOrder) -> Result<Vec<String>, AppError> {
    if order.time_limit.is_none() {
        return Ok(Vec::new());
    }
    let targets = address::resolve(&dispatcher.agents(), &order.words, order.port)?;
    let unknown = targets
        .iter()
        .zip(&order.words)
        .filter(|(target, _)| target.obstacle.is_none() && target.can(TIME_LIMIT).is_none());
    Ok(unknown.map(|(_, word)| word.clone()).collect())
}

/// A run that has its locks and targets.
pub(super) struct Ready {
    pub(super) words: Vec<String>,
    pub(super) targets: Vec<Target>,
    pub(super) request: RunRequest,
    pub(super) by: Origin,
    pub(super) submitter: Option<Submitter>,
    pub(super) held: Held,
}

pub(super) fn prepare(
    dispatcher: &Dispatcher,
    order: RunOrder,
    run_async: bool,
) -> Result<Ready, AppError> {
    if order
        .input
        .as_ref()
        .is_some_and(|input| input.len() > MAX_INPUT)
    {
        return Err(AppError::usage(format!(
            "the input has more than {MAX_INPUT} bytes"
        )));
    }
    // A held lock is told before an unknown agent; but no lock file is made for a name that no agent
    // has.
    let targets = address::resolve(&dispatcher.agents(), &order.words, order.port);
    let words = match &targets {
        Err(AddressError::Unknown(unknown)) => {
            let known = order.words.iter().filter(|word| !unknown.contains(word));
            known.cloned().collect()
        }
        _ => order.words.clone(),
    };
    let (now, locks) = (Utc::now().0, dispatcher.locks());
    let held = match locks.acquire(&words, &order.script, now, &order.despite_unknown) {
        Ok(held) => held,
        Err(error) => {
            if let LockError::Held(holders) = &error {
                let pairs: Vec<String> = holders.iter().map(Holder::pair).collect();
                let line = Line::new("lock-conflict").field("LOCKS", pairs.join(","));
                dispatcher.log.log(Level::Warning, &line);
            }
            return Err(error.into());
        }
    };
    let mut targets = targets?;
    if order.time_limit.is_some() {
        for target in &mut targets {
            let can = target.can(TIME_LIMIT);
            if target.obstacle.is_none() && can != Some(true) {
                target.obstacle = Some(Fault::Lacks {
                    what: "end a script after a time (--time-limit)",
                    known: can.is_some(),
                });
            }
        }
    }
    Ok(Ready {
        targets,
        request: RunRequest {
            script: order.script,
            args: order.args,
            reqid: new_reqid()?,
            username: order.username,
            token: order.token,
            run_async,
            time_limit: order.time_limit,
            stream: order.follow && !run_async,
            input: order.input,
        },
        words: order.words,
        by: order.by,
        submitter: order.submitter,
        held,
    })
}
