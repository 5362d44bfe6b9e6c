//! Runs that the bridge follows: each on a task of its own, so that a caller may stop waiting and come
//! back.

use crate::api::{self, Api, Caller, Refusal};
use crate::events::{Event, Reader};
use crate::present::{MAX_CHARACTERS, Picture};
use crate::text::capped;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Most runs that are remembered; the oldest that has ended gives way.
const MAX_RUNS: usize = 256;

/// Characters kept of each output of a host: with the words about the gap no more than one result
/// shows.
const KEPT_CHARACTERS: usize = MAX_CHARACTERS - 100;

/// How long an ended run is remembered.
pub const RETENTION: Duration = Duration::from_secs(600);

/// How a run stands.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What is known.
    pub picture: Picture,
    /// The host that ended last.
    pub latest: Option<String>,
    /// Set at the end; the refusal where the API took nothing.
    pub ended: Option<Result<(), Refusal>>,
    /// It was cancelled.
    pub cancelled: bool,
}

/// A run that is followed.
#[derive(Debug)]
pub struct Live {
    /// Who started it.
    pub caller: Caller,
    /// When, for people.
    pub since: String,
    /// When it began.
    pub begun: Instant,
    /// How many hosts were asked.
    pub total: usize,
    state: watch::Sender<State>,
}

impl Live {
    /// How it stands, and what changes.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The id of the run, as soon as the API has told it.
    pub fn reqid(&self) -> Option<String> {
        self.state.borrow().picture.reqid.clone()
    }

    /// Ends the run on its agents.
    ///
    /// # Errors
    /// One line that says why it goes on.
    pub async fn cancel(&self, api: &Api) -> Result<(), String> {
        let mut watch = self.watch();
        // A run that has just begun gets its id within a moment.
        let known = watch.wait_for(|state| state.picture.reqid.is_some() || state.ended.is_some());
        let reqid = match tokio::time::timeout(Duration::from_secs(10), known).await {
            Ok(Ok(state)) if state.ended.is_none() => state.picture.reqid.clone(),
            Ok(_) => return Ok(()),
            Err(_) => None,
        };
        let Some(reqid) = reqid else {
            return Err(
                "this API tells no id before a run ends, so it cannot be cancelled".to_owned(),
            );
        };
        api.cancel(&reqid, &self.caller)
            .await
            .map_err(|refusal| refusal.to_string())?;
        self.state.send_modify(|state| state.cancelled = true);
        Ok(())
    }
}

/// All runs that are followed.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<Mutex<HashMap<String, Arc<Live>>>>);

impl Runs {
    /// Starts a run of `body` on `hosts`, and follows it for at most `limit`.
    pub fn start(
        &self,
        api: &Api,
        caller: &Caller,
        body: Map<String, Value>,
        hosts: &[String],
        limit: Duration,
    ) -> Arc<Live> {
        let picture = Picture {
            running: hosts.to_vec(),
            ..Picture::default()
        };
        let state = State {
            picture,
            ..State::default()
        };
        let live = Arc::new(Live {
            caller: caller.clone(),
            since: rmcp::task_manager::current_timestamp(),
            begun: Instant::now(),
            total: hosts.len(),
            state: watch::Sender::new(state),
        });
        let (runs, api, run) = (self.clone(), api.clone(), Arc::clone(&live));
        tokio::spawn(async move {
            let outcome = tokio::time::timeout(limit, runs.follow(&api, body, &run)).await;
            run.state.send_modify(|state| {
                state.ended = Some(outcome.unwrap_or_else(|_| {
                    state.picture.remark = Some(format!(
                        "not waited for longer than {} s; the run goes on",
                        limit.as_secs()
                    ));
                    Ok(())
                }));
            });
        });
        live
    }

    /// The run with `id`, if `caller` started it.
    pub fn get(&self, id: &str, caller: &Caller) -> Option<Arc<Live>> {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(id).filter(|live| live.caller == *caller).cloned()
    }

    /// Remembers `live` under its id, and forgets what ended long ago.
    fn keep(&self, id: &str, live: &Arc<Live>) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = |live: &Live| live.state.borrow().ended.is_some();
        if runs.len() >= MAX_RUNS {
            runs.retain(|_, live| !ended(live) || live.begun.elapsed() < RETENTION);
        }
        if runs.len() >= MAX_RUNS {
            let oldest = runs
                .iter()
                .filter(|(_, live)| ended(live))
                .min_by_key(|(_, live)| live.begun);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                runs.remove(&id);
            }
        }
        // More at once than can be remembered: those are only followed by who waits for them.
        if runs.len() < MAX_RUNS {
            runs.insert(id.to_owned(), Arc::clone(live));
        }
    }

    async fn follow(
        &self,
        api: &Api,
        body: Map<String, Value>,
        live: &Arc<Live>,
    ) -> Result<(), Refusal> {
        let mut answer = api.run(body, &live.caller).await?;
        if !api::is_stream(&answer) {
            let answer = api::read(answer).await?;
            live.state.send_modify(|state| take(state, &answer, true));
            return Ok(());
        }
        let (mut reader, mut events) = (Reader::default(), Vec::new());
        while let Some(piece) = answer.chunk().await.map_err(api::unreached)? {
            let broken = |text| Refusal { status: None, text };
            reader.feed(&piece, &mut events).map_err(broken)?;
            for Event { name, data } in events.drain(..) {
                // Output comes again, as a whole, with the end of its host.
                if name == "output" {
                    continue;
                }
                let Ok(data) = serde_json::from_str(&data) else {
                    continue;
                };
                let whole = matches!(name.as_str(), "done" | "complete");
                let known = live.reqid().is_some();
                live.state.send_modify(|state| take(state, &data, whole));
                if let (false, Some(id)) = (known, live.reqid()) {
                    self.keep(&id, live);
                }
                if whole {
                    return Ok(());
                }
            }
        }
        live.state.send_modify(|state| {
            if !state.picture.running.is_empty() {
                state.picture.remark =
                    Some("the API ended its stream before the run had ended".to_owned());
            }
        });
        Ok(())
    }
}

/// What is remembered of a host's answer: of long output only what a result can show, since runs are
/// kept for a while and an agent may send megabytes.
fn kept(said: &Map<String, Value>) -> Map<String, Value> {
    let mut said = said.clone();
    for stream in ["stdout", "stderr", "error"] {
        let Some(Value::String(text)) = said.get_mut(stream) else {
            continue;
        };
        let (part, cut) = capped(text, KEPT_CHARACTERS);
        if cut {
            *text = part;
            said.insert("cut".to_owned(), Value::from(true));
        }
    }
    said
}

/// Takes over what `data` says; `whole` says that nothing follows it.
fn take(state: &mut State, data: &Value, whole: bool) {
    if let Some(reqid) = data.get("reqid").and_then(Value::as_str) {
        state.picture.reqid.get_or_insert_with(|| reqid.to_owned());
    }
    let results = data
        .get("results")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for said in results.chain([data]) {
        let Some(said) = said.as_object() else {
            continue;
        };
        let Some(host) = said.get("host").and_then(Value::as_str) else {
            continue;
        };
        let ended = ["exit", "status", "outcome", "error"]
            .iter()
            .any(|member| said.contains_key(*member));
        if ended {
            state.picture.running.retain(|running| running != host);
            state.picture.hosts.insert(host.to_owned(), kept(said));
            state.latest = Some(host.to_owned());
        }
    }
    if whole {
        for host in std::mem::take(&mut state.picture.running) {
            let mut said = Map::new();
            said.insert("outcome".to_owned(), Value::from("unknown"));
            said.insert(
                "error".to_owned(),
                Value::from("the API told nothing of this host"),
            );
            state.picture.hosts.insert(host, said);
        }
    }
}

/// The picture of a record, as `/status` gives it.
pub fn recorded(reqid: &str, record: &Value) -> Picture {
    let mut picture = Picture {
        reqid: Some(reqid.to_owned()),
        ..Picture::default()
    };
    let results = record
        .get("results")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let listed = results.filter_map(|said| Some((said.get("host")?.as_str()?.to_owned(), said)));
    let named = record
        .get("hosts")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    for (host, said) in listed.chain(named.map(|(host, said)| (host.clone(), said))) {
        if let Some(said) = said.as_object() {
            picture.hosts.insert(host, said.clone());
        }
    }
    let pending = record
        .get("pending")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    picture.running = pending
        .filter_map(|host| Some(host.as_str()?.to_owned()))
        .collect();
    if picture.running.is_empty() && record.get("complete") == Some(&Value::Bool(false)) {
        picture.remark = Some("the run has not ended".to_owned());
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(hosts: &[&str]) -> State {
        let running = hosts.iter().map(|h| (*h).to_owned()).collect();
        State {
            picture: Picture {
                running,
                ..Picture::default()
            },
            ..State::default()
        }
    }

    #[test]
    fn events_of_hosts_fill_the_picture() {
        let mut state = state(&["a", "b"]);
        take(
            &mut state,
            &json!({"reqid": "1f", "hosts": ["a", "b"]}),
            false,
        );
        take(&mut state, &json!({"host": "a"}), false);
        assert_eq!(state.picture.running, ["a", "b"], "it has only begun");
        take(
            &mut state,
            &json!({"host": "a", "exit": 0, "stdout": "x"}),
            false,
        );
        assert_eq!(
            (state.picture.running.as_slice(), state.latest.as_deref()),
            (&["b".to_owned()][..], Some("a"))
        );
        take(&mut state, &json!({"ok": true, "results": []}), true);
        assert!(state.picture.complete());
        assert_eq!(state.picture.hosts["b"]["outcome"], json!("unknown"));
    }

    #[test]
    fn megabytes_of_an_agent_are_not_remembered() {
        let mut state = state(&["a"]);
        let data =
            json!({"host": "a", "exit": 0, "stdout": "x".repeat(4 << 20), "stderr": "short"});
        take(&mut state, &data, false);
        let kept = &state.picture.hosts["a"];
        assert!(kept["stdout"].as_str().unwrap().len() <= MAX_CHARACTERS);
        assert_eq!(
            (&kept["stderr"], &kept["cut"]),
            (&json!("short"), &json!(true))
        );
        let shown = state.picture.result("N").structured_content.unwrap();
        assert_eq!(shown["hosts"]["a"]["cut"], json!(true));
    }

    #[test]
    fn records_of_both_kinds() {
        let sync = recorded(
            "1f",
            &json!({"complete": true, "hosts": ["a"], "results": [{"host": "a", "exit": 0}]}),
        );
        assert!(sync.complete() && sync.hosts["a"]["exit"] == json!(0));
        let asynchronous = recorded(
            "1f",
            &json!({"complete": false, "pending": ["b"], "hosts": {"a": {"status": "done", "exit": 0}, "b": {"status": "running"}}}),
        );
        assert_eq!(asynchronous.running, ["b"]);
        assert!(!recorded("1f", &json!({"complete": false, "hosts": ["a"]})).complete());
    }
}
