//! Drives a fan-out from the command line: results as they arrive, progress on a terminal,
//! interrupts, failure limits.

use super::args::Args;
use super::flags::QUIET;
use super::follow::Follow;
use super::out;
use super::stops::{Out, Stop, Stops};
use crate::fleet::Control;
use crate::model::{AppError, HostResult, Outcome};
use crate::tasks::{Event, Limits, Task};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// From how many hosts on a progress line is shown.
const MANY: usize = 8;
/// How often it is looked whether an interrupt came.
const TICK: Duration = Duration::from_millis(100);
/// How often it is drawn.
const REDRAW: Duration = Duration::from_millis(250);

/// What came of a task.
pub struct Results<T> {
    /// In order of completion.
    pub results: Vec<HostResult<T>>,
    /// Whether the operator stopped it.
    pub interrupted: bool,
}

impl<T> Results<T> {
    /// By host name.
    pub fn sort(&mut self) {
        self.results.sort_by(|a, b| a.host.cmp(&b.host));
    }

    /// How each host ended.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.results.iter().map(|result| result.outcome)
    }
}

/// Pulls a task to its end. `arrived` is called with each result in turn and may take out of it
/// what need not be kept. The first interrupt starts nothing more, the second leaves.
pub fn drive<K: Task>(
    task: &mut K,
    args: &Args,
    max_failures: usize,
    arrived: impl FnMut(&mut HostResult<K::Reply>),
) -> Result<Results<K::Reply>, AppError> {
    let mut stops = Stops::of_questions()?;
    drive_with(task, args, max_failures, &mut stops, arrived)
}

/// The same, of runs that can be ended on the agents.
pub fn drive_with<K: Task>(
    task: &mut K,
    args: &Args,
    max_failures: usize,
    stops: &mut Stops<'_>,
    mut arrived: impl FnMut(&mut HostResult<K::Reply>),
) -> Result<Results<K::Reply>, AppError> {
    for warning in task.warnings() {
        out::error(format_args!("Warning: {warning}"));
    }
    let said = task.warnings().len();
    let total = task.total();
    let mut progress = Progress::new(total, args.has(&QUIET));
    let mut follow = Follow::new(args);
    let mut results = Vec::with_capacity(total);
    // A host given twice may run twice.
    let mut running: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = 0;
    let mut left = false;
    while task.left() > 0 {
        match task.next(TICK) {
            Some(Event::Begun(name)) => *running.entry(name).or_default() += 1,
            Some(Event::Output { host, piece }) => {
                progress.clear();
                follow.show(&host, piece);
            }
            Some(Event::Ended(mut result)) => {
                if let Some(count) = running.get_mut(&result.host) {
                    *count -= 1;
                    if *count == 0 {
                        running.remove(&result.host);
                    }
                }
                let failed = result.outcome.is_failure();
                failures += usize::from(failed);
                progress.clear();
                follow.end(&result.host);
                arrived(&mut result);
                results.push(*result);
                if failed && failures == max_failures {
                    out::error(format_args!(
                        "{failures} host(s) failed: no further host is started."
                    ));
                }
            }
            None => {}
        }
        let out_there = Out {
            names: &running,
            waiting: (total - results.len()).saturating_sub(running.len()),
        };
        match stops.look(&out_there, &mut || progress.clear()) {
            Stop::No => {}
            Stop::Finish => task.control().finish(),
            Stop::Leave => {
                left = true;
                task.control().cancel();
            }
        }
        progress.pace(&task.control());
        progress.draw(results.len(), failures, running.len());
    }
    progress.clear();
    for warning in task.warnings().iter().skip(said) {
        out::error(format_args!("Warning: {warning}"));
    }
    Ok(Results {
        results,
        interrupted: left,
    })
}

/// How many failures a task over so many hosts may have.
pub fn max_failures(limits: &Limits, hosts: usize) -> usize {
    limits
        .max_failures
        .map_or(usize::MAX, |most| most.of(hosts))
}

/// On standard error, when several hosts were called and not all did well.
pub fn summary<T>(results: &Results<T>) {
    let total = results.results.len();
    let counts = Outcome::ALL.map(|outcome| {
        let count = results.outcomes().filter(|other| *other == outcome).count();
        (count, outcome)
    });
    if total < 2 || counts[0].0 == total {
        return;
    }
    let parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, outcome)| {
            let word = match outcome {
                Outcome::Unreached => "not reached",
                Outcome::Skipped => "not started",
                Outcome::Unknown => "may still be running",
                other => other.word(),
            };
            format!("{count} {word}")
        })
        .collect();
    out::error(format_args!("{total} hosts: {}", parts.join(", ")));
}

/// `--strict`: what may still run before not reached before refused before failed.
pub fn strict_exit(outcomes: impl Iterator<Item = Outcome>) -> u8 {
    match outcomes.max() {
        None | Some(Outcome::Ok) => 0,
        Some(Outcome::Failed) => 1,
        Some(Outcome::Refused) => 4,
        Some(Outcome::Unreached | Outcome::Skipped) => 5,
        Some(Outcome::Unknown) => 6,
    }
}

/// The progress line, on a terminal only.
struct Progress {
    total: usize,
    shown: bool,
    drawn: Instant,
    visible: bool,
    quiet: bool,
    /// Agent that is waited for, and until when that needs no further word.
    paced: Option<(String, Instant)>,
}

impl Progress {
    fn new(total: usize, quiet: bool) -> Self {
        let shown = !quiet && total >= MANY && std::io::stderr().is_terminal();
        Self {
            total,
            shown,
            drawn: Instant::now(),
            visible: false,
            quiet,
            paced: None,
        }
    }

    /// Says, on a terminal or not, that calls wait for the pace of an agent: a long silence
    /// would look like a fault.
    fn pace(&mut self, control: &Control) {
        let Some((name, left)) = control.paced().filter(|_| !self.quiet) else {
            return;
        };
        let now = Instant::now();
        let said = self
            .paced
            .as_ref()
            .is_some_and(|(known, until)| *known == name && *until > now);
        if said {
            return;
        }
        self.clear();
        let seconds = left.as_secs() + 1;
        out::error(format_args!(
            "'{name}' takes no more connections for {seconds} s, so calls to it wait (pace: ced \
             edit-agent {name} --rate N/SECONDS or off)"
        ));
        self.paced = Some((name, now + left));
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
