//! How an operator stops a command: interrupts, a closed terminal, a request to end.
//!
//! | seen | what is done |
//! |---|---|
//! | first SIGINT | no further host is started |
//! | second SIGINT | on a terminal, of runs: offers to end them on the agents; else leaves |
//! | third SIGINT | leaves |
//! | SIGHUP | of runs: goes on, or ends them on the agents, as was chosen |
//! | SIGTERM | leaves |
//!
//! To leave is to report everything known and end; what runs on agents goes on there.

use super::out;
use crate::model::AppError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Most names listed when interrupted.
const NAMES_SHOWN: usize = 20;
/// How long the ends of runs are waited for that were cancelled as the terminal has closed: TERM,
/// five seconds, KILL, and the way back.
const ENDS: Duration = Duration::from_secs(30);

/// What is under way.
pub struct Out<'a> {
    /// Hosts, by name.
    pub names: &'a BTreeMap<String, usize>,
    /// How many hosts have not begun.
    pub waiting: usize,
}

/// What a command is to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// Go on.
    No,
    /// Start no further host.
    Finish,
    /// Give up on everything.
    Leave,
}

/// What is done when the terminal closes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnHangup {
    /// The command goes on.
    Leave,
    /// The runs are ended on the agents.
    Cancel,
}

/// Ends what runs on these hosts; given are registry names. It tells what came of it.
pub type Cancel<'a> = dyn FnMut(&[String]) + 'a;

/// How far stopping has come.
enum Stage {
    /// Nothing was said.
    Going,
    /// Once interrupted.
    Finishing,
    /// It was asked whether to cancel; the answer comes here.
    Asked(Receiver<bool>),
    /// Twice interrupted, and answered.
    Answered,
    /// The terminal has closed, and the runs were cancelled: until then their ends are waited for.
    Hung(Instant),
}

/// Signals seen, and what was done about them.
pub struct Stops<'a> {
    interrupt: Arc<AtomicBool>,
    terminate: Arc<AtomicBool>,
    hangup: Arc<AtomicBool>,
    ids: Vec<signal_hook::SigId>,
    stage: Stage,
    cancel: Option<(OnHangup, Box<Cancel<'a>>)>,
}

impl<'a> Stops<'a> {
    /// Of a command that only asks.
    pub fn of_questions() -> Result<Self, AppError> {
        Self::install(None)
    }

    /// Of runs that `cancel` ends on the agents.
    pub fn of_runs(
        on_hangup: OnHangup,
        cancel: impl FnMut(&[String]) + 'a,
    ) -> Result<Self, AppError> {
        Self::install(Some((on_hangup, Box::new(cancel))))
    }

    fn install(cancel: Option<(OnHangup, Box<Cancel<'a>>)>) -> Result<Self, AppError> {
        let flag = Arc::<AtomicBool>::default;
        let (interrupt, terminate, hangup) = (flag(), flag(), flag());
        let mut ids = vec![
            signal_hook::flag::register(SIGINT, Arc::clone(&interrupt))?,
            signal_hook::flag::register(SIGTERM, Arc::clone(&terminate))?,
        ];
        if cancel.is_some() {
            ids.push(signal_hook::flag::register(SIGHUP, Arc::clone(&hangup))?);
        }
        Ok(Self {
            interrupt,
            terminate,
            hangup,
            ids,
            stage: Stage::Going,
            cancel,
        })
    }

    /// Looks what has come since. `quiet` is called before something is written.
    pub fn look(&mut self, out: &Out<'_>, quiet: &mut dyn FnMut()) -> Stop {
        if self.terminate.load(Ordering::Relaxed) {
            return Stop::Leave;
        }
        if self.hangup.swap(false, Ordering::Relaxed) {
            if let Some((OnHangup::Cancel, cancel)) = &mut self.cancel {
                cancel(&names(out));
                self.stage = Stage::Hung(Instant::now() + ENDS);
                return Stop::Finish;
            }
        }
        if self.interrupt.swap(false, Ordering::Relaxed) {
            quiet();
            return self.interrupted(out);
        }
        match &self.stage {
            Stage::Asked(answer) => {
                let Ok(cancel) = answer.try_recv() else {
                    return Stop::No;
                };
                self.stage = Stage::Answered;
                quiet();
                self.answered(cancel, out);
                Stop::No
            }
            Stage::Hung(until) if *until <= Instant::now() => Stop::Leave,
            _ => Stop::No,
        }
    }

    fn interrupted(&mut self, out: &Out<'_>) -> Stop {
        match self.stage {
            Stage::Going => {
                self.stage = Stage::Finishing;
                let next = if self.offers() {
                    "end them on the agents"
                } else {
                    "leave"
                };
                say_running(out, next);
                Stop::Finish
            }
            Stage::Finishing if self.offers() => {
                out::error_raw(&format!(
                    "\n{} still running. End them on the agents? [y/N] (interrupt to leave: they go \
                     on) ",
                    out.names.len()
                ));
                self.stage = Stage::Asked(read_answer());
                Stop::No
            }
            _ => {
                out::error("\nLeaving. What runs goes on; 'ced running' shows it.");
                Stop::Leave
            }
        }
    }

    fn answered(&mut self, yes: bool, out: &Out<'_>) {
        if !yes {
            out::error("They go on, and are waited for. Interrupt again to leave.");
        } else if let Some((_, cancel)) = &mut self.cancel {
            cancel(&names(out));
        }
    }

    /// Whether somebody can be asked.
    fn offers(&self) -> bool {
        self.cancel.is_some() && io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

fn names(out: &Out<'_>) -> Vec<String> {
    out.names.keys().cloned().collect()
}

/// Reads a line of the terminal beside what goes on. A thread that waits for it ends with the
/// program.
fn read_answer() -> Receiver<bool> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        let yes = read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes");
        let _ = sender.send(yes);
    });
    receiver
}

fn say_running(out: &Out<'_>, next: &str) {
    let running = out.names.len();
    let shown: Vec<&str> = out
        .names
        .keys()
        .take(NAMES_SHOWN)
        .map(String::as_str)
        .collect();
    let more = if running > shown.len() { ", ..." } else { "" };
    out::error(format_args!(
        "\n{running} still running: {}{more}; {} not started, and none will be. Interrupt again to \
         {next}.",
        shown.join(", "),
        out.waiting
    ));
}
