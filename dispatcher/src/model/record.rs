//! The record of a run (dispatcher.md §12), shared with release 0.12.3.

use super::entry::HostEntry;
use super::host_word::split;
use super::outcome::Outcome;
use super::reply::RunEnd;
use super::result::HostResult;
use ctrl_exec_protocol::hook::Submitter;
use ctrl_exec_protocol::json::{Bounds, Json, Members, Raw};
use std::collections::BTreeMap;

/// Most output kept in the record of a sync run; beyond it the record has the ends only.
const MAX_OUTPUT: usize = 16 << 20;

/// What a record is about, besides what all have.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The caller waited.
    Sync {
        /// Host words as typed.
        words: Vec<String>,
        /// The hosts that have ended so far.
        results: Vec<HostResult<RunEnd>>,
    },
    /// The caller asks later.
    Async {
        /// By registry name.
        entries: BTreeMap<String, HostEntry>,
    },
}

/// Who gave an order. None of it is proven to the dispatcher but by the machine it runs on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Origin {
    /// The user name that hooks and scripts are told (`--username`, else `$USER`).
    pub username: Option<String>,
    /// `$USER`.
    pub user: Option<String>,
    /// Who called sudo.
    pub sudo_user: Option<String>,
    /// Who logged in, whatever was called since.
    pub login_uid: Option<u32>,
}

impl Origin {
    /// The name to show: who called sudo, else the name that hooks are told, else `$USER`.
    pub fn name(&self) -> Option<&str> {
        let names = [&self.sudo_user, &self.username, &self.user];
        names.into_iter().find_map(Option::as_deref)
    }
}

/// The record of a run. Members of other versions are kept.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The request id.
    pub reqid: String,
    /// The script.
    pub script: String,
    /// Its hosts and what is known of them.
    pub mode: Mode,
    /// When it was submitted, in seconds since 1970.
    pub created: Option<i64>,
    /// When the last host of a sync run ended.
    pub completed: Option<i64>,
    /// Nothing will change any more.
    pub complete: bool,
    more: Members,
}

impl RunRecord {
    /// The record of a run that is about to be submitted.
    pub fn new(reqid: &str, script: &str, mode: Mode, created: i64) -> Self {
        let mut record = Self {
            reqid: reqid.to_owned(),
            script: script.to_owned(),
            mode,
            created: Some(created),
            completed: None,
            complete: false,
            more: Members::new(),
        };
        record.recompute();
        record
    }

    /// Notes who gave the order, and with which arguments. Releases that do not know these members
    /// keep them.
    pub fn note_order(&mut self, args: &[String], by: &Origin) {
        self.more.set("args", Json::texts(args));
        let mut who = Members::new();
        who.set_text("username", by.username.as_deref());
        who.set_text("user", by.user.as_deref());
        who.set_text("sudo_user", by.sudo_user.as_deref());
        who.set_integer("login_uid", by.login_uid.map(i64::from));
        self.more.set("by", who);
    }

    /// Notes who gave the order over HTTP, as release 0.12.3 does.
    pub fn note_submitter(&mut self, submitter: &Submitter) {
        let who = Members::of([
            ("username", Json::text(&*submitter.username)),
            ("source_ip", Json::text(&*submitter.source_ip)),
        ]);
        self.more.set("submitter", who);
    }

    /// Who gave the order over HTTP, where somebody did.
    pub fn submitter(&self) -> Option<Submitter> {
        let who = self.more.object("submitter")?;
        Some(Submitter {
            username: who.text("username").unwrap_or_default().into_owned(),
            source_ip: who.text("source_ip").unwrap_or_default().into_owned(),
        })
    }

    /// The record for others than the operator: neither who gave the order nor its arguments.
    pub fn public_object(&self) -> Members {
        let mut object = self.object();
        for private in ["submitter", "by", "args"] {
            object.remove(private);
        }
        object
    }

    /// The arguments of the script; `None` where the record does not say.
    pub fn args(&self) -> Option<Vec<String>> {
        let known = self.more.contains("args");
        known.then(|| self.more.texts("args"))
    }

    /// Who gave the order, as far as the record says.
    pub fn by(&self) -> Origin {
        let Some(who) = self.more.object("by") else {
            return Origin::default();
        };
        let text = |key| who.text(key).map(std::borrow::Cow::into_owned);
        Origin {
            username: text("username"),
            user: text("user"),
            sudo_user: text("sudo_user"),
            login_uid: who
                .integer("login_uid")
                .and_then(|uid| u32::try_from(uid).ok()),
        }
    }

    /// The registry names of its hosts.
    pub fn hosts(&self) -> Vec<&str> {
        match &self.mode {
            Mode::Sync { words, .. } => words.iter().map(|word| split(word).0).collect(),
            Mode::Async { entries } => entries.keys().map(String::as_str).collect(),
        }
    }

    /// Reads the record of `reqid`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(reqid: &str, bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.is_empty() {
            return Err("empty");
        }
        let mut object =
            Members::parse(bytes, &Bounds::RECORD).map_err(|_| "no JSON object, or cut")?;
        let hosts = object.get("hosts").and_then(Members::from_raw);
        let mode = match hosts {
            Some(hosts) => Mode::Async {
                entries: hosts
                    .iter()
                    .filter_map(|(name, entry)| {
                        let entry = HostEntry::from_object(Members::from_raw(entry)?);
                        Some((name.to_owned(), entry))
                    })
                    .collect(),
            },
            None => Mode::Sync {
                words: object.texts("hosts"),
                results: object
                    .get("results")
                    .into_iter()
                    .flat_map(Raw::items)
                    .filter_map(Members::from_raw)
                    .map(HostResult::from_object)
                    .collect(),
            },
        };
        for derived in ["hosts", "results", "mode", "pending"] {
            object.remove(derived);
        }
        let complete = object.is_true("complete");
        object.remove("complete");
        object.take_text("reqid");
        Ok(Self {
            reqid: reqid.to_owned(),
            script: object.take_text("script").unwrap_or_default(),
            mode,
            created: object.take_integer("created"),
            completed: object.take_integer("completed"),
            complete,
            more: object,
        })
    }

    /// The record as an object.
    pub fn object(&self) -> Members {
        let mut object = self.more.clone();
        object.set("reqid", Json::text(&*self.reqid));
        object.set("script", Json::text(&*self.script));
        object.set("complete", Json::flag(self.complete));
        object.set_integer("created", self.created);
        object.set_integer("completed", self.completed);
        match &self.mode {
            Mode::Async { entries } => {
                object.set("mode", Json::text("async"));
                object.set("pending", Json::texts(self.open_hosts()));
                let hosts: Members = entries
                    .iter()
                    .map(|(name, entry)| (name.clone(), entry.object().into()))
                    .collect();
                object.set("hosts", hosts);
            }
            Mode::Sync { words, results } => {
                object.set("mode", Json::text("sync"));
                object.set("hosts", Json::texts(words));
                object.set("results", HostResult::array(results));
            }
        }
        object
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        self.object().render()
    }

    /// Hosts of an async run that may still change, by name.
    pub fn open_hosts(&self) -> Vec<&str> {
        match &self.mode {
            Mode::Async { entries } => entries
                .iter()
                .filter(|(_, entry)| entry.is_open())
                .map(|(name, _)| name.as_str())
                .collect(),
            Mode::Sync { .. } => Vec::new(),
        }
    }

    /// Looks whether an async run is complete.
    pub fn recompute(&mut self) {
        if matches!(self.mode, Mode::Async { .. }) {
            self.complete = self.open_hosts().is_empty();
        }
    }

    /// The hosts whose end is not known, as host words: the run may go on there.
    pub fn unended_words(&self) -> Vec<String> {
        match &self.mode {
            Mode::Async { .. } => self.open_hosts().into_iter().map(str::to_owned).collect(),
            Mode::Sync { words, results } => {
                let mut ends: BTreeMap<&str, bool> = BTreeMap::new();
                for result in results {
                    ends.insert(&result.host, result.outcome != Outcome::Unknown);
                }
                let open = |word: &&String| ends.get(split(word).0) != Some(&true);
                words.iter().filter(open).cloned().collect()
            }
        }
    }

    /// Names of the hosts where it failed, each once. Hosts that may still run it are not among
    /// them.
    pub fn failed_hosts(&self) -> Vec<String> {
        let mut failed: Vec<String> = match &self.mode {
            Mode::Async { entries } => entries
                .iter()
                .filter(|(_, entry)| entry.is_failed())
                .map(|(name, _)| name.clone())
                .collect(),
            Mode::Sync { results, .. } => results
                .iter()
                .filter(|result| result.reply.exit != Some(0))
                .filter(|result| result.outcome != Outcome::Unknown)
                .map(|result| result.host.clone())
                .collect(),
        };
        failed.sort();
        failed.dedup();
        failed
    }

    /// Whether anything failed, or is not known to have succeeded.
    pub fn has_failure(&self) -> bool {
        match &self.mode {
            Mode::Async { entries } => entries.values().any(HostEntry::is_failed),
            Mode::Sync { results, .. } => results.iter().any(|result| result.reply.exit != Some(0)),
        }
    }

    /// Adds the result of a host of a sync run whose end nobody has seen. One that is known stays.
    /// When all hosts have one, the record is complete.
    pub fn add_unseen(&mut self, result: HostResult<RunEnd>) {
        let open = self.unended_words();
        if open.iter().any(|word| split(word).0 == result.host) {
            if let Mode::Sync { results, .. } = &mut self.mode {
                results.retain(|known| known.host != result.host);
                results.push(result);
            }
        }
        if let Mode::Sync { words, results } = &self.mode {
            let known = |word: &String| results.iter().any(|one| one.host == split(word).0);
            self.complete = words.iter().all(known);
        }
    }

    /// Adds the end of a host of a sync run. Once there is too much output, none is kept.
    pub fn add(&mut self, mut result: HostResult<RunEnd>) {
        let Mode::Sync { results, .. } = &mut self.mode else {
            return;
        };
        let kept: usize = results.iter().map(|one| one.reply.output_size()).sum();
        if kept + result.reply.output_size() > MAX_OUTPUT {
            result.reply.drop_output();
            for result in results.iter_mut() {
                result.reply.drop_output();
            }
        }
        results.push(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_reference() {
        let text = br#"{"pending":["on"],"mode":"async","script":"slow","created":1795354413,"complete":true,
            "reqid":"86d314f7460cf3e2","x":[1.0],"hosts":{"vm":{"error":"e","status":"error"},
            "ok":{"status":"done","exit":0,"stdout":"","stderr":"","y":2},
            "gone":{"status":"expired"},"on":{"status":"running"}}}"#;
        let record = RunRecord::parse("86d314f7460cf3e2", text).unwrap();
        assert_eq!(record.failed_hosts(), ["gone", "vm"]);
        let same = Members::parse(text, &Bounds::RECORD).unwrap().render();
        assert_eq!(record.to_json(), same);
        let sync = RunRecord::parse(
            "r",
            br#"{"mode":"sync","hosts":["a","b:1","c"],"complete":true,
                "results":[{"host":"a","exit":0},{"host":"b","exit":"3"},{"host":"c","error":"x"},
                {"host":"d","exit":-1,"outcome":"unknown"}]}"#,
        )
        .unwrap();
        assert_eq!(sync.failed_hosts(), ["b", "c"]);
        assert!(sync.unended_words().is_empty());
        let cut = br#"{"mode":"sync","hosts":["a","b:1","c"],"results":[{"host":"b","exit":-1,
            "outcome":"unknown"},{"host":"c","exit":0}]}"#;
        let cut = RunRecord::parse("r", cut).unwrap();
        assert_eq!(cut.unended_words(), ["a", "b:1"]);
        assert!(sync.has_failure());
    }

    #[test]
    fn damaged_records_are_told_apart() {
        assert_eq!(RunRecord::parse("r", b"").unwrap_err(), "empty");
        for text in ["{\"mode\":\"as", "[]", "x"] {
            assert!(RunRecord::parse("r", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn output_is_bounded() {
        let mut record = RunRecord::new(
            "r",
            "s",
            Mode::Sync {
                words: vec!["a".into()],
                results: Vec::new(),
            },
            1,
        );
        let big = |host: &str| {
            let mut object = Members::new();
            object.set("host", Json::text(host));
            object.set("exit", Json::integer(0));
            object.set("stdout", Json::text("x".repeat(9 << 20)));
            HostResult::<RunEnd>::from_object(object)
        };
        record.add(big("a"));
        assert!(record.to_json().len() > 9 << 20);
        record.add(big("b"));
        assert!(record.to_json().len() < 1000, "no half of the outputs");
    }
}
