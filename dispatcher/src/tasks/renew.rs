//! Renewal of agents' certificates (dispatcher.md §13): asked for after a ping, signed here, staged
//! by the agent.

use super::dispatcher::{Dispatcher, Limits, new_reqid};
use crate::ca::{Authority, CaDir};
use crate::config::Config;
use crate::fleet::address;
use crate::fleet::{Answer, Call, Fault, Identity, Target};
use crate::model::AgentRecord;
use crate::model::{AppError, HostResult, Pong};
use crate::store::files::issued::IssuedCert;
use crate::trust;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{self, Bounds, Fields, Scalar};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::{DAY, Utc};
use ctrl_exec_protocol::wire::messages::RenewCompleteRequest;
use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use ctrl_exec_protocol::x509::verify::Clock;
use miniserde::Deserialize;
use std::sync::Arc;

/// Days of a renewed certificate unless configured.
const DEFAULT_DAYS: u32 = 365;

/// What came of one renewal.
#[derive(Debug)]
pub struct Renewed {
    /// The agent's registry name.
    pub name: String,
    /// The end of the new certificate, in OpenSSL's form; or why there is none.
    pub result: Result<String, String>,
    /// When the certificate ended that the agent showed, if that was in the way.
    pub expired: Option<Utc>,
}

/// Whether an agent that answered a ping is due: less than a third of its certificate's own life
/// is left. Up to a thirtieth of the life is added by name, so that a fleet paired on one day does
/// not renew on one day.
///
/// When the certificate itself is not known, the reference's rule holds: less than half of
/// `cert_days` (365) days left.
pub fn is_due(
    ping: &HostResult<Pong>,
    certificate: Option<&[u8]>,
    cert_days: Option<u32>,
    now: Utc,
) -> bool {
    if !ping.reply.is_ok() || ping.reply.staged {
        return false;
    }
    let Some(end) = ping.reply.expiry.as_deref().and_then(Utc::parse_openssl) else {
        return false;
    };
    let left = end.0 - now.0;
    let facts = certificate.and_then(|der| cert::facts(der).ok());
    match facts.filter(|facts| facts.not_after == end.0) {
        Some(CertFacts {
            not_before,
            not_after,
            ..
        }) => {
            let life = not_after - not_before;
            let jitter = life / 30 * i64::from(spread(&ping.host)) / 256;
            left < life / 3 + jitter
        }
        None => left < i64::from(cert_days.unwrap_or(DEFAULT_DAYS)) * DAY / 2,
    }
}

/// Renews the certificates of agents: asks for their requests, signs, hands over, and notes the
/// new end in the registry. One outcome per target.
///
/// A request is signed only for the common name that was paired, of an agent that shows a
/// certificate of that name and holds the key of it; so neither a rename nor another agent at the
/// address can mislead it.
fn renew_targets(
    dispatcher: &Dispatcher,
    authority: &Authority,
    targets: Vec<(Target, Identity)>,
    reqid: &str,
) -> Result<Vec<Renewed>, AppError> {
    let (config, engine) = (&dispatcher.config, dispatcher.engine());
    let registry = &dispatcher.agents();
    let plan = dispatcher.plan(&Limits::default(), targets.len())?;
    let days = config.cert_days().ok().flatten().unwrap_or(DEFAULT_DAYS);
    let body: Arc<str> = Fields::with_room(1).text("reqid", reqid).finish().into();
    let calls: Vec<Call> = targets
        .into_iter()
        .map(|(target, identity)| Call {
            want_certificate: true,
            ..Call::post(target, identity, "/renew", Arc::clone(&body))
                .small()
                .repeatable()
        })
        .collect();
    let mut renewed = Vec::new();
    let mut signed = Vec::new();
    for (call, answer) in calls.iter().zip(engine.all(calls.clone(), plan.clone())) {
        let name = &call.target.name;
        let expired = expired_at(&answer);
        let certificate = match registry.load(name) {
            Ok(record) => {
                let record = record.unwrap_or_else(|| AgentRecord::new(name));
                sign(&answer, authority, &record, days)
            }
            Err(error) => Err(error.to_string()),
        };
        match certificate {
            Ok(certificate) => signed.push((call, certificate)),
            Err(error) => renewed.push(Renewed {
                name: name.clone(),
                result: Err(error),
                expired,
            }),
        }
    }
    // Noted before they are given away, so that they can be barred whatever becomes of the agents.
    let noted: Vec<IssuedCert> = signed
        .iter()
        .map(|(call, certificate)| IssuedCert::new(&certificate.facts, &call.target.name))
        .collect();
    if let Err(error) = dispatcher.issued().add(&noted) {
        renewed.extend(signed.iter().map(|(call, _)| Renewed {
            name: call.target.name.clone(),
            result: Err(error.to_string()),
            expired: None,
        }));
        return Ok(renewed);
    }
    let mut completions = Vec::new();
    let mut ends = Vec::new();
    for (call, certificate) in signed {
        ends.push(certificate.expiry());
        let body = RenewCompleteRequest {
            cert: certificate.pem.clone(),
            ca: authority.pem().to_owned(),
            reqid: reqid.to_owned(),
        };
        let (target, identity) = (call.target.clone(), call.identity.clone());
        completions.push(
            Call::post(target, identity, "/renew-complete", body.render())
                .small()
                .repeatable(),
        );
    }
    for ((call, answer), end) in completions
        .iter()
        .zip(engine.all(completions.clone(), plan.clone()))
        .zip(ends)
    {
        let name = call.target.name.clone();
        let result = confirmed(&answer).and_then(|()| {
            registry
                .update(&name, |record| {
                    // The agent shows its old one until it adopts this: `expiry` follows when it
                    // is seen.
                    record.staged_expiry = Some(end.clone());
                })
                .map_err(|error| error.to_string())?;
            Ok(end)
        });
        renewed.push(Renewed {
            name,
            result,
            expired: None,
        });
    }
    for renewed in &renewed {
        log(dispatcher, renewed, reqid);
    }
    Ok(renewed)
}

/// Renews what pings found to be due, if we hold the CA key; failures never change a ping's result.
///
/// # Errors
/// Settings; what concerns one agent is in its outcome.
pub fn renew_due(
    dispatcher: &Dispatcher,
    due: Vec<(Target, Identity)>,
) -> Result<Vec<Renewed>, AppError> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    match authority(&dispatcher.config) {
        Ok(authority) => renew_targets(dispatcher, &authority, due, &new_reqid()?),
        Err(error) => {
            let line = Line::new("renew").field("ERROR", error);
            dispatcher.log.log(Level::Err, &line);
            Ok(Vec::new())
        }
    }
}

/// Renews the certificates of these agents now. With `allow_expired` also one that has run out; it
/// is still checked to be one that this CA made.
///
/// # Errors
/// Unknown agents, no CA key, or settings; what concerns one agent is in its outcome.
pub fn renew(
    dispatcher: &Dispatcher,
    words: &[String],
    port: Option<u16>,
    allow_expired: bool,
) -> Result<Vec<Renewed>, AppError> {
    let registry = dispatcher.agents();
    let targets = address::resolve(&registry, words, port)?;
    let authority = authority(&dispatcher.config)?;
    let identities = dispatcher.identities(false)?;
    let reqid = new_reqid()?;
    if !allow_expired {
        let known = targets.into_iter().map(|target| {
            let identity = identities.of(&target);
            (target, identity)
        });
        return renew_targets(dispatcher, &authority, known.collect(), &reqid);
    }
    let mut renewed = Vec::with_capacity(targets.len());
    for target in targets {
        // One identity each: its clock stands where that agent's certificate was still valid.
        let end = Utc::parse_openssl(registry.require(&target.name)?.expiry());
        let at = |end: Option<Utc>| -> Result<Vec<Renewed>, AppError> {
            let known = vec![(target.clone(), identity_for_expired(dispatcher, end)?)];
            renew_targets(dispatcher, &authority, known, &reqid)
        };
        let mut tried = at(end)?;
        // The registry may say another end than the agent shows: it was renewed and lost what was
        // staged.
        if let Some(end) = tried.iter().find_map(|renewed| renewed.expired) {
            tried = at(Some(end))?;
        }
        renewed.extend(tried);
    }
    Ok(renewed)
}

/// An identity that takes a certificate which ended at `end`; what is still valid stays so.
fn identity_for_expired(dispatcher: &Dispatcher, end: Option<Utc>) -> Result<Identity, AppError> {
    let clock: Clock = Arc::new(move || {
        let now = Utc::now().0;
        end.map_or(now, |end| now.min(end.0 - 60))
    });
    let files = trust::identity_files(&dispatcher.config);
    let tls = trust::client_config_of(&dispatcher.config, &files, false, &clock)?;
    Ok(Identity::new(tls))
}

fn log(dispatcher: &Dispatcher, renewed: &Renewed, reqid: &str) {
    let line = |action| {
        Line::new(action)
            .field("TARGET", &renewed.name)
            .field("REQID", reqid)
    };
    let (level, line) = match &renewed.result {
        Ok(end) => (Level::Info, line("renew-complete").field("EXPIRY", end)),
        Err(error) => (Level::Err, line("renew").field("ERROR", error)),
    };
    dispatcher.log.log(level, &line);
}

/// When the certificate ended that an agent showed, if that is why it was not called.
fn expired_at(answer: &Answer) -> Option<Utc> {
    match &answer.result {
        Err(error) => match &error.fault {
            Fault::Expired { end, .. } => Utc::parse_openssl(end),
            _ => None,
        },
        Ok(_) => None,
    }
}

/// The CA that renewal and rotation sign with (`ca_dir`).
///
/// # Errors
/// Ordinary users may not read the key.
pub fn authority(config: &Config) -> Result<Authority, AppError> {
    Ok(Authority::load(&CaDir::new(config.ca_dir()))?)
}

fn sign(
    answer: &Answer,
    authority: &Authority,
    record: &AgentRecord,
    days: u32,
) -> Result<crate::ca::Issued, String> {
    let told = told(answer)?;
    let csr = told.csr.text();
    if csr.is_empty() {
        return Err(match told.error.text().as_str() {
            "" => "the agent gave no request".to_owned(),
            error => format!("the agent gave no request: {error}"),
        });
    }
    let shown = answer
        .certificate
        .as_deref()
        .ok_or("no certificate was seen")?;
    let shown = cert::facts(shown).map_err(|error| error.to_string())?;
    if shown.subject_cn.as_deref() != Some(record.paired_cn()) {
        return Err(format!(
            "the agent at this address shows a certificate for '{}', not for '{}'",
            shown.subject_cn.unwrap_or_default(),
            record.paired_cn()
        ));
    }
    authority
        .sign_csr(
            &csr,
            Some(record.paired_cn()),
            Some(&shown.spki_der),
            days,
            Utc::now(),
        )
        .map_err(|error| error.to_string())
}

/// Agents answer 200 with `status` `error` when they refuse a certificate; the reference takes
/// that for success.
fn confirmed(answer: &Answer) -> Result<(), String> {
    let told = told(answer)?;
    if told.status.text() == "ok" {
        return Ok(());
    }
    let reason = match told.error.text() {
        reason if reason.is_empty() => "no reason given".to_owned(),
        reason => reason,
    };
    Err(format!("the agent refused the certificate: {reason}"))
}

/// What an agent may say while its certificate is renewed.
#[derive(Default, Deserialize)]
struct Told {
    status: Scalar,
    csr: Scalar,
    error: Scalar,
}

fn told(answer: &Answer) -> Result<Told, String> {
    let response = answer.result.as_ref().map_err(ToString::to_string)?;
    let body = json::lossy(&response.body);
    let told = json::read_object::<Told>(body.as_bytes(), &Bounds::RECORD);
    if !(200..300).contains(&response.status) {
        let error = told.unwrap_or_default().error.text();
        return Err(format!("status {} {error}", response.status));
    }
    told.map_err(|_| "invalid JSON".to_owned())
}

/// A number that depends on the name only.
fn spread(name: &str) -> u8 {
    name.bytes()
        .fold(7, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctrl_exec_protocol::json::Members;

    fn of(text: &str) -> HostResult<Pong> {
        HostResult::from_object(Members::parse(text.as_bytes(), &Bounds::RECORD).unwrap())
    }

    fn ping(end: Utc, more: &str) -> HostResult<Pong> {
        of(&format!(
            r#"{{"status":"ok","host":"a","expiry":"{}"{more}}}"#,
            end.openssl()
        ))
    }

    #[test]
    fn the_reference_rule_without_the_certificate() {
        let now = Utc(1_800_000_000);
        let in_days = |days: i64| Utc(now.0 + days * DAY);
        assert!(!is_due(&ping(in_days(183), ""), None, None, now));
        assert!(is_due(&ping(in_days(181), ""), None, None, now));
        assert!(!is_due(
            &ping(in_days(181), r#","staged":true"#),
            None,
            None,
            now
        ));
        assert!(is_due(
            &ping(in_days(181), r#","staged":0"#),
            None,
            None,
            now
        ));
        assert!(!is_due(&ping(in_days(181), ""), None, Some(100), now));
        assert!(is_due(&ping(in_days(49), ""), None, Some(100), now));
        let odd = of(r#"{"status":"ok","expiry":"unknown"}"#);
        assert!(!is_due(&odd, None, None, now));
        let failed = of(r#"{"status":"error"}"#);
        assert!(!is_due(&failed, None, None, now));
    }
}
