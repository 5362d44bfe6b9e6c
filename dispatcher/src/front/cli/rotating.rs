//! Rotation over the engine.

use super::session::Session;
use super::{Ctx, Fatal};
use crate::ca::{DAYS_DEFAULT, Owner};
use crate::config::Config;
use crate::fleet::Call;
use crate::fleet::address;
use crate::jval;
use crate::rotation::{Agents, CallFailure, Pair, RotateCall, Rotator};
use crate::tasks::{self, Outcome};
use crate::trust;
use ctrl_exec_protocol::x509::keys::KeyType;
use std::path::Path;

/// The rotation of this configuration.
pub fn rotator(ctx: &Ctx, config: &Config) -> Result<Rotator, Fatal> {
    let days = |key, default, expected| config.number(key, default, (1, 36_500), expected);
    Ok(Rotator {
        state: config.rotation_file(),
        files: trust::identity_files(config),
        registry: ctx.registry(),
        owner: Owner::of_user(Path::new("/etc/passwd"), config.service_user()),
        key: KeyType::EcdsaP256,
        cert_days: config.cert_days()?.unwrap_or(DAYS_DEFAULT),
        renewal_days: days("cert_renewal_days", 90, "a number of days")?,
        overlap_days: days("cert_overlap_days", 30, "a number of days")?,
    })
}

/// Calls agents with the pair each of them trusts.
pub struct EngineAgents<'a> {
    session: &'a Session,
}

impl<'a> EngineAgents<'a> {
    /// Over the engine of a session.
    pub fn new(session: &'a Session) -> Self {
        Self { session }
    }
}

impl Agents for EngineAgents<'_> {
    fn rotate_serial(&mut self, calls: &[RotateCall]) -> Vec<Result<(), CallFailure>> {
        let made: Vec<Call> = calls
            .iter()
            .map(|call| {
                let previous = match call.with {
                    Pair::Current => None,
                    Pair::Previous => self.session.previous.as_ref(),
                };
                tasks::rotate_call(
                    address::target(&call.agent, None, None),
                    previous.unwrap_or(&self.session.current).clone(),
                    &call.serial,
                    call.action.word(),
                )
            })
            .collect();
        calls
            .iter()
            .zip(self.session.engine.all(made, self.session.plan.clone()))
            .map(|(call, answer)| confirmed(&tasks::rotate_result(call.agent.name(), &answer)))
            .collect()
    }
}

fn confirmed(result: &jval::Object) -> Result<(), CallFailure> {
    match Outcome::of(result) {
        Outcome::Ok => Ok(()),
        outcome => Err(CallFailure {
            refused: outcome == Outcome::Refused,
            text: jval::text(result, "error")
                .unwrap_or_else(|| "the agent did not confirm".into())
                .into_owned(),
        }),
    }
}
