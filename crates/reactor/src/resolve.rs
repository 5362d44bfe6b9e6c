//! Name resolution on worker threads, since the system's resolver blocks.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::event::QueryId;

/// An answer, or the resolver's words.
pub(crate) type Answer = (QueryId, Result<Vec<IpAddr>, String>);

/// What the loop sees of a resolver. A trait object so that a program that never resolves a name
/// does not carry threads and the resolver.
pub(crate) trait Answers: std::fmt::Debug + Send {
    fn ask(&mut self, query: QueryId, name: &str) -> io::Result<()>;
    fn take(&mut self) -> Vec<Answer>;
}

/// Up to [`THREADS`] threads, started as they are needed; they end with the resolver.
#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
    wake: Arc<mio::Waker>,
}

#[derive(Debug, Default)]
struct Work {
    questions: VecDeque<(QueryId, String)>,
    answers: Vec<Answer>,
    idle: usize,
    over: bool,
}

impl Resolver {
    pub fn new(wake: Arc<mio::Waker>) -> Self {
        let shared = Shared {
            work: Mutex::default(),
            changed: Condvar::new(),
            wake,
        };
        Resolver {
            shared: Arc::new(shared),
            threads: 0,
        }
    }
}

impl Answers for Resolver {
    fn ask(&mut self, query: QueryId, name: &str) -> io::Result<()> {
        let mut work = self.shared.lock();
        work.questions.push_back((query, name.to_owned()));
        let start = work.idle < work.questions.len() && self.threads < THREADS;
        drop(work);
        self.shared.changed.notify_one();
        if start {
            let shared = self.shared.clone();
            let builder = thread::Builder::new()
                .name("resolve".into())
                .stack_size(STACK);
            match builder.spawn(move || shared.run()) {
                Ok(_) => self.threads += 1,
                // The threads there are will do it.
                Err(_) if self.threads > 0 => {}
                Err(error) => {
                    self.shared.lock().questions.retain(|(id, _)| *id != query);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.shared.lock().answers)
    }
}

impl Drop for Resolver {
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
            let Some((query, name)) = work.questions.pop_front() else {
                work.idle += 1;
                work = self
                    .changed
                    .wait(work)
                    .unwrap_or_else(PoisonError::into_inner);
                work.idle -= 1;
                continue;
            };
            drop(work);
            let answer = look_up(&name);
            work = self.lock();
            work.answers.push((query, answer));
            // Without it the answer comes with the next event.
            let _ = self.wake.wake();
        }
    }
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

/// Look-ups at a time.
const THREADS: usize = 16;
/// The C library's resolver needs some tens of kilobytes, its plug-ins more.
const STACK: usize = 512 * 1024;
