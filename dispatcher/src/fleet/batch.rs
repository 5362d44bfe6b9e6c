//! A number of calls that were handed over together: what their owner sees and steers.

use super::call::{Answer, Call};
use crate::store::files::registry::Registry;
use ctrl_exec_protocol::live::{Found, Live, Piece};
use ctrl_exec_reactor::Waker;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How the calls of a batch are made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Calls under way at once.
    pub parallel: usize,
    /// So many and never more, also where agents are silent (a rolling run).
    pub rolling: bool,
    /// Limit of each step of a call (handshake, each read without progress).
    pub step: Duration,
    /// Start no further call after so many failures.
    pub max_failures: usize,
    /// Largest answer taken, in bytes.
    pub max_answer: usize,
    /// When every call that is not over ends, with [`Fault::OutOfTime`](super::Fault::OutOfTime).
    pub deadline: Option<Instant>,
    /// Agents may show a certificate with another name than the one paired.
    pub any_name: bool,
    /// The agents that are registered, to tell another agent by its certificate's name.
    pub agents: Option<Registry>,
    /// Serials of certificates that no agent may show
    /// ([`crate::store::files::revoked::normal`]); nothing is sent to one that does.
    pub revoked: Arc<HashSet<String>>,
}

impl Plan {
    /// A plan with no limit on failures and nothing revoked.
    pub fn new(parallel: usize, step: Duration) -> Self {
        Self {
            parallel,
            rolling: false,
            step,
            max_failures: usize::MAX,
            max_answer: super::MAX_ANSWER,
            deadline: None,
            any_name: false,
            agents: None,
            revoked: Arc::default(),
        }
    }
}

/// What happened in a batch. Each call ends exactly once, whatever else happens.
#[derive(Debug)]
pub enum Report<T> {
    /// This call has begun.
    Begun(usize),
    /// Its script wrote this, or so much was lost of what it wrote.
    Output(usize, Piece),
    /// This call is over.
    Ended(usize, T),
}

/// Who is told what happens to calls, on whichever loop it happens.
pub(super) trait Sink: Send + Sync {
    fn begun(&self, index: usize);
    fn output(&self, index: usize, found: Found<'_>);
    /// `count` is called first when this end is a failure.
    fn ended(&self, index: usize, answer: Answer, count: &dyn Fn());
}

/// Nothing new is to begin.
const FINISH: u8 = 1;
/// What is under way is to end too.
const CANCEL: u8 = 2;

/// What loops and owner share.
pub(super) struct Shared {
    pub calls: Arc<[Call]>,
    pub plan: Plan,
    pub sink: Box<dyn Sink>,
    /// Bytes of answers that owners have not looked at yet, over the whole engine.
    pub pending: Arc<AtomicUsize>,
    stop: AtomicU8,
    failures: AtomicUsize,
    /// The call whose agent takes no connection for the longest time.
    paced: Mutex<Option<(usize, Instant)>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Shared {
    pub fn new(
        calls: Arc<[Call]>,
        plan: Plan,
        sink: Box<dyn Sink>,
        pending: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            calls,
            plan,
            sink,
            pending,
            stop: AtomicU8::new(0),
            failures: AtomicUsize::new(0),
            paced: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    /// Notes a loop that works on this batch.
    pub fn wakes(&self, waker: Waker) {
        lock(&self.wakers).push(waker);
    }

    /// Tells the end of a call. A failure counts before its owner hears of it and before this
    /// loop draws the next call, so that no call begins after the last failure allowed.
    pub fn ended(&self, index: usize, answer: Answer) {
        self.sink.ended(index, answer, &|| {
            if self.failures.fetch_add(1, Ordering::SeqCst) + 1 >= self.plan.max_failures {
                self.stop(FINISH);
            }
        });
    }

    /// Notes a call that is not begun before `due`, as its agent takes no connection sooner.
    pub fn paced(&self, index: usize, due: Instant) {
        *lock(&self.paced) = Some((index, due));
    }

    pub fn is_finishing(&self) -> bool {
        self.stop.load(Ordering::SeqCst) >= FINISH
    }

    pub fn is_cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst) >= CANCEL
    }

    /// Nothing further is to begin.
    pub fn finish(&self) {
        self.stop(FINISH);
    }

    fn stop(&self, how: u8) {
        if self.stop.fetch_max(how, Ordering::SeqCst) < how {
            for waker in lock(&self.wakers).iter() {
                // A loop that cannot be woken looks by itself before long.
                let _ = waker.wake();
            }
        }
    }
}

/// Stops a batch; works from any thread, before and after its end.
#[derive(Clone)]
pub struct Control(pub(super) Arc<Shared>);

impl Control {
    /// Begins no further call; those under way go on.
    pub fn finish(&self) {
        self.0.stop(FINISH);
    }

    /// Gives up on everything.
    pub fn cancel(&self) {
        self.0.stop(CANCEL);
    }

    /// A call that waits as its agent takes no connection before then: its agent's name, and how
    /// long it is to wait.
    pub fn paced(&self) -> Option<(String, Duration)> {
        let (index, due) = (*lock(&self.0.paced))?;
        let left = due.checked_duration_since(Instant::now())?;
        Some((self.0.calls[index].target.name.clone(), left))
    }

    /// Whether no further call is begun, whoever decided that.
    pub fn is_finishing(&self) -> bool {
        self.0.is_finishing()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Control").field(&self.0.stop).finish()
    }
}

/// Calls under way. Reports are pulled; dropping it cancels what is left.
pub struct Batch<T> {
    calls: Arc<[Call]>,
    mailbox: Arc<Mailbox<T>>,
    control: Control,
    left: usize,
}

impl<T> Batch<T> {
    pub(super) fn new(shared: Arc<Shared>, mailbox: Arc<Mailbox<T>>) -> Self {
        Self {
            left: shared.calls.len(),
            calls: Arc::clone(&shared.calls),
            mailbox,
            control: Control(shared),
        }
    }

    /// The calls, in the order in which reports count them.
    pub fn calls(&self) -> &Arc<[Call]> {
        &self.calls
    }

    /// How many ends are still to be pulled.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Stops it, now or from elsewhere.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What happened next, if something has.
    pub fn try_next(&mut self) -> Option<Report<T>> {
        let (report, size) = lock(&self.mailbox.reports).pop()?;
        Some(self.pulled(report, size))
    }

    /// What happens next. `None` when `timeout` has passed, or when all calls have ended
    /// ([`left`](Self::left) is zero).
    pub fn next(&mut self, timeout: Duration) -> Option<Report<T>> {
        if self.left == 0 {
            return None;
        }
        let until = Instant::now() + timeout;
        let mut reports = lock(&self.mailbox.reports);
        loop {
            if let Some((report, size)) = reports.pop() {
                drop(reports);
                return Some(self.pulled(report, size));
            }
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return None;
            }
            let waited = self.mailbox.more.wait_timeout(reports, wait);
            reports = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn pulled(&mut self, report: Report<T>, size: usize) -> Report<T> {
        self.control.0.pending.fetch_sub(size, Ordering::Relaxed);
        if matches!(report, Report::Ended(..)) {
            self.left -= 1;
        }
        report
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.control.cancel();
        }
    }
}

impl<T> std::fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("calls", &self.calls.len())
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// Reports not pulled yet.
pub(super) struct Mailbox<T> {
    reports: Mutex<Reports<T>>,
    pending: Arc<AtomicUsize>,
    more: Condvar,
    notify: Option<Box<dyn Fn() + Send + Sync>>,
}

/// In the order in which they came.
struct Reports<T> {
    queue: VecDeque<Queued<T>>,
    /// Output that its owner has not pulled, by call.
    output: HashMap<usize, Live>,
    /// Bytes of it.
    held: usize,
}

enum Queued<T> {
    /// With the bytes of the answer behind it.
    Report(Report<T>, usize),
    /// There is output of this call.
    Output(usize),
}

impl<T> Reports<T> {
    fn pop(&mut self) -> Option<(Report<T>, usize)> {
        loop {
            let index = match self.queue.pop_front()? {
                Queued::Report(report, size) => return Some((report, size)),
                Queued::Output(index) => index,
            };
            let Some(mut live) = self.output.remove(&index) else {
                continue;
            };
            self.held -= live.held();
            if let Some(piece) = live.pop() {
                self.held += live.held();
                if !live.is_empty() {
                    self.output.insert(index, live);
                    self.queue.push_front(Queued::Output(index));
                }
                return Some((Report::Output(index, piece), 0));
            }
        }
    }

    /// Adds output. An owner that is slow to pull misses the middle of it.
    fn push_output(&mut self, index: usize, found: Found<'_>) {
        let live = self.output.entry(index).or_insert_with(|| {
            self.queue.push_back(Queued::Output(index));
            Live::default()
        });
        let limit = OUTPUT_HELD.min((ALL_OUTPUT_HELD.saturating_sub(self.held)).max(OUTPUT_LEAST));
        self.held -= live.held();
        match found {
            Found::Bytes(stream, bytes) => live.push(stream, bytes, limit),
            Found::Gap(stream, missing) => live.skip(stream, missing),
            Found::End(_) => {}
        }
        self.held += live.held();
    }
}

/// Bytes of output that may wait for the owner of a batch: of one call, of all, and of one call
/// whatever the others have.
const OUTPUT_HELD: usize = 512 << 10;
const ALL_OUTPUT_HELD: usize = 64 << 20;
const OUTPUT_LEAST: usize = 8 << 10;

impl<T> Mailbox<T> {
    /// `notify` is called whenever the first report comes in: the owner's loop is to look.
    pub fn new(notify: Option<Box<dyn Fn() + Send + Sync>>, pending: Arc<AtomicUsize>) -> Self {
        Self {
            reports: Mutex::new(Reports {
                queue: VecDeque::new(),
                output: HashMap::new(),
                held: 0,
            }),
            pending,
            more: Condvar::new(),
            notify,
        }
    }

    fn put(&self, report: Report<T>, size: usize) {
        self.add(|reports| reports.queue.push_back(Queued::Report(report, size)));
    }

    fn add(&self, add: impl FnOnce(&mut Reports<T>)) {
        let mut reports = lock(&self.reports);
        let first = reports.queue.is_empty();
        add(&mut reports);
        drop(reports);
        if first {
            self.more.notify_one();
            if let Some(notify) = &self.notify {
                notify();
            }
        }
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        // An owner that went away looks at nothing more.
        let reports = lock(&self.reports);
        let size = |queued: &Queued<T>| match queued {
            Queued::Report(_, size) => *size,
            Queued::Output(_) => 0,
        };
        let unseen: usize = reports.queue.iter().map(size).sum();
        self.pending.fetch_sub(unseen, Ordering::Relaxed);
    }
}

/// Makes a value of each answer and puts it into the mailbox.
pub(super) struct Judge<T, F> {
    pub calls: Arc<[Call]>,
    pub mailbox: Arc<Mailbox<T>>,
    pub judge: F,
}

impl<T, F> Sink for Judge<T, F>
where
    T: Send,
    F: Fn(&Call, Answer) -> (T, bool) + Send + Sync,
{
    fn begun(&self, index: usize) {
        self.mailbox.put(Report::Begun(index), 0);
    }

    fn output(&self, index: usize, found: Found<'_>) {
        self.mailbox
            .add(|reports| reports.push_output(index, found));
    }

    fn ended(&self, index: usize, answer: Answer, count: &dyn Fn()) {
        let size = answer.size();
        let (value, failed) = (self.judge)(&self.calls[index], answer);
        if failed {
            count();
        }
        self.mailbox.put(Report::Ended(index, value), size);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
