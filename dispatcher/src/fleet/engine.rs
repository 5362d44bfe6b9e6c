//! The engine: loops that live as long as it does, and the way in.

use super::batch::{Batch, Judge, Mailbox, Plan, Report, Shared, lock};
use super::call::{Answer, Call};
use super::error::Fault;
use super::options::EngineOptions;
use super::worker::{Part, Worker};
use ctrl_exec_reactor::Waker;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// From how many calls on more than one loop pays.
const MANY: usize = 128;

/// Makes calls. Copies are handles of one engine; with the last one its loops end, and calls under
/// way are given up.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: EngineOptions,
    loops: Mutex<Vec<Option<Loop>>>,
    /// Bytes of answers that no owner has looked at yet.
    pending: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Loop {
    inbox: mpsc::Sender<Part>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(EngineOptions::default())
    }
}

impl Engine {
    /// An engine that does nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        let loops = options.loops.max(1);
        Self {
            inner: Arc::new(Inner {
                options,
                loops: Mutex::new((0..loops).map(|_| None).collect()),
                pending: Arc::default(),
            }),
        }
    }

    /// Begins calls. `judge` makes of each answer what the batch reports, and says whether it
    /// counts as a failure; it runs on the engine's threads. `notify` is called when a report
    /// comes in after all were pulled, for an owner with a loop of its own.
    ///
    /// Calls that were not begun when the batch was stopped end with [`Fault::NotStarted`]; when
    /// no loop could be made (file descriptors, threads), with [`Fault::Local`].
    pub fn start<T, F>(
        &self,
        calls: Vec<Call>,
        plan: Plan,
        judge: F,
        notify: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Batch<T>
    where
        T: Send + 'static,
        F: Fn(&Call, Answer) -> (T, bool) + Send + Sync + 'static,
    {
        let calls: Arc<[Call]> = calls.into();
        let mailbox = Arc::new(Mailbox::new(notify, Arc::clone(&self.inner.pending)));
        let judge = Judge {
            calls: Arc::clone(&calls),
            mailbox: Arc::clone(&mailbox),
            judge,
        };
        let shared = Arc::new(Shared::new(
            calls,
            plan,
            Box::new(judge),
            Arc::clone(&self.inner.pending),
        ));
        self.submit(&shared);
        Batch::new(shared, mailbox)
    }

    /// Makes all calls and returns their answers in the order of the calls.
    pub fn all(&self, calls: Vec<Call>, plan: Plan) -> Vec<Answer> {
        let mut batch = self.start(calls, plan, |_, answer| (answer, false), None);
        let mut answers: Vec<Option<Answer>> = batch.calls().iter().map(|_| None).collect();
        while batch.left() > 0 {
            if let Some(Report::Ended(index, answer)) = batch.next(Duration::from_secs(3600)) {
                answers[index] = Some(answer);
            }
        }
        let calls = batch.calls().iter();
        answers
            .into_iter()
            .zip(calls)
            .map(|(answer, call)| {
                answer.unwrap_or_else(|| call.failed(Fault::NotStarted, false, Duration::ZERO))
            })
            .collect()
    }

    /// Deals the calls out to the loops.
    ///
    /// An agent belongs to one loop, where its kept connections are. A rolling run of a few hosts
    /// stays on one loop, as its order counts; and so does what is small, when nothing is kept.
    fn submit(&self, shared: &Arc<Shared>) {
        let calls = &shared.calls;
        let mut loops = lock(&self.inner.loops);
        let parallel = shared.plan.parallel.clamp(1, calls.len().max(1));
        let small = calls.len() < MANY;
        let rolling = parallel < calls.len() && (small || parallel < loops.len());
        let single = rolling || (small && self.inner.options.keep.is_none());
        let count = if single { 1 } else { loops.len() };
        let mut dealt: Vec<Vec<usize>> = (0..count).map(|_| Vec::new()).collect();
        for (index, call) in calls.iter().enumerate() {
            let mut hasher = DefaultHasher::new();
            call.target.route.hash(&mut hasher);
            let at = usize::try_from(hasher.finish() % count as u64).unwrap_or_default();
            dealt[at].push(index);
        }
        let busy = dealt.iter().filter(|indices| !indices.is_empty()).count();
        let mut given = 0;
        for (at, indices) in dealt.into_iter().enumerate() {
            if indices.is_empty() {
                continue;
            }
            let share = parallel / busy + usize::from(given < parallel % busy);
            given += 1;
            let part = Part::new(Arc::clone(shared), indices, share.max(1));
            self.hand_over(&mut loops[at], part);
        }
    }

    fn hand_over(&self, slot: &mut Option<Loop>, part: Part) {
        if slot
            .as_ref()
            .is_none_or(|running| running.thread.is_finished())
        {
            match self.launch() {
                Ok(started) => *slot = Some(started),
                Err(error) => {
                    part.fail(&Fault::Local(error.to_string()));
                    return;
                }
            }
        }
        if let Some(running) = slot {
            part.wakes(running.waker.clone());
            // A loop that has just ended by an error gives the part back, which fails its calls.
            let _ = running.inbox.send(part);
            let _ = running.waker.wake();
        }
    }

    fn launch(&self) -> std::io::Result<Loop> {
        let options = &self.inner.options;
        let (inbox, parts) = mpsc::channel();
        let most = options.connections.div_ceil(options.loops.max(1)).max(1);
        let mut worker = Worker::new(parts, most, options)?;
        let waker = worker.waker()?;
        let thread = std::thread::Builder::new()
            .name("fleet".to_owned())
            .spawn(move || worker.run())?;
        Ok(Loop {
            inbox,
            waker,
            thread,
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for running in lock(&self.loops).drain(..).flatten() {
            drop(running.inbox);
            let _ = running.waker.wake();
            let _ = running.thread.join();
        }
    }
}
