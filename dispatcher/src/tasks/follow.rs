//! `status` and `wait` (dispatcher.md §3.2, §3.3, §9.4, §12.3): how far a run is.

use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Failure, Task, is_success};
use super::running;
use crate::fleet::address;
use crate::fleet::{Answer, Call, Identity, Target};
use crate::model::{
    AppError, EntryState, Holder, HostEntry, HostResult, Mode, Outcome, Problem, Reply, RunEnd,
    RunRecord, Running, RunningScript,
};
use ctrl_exec_protocol::json::{Bounds, Members, Raw};
use ctrl_exec_protocol::time::Utc;
use std::collections::HashMap;
use std::time::Duration;

/// Pauses between looks, the last one repeated: together with the submission they stay below 10
/// connections in any 60 s, which is where agents' rate limit bites. The reference asks every 2 s
/// and is shut out.
const PAUSES: [u64; 6] = [2, 3, 5, 8, 12, 15];

/// Pauses where connections are kept, which counts as one however often it is asked.
const KEPT_PAUSES: [u64; 3] = [250, 500, 1_000];
/// Agents asked in a second, at most.
const ASKED: usize = 2_000;

/// How often agents may be asked how far a run is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Each time over a connection of its own: an agent of 0.12.3 is among them.
    Connecting,
    /// Over kept connections, to so many agents.
    Kept(usize),
}

impl Pace {
    /// The pace of a run, by the agents it is still open on, with connections that are kept.
    pub fn of(dispatcher: &Dispatcher, record: &RunRecord) -> Self {
        let open = record.open_hosts();
        let agents = dispatcher.agents();
        let perl = |name: &&str| {
            let name = crate::model::host_word::split(name).0;
            !matches!(agents.load(name), Ok(Some(record)) if !record.is_perl())
        };
        if open.iter().any(|name| perl(&&**name)) {
            Self::Connecting
        } else {
            Self::Kept(open.len())
        }
    }

    /// How long to wait after look number `look` (from 0) before the next one.
    pub fn pause(self, look: usize) -> Duration {
        match self {
            Self::Connecting => pause(look),
            Self::Kept(hosts) => {
                let least = hosts.saturating_mul(1_000) / ASKED;
                let usual = KEPT_PAUSES[look.min(KEPT_PAUSES.len() - 1)];
                Duration::from_millis(usual.max(least as u64))
            }
        }
    }
}

/// How long one look at questions under way lasts.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait after look number `look` (from 0) before the next one.
pub fn pause(look: usize) -> Duration {
    Duration::from_secs(PAUSES[look.min(PAUSES.len() - 1)])
}

/// Looks how far a run is: asks the agents that have not finished, and updates its record. `None`
/// when there is no record of that id. Waits for the agents, each within the limits.
///
/// # Errors
/// Store, registry or certificates; agents that do not answer are in the record.
pub fn look(
    dispatcher: &Dispatcher,
    reqid: &str,
    port: Option<u16>,
    limits: Limits,
) -> Result<Option<RunRecord>, AppError> {
    let runs = dispatcher.runs();
    let Some(record) = runs.load(reqid)? else {
        return Ok(None);
    };
    if matches!(record.mode, Mode::Sync { .. }) {
        return look_at_waited_for(dispatcher, record, port, limits).map(Some);
    }
    let open = record.open_hosts();
    if open.is_empty() {
        return Ok(Some(record));
    }
    let identities = dispatcher.identities(limits.resumption)?;
    let targets = address::resolve_or_pass(&dispatcher.agents(), &open, port)?;
    let plan = dispatcher.plan(&limits, targets.len())?;
    let perl: Vec<bool> = targets.iter().map(|target| target.perl).collect();
    let calls: Vec<Call> = targets
        .into_iter()
        .map(|target| {
            let identity = identities.of(&target);
            result_call(target, identity, reqid)
        })
        .collect();
    let fetched: HashMap<&str, Fetched> = dispatcher
        .engine()
        .all(calls, plan)
        .iter()
        .zip(&open)
        .zip(perl)
        .map(|((answer, name), perl)| {
            let mut fetched = result_of(answer);
            if let (Fetched::Done(end), true) = (&mut fetched, perl) {
                end.unmap_output();
            }
            (*name, fetched)
        })
        .collect();
    // A submission whose end was not known has left its lock. The agent has told now whether there
    // is such a run, and keeps a second one of the script away by itself.
    let told = |host: &str| {
        let fetched = fetched.get(host);
        fetched.is_some_and(|fetched| !matches!(fetched, Fetched::Error(_)))
    };
    let _ = dispatcher
        .locks()
        .settle(&|note| note.reqid == reqid && told(&note.host));
    // Another poller may have written meanwhile: what it found to be over stays so.
    let mut change = |record: &mut RunRecord| {
        if let Mode::Async { entries } = &mut record.mode {
            for (name, fetched) in &fetched {
                if let Some(entry) = entries.get_mut(*name).filter(|entry| entry.is_open()) {
                    fetched.apply(entry);
                }
            }
        }
        record.recompute();
    };
    match runs.update(reqid, &mut change) {
        Ok(updated) => Ok(updated),
        // Whoever may only read the record still sees how far the run is.
        Err(_) => {
            let mut record = record.clone();
            change(&mut record);
            Ok(Some(record))
        }
    }
}

/// A run whose command waits for it writes its record itself. Where that command is gone, the
/// agents are asked: what they do not list any more is over, and nobody has seen how.
fn look_at_waited_for(
    dispatcher: &Dispatcher,
    record: RunRecord,
    port: Option<u16>,
    limits: Limits,
) -> Result<RunRecord, AppError> {
    let reqid = record.reqid.clone();
    let goes_on = |lock: &Holder| {
        let note = lock.note.as_ref();
        lock.live && note.is_some_and(|note| note.reqid == reqid)
    };
    if record.complete || dispatcher.locks().list()?.iter().any(goes_on) {
        return Ok(record);
    }
    let words = record.unended_words();
    let targets = address::resolve_or_pass(&dispatcher.agents(), &words, port)?;
    let asked = Utc::now().0;
    let mut task = running::of_targets(dispatcher, targets, limits)?;
    let mut over = Vec::new();
    while task.left() > 0 {
        let Some(Event::Ended(told)) = task.next(LOOK) else {
            continue;
        };
        let reply = &told.reply;
        let listed = |runs: &Vec<RunningScript>| runs.iter().any(|run| run.reqid == reqid);
        if reply.runs.as_ref().is_some_and(|runs| !listed(runs)) {
            let since = record.created.unwrap_or_default();
            let over_there = reply.shows_end_of(&reqid, since, asked, Utc::now().0);
            over.push(unseen(*told, over_there, &record));
        }
    }
    let change = |record: &mut RunRecord| {
        for result in &over {
            record.add_unseen(result.clone());
        }
    };
    match dispatcher
        .runs()
        .update(&reqid, &mut |record| change(record))
    {
        Ok(Some(updated)) => Ok(updated),
        // Whoever may only read the record still sees how far the run is.
        Ok(None) | Err(_) => {
            let mut record = record;
            change(&mut record);
            Ok(record)
        }
    }
}

/// The result of a host where nobody has seen how a run ended, whether it is over or the agent
/// cannot tell.
fn unseen(told: HostResult<Running>, over: bool, record: &RunRecord) -> HostResult<RunEnd> {
    let rest = if over {
        "it does not run there any more"
    } else {
        "the agent was restarted meanwhile and cannot tell whether it still runs"
    };
    HostResult {
        host: told.host,
        target: told.target,
        reported: told.reported,
        outcome: Outcome::Unknown,
        problem: Some(Problem {
            error: format!(
                "its end was not seen, as the command that waited for it is gone; {rest}"
            ),
            phase: None,
        }),
        rtt: told.rtt,
        reply: RunEnd {
            script: Some(record.script.clone()),
            reqid: Some(record.reqid.clone()),
            exit: Some(-1),
            ..RunEnd::default()
        },
        more: Members::new(),
    }
}

/// The call. `reqid` has been checked to be of letters, digits, `_` and `-`.
fn result_call(target: Target, identity: Identity, reqid: &str) -> Call {
    Call::get(target, identity, format!("/result/{reqid}"))
}

/// What an agent said of a run.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// It is over.
    Done(Box<RunEnd>),
    /// It still runs.
    Running,
    /// The agent knows nothing of it, or not any more.
    Unknown,
    /// Nothing was learned.
    Error(String),
}

/// Reads an answer.
pub fn result_of(answer: &Answer) -> Fetched {
    let response = match &answer.result {
        Ok(response) => response,
        Err(error) => return Fetched::Error(error.to_string()),
    };
    if response.status == 404 {
        return Fetched::Unknown;
    }
    if !is_success(response) {
        return Fetched::Error(Failure::status(response).problem.error);
    }
    let Some(mut body) = Members::parse(&response.body, &Bounds::RECORD).ok() else {
        return Fetched::Error("invalid JSON".to_owned());
    };
    let status = body.get("status").and_then(Raw::string).unwrap_or_default();
    match status.as_str() {
        "done" => {
            let end = RunEnd::take(&mut body);
            // The record keeps how it ended, as the reference does, and not whose it is.
            Fetched::Done(Box::new(RunEnd {
                exit: Some(end.exit.unwrap_or(-1)),
                stdout: Some(end.stdout.unwrap_or_default()),
                stderr: Some(end.stderr.unwrap_or_default()),
                script: None,
                reqid: None,
                ..end
            }))
        }
        "running" => Fetched::Running,
        "unknown" => Fetched::Unknown,
        other => Fetched::Error(match body.text("error") {
            Some(error) => error.into_owned(),
            None => format!("unexpected status '{}'", other.escape_debug()),
        }),
    }
}

impl Fetched {
    /// Applies what was learned to a host's entry.
    pub fn apply(&self, entry: &mut HostEntry) {
        match self {
            Self::Done(end) => *entry = HostEntry::new(EntryState::Done(end.clone())),
            Self::Running => set_state(entry, EntryState::Running),
            Self::Unknown => set_state(entry, EntryState::Expired),
            Self::Error(error) => entry.fetch_error = Some(error.clone()),
        }
    }
}

fn set_state(entry: &mut HostEntry, state: EntryState) {
    entry.state = state;
    entry.fetch_error = None;
}

#[cfg(test)]
mod tests {
    use super::super::fanout::testing::{answer_failed, answer_of};
    use super::*;
    use crate::fleet::Fault;

    #[test]
    fn the_table() {
        for (answer, expected) in [
            (
                answer_of(
                    200,
                    r#"{"status":"done","exit":4,"stdout":"o","stderr":"e","owner":"x"}"#,
                ),
                r#"{"exit":4,"status":"done","stderr":"e","stdout":"o"}"#,
            ),
            (
                answer_of(
                    200,
                    r#"{"status":"done","exit":126,"signal":9,"stdout_truncated":5}"#,
                ),
                r#"{"exit":126,"signal":9,"status":"done","stderr":"","stdout":"","stdout_truncated":5}"#,
            ),
            (
                answer_of(200, r#"{"status":"running"}"#),
                r#"{"status":"running"}"#,
            ),
            (answer_of(404, ""), r#"{"status":"expired"}"#),
            (
                answer_of(403, r#"{"error":"serial mismatch"}"#),
                r#"{"fetch_error":"forbidden: serial mismatch","status":"accepted"}"#,
            ),
            (
                answer_of(200, "x"),
                r#"{"fetch_error":"invalid JSON","status":"accepted"}"#,
            ),
        ] {
            let mut entry = HostEntry {
                fetch_error: Some("old".to_owned()),
                ..HostEntry::new(EntryState::Accepted)
            };
            result_of(&answer).apply(&mut entry);
            assert_eq!(entry.object().render(), expected);
        }
        let gone = result_of(&answer_failed(Fault::Refused, false));
        assert!(matches!(gone, Fetched::Error(text) if text.contains("connection refused")));
    }

    #[test]
    fn the_end_is_seen_within_a_second_where_connections_are_kept() {
        for look in 0..20 {
            assert!(Pace::Kept(100).pause(look) <= Duration::from_secs(1));
        }
        assert_eq!(Pace::Kept(20_000).pause(9), Duration::from_secs(10));
        assert_eq!(Pace::Connecting.pause(9), pause(9));
    }

    #[test]
    fn pauses_stay_below_the_rate() {
        let mut at = Duration::ZERO;
        let looks: Vec<Duration> = (0..20)
            .map(|look| {
                let now = at;
                at += pause(look);
                now
            })
            .collect();
        let minute = Duration::from_secs(60);
        for from in &looks {
            let within = looks
                .iter()
                .filter(|at| **at >= *from && **at < *from + minute);
            assert!(within.count() < 10);
        }
    }
}
