//! `ping` (dispatcher.md §9.2): reaches agents, notes what they tell of themselves, and finds out
//! whose certificate is due.

use super::auth::Permit;
use super::dispatcher::{Dispatcher, Limits, new_reqid};
use super::fanout::{Event, Failure, Fanout, Step, Task, answered, failed, is_success};
use super::log::Log;
use super::renew;
use crate::fleet::address;
use crate::fleet::{Answer, Call, Control, Identity, Target};
use crate::model::{self, AgentRecord, is_perl_version};
use crate::model::{AppError, HostResult, Outcome, Pong, Reply};
use crate::store::files::issued::{Issued, IssuedCert};
use crate::store::files::registry::Registry;
use crate::store::files::revoked;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::json::{Bounds, Fields, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Whom to ask, and for whom.
#[derive(Clone, Debug, Default)]
pub struct Inquiry {
    /// Host words, as [`Dispatcher::select`] gives them.
    pub words: Vec<String>,
    /// Port in place of the default one.
    pub port: Option<u16>,
    /// Who asks; advisory.
    pub username: String,
    /// Token for hooks.
    pub token: String,
    /// Address the question came from.
    pub source_ip: String,
}

impl Inquiry {
    /// The question to the auth hook: `action` is `ping` or `discovery`.
    pub fn hook_request(&self, action: &'static str) -> HookRequest {
        HookRequest {
            action,
            hosts: self.words.clone(),
            username: self.username.clone(),
            token: self.token.clone(),
            source_ip: self.source_ip.clone(),
            timestamp: Utc::now().iso(),
            ..HookRequest::default()
        }
    }
}

/// Pings under way.
#[derive(Debug)]
pub struct Ping {
    reqid: String,
    fanout: Fanout<Pong, (bool, Option<CertFacts>)>,
    agents: Registry,
    log: Arc<Log>,
    warnings: Vec<String>,
    answered: Vec<Answered>,
    issued: Issued,
    /// By registry name.
    told: HashMap<String, Told>,
    noted: bool,
}

/// Begins to ping.
///
/// # Errors
/// Unknown agents, or certificates that do not do.
pub fn start(
    dispatcher: &Dispatcher,
    inquiry: &Inquiry,
    _permit: &Permit,
    limits: Limits,
) -> Result<Ping, AppError> {
    let targets = address::resolve(&dispatcher.agents(), &inquiry.words, inquiry.port)?;
    of_targets(dispatcher, targets, limits)
}

/// Begins to ping, on the dispatcher's own behalf.
///
/// # Errors
/// Certificates that do not do.
pub(super) fn of_targets(
    dispatcher: &Dispatcher,
    targets: Vec<Target>,
    limits: Limits,
) -> Result<Ping, AppError> {
    let reqid = new_reqid()?;
    let identities = dispatcher.identities(limits.resumption)?;
    let plan = dispatcher.plan(&limits, targets.len())?;
    let cert_days = dispatcher.config.cert_days()?;
    let now = Utc::now();
    let calls = targets
        .into_iter()
        .map(|target| {
            let identity = identities.of(&target);
            ping_call(target, identity, &reqid)
        })
        .collect();
    let judge = move |call: &Call, answer: Answer| {
        let certificate = answer.certificate.clone();
        let result = ping_result(call, answer);
        let due = renew::is_due(&result, certificate.as_deref(), cert_days, now);
        let shown = certificate.and_then(|der| cert::facts(&der).ok());
        (result, (due, shown))
    };
    Ok(Ping {
        reqid,
        fanout: Fanout::start(dispatcher.engine(), calls, plan, limits.notify, judge),
        agents: dispatcher.agents(),
        log: Arc::clone(&dispatcher.log),
        warnings: identities.warning.into_iter().collect(),
        answered: Vec::new(),
        issued: dispatcher.issued(),
        told: HashMap::new(),
        noted: false,
    })
}

impl Ping {
    /// The agents that answered well, each once.
    pub fn answered(mut self) -> Vec<Answered> {
        let mut answered = std::mem::take(&mut self.answered);
        answered.sort_by(|a, b| a.target.name.cmp(&b.target.name));
        answered.dedup_by(|a, b| a.target.name == b.target.name);
        answered
    }

    fn ended(
        &mut self,
        index: usize,
        result: &HostResult<Pong>,
        (due, shown): (bool, Option<CertFacts>),
    ) {
        let call = self.fanout.call(index);
        if result.reply.is_ok() {
            self.answered.push(Answered {
                target: call.target.clone(),
                identity: call.identity.clone(),
                due,
                ca: result.reply.ca.clone().filter(|ca| ca.len() <= MAX_DIGEST),
                crl: result.reply.crl,
                staged: result.reply.staged,
                shown: shown.clone(),
            });
        }
        // Only agents of the reference, and those that were, need a note of the version.
        let version = noted_version(call, result.reply.version.as_ref());
        let features = noted_features(result.outcome, &result.reply.features);
        if version.is_some() || shown.is_some() || features.is_some() {
            let name = call.target.name.clone();
            let ca = result.reply.is_ok().then(|| match &result.reply.ca {
                Some(ca) if ca.len() <= MAX_DIGEST => ca.clone(),
                _ => NO_CA.to_owned(),
            });
            let told = Told {
                target: result.target.clone(),
                version,
                features,
                shown,
                ca,
            };
            self.told.insert(name, told);
        }
        let line = Line::new("ping")
            .field("AGENT", &result.host)
            .field("TARGET", &result.target)
            .field("RTT", result.rtt_text())
            .field("REQID", &self.reqid);
        match result.error() {
            None => self.log.log(Level::Info, &line.field("RESULT", "ok")),
            Some(error) => self.log.log(Level::Err, &line.field("ERROR", error)),
        }
    }

    /// One certificate at two addresses is a copy of an agent.
    fn warn_of_clones(&mut self) {
        let mut by_serial: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for (name, told) in &self.told {
            if let Some(shown) = &told.shown {
                let places = by_serial.entry(&shown.serial_hex).or_default();
                places.entry(&told.target).or_insert(name);
            }
        }
        for (serial, places) in by_serial.iter().filter(|(_, places)| places.len() > 1) {
            let mut places: Vec<String> = places
                .iter()
                .map(|(target, name)| format!("'{name}' ({target})"))
                .collect();
            places.sort();
            self.warnings.push(format!(
                "one certificate at {} addresses: {} show serial {serial}. A router that was \
                 copied has to be paired again, and 'ced revoke --serial {serial}' bars the copy",
                places.len(),
                places.join(", "),
            ));
        }
    }

    /// Keeps what pings told: versions, so that requests can be made to fit them, and the
    /// certificates that agents show. A certificate that was not noted when it was given away is
    /// noted now.
    fn note(&mut self) {
        if std::mem::replace(&mut self.noted, true) || self.told.is_empty() {
            return;
        }
        self.warn_of_clones();
        let told = &self.told;
        let mut changed = Vec::new();
        let mut certs = Vec::new();
        for (name, told) in told {
            let Ok(Some(mut record)) = self.agents.load(name) else {
                continue;
            };
            if told.apply(&mut record) {
                changed.push(name.as_str());
                let shown = told.shown_of(&record);
                certs.extend(shown.map(|shown| IssuedCert::new(shown, name)));
            }
        }
        let noted = self
            .issued
            .add(&certs)
            .map_err(|error| error.to_string())
            .and_then(|()| {
                let update = |record: &mut AgentRecord| {
                    let told = told.get(record.name());
                    told.is_some_and(|told| told.apply(record))
                };
                let updated = self.agents.update_many(&changed, update);
                updated.map_err(|error| error.to_string())
            });
        // Whoever may not write the registry can still ping.
        if let Err(error) = noted {
            let line = Line::new("registry-fail").field("ERROR", error);
            self.log.log(Level::Warning, &line);
        }
    }
}

/// The version an agent told, where its record is to say it.
pub(super) fn noted_version(call: &Call, told: Option<&String>) -> Option<String> {
    let version = told.filter(|version| {
        let fits = !version.is_empty() && version.len() <= MAX_VERSION;
        fits && (call.target.perl || is_perl_version(version))
    });
    version.cloned()
}

/// What a record is to say of the features that an agent told, if it told any or could have.
pub(super) fn noted_features(outcome: Outcome, told: &[String]) -> Option<String> {
    (outcome == Outcome::Ok).then(|| model::noted_features(told))
}

/// Longest version that is kept of an agent.
const MAX_VERSION: usize = 64;

/// Longest digest that is kept of an agent.
const MAX_DIGEST: usize = 64;

/// What a record says of an agent that does not tell by which CA certificates it goes.
pub const NO_CA: &str = "none";

/// An agent that answered well.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The agent.
    pub target: Target,
    /// The identity it knows us by.
    pub identity: Identity,
    /// Its certificate is to be renewed.
    pub due: bool,
    /// Digest of the CA certificates it trusts; release 0.12.3 tells none.
    pub ca: Option<String>,
    /// Number of the revocation list it has of us.
    pub crl: u64,
    /// It holds a renewed certificate that it does not show yet.
    pub staged: bool,
    /// The certificate it showed.
    pub shown: Option<CertFacts>,
}

/// What a ping told of an agent that its record should say.
#[derive(Debug)]
struct Told {
    /// Address and port.
    target: String,
    version: Option<String>,
    features: Option<String>,
    shown: Option<CertFacts>,
    ca: Option<String>,
}

impl Told {
    /// Brings a record up to date; whether anything was new.
    fn apply(&self, record: &mut AgentRecord) -> bool {
        let mut new = false;
        let mut set = |field: &mut Option<String>, value: String| {
            let value = Some(value);
            new |= *field != value;
            *field = value;
        };
        if let Some(version) = &self.version {
            set(&mut record.agent_version, version.clone());
        }
        if let Some(features) = &self.features {
            set(&mut record.features, features.clone());
        }
        if let Some(ca) = &self.ca {
            set(&mut record.ca_digest, ca.clone());
        }
        // Another agent may answer at that address: its certificate is not this one's.
        if let Some(shown) = self.shown_of(record) {
            let end = Utc(shown.not_after);
            set(&mut record.cert_serial, revoked::normal(&shown.serial_hex));
            set(&mut record.expiry, end.openssl());
            let staged = Utc::parse_openssl(record.staged_expiry());
            if staged.is_some_and(|staged| end.0 >= staged.0) {
                record.staged_expiry = None;
                new = true;
            }
        }
        new
    }

    fn shown_of(&self, record: &AgentRecord) -> Option<&CertFacts> {
        let shown = self.shown.as_ref()?;
        (shown.subject_cn.as_deref() == Some(record.paired_cn())).then_some(shown)
    }
}

impl Task for Ping {
    type Reply = Pong;

    fn next(&mut self, timeout: Duration) -> Option<Event<Pong>> {
        let event = match self.fanout.next(timeout) {
            None => None,
            Some(Step::Begun(name)) => Some(Event::Begun(name)),
            Some(Step::Output(host, piece)) => Some(Event::Output { host, piece }),
            Some(Step::Ended(index, result, found)) => {
                self.ended(index, &result, found);
                Some(Event::Ended(Box::new(result)))
            }
        };
        if self.fanout.left() == 0 {
            self.note();
        }
        event
    }

    fn left(&self) -> usize {
        self.fanout.left()
    }

    fn total(&self) -> usize {
        self.fanout.calls().len()
    }

    fn control(&self) -> Control {
        self.fanout.control()
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The ping of an agent; its certificate is wanted, for renewal.
pub fn ping_call(target: Target, identity: Identity, reqid: &str) -> Call {
    let body: Arc<str> = Fields::with_room(1).text("reqid", reqid).finish().into();
    Call {
        want_certificate: true,
        ..Call::post(target, identity, "/ping", body)
            .small()
            .repeatable()
    }
}

/// Its result.
pub fn ping_result(call: &Call, answer: Answer) -> HostResult<Pong> {
    let judge = |pong: &Pong, _| {
        if pong.is_ok() {
            Outcome::Ok
        } else {
            Outcome::Failed
        }
    };
    status_result(call, answer, judge, Failure::status)
}

/// A result of those whose answers carry `status`.
pub(super) fn status_result<T: Reply>(
    call: &Call,
    answer: Answer,
    judge: impl FnOnce(&T, bool) -> Outcome,
    refusal: impl Fn(&ctrl_exec_reactor::http::Response) -> Failure,
) -> HostResult<T> {
    let failure = match &answer.result {
        Ok(response) if is_success(response) => {
            match Members::parse(&response.body, &Bounds::RECORD).ok() {
                Some(body) => return answered(call, answer.rtt, body, judge),
                None => Failure::answer("invalid JSON"),
            }
        }
        Ok(response) => refusal(response),
        Err(error) => Failure::transport(error),
    };
    failed(call, answer.rtt, failure)
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_failed, answer_of, call};
    use super::*;
    use crate::fleet::Fault;

    #[test]
    fn pings() {
        let line = |answer: Answer| ping_result(&call(), answer).to_json();
        assert_eq!(
            line(answer_of(
                200,
                r#"{"status":"ok","host":"vm.example","version":"0.12.3","staged":0}"#
            )),
            r#"{"host":"vm","outcome":"ok","reported_hostname":"vm.example","rtt":"5ms","staged":0,"status":"ok","version":"0.12.3"}"#
        );
        assert_eq!(
            line(answer_of(403, r#"{"error":"serial mismatch"}"#)),
            r#"{"error":"forbidden: serial mismatch","host":"vm","outcome":"refused","rtt":"5ms","status":"error"}"#
        );
        assert_eq!(
            line(answer_of(200, "hello")),
            r#"{"error":"invalid JSON","host":"vm","outcome":"unreached","phase":"http","rtt":"5ms","status":"error"}"#
        );
        let slow = Fault::ReadTimeout(Duration::from_secs(1));
        let slow = line(answer_failed(slow, true));
        assert!(slow.contains("connection timed out"), "{slow}");
        assert!(slow.contains(r#""outcome":"unreached""#), "{slow}");
    }
}
