//! What blocks (name resolution, a database, fsync) runs on worker threads, and its result comes
//! back as an event. One service for all of it, bounded in threads and in jobs.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::event::{Event, JobId, QueryId};

/// A job; what it makes of itself is told to the application.
pub(crate) type Job = Box<dyn FnOnce() -> Event + Send>;

/// What the loop sees of the service. A trait object so that a program that never offloads anything
/// does not carry threads and the resolver.
pub(crate) trait Offload: std::fmt::Debug + Send {
    fn start(&mut self, job: Job) -> io::Result<()>;
    fn take(&mut self) -> Vec<Event>;
}

/// Up to [`THREADS`] threads, started as they are needed; they end with the service. A job that is
/// under way then is left alone, and its result lost.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
    wake: Arc<mio::Waker>,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    done: Vec<Event>,
    idle: usize,
    over: bool,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("jobs", &self.jobs.len())
            .field("done", &self.done.len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub fn new(wake: Arc<mio::Waker>) -> Self {
        let shared = Shared {
            work: Mutex::default(),
            changed: Condvar::new(),
            wake,
        };
        Pool {
            shared: Arc::new(shared),
            threads: 0,
        }
    }
}

impl Offload for Pool {
    fn start(&mut self, job: Job) -> io::Result<()> {
        let mut work = self.shared.lock();
        if work.jobs.len() >= MAX_WAITING {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "too much is waiting to be done",
            ));
        }
        work.jobs.push_back(job);
        let start = work.idle < work.jobs.len() && self.threads < THREADS;
        drop(work);
        self.shared.changed.notify_one();
        if start {
            let shared = self.shared.clone();
            let builder = thread::Builder::new()
                .name("offload".into())
                .stack_size(STACK);
            match builder.spawn(move || shared.run()) {
                Ok(_) => self.threads += 1,
                // The threads there are will do it.
                Err(_) if self.threads > 0 => {}
                Err(error) => {
                    // Nobody else takes jobs, so the last is still the one above.
                    self.shared.lock().jobs.pop_back();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.shared.lock().done)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while it holds the lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.lock();
        while !work.over {
            let Some(job) = work.jobs.pop_front() else {
                work.idle += 1;
                work = self
                    .changed
                    .wait(work)
                    .unwrap_or_else(PoisonError::into_inner);
                work.idle -= 1;
                continue;
            };
            drop(work);
            let event = job();
            work = self.lock();
            work.done.push(event);
            // Without it the answer comes with the next event.
            let _ = self.wake.wake();
        }
    }
}

/// The job that runs the application's `work`.
pub(crate) fn job<T: Any + Send>(job: JobId, work: impl FnOnce() -> T + Send + 'static) -> Job {
    Box::new(move || {
        // Whoever waits for it is told, rather than left waiting.
        let result = catch_unwind(AssertUnwindSafe(work));
        let value = result
            .ok()
            .map(|value| Box::new(value) as Box<dyn Any + Send>);
        Event::Offloaded { job, value }
    })
}

/// The job that resolves a name.
pub(crate) fn query(query: QueryId, name: &str) -> Job {
    let name = name.to_owned();
    Box::new(move || Event::Resolved {
        query,
        result: look_up(&name),
    })
}

fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?;
    let mut addresses = Vec::new();
    for address in found.map(|found| found.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        Err("no address associated with the name".into())
    } else {
        Ok(addresses)
    }
}

/// Jobs at a time.
const THREADS: usize = 16;
/// Jobs that wait for a thread at most. A fleet may have a name for each agent.
const MAX_WAITING: usize = 65_536;
/// The C library's resolver needs some tens of kilobytes, its plug-ins more.
const STACK: usize = 512 * 1024;
