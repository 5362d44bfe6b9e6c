//! `rotate-cert` and the serial of this dispatcher (pki-and-pairing.md §9), over the engine.

use super::dispatcher::{Dispatcher, Identities, Limits};
use super::fanout::Failure;
use super::handover::Standing;
use super::ping::status_result;
use super::revocation;
use crate::ca::{CaDir, DAYS_DEFAULT, Owner};
use crate::fleet::address;
use crate::fleet::{Answer, Call, Identity, Plan, Target};
use crate::model::{AppError, HostResult, Outcome, Rotation};
use crate::rotation::{
    Agents, Broadcast, CallFailure, Pair, Retired, RotateCall, Rotated, Rotator,
};
use crate::tasks::renew;
use crate::trust;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_host::users;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::messages::RotateRequest;
use ctrl_exec_protocol::x509::keys::KeyType;
use std::collections::HashSet;
use std::path::Path;

/// The rotation of this dispatcher.
///
/// # Errors
/// Bad settings.
pub fn rotator(dispatcher: &Dispatcher) -> Result<Rotator, AppError> {
    let config = &dispatcher.config;
    let days = |key, default, expected| config.number(key, default, (1, 36_500), expected);
    Ok(Rotator {
        state: config.rotation_file(),
        files: trust::identity_files(config),
        registry: dispatcher.agents(),
        owner: Owner::of_user(Path::new(users::PASSWD), config.service_user()),
        key: KeyType::EcdsaP256,
        cert_days: config.cert_days()?.unwrap_or(DAYS_DEFAULT),
        renewal_days: days("cert_renewal_days", 90, "a number of days")?,
        overlap_days: days("cert_overlap_days", 30, "a number of days")?,
        only_with_ca: match CaDir::new(config.ca_dir()).next().dir().exists() {
            true => Some(Standing::load(dispatcher)?.good().to_vec()),
            false => None,
        },
    })
}

impl Dispatcher {
    /// Brings the state of a rotation in order that was interrupted. Whoever may not is no worse off:
    /// calls go by the certificates that are there.
    pub fn reconcile(&self) {
        if let Ok(rotator) = rotator(self) {
            let log = self.log.handle();
            if let Err(error) = rotator.reconcile(&log, Utc::now()) {
                let line = Line::new("cert-rotation-fail").field("ERROR", error);
                log.log(Level::Warning, &line);
            }
        }
    }
}

/// Replaces our certificate; agents are told by [`broadcast`].
///
/// # Errors
/// Of the CA and of rotation.
pub fn rotate(dispatcher: &Dispatcher, force: bool) -> Result<Rotated, AppError> {
    let rotator = rotator(dispatcher)?;
    let authority = renew::authority(&dispatcher.config)?;
    Ok(rotator.rotate(&authority, force, &dispatcher.log.handle(), Utc::now())?)
}

/// Tells agents that do not know it yet the serial of our certificate.
///
/// # Errors
/// Certificates or registry; agents that fail are in the report.
pub fn broadcast(dispatcher: &Dispatcher) -> Result<Broadcast, AppError> {
    broadcast_but(dispatcher, &HashSet::new())
}

/// The same without asking the agents of these names, which have just been silent.
pub(super) fn broadcast_but(
    dispatcher: &Dispatcher,
    silent: &HashSet<String>,
) -> Result<Broadcast, AppError> {
    let rotator = rotator(dispatcher)?;
    let mut agents = Calls::new(dispatcher, silent)?;
    let id = dispatcher.config.dispatcher_id();
    Ok(rotator.broadcast(&mut agents, &id, &dispatcher.log.handle(), Utc::now())?)
}

/// Takes old serials back where it is time, but not from these agents, which have just been silent.
///
/// # Errors
/// Certificates, state or registry; agents that fail are in the report.
pub(super) fn retire_but(
    dispatcher: &Dispatcher,
    silent: &HashSet<String>,
) -> Result<Vec<Retired>, AppError> {
    let rotator = rotator(dispatcher)?;
    let mut agents = Calls::new(dispatcher, silent)?;
    Ok(rotator.retire(&mut agents, &dispatcher.log.handle(), Utc::now())?)
}

/// Calls agents with the pair each of them trusts.
struct Calls<'a> {
    dispatcher: &'a Dispatcher,
    silent: &'a HashSet<String>,
    identities: Identities,
    plan: Plan,
}

impl<'a> Calls<'a> {
    fn new(dispatcher: &'a Dispatcher, silent: &'a HashSet<String>) -> Result<Self, AppError> {
        Ok(Self {
            dispatcher,
            silent,
            identities: dispatcher.identities(false)?,
            plan: dispatcher.plan(&Limits::default(), 0)?,
        })
    }
}

impl Agents for Calls<'_> {
    fn retired(&mut self, serial: &str) -> std::io::Result<()> {
        revocation::retire_own(&self.dispatcher.root, serial, Utc::now())
    }

    fn rotate_serial(&mut self, calls: &[RotateCall]) -> Vec<Result<(), CallFailure>> {
        let asked = |call: &&RotateCall| !self.silent.contains(call.agent.name());
        let made: Vec<Call> = calls
            .iter()
            .filter(asked)
            .map(|call| {
                let previous = match call.with {
                    Pair::Current => None,
                    Pair::Previous => self.identities.previous.as_ref(),
                };
                rotate_call(
                    address::target(&call.agent, None, None),
                    previous.unwrap_or(&self.identities.current).clone(),
                    &call.serial,
                    call.action.word(),
                )
            })
            .collect();
        let answers = self
            .dispatcher
            .engine()
            .all(made.clone(), self.plan.clone());
        let mut results = made
            .iter()
            .zip(answers)
            .map(|(call, answer)| confirmed(rotate_result(call, answer)));
        let silent = || {
            Err(CallFailure {
                refused: false,
                text: "it was silent a moment ago and is not asked again".to_owned(),
            })
        };
        calls
            .iter()
            .map(|call| match asked(&call) {
                true => results.next().unwrap_or_else(silent),
                false => silent(),
            })
            .collect()
    }
}

fn confirmed(result: HostResult<Rotation>) -> Result<(), CallFailure> {
    match result.outcome {
        Outcome::Ok => Ok(()),
        outcome => Err(CallFailure {
            refused: outcome == Outcome::Refused,
            text: result
                .error()
                .unwrap_or("the agent did not confirm")
                .to_owned(),
        }),
    }
}

/// Tells an agent to trust (`add`) or forget (`remove`) a serial.
fn rotate_call(target: Target, identity: Identity, serial: &str, action: &str) -> Call {
    let request = RotateRequest {
        serial: serial.to_owned(),
        action: action.to_owned(),
        ..RotateRequest::default()
    };
    Call::post(target, identity, "/rotate-serial", request.render())
        .small()
        .repeatable()
}

/// Its result; `exit` is 0 when the agent confirmed.
pub fn rotate_result(call: &Call, answer: Answer) -> HostResult<Rotation> {
    let judge = |reply: &Rotation, _| match reply.status.as_deref() {
        Some("ok") => Outcome::Ok,
        _ => Outcome::Failed,
    };
    status_result(call, answer, judge, Failure::status)
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_of, call};
    use super::*;

    #[test]
    fn only_ok_confirms() {
        let exit = |status, body| rotate_result(&call(), answer_of(status, body)).reply.exit;
        assert_eq!(exit(200, r#"{"status":"ok"}"#), Some(0));
        assert_eq!(exit(200, r#"{"status":"error","error":"x"}"#), Some(-1));
        assert_eq!(exit(403, ""), Some(-1));
        assert_eq!(exit(200, r#"{"status":"ok","exit":7}"#), Some(7));
    }
}
