//! Timers, children, signals, names and other work that blocks.

use std::any::Any;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::turn::Target;
use super::{Reactor, UserTimer, Waker};
use crate::child::{Child, ChildSpec, EndedBy, SpawnError};
use crate::event::{ChildId, ConnId, Event, JobId, QueryId, Signal, TimerId};
use crate::offload::{self, Pool};
use crate::signals::{Signals, Watched};
use crate::timers::{Alarm, Owner};

impl Reactor {
    /// Yields [`Event::Timer`] after `after`.
    pub fn set_timer(&mut self, after: Duration, token: u64) -> TimerId {
        let generation = self.next_generation();
        let entry = self.user_timers.vacant_entry();
        let id = TimerId::at(entry.key(), generation);
        let mut alarm = Alarm::default();
        let at = self.now.saturating_add(after);
        self.timers.arm(&mut alarm, Owner::User(id.slot), Some(at));
        entry.insert(UserTimer { id, token, alarm });
        id
    }

    /// Forgets a timer; `false` when it has run out already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        if self
            .user_timers
            .get(timer.index())
            .is_none_or(|found| found.id != timer)
        {
            return false;
        }
        let timer = self.user_timers.remove(timer.index());
        self.timers.forget(&timer.alarm);
        true
    }

    /// Starts a child process; [`Event::Child`] tells its end.
    ///
    /// # Errors
    /// When it could not be started; no event follows.
    pub fn spawn(&mut self, spec: ChildSpec) -> Result<ChildId, SpawnError> {
        self.watch(Watched::Child)
            .map_err(|error| SpawnError::Pipe("signal", error))?;
        let generation = self.next_generation();
        let entry = self.children.vacant_entry();
        let id = ChildId::at(entry.key(), generation);
        let registry = self.poll.registry();
        let token = |stdio| Target::Child(id.slot, stdio).token();
        #[allow(unused_mut, reason = "tests change it")]
        let mut child = Child::start(id, spec, self.now, registry, token)?;
        #[cfg(test)]
        {
            child.faults = self.fault_seed.map(crate::faults::Faults::new);
        }
        entry.insert(Box::new(child));
        self.drive_child(id.slot);
        Ok(id)
    }

    /// Kills a child and its process group with SIGKILL. [`Event::Child`] follows.
    pub fn kill_group(&mut self, child: ChildId) -> bool {
        self.child(child).is_some_and(Child::kill)
    }

    /// Ends a child and everything that it has started: SIGTERM, SIGKILL after
    /// [`ChildSpec::patience`]. [`Event::Child`] follows when nothing of it is left. `false` when
    /// it has ended already; true also when it is being ended.
    pub fn end_child(&mut self, child: ChildId) -> bool {
        let now = self.now;
        let found = self
            .children
            .get_mut(child.index())
            .filter(|found| found.id == child);
        let done = found.is_some_and(|found| found.end(EndedBy::Request, now));
        if done {
            self.drive_child(child.slot);
        }
        done
    }

    /// Children that were started and not yet reported. None of them is ended when the reactor is
    /// dropped: that is the application's to decide.
    pub fn live_children(&self) -> usize {
        self.children.len()
    }

    /// Turns these signals into [`Event::Signal`].
    ///
    /// # Errors
    /// When a handler or its pipe cannot be made.
    pub fn watch_signals(&mut self, signals: &[Signal]) -> io::Result<()> {
        signals
            .iter()
            .try_for_each(|signal| self.watch(Watched::User(*signal)))
    }

    /// Whether a connection of [`Reactor::connect_unix`] stands; before that nothing was sent.
    pub fn is_connected(&self, conn: ConnId) -> bool {
        self.conn(conn).is_some_and(|conn| conn.link.is_some())
    }

    /// Sends more on a connection of [`Reactor::connect_unix`] that stands. `false`: it does not.
    pub fn send_more(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let now = self.now;
        let found = self
            .conns
            .get_mut(conn.index())
            .filter(|found| found.id == conn);
        let done = found.is_some_and(|found| found.send_more(bytes, now));
        if done {
            self.drive_conn(conn.slot);
        }
        done
    }

    fn watch(&mut self, what: Watched) -> io::Result<()> {
        if self.signals.is_none() {
            self.signals = Some(Signals::new(self.poll.registry(), Target::Signals.token())?);
        }
        self.signals
            .as_mut()
            .map_or(Ok(()), |signals| signals.watch(what))
    }

    /// Runs `work` on a worker thread, for what would block the loop; [`Event::Offloaded`] brings
    /// what it returns. Some sixteen run at a time, others wait.
    ///
    /// # Errors
    /// When no thread can be started, or far too many jobs wait.
    pub fn offload<T: Any + Send>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JobId> {
        let id = JobId::at(0, self.next_generation());
        self.start_job(offload::job(id, work))?;
        Ok(id)
    }

    fn start_job(&mut self, job: offload::Job) -> io::Result<()> {
        let pool = match &mut self.offload {
            Some(pool) => pool,
            None => {
                let waker = self.waker()?.waker;
                self.offload.insert(Box::new(Pool::new(waker)))
            }
        };
        pool.start(job)
    }

    /// Resolves a host name on a worker thread; [`Event::Resolved`] brings the answer. A literal
    /// address is answered without a thread.
    ///
    /// # Errors
    /// As for [`Reactor::offload`].
    pub fn resolve(&mut self, name: &str) -> io::Result<QueryId> {
        let query = QueryId::at(0, self.next_generation());
        if let Ok(address) = name.parse::<IpAddr>() {
            self.events.push_back(Event::Resolved {
                query,
                result: Ok(vec![address]),
            });
            return Ok(query);
        }
        self.start_job(offload::query(query, name))?;
        Ok(query)
    }

    /// A handle with which another thread can end the wait.
    ///
    /// # Errors
    /// When the operating system has no descriptor for it.
    pub fn waker(&mut self) -> io::Result<Waker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let waker = Arc::new(mio::Waker::new(
            self.poll.registry(),
            Target::Waker.token(),
        )?);
        let waker = Waker {
            waker,
            woken: Arc::default(),
        };
        self.waker = Some(waker.clone());
        Ok(waker)
    }
}
