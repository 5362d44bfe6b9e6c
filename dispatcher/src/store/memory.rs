//! Stores in memory, for tests.

use super::locks::{Held, LockError, Locks};
use super::runs::{Retention, RunStoreError, Runs};
use crate::model::RunRecord;
use crate::model::host_word;
use ctrl_exec_protocol::names;
use std::collections::{BTreeMap, BTreeSet};
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

/// Locks.
#[derive(Debug, Default)]
pub struct MemoryLocks(Arc<Mutex<BTreeSet<(String, String)>>>);

struct Guard {
    locks: Arc<Mutex<BTreeSet<(String, String)>>>,
    taken: Vec<(String, String)>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap();
        for pair in &self.taken {
            locks.remove(pair);
        }
    }
}

impl Locks for MemoryLocks {
    fn acquire(&self, hosts: &[String], script: &str) -> Result<Held, LockError> {
        let mut words: BTreeSet<&str> = hosts.iter().map(String::as_str).collect();
        words.extend(hosts.iter().map(|host| host_word::split(host).0));
        let pairs = words
            .iter()
            .map(|host| ((*host).to_owned(), script.to_owned()));
        let taken: Vec<_> = pairs.collect();
        let mut locks = self.0.lock().unwrap();
        let held = taken.iter().filter(|pair| locks.contains(*pair));
        let held: Vec<String> = held
            .map(|(host, script)| format!("{host}:{script}"))
            .collect();
        if !held.is_empty() {
            return Err(LockError::Held(held));
        }
        locks.extend(taken.iter().cloned());
        drop(locks);
        Ok(Held::new(Guard {
            locks: Arc::clone(&self.0),
            taken,
        }))
    }

    fn list(&self) -> Result<Vec<(String, String)>, LockError> {
        Ok(self.0.lock().unwrap().iter().cloned().collect())
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
    }
}
