//! Drives a fan-out from the command line: results as they arrive, progress on a terminal,
//! interrupts, failure limits.

use super::session::Session;
use super::table::{BATCH, MAX_FAILURES, QUIET};
use super::{Fatal, out, parse::Args};
use crate::fleet::{Answer, Batch, Call, Plan, Report};
use crate::jval::Object;
use crate::tasks::Outcome;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// From how many hosts on a progress line is shown.
const MANY: usize = 8;
/// How often it is drawn.
const REDRAW: Duration = Duration::from_millis(250);
/// Most names listed when interrupted.
const NAMES_SHOWN: usize = 20;

/// How often it is looked whether an interrupt came.
const TICK: Duration = Duration::from_millis(100);

/// A fan-out and what it looks like.
pub struct Fanout<'a> {
    session: &'a Session,
    plan: Plan,
    calls: Vec<Call>,
    quiet: bool,
}

/// What came of it.
pub struct Results {
    /// Result objects, in order of completion, each with the index of its call.
    pub results: Vec<(usize, Object)>,
    /// Whether the operator stopped it.
    pub interrupted: bool,
}

impl<'a> Fanout<'a> {
    /// Reads `--batch` and `--max-failures`.
    pub fn new(session: &'a Session, calls: Vec<Call>, args: &Args) -> Result<Self, Fatal> {
        let portion = |flag: &'static super::table::Flag| match args.value(flag) {
            None => Ok(None),
            Some(text) => portion(text, calls.len()).map(Some).ok_or_else(|| {
                Fatal(format!(
                    "option --{}: '{}' is neither a number from 1 nor a percentage from 1% to 100%",
                    flag.name,
                    text.escape_debug()
                ))
            }),
        };
        let mut plan = session.plan.clone();
        if let Some(batch) = portion(&BATCH)? {
            plan.parallel = batch;
        }
        plan.max_failures = portion(&MAX_FAILURES)?.unwrap_or(usize::MAX);
        Ok(Self {
            session,
            plan,
            calls,
            quiet: args.has(&QUIET),
        })
    }

    /// Runs it. `result` makes an object of an answer, on whichever thread it comes in; `arrived`
    /// is called with each in turn, and what else it made, and may take out of it what need not be kept.
    pub fn run<X: Send + 'static>(
        self,
        result: impl Fn(&Call, Answer) -> (Object, X) + Send + Sync + 'static,
        mut arrived: impl FnMut(&Call, &mut Object, X),
    ) -> Result<Results, Fatal> {
        let interrupts = Interrupts::install()?;
        let mut progress = Progress::new(self.calls.len(), self.quiet);
        let max_failures = self.plan.max_failures;
        let judge = move |call: &Call, answer: Answer| {
            let (object, more) = result(call, answer);
            let failed = !matches!(Outcome::of(&object), Outcome::Ok | Outcome::Skipped);
            ((object, more, failed), failed)
        };
        let mut batch: Batch<(Object, X, bool)> = self
            .session
            .engine
            .start(self.calls, self.plan, judge, None);
        let calls = Arc::clone(batch.calls());
        let mut results = Vec::with_capacity(calls.len());
        let mut running: BTreeSet<usize> = BTreeSet::new();
        let mut failures = 0;
        let mut interrupted = false;
        let mut cancelled = false;
        while batch.left() > 0 {
            match batch.next(TICK) {
                Some(Report::Begun(index)) => {
                    running.insert(index);
                }
                Some(Report::Ended(index, (mut object, more, failed))) => {
                    running.remove(&index);
                    failures += usize::from(failed);
                    progress.clear();
                    arrived(&calls[index], &mut object, more);
                    results.push((index, object));
                    if failed && failures == max_failures {
                        out::error(format_args!(
                            "{failures} host(s) failed: no further host is started."
                        ));
                    }
                }
                None => {}
            }
            if interrupts.terminated() {
                cancelled = true;
            }
            if interrupts.interrupted() {
                progress.clear();
                if interrupted {
                    cancelled = true;
                } else {
                    interrupted = true;
                    let names = running
                        .iter()
                        .map(|index| calls[*index].target.name.as_str());
                    still_running(names, running.len(), calls.len() - results.len());
                }
            }
            if cancelled {
                batch.control().cancel();
            }
            progress.draw(results.len(), failures, running.len());
        }
        progress.clear();
        Ok(Results {
            results,
            interrupted: cancelled,
        })
    }
}

/// `N` or `N%` of `total`; at least 1.
fn portion(text: &str, total: usize) -> Option<usize> {
    match text.strip_suffix('%') {
        None => text.parse().ok().filter(|number| *number > 0),
        Some(percent) => {
            let percent: usize = percent.parse().ok().filter(|p| (1..=100).contains(p))?;
            Some((total * percent).div_ceil(100).max(1))
        }
    }
}

fn still_running<'a>(names: impl Iterator<Item = &'a str>, running: usize, left: usize) {
    let shown: Vec<&str> = names.take(NAMES_SHOWN).collect();
    let more = if running > shown.len() { ", ..." } else { "" };
    out::error(format_args!(
        "\n{running} still running: {}{more}; {} not started. Interrupt again to stop.",
        shown.join(", "),
        left.saturating_sub(running)
    ));
}

/// Signals seen since they were last asked for.
struct Interrupts {
    interrupt: Arc<AtomicBool>,
    terminate: Arc<AtomicBool>,
    ids: Vec<signal_hook::SigId>,
}

impl Interrupts {
    fn install() -> Result<Self, Fatal> {
        let (interrupt, terminate) = (Arc::default(), Arc::default());
        let ids = vec![
            signal_hook::flag::register(SIGINT, Arc::clone(&interrupt))?,
            signal_hook::flag::register(SIGTERM, Arc::clone(&terminate))?,
        ];
        Ok(Self {
            interrupt,
            terminate,
            ids,
        })
    }

    fn interrupted(&self) -> bool {
        self.interrupt.swap(false, Ordering::Relaxed)
    }

    fn terminated(&self) -> bool {
        self.terminate.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// The progress line, on a terminal only.
struct Progress {
    total: usize,
    shown: bool,
    drawn: Instant,
    visible: bool,
}

impl Progress {
    fn new(total: usize, quiet: bool) -> Self {
        let shown = !quiet && total >= MANY && std::io::stderr().is_terminal();
        Self {
            total,
            shown,
            drawn: Instant::now(),
            visible: false,
        }
    }

    fn draw(&mut self, done: usize, failed: usize, running: usize) {
        if !self.shown || self.drawn.elapsed() < REDRAW {
            return;
        }
        self.drawn = Instant::now();
        self.visible = true;
        out::error_raw(&format!(
            "\r\x1b[K{done}/{} done, {failed} failed, {running} running",
            self.total
        ));
    }

    fn clear(&mut self) {
        if self.visible {
            self.visible = false;
            out::error_raw("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::portion;

    #[test]
    fn portions() {
        assert_eq!(portion("5", 100), Some(5));
        assert_eq!(portion("10%", 100), Some(10));
        assert_eq!(portion("10%", 3), Some(1));
        assert_eq!(portion("34%", 3), Some(2));
        for bad in ["", "0", "0%", "101%", "-1", "x", "%", "1.5"] {
            assert_eq!(portion(bad, 10), None, "{bad}");
        }
    }
}
