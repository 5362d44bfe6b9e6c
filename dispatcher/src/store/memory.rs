//! Stores in memory, for tests.

use super::agents::{Agents, Listing, RegistryError};
use super::files::revoked::normal;
use super::locks::{Guard, Held, LockError, Locks};
use super::pairings::{Pairings, QueueError};
use super::revoked::{Entry, Revoked};
use super::rotation::Rotations;
use super::runs::{Retention, RunStoreError, Runs};
use crate::model::{
    AgentRecord, Decision, Holder, Identified, LockNote, Queued, RotationState, RunRecord,
    host_word,
};
use ctrl_exec_host::syslog::Syslog;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::{Outcome, PairRequest};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Records of runs.
#[derive(Debug, Default)]
pub struct MemoryRuns(Mutex<BTreeMap<String, (String, SystemTime)>>);

impl MemoryRuns {
    fn read(reqid: &str, text: &str) -> Result<RunRecord, RunStoreError> {
        RunRecord::parse(reqid, text.as_bytes()).map_err(|fault| RunStoreError::Damaged {
            path: reqid.into(),
            fault,
        })
    }
}

impl Runs for MemoryRuns {
    fn load(&self, reqid: &str) -> Result<Option<RunRecord>, RunStoreError> {
        let records = self.0.lock().unwrap();
        let found = records.get(reqid);
        found.map(|(text, _)| Self::read(reqid, text)).transpose()
    }

    fn save(&self, record: &RunRecord) -> Result<(), RunStoreError> {
        if !names::is_reqid(&record.reqid) {
            return Err(RunStoreError::BadId(record.reqid.clone()));
        }
        let entry = (record.to_json(), SystemTime::now());
        self.0.lock().unwrap().insert(record.reqid.clone(), entry);
        Ok(())
    }

    fn update(
        &self,
        reqid: &str,
        change: &mut dyn FnMut(&mut RunRecord),
    ) -> Result<Option<RunRecord>, RunStoreError> {
        let mut records = self.0.lock().unwrap();
        let Some((text, written)) = records.get_mut(reqid) else {
            return Ok(None);
        };
        let mut record = Self::read(reqid, text)?;
        change(&mut record);
        (*text, *written) = (record.to_json(), SystemTime::now());
        Ok(Some(record))
    }

    fn ids(&self) -> Result<Vec<String>, RunStoreError> {
        let records = self.0.lock().unwrap();
        let mut ids: Vec<_> = records.iter().map(|(id, (_, at))| (*at, id)).collect();
        ids.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(ids.into_iter().map(|(_, id)| id.clone()).collect())
    }

    fn purge(&self, now: SystemTime, keep: &Retention) -> Result<usize, RunStoreError> {
        let mut records = self.0.lock().unwrap();
        let sizes = records
            .iter()
            .map(|(id, (text, at))| (id.clone(), *at, text.len() as u64));
        let surplus = keep.surplus(now, sizes.collect());
        records.retain(|id, _| !surplus.contains(id));
        Ok(surplus.len())
    }
}

/// Locks: whether a command holds one, and the note in it.
#[derive(Debug, Default)]
pub struct MemoryLocks(Arc<Mutex<Table>>);

type Table = BTreeMap<(String, String), (bool, Option<LockNote>)>;

struct Taken {
    locks: Arc<Mutex<Table>>,
    taken: Vec<(String, String)>,
}

impl Taken {
    fn set(&self, word: &str, note: Option<&LockNote>) {
        let bare = host_word::split(word).0;
        let mut locks = self.locks.lock().unwrap();
        let of_word = |pair: &&(String, String)| pair.0 == word || pair.0 == bare;
        for pair in self.taken.iter().filter(of_word) {
            locks.insert(pair.clone(), (true, note.cloned()));
        }
    }
}

impl Guard for Taken {
    fn note(&mut self, word: &str, note: &LockNote) {
        self.set(word, Some(note));
    }

    fn over(&mut self, word: &str) {
        self.set(word, None);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap();
        for pair in &self.taken {
            if let Some(entry) = locks.get_mut(pair) {
                entry.0 = false;
            }
        }
        locks.retain(|_, (live, note)| *live || note.is_some());
    }
}

impl Locks for MemoryLocks {
    fn acquire(
        &self,
        hosts: &[String],
        script: &str,
        now: i64,
        passed_over: &[String],
    ) -> Result<Held, LockError> {
        let mut words: BTreeSet<&str> = hosts.iter().map(String::as_str).collect();
        words.extend(hosts.iter().map(|host| host_word::split(host).0));
        let pairs = words
            .iter()
            .map(|host| ((*host).to_owned(), script.to_owned()));
        let taken: Vec<_> = pairs.collect();
        let mut locks = self.0.lock().unwrap();
        let held = taken.iter().filter_map(|pair| {
            let (live, note) = locks.get(pair)?;
            let kept = |note: &LockNote| {
                !passed_over.contains(&note.reqid) && note.until.is_none_or(|at| at >= now)
            };
            let keeps = *live || note.as_ref().is_some_and(kept);
            keeps.then(|| Holder {
                host: pair.0.clone(),
                script: pair.1.clone(),
                live: *live,
                note: note.clone(),
            })
        });
        let held: Vec<Holder> = held.collect();
        if !held.is_empty() {
            return Err(LockError::Held(held));
        }
        for pair in &taken {
            locks.insert(pair.clone(), (true, None));
        }
        drop(locks);
        Ok(Held::new(Taken {
            locks: Arc::clone(&self.0),
            taken,
        }))
    }

    fn list(&self) -> Result<Vec<Holder>, LockError> {
        let locks = self.0.lock().unwrap();
        let holders = locks.iter().map(|((host, script), (live, note))| Holder {
            host: host.clone(),
            script: script.clone(),
            live: *live,
            note: note.clone(),
        });
        Ok(holders.collect())
    }

    fn settle(&self, is_over: &dyn Fn(&LockNote) -> bool) -> Result<usize, LockError> {
        let mut locks = self.0.lock().unwrap();
        let before = locks.len();
        locks.retain(|_, (live, note)| *live || !note.as_ref().is_some_and(is_over));
        Ok(before - locks.len())
    }
}

/// Records of agents.
#[derive(Debug, Default)]
pub struct MemoryAgents(Mutex<BTreeMap<String, AgentRecord>>);

impl MemoryAgents {
    fn check(name: &str) -> Result<(), RegistryError> {
        if names::is_agent_name(name) {
            return Ok(());
        }
        Err(RegistryError::BadName(name.to_owned()))
    }
}

impl Agents for MemoryAgents {
    fn load(&self, name: &str) -> Result<Option<AgentRecord>, RegistryError> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    fn names(&self) -> Result<Vec<String>, RegistryError> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    fn list(&self) -> Result<Listing, RegistryError> {
        let mut records: Vec<AgentRecord> = self.0.lock().unwrap().values().cloned().collect();
        records.sort_by(|a, b| a.hostname().cmp(b.hostname()));
        Ok(Listing {
            records,
            damaged: Vec::new(),
        })
    }

    fn register(&self, record: &AgentRecord) -> Result<(), RegistryError> {
        Self::check(record.name())?;
        let entry = (record.name().to_owned(), record.clone());
        self.0.lock().unwrap().extend([entry]);
        Ok(())
    }

    fn update(
        &self,
        name: &str,
        change: &mut dyn FnMut(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError> {
        Self::check(name)?;
        let mut records = self.0.lock().unwrap();
        let unknown = || RegistryError::Unknown(name.to_owned());
        let record = records.get_mut(name).ok_or_else(unknown)?;
        change(record);
        Ok(record.clone())
    }

    fn update_many(
        &self,
        names: &[&str],
        change: &mut dyn FnMut(&mut AgentRecord) -> bool,
    ) -> Result<usize, RegistryError> {
        let mut records = self.0.lock().unwrap();
        let mut written = 0;
        for name in names {
            let Some(record) = records.get_mut(*name) else {
                continue;
            };
            let mut changed = record.clone();
            if change(&mut changed) {
                *record = changed;
                written += 1;
            }
        }
        Ok(written)
    }

    fn rename(
        &self,
        old: &str,
        new: &str,
        change: &mut dyn FnMut(&mut AgentRecord),
    ) -> Result<AgentRecord, RegistryError> {
        Self::check(old)?;
        Self::check(new)?;
        let mut records = self.0.lock().unwrap();
        if old != new && records.contains_key(new) {
            return Err(RegistryError::Exists(new.to_owned()));
        }
        let unknown = || RegistryError::Unknown(old.to_owned());
        let mut record = records.remove(old).ok_or_else(unknown)?;
        if old != new {
            record.rename(new);
        }
        change(&mut record);
        records.insert(new.to_owned(), record.clone());
        Ok(record)
    }

    fn remove(&self, name: &str) -> Result<AgentRecord, RegistryError> {
        Self::check(name)?;
        let removed = self.0.lock().unwrap().remove(name);
        removed.ok_or_else(|| RegistryError::Unknown(name.to_owned()))
    }
}

/// A request, unless it was denied, and what was decided.
type Request = (Option<Queued>, Option<(Decision, Vec<u8>)>);

/// Requests to be paired.
#[derive(Debug, Default)]
pub struct MemoryPairings(Mutex<BTreeMap<String, Request>>);

impl Pairings for MemoryPairings {
    fn add(
        &self,
        request: &PairRequest,
        source: &str,
        identified: &Identified,
        now: Utc,
    ) -> Result<Queued, QueueError> {
        let mut requests = self.0.lock().unwrap();
        let id = format!("{:016x}", requests.len());
        let queued = Queued::of(request, id.clone(), source, identified, now);
        requests.insert(id, (Some(queued.clone()), None));
        Ok(queued)
    }

    fn pending(&self) -> Result<Vec<Queued>, QueueError> {
        let requests = self.0.lock().unwrap();
        let open = requests.values().filter(|(_, decision)| decision.is_none());
        let mut found: Vec<Queued> = open.filter_map(|(queued, _)| queued.clone()).collect();
        found.sort_by(|a, b| (&a.received, &a.id).cmp(&(&b.received, &b.id)));
        Ok(found)
    }

    fn load(&self, id: &str) -> Result<Queued, QueueError> {
        if !names::is_queue_id(id) {
            return Err(QueueError::BadId(id.to_owned()));
        }
        let requests = self.0.lock().unwrap();
        let queued = requests.get(id).and_then(|(queued, _)| queued.clone());
        queued.ok_or_else(|| QueueError::Unknown(id.to_owned()))
    }

    fn decide(&self, id: &str, outcome: &Outcome) -> Result<(), QueueError> {
        if !names::is_queue_id(id) {
            return Err(QueueError::BadId(id.to_owned()));
        }
        let mut requests = self.0.lock().unwrap();
        let request = requests.entry(id.to_owned()).or_default();
        let decision = match outcome {
            Outcome::Approved(_) => Decision::Approved,
            Outcome::Denied { .. } => {
                request.0 = None;
                Decision::Denied
            }
        };
        request.1 = Some((decision, outcome.render().into_bytes()));
        Ok(())
    }

    fn answer(&self, id: &str) -> Option<(Decision, Vec<u8>)> {
        self.0.lock().unwrap().get(id)?.1.clone()
    }

    fn finish(&self, id: &str) -> Result<(), QueueError> {
        self.0.lock().unwrap().remove(id);
        Ok(())
    }
}

/// The state of rotation.
#[derive(Debug, Default)]
pub struct MemoryRotations(Mutex<Option<RotationState>>);

impl Rotations for MemoryRotations {
    fn load(&self, _: &Syslog) -> io::Result<Option<RotationState>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn save(&self, state: &RotationState) -> io::Result<()> {
        *self.0.lock().unwrap() = Some(state.clone());
        Ok(())
    }
}

/// Barred serials.
#[derive(Debug, Default)]
pub struct MemoryRevoked(Mutex<Vec<Entry>>);

impl Revoked for MemoryRevoked {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn add(&self, serials: &[String], comment: &str) -> io::Result<usize> {
        let mut entries = self.0.lock().unwrap();
        let before = entries.len();
        for serial in serials {
            let serial = normal(serial);
            if entries.iter().all(|entry| entry.serial != serial) {
                let comment = comment.to_owned();
                entries.push(Entry { serial, comment });
            }
        }
        Ok(entries.len() - before)
    }

    fn remove(&self, serials: &HashSet<String>) -> io::Result<Vec<String>> {
        let mut entries = self.0.lock().unwrap();
        let barred = entries.iter().map(|entry| entry.serial.clone());
        let removed: Vec<String> = barred.filter(|serial| serials.contains(serial)).collect();
        entries.retain(|entry| !serials.contains(&entry.serial));
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[test]
    fn memory_is_a_store() {
        conformance::runs(&MemoryRuns::default());
        conformance::locks(&MemoryLocks::default());
        conformance::agents(&MemoryAgents::default());
        conformance::pairings(&MemoryPairings::default());
        conformance::rotation(&MemoryRotations::default());
        conformance::revoked(&MemoryRevoked::default());
    }
}
