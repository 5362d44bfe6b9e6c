//! What agents are handed beyond runs: the CA certificates that are to be trusted, and the list of
//! what is revoked. Agents of release 0.12.3 take neither.

use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Task};
use super::ping::{self, Answered, Ping};
use super::renew::{self, Renewed};
use crate::ca::{Authority, CaDir};
use crate::config::Config;
use crate::fleet::{Answer, Call, address};
use crate::model::{AgentRecord, AppError};
use crate::tasks::revocation;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::text::Untrusted;
use ctrl_exec_protocol::wire::messages::{self, TrustReply, TrustRequest};
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::crl::Crl;
use ctrl_exec_protocol::x509::handover::fingerprint;
use std::path::Path;
use std::time::Duration;

/// Largest file of CA certificates that is read, in bytes.
const MAX_FILE: u64 = 65_536;

/// What agents are to have.
#[derive(Debug)]
pub struct Standing {
    /// CA certificates to hand over; none where the CA never changed.
    list: Option<String>,
    /// Digests of lists that are as good.
    good: Vec<String>,
    crl: Option<Crl>,
}

/// What became of a hand-over.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The agent.
    pub name: String,
    /// What it has now, or why not.
    pub result: Result<TrustReply, String>,
}

/// What followed from pings.
#[derive(Debug, Default)]
pub struct Followed {
    /// The agents that answered, with what they have now.
    pub answered: Vec<Answered>,
    /// Certificates that were renewed, or should have been.
    pub renewed: Vec<Renewed>,
    /// Agents that were handed something.
    pub handed: Vec<Handed>,
}

impl Standing {
    /// Reads it.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn load(dispatcher: &Dispatcher) -> Result<Self, AppError> {
        Self::of(&dispatcher.root, &dispatcher.config)
    }

    /// The same, of a dispatcher that is not made yet.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn of(root: &Root, config: &Config) -> Result<Self, AppError> {
        let ca = CaDir::new(config.ca_dir());
        let list = text(&ca.handover())?;
        let mut good = Vec::new();
        for text in [&list, &text(&ca.cert())?, &text(&config.ca())?]
            .into_iter()
            .flatten()
        {
            good.push(fingerprint(text));
        }
        Ok(Self {
            list,
            good,
            crl: revocation::load(root)?,
        })
    }

    /// Whether an agent that tells this digest has the CA certificates it is to have.
    pub fn is_good(&self, digest: &str) -> bool {
        self.good.iter().any(|good| good == digest)
    }

    /// Digests of the CA certificates that agents may have.
    pub fn good(&self) -> &[String] {
        &self.good
    }

    /// Whether the CA changed at some time, so that it matters what agents have.
    pub fn matters(&self) -> bool {
        self.list.is_some()
    }

    /// What is to be handed to an agent; `None` when it has everything, or takes nothing.
    fn for_agent(&self, agent: &Answered) -> Option<TrustRequest> {
        let digest = agent.ca.as_deref()?;
        let list = self.list.as_ref().filter(|_| !self.is_good(digest));
        let crl = self.crl.as_ref().filter(|crl| agent.crl < crl.number());
        (list.is_some() || crl.is_some()).then(|| TrustRequest {
            ca: list.cloned().unwrap_or_default(),
            crl: crl.map(Crl::pem).unwrap_or_default(),
        })
    }
}

/// Does what follows from pings: hands over what agents lack, then renews certificates that are due
/// or of a CA that signs no more. What fails never changes a ping's result.
///
/// # Errors
/// Settings and files; what concerns one agent is in the report.
pub fn after_ping(dispatcher: &Dispatcher, ping: Ping) -> Result<Followed, AppError> {
    let mut answered = ping.answered();
    let standing = Standing::load(dispatcher)?;
    let handed = hand_over(dispatcher, &standing, &mut answered)?;
    // Until the new CA signs here, what it signed elsewhere is not to be replaced by older work.
    let next = CaDir::new(dispatcher.config.ca_dir()).next();
    let next = text(&next.cert())?.and_then(|text| cert::facts_from_pem(&text).ok());
    let signer = renew::authority(&dispatcher.config).ok().filter(|signer| {
        next.as_ref()
            .is_none_or(|next| next.spki_der == signer.facts().spki_der)
    });
    let due = answered
        .iter()
        .filter(|agent| agent.due || is_of_old_ca(&standing, signer.as_ref(), agent))
        .map(|agent| (agent.target.clone(), agent.identity.clone()))
        .collect();
    Ok(Followed {
        renewed: renew::renew_due(dispatcher, due)?,
        handed,
        answered,
    })
}

/// What every agent said, and what followed.
#[derive(Debug, Default)]
pub struct Survey {
    /// Agents that did not answer well, and why.
    pub failed: Vec<(String, String)>,
    /// What followed for the others.
    pub followed: Followed,
}

impl Survey {
    /// What went wrong with an agent.
    pub fn error_of(&self, name: &str) -> Option<&str> {
        let failed = self.failed.iter().find(|(failed, _)| failed == name);
        let handed = self.followed.handed.iter().filter(|one| one.name == name);
        let renewed = self.followed.renewed.iter().filter(|one| one.name == name);
        failed
            .map(|(_, error)| error)
            .or_else(|| handed.filter_map(|one| one.result.as_ref().err()).next())
            .or_else(|| renewed.filter_map(|one| one.result.as_ref().err()).next())
            .map(String::as_str)
    }
}

/// Pings every agent that is not revoked, and does what follows.
///
/// # Errors
/// Certificates, settings and files; agents that do not answer are in the report.
pub fn survey(dispatcher: &Dispatcher) -> Result<Survey, AppError> {
    let records = dispatcher.agents().list()?.records;
    let targets: Vec<_> = records
        .iter()
        .filter(|record| record.revoked().is_none())
        .map(|record| address::target(record, None, None))
        .collect();
    let mut survey = Survey::default();
    if targets.is_empty() {
        return Ok(survey);
    }
    let mut task = ping::of_targets(dispatcher, targets, Limits::default())?;
    while task.left() > 0 {
        if let Some(Event::Ended(result)) = task.next(Duration::from_secs(3600)) {
            if let Some(error) = result.error() {
                survey.failed.push((result.host.clone(), error.to_owned()));
            }
        }
    }
    survey.followed = after_ping(dispatcher, task)?;
    Ok(survey)
}

/// Whether an agent that trusts the CA that signs now still shows a certificate of another.
fn is_of_old_ca(standing: &Standing, signer: Option<&Authority>, agent: &Answered) -> bool {
    let (Some(signer), Some(shown), Some(digest)) = (signer, &agent.shown, &agent.ca) else {
        return false;
    };
    !agent.staged && shown.issuer_der != signer.facts().subject_der && standing.is_good(digest)
}

fn hand_over(
    dispatcher: &Dispatcher,
    standing: &Standing,
    answered: &mut [Answered],
) -> Result<Vec<Handed>, AppError> {
    let mut calls = Vec::new();
    let mut places = Vec::new();
    let mut handed = Vec::new();
    let own = standing.crl.as_ref().map_or(0, Crl::number);
    for (place, agent) in answered.iter().enumerate() {
        if agent.crl > own {
            handed.push(Handed {
                name: agent.target.name.clone(),
                result: Err(format!(
                    "it has a newer list of revoked certificates ({}) than this dispatcher ({own}): \
                     was an old backup restored? Its list stays in force; see 'list-revoked', the next \
                     'revoke' or 'unrevoke' makes a newer one",
                    agent.crl
                )),
            });
        }
        if let Some(request) = standing.for_agent(agent) {
            let (target, identity) = (agent.target.clone(), agent.identity.clone());
            let call = Call::post(target, identity, "/trust", request.render());
            calls.push(call.small().repeatable());
            places.push(place);
        }
    }
    if !calls.is_empty() {
        let plan = dispatcher.plan(&Limits::default(), calls.len())?;
        let answers = dispatcher.engine().all(calls, plan);
        for (place, answer) in places.into_iter().zip(answers) {
            let result = confirmed(&answer);
            if let Ok(reply) = &result {
                answered[place].ca = Some(reply.ca.clone());
            }
            handed.push(Handed {
                name: answered[place].target.name.clone(),
                result,
            });
        }
    }
    note(dispatcher, &handed)?;
    Ok(handed)
}

/// Notes in the registry what agents have now, and in the log what happened.
fn note(dispatcher: &Dispatcher, handed: &[Handed]) -> Result<(), AppError> {
    let has = |name: &str| {
        let of_name = handed
            .iter()
            .find(|one| one.name == name && one.result.is_ok());
        of_name.and_then(|one| one.result.as_ref().ok())
    };
    let names: Vec<&str> = handed.iter().map(|one| one.name.as_str()).collect();
    let updated = dispatcher
        .agents()
        .update_many(&names, |record: &mut AgentRecord| {
            let Some(reply) = has(record.name()).filter(|reply| reply.ca != record.ca_digest())
            else {
                return false;
            };
            record.ca_digest = Some(reply.ca.clone());
            true
        });
    if let Err(error) = updated {
        // Whoever may not write the registry can still ping; the next ping tells it again.
        let line = Line::new("registry-fail").field("ERROR", error);
        dispatcher.log.log(Level::Warning, &line);
    }
    for one in handed {
        let line = Line::new("trust").field("AGENT", &one.name);
        match &one.result {
            Ok(reply) => {
                let line = line.field("CA", &reply.ca).field("CRL", reply.crl);
                dispatcher.log.log(Level::Info, &line);
            }
            Err(error) => {
                let line = line.field("ERROR", error);
                dispatcher.log.log(Level::Warning, &line);
            }
        }
    }
    Ok(())
}

fn confirmed(answer: &Answer) -> Result<TrustReply, String> {
    let response = answer.result.as_ref().map_err(ToString::to_string)?;
    match TrustReply::parse(&response.body) {
        Ok(Some(reply)) if response.status == 200 && reply.ca.len() <= 64 => Ok(reply),
        _ => {
            let error = messages::error_of(&response.body);
            let error = error.unwrap_or_else(|| format!("status {}", response.status));
            Err(format!(
                "the agent did not take it: {}",
                Untrusted::new(&error).at_most(200)
            ))
        }
    }
}

fn text(path: &Path) -> Result<Option<String>, AppError> {
    Bounded::new(MAX_FILE)
        .optional_text(path)
        .map_err(|error| AppError::system(format!("cannot read {}: {error}", path.display())))
}
