//! Calls to many agents at once: one connection state machine each, driven by one loop per core
//! (dispatcher.md §8).

pub mod address;
mod error;
mod feed;
pub mod select;
mod tls_fault;
mod worker;

pub use error::{CallError, Fault, PERL_REQUEST, Phase};

use crate::fleet::address::Target;
use ctrl_exec_reactor::SLOWEST;
use ctrl_exec_reactor::http::Response;
use feed::Feed;
use rustls::ClientConfig;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Largest answer, in bytes, to a request whose answer is a few lines: ping, renewal, rotation.
pub const SMALL_ANSWER: usize = 64 << 10;
/// Largest answer otherwise, unless configured (`max_answer`): what an agent of ours sends at most
/// with its default limits is 3 MiB. At the slowest speed that is taken, this is 70 minutes.
pub const MAX_ANSWER: usize = 4 << 20;
/// Bytes of answers that may be under way or wait to be looked at, all agents together. What would
/// pass it fails alone.
const MAX_PENDING: usize = 256 << 20;

/// From how many calls on more than one thread pays.
const MANY: usize = 128;
/// How often the caller gets a [`Report::Tick`].
const TICK: Duration = Duration::from_millis(100);

/// One request to one agent.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where it goes.
    pub target: Target,
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path, such as `/run`.
    pub path: String,
    /// Body of a `POST`; shared by the calls of a fleet.
    pub body: Option<Arc<str>>,
    /// Which of the engine's identities is presented.
    pub identity: usize,
    /// Whether the agent's certificate is wanted in the answer.
    pub want_certificate: bool,
    /// Whether the answer is a few lines ([`SMALL_ANSWER`]), whatever the engine's limit.
    pub small_answer: bool,
}

impl Call {
    /// A `GET`.
    pub fn get(target: Target, path: impl Into<String>) -> Self {
        Self {
            target,
            method: "GET",
            path: path.into(),
            body: None,
            identity: 0,
            want_certificate: false,
            small_answer: false,
        }
    }

    /// A `POST` of a JSON body.
    pub fn post(target: Target, path: impl Into<String>, body: impl Into<Arc<str>>) -> Self {
        Self {
            method: "POST",
            body: Some(body.into()),
            ..Self::get(target, path)
        }
    }

    /// The same call, whose answer is at most [`SMALL_ANSWER`] bytes.
    #[must_use]
    pub fn small(mut self) -> Self {
        self.small_answer = true;
        self
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Answer {
    /// From the first step to the last byte.
    pub rtt: Duration,
    /// The agent's response, of whatever status, or why there is none.
    pub result: Result<Response, CallError>,
    /// The agent's certificate, if it was wanted and the handshake got so far.
    pub certificate: Option<Vec<u8>>,
}

/// What the engine tells while it runs.
#[derive(Debug)]
pub enum Report {
    /// This call has begun.
    Begun(usize),
    /// This call is over.
    Ended(usize, Answer),
    /// Some time has passed.
    Tick,
}

impl Report {
    /// Bytes of the answer that is reported.
    fn size(&self) -> usize {
        match self {
            Self::Ended(
                _,
                Answer {
                    result: Ok(response),
                    ..
                },
            ) => response.body.len(),
            _ => 0,
        }
    }
}

/// What the caller wants next.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Flow {
    /// Go on.
    Go,
    /// Begin no further call; await those under way.
    Finish,
    /// Give up on everything.
    Abort,
}

/// Makes calls.
#[derive(Clone, Debug)]
pub struct Engine {
    identities: Vec<Arc<ClientConfig>>,
    parallel: usize,
    step: Duration,
    max_answer: usize,
    deadline: Option<Instant>,
    revoked: Arc<HashSet<String>>,
}

impl Engine {
    /// An engine that presents `identity`, makes at most `parallel` calls at once and gives each
    /// step of a call (connect, handshake, each read) `step`.
    pub fn new(identity: Arc<ClientConfig>, parallel: usize, step: Duration) -> Self {
        Self {
            identities: vec![identity],
            parallel: parallel.max(1),
            step,
            max_answer: MAX_ANSWER,
            deadline: None,
            revoked: Arc::default(),
        }
    }

    /// Takes answers of at most so many bytes.
    #[must_use]
    pub fn with_max_answer(mut self, max_answer: usize) -> Self {
        self.max_answer = max_answer;
        self
    }

    /// Ends every call that is not over at this moment, with [`Fault::OutOfTime`].
    #[must_use]
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Adds an identity that calls may choose; returns its number.
    pub fn add_identity(&mut self, identity: Arc<ClientConfig>) -> usize {
        self.identities.push(identity);
        self.identities.len() - 1
    }

    /// The same engine with another identity in place of all it had.
    #[must_use]
    pub fn with_identity(mut self, identity: Arc<ClientConfig>) -> Self {
        self.identities = vec![identity];
        self
    }

    /// Refuses agents that show a certificate with one of these serials
    /// ([`crate::store::files::revoked::normal`]) before anything is sent to them.
    #[must_use]
    pub fn refusing(mut self, revoked: HashSet<String>) -> Self {
        self.revoked = Arc::new(revoked);
        self
    }

    /// Changes the number of calls at once.
    #[must_use]
    pub fn with_parallel(mut self, parallel: usize) -> Self {
        self.parallel = parallel.max(1);
        self
    }

    /// Makes all calls and reports each end exactly once, in order of completion. Calls that were
    /// not begun when the caller stopped end with [`Fault::NotStarted`]; when no loop could be made
    /// (file descriptors, threads), with [`Fault::Local`].
    pub fn run(&self, calls: &[Call], report: &mut dyn FnMut(Report) -> Flow) {
        let threads = if calls.len() < MANY {
            1
        } else {
            std::thread::available_parallelism().map_or(1, usize::from)
        };
        let threads = threads.min(self.parallel);
        let shared = Shared {
            calls,
            engine: self,
            feed: Mutex::new(Feed::new(calls)),
            finish: AtomicBool::new(false),
            abort: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            broken: Mutex::new(None),
        };
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let share = self.parallel / threads + usize::from(thread < self.parallel % threads);
                let sender = sender.clone();
                let shared = &shared;
                let spawned = std::thread::Builder::new().spawn_scoped(scope, move || {
                    let worker = worker::Worker::new(shared, share, threads);
                    if let Err(error) = worker.and_then(|worker| worker.run(&sender)) {
                        shared.broken(error.to_string());
                    }
                });
                if let Err(error) = spawned {
                    shared.broken(error.to_string());
                }
            }
            drop(sender);
            loop {
                let flow = match receiver.recv_timeout(TICK) {
                    Ok(item) => {
                        let size = item.size();
                        let flow = report(item);
                        shared.pending.fetch_sub(size, Ordering::Relaxed);
                        flow
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => report(Report::Tick),
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                };
                shared
                    .finish
                    .fetch_or(flow >= Flow::Finish, Ordering::Relaxed);
                shared
                    .abort
                    .fetch_or(flow >= Flow::Abort, Ordering::Relaxed);
            }
        });
        // Workers leave calls behind when the run was stopped, or when none of them could work.
        let broken = shared
            .broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let fault = broken.map_or(Fault::NotStarted, Fault::Local);
        for index in shared.feed().drain() {
            report(Report::Ended(index, shared.failed(index, fault.clone())));
        }
    }

    /// Makes all calls and returns their answers in the order of the calls.
    pub fn all(&self, calls: &[Call]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = calls.iter().map(|_| None).collect();
        self.run(calls, &mut |report| {
            if let Report::Ended(index, answer) = report {
                answers[index] = Some(answer);
            }
            Flow::Go
        });
        answers
            .into_iter()
            .zip(calls)
            .map(|(answer, call)| {
                answer.unwrap_or_else(|| call.failed(Fault::NotStarted, Duration::ZERO))
            })
            .collect()
    }
}

impl Call {
    fn failed(&self, fault: Fault, rtt: Duration) -> Answer {
        let Target { address, port, .. } = &self.target;
        let error = CallError {
            fault,
            address: address.clone(),
            port: *port,
        };
        Answer {
            rtt,
            result: Err(error),
            certificate: None,
        }
    }
}

/// What the loops share.
struct Shared<'a> {
    calls: &'a [Call],
    engine: &'a Engine,
    feed: Mutex<Feed>,
    finish: AtomicBool,
    abort: AtomicBool,
    /// Bytes of answers that the caller has not looked at yet.
    pending: AtomicUsize,
    /// Why a loop could not go on.
    broken: Mutex<Option<String>>,
}

impl Shared<'_> {
    fn feed(&self) -> std::sync::MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first reason is kept.
    fn broken(&self, why: String) {
        self.broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
    }

    fn failed(&self, index: usize, fault: Fault) -> Answer {
        self.calls[index].failed(fault, Duration::ZERO)
    }
}
