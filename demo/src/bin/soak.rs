//! `cargo soak`: thousands of runs at random, each held against what its script wrote down.
#![forbid(unsafe_code)]

use ctrl_exec_demo::Binaries;
use ctrl_exec_demo::soak::{self, Plan};
use std::process::ExitCode;

const HELP: &str = "\
cargo soak [RUNS] [--workers N] [--seed N] [--keep]

Begins, gives up, cancels, limits, kills and detaches runs at random on two
agents (one with an executor) that are restarted, killed and reloaded
meanwhile, and holds every report against what the scripts wrote down.

  RUNS         how many (default 10000)
  --workers N  how many at a time (default 6)
  --seed N     what chance begins with (default: the time; it is printed)
  --keep       leave the directory in place
";

fn main() -> ExitCode {
    let mut args = pico_args::Arguments::from_env();
    if args.contains(["-h", "--help"]) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match play(&mut args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo soak: {error}\n\n{HELP}");
            ExitCode::from(3)
        }
    }
}

fn play(args: &mut pico_args::Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
    let keep = args.contains("--keep");
    let plan = Plan {
        workers: args.opt_value_from_str("--workers")?.unwrap_or(6),
        seed: args.opt_value_from_str("--seed")?.unwrap_or(now),
        restarts: true,
        runs: args.opt_free_from_str()?.unwrap_or(10_000),
    };
    println!("{} runs, seed {}", plan.runs, plan.seed);
    let begun = std::time::Instant::now();
    let report = soak::play(Binaries::build()?, plan, keep)?;
    for (what, count) in &report.told {
        println!("{count:>7}  {what}");
    }
    for (what, count) in &report.disturbed {
        println!("{count:>7}  times: {what}");
    }
    let (scripts, ended) = report.scripts;
    println!(
        "{scripts} scripts began, {ended} came to their end; {} fault(s); {} s",
        report.faults.len(),
        begun.elapsed().as_secs()
    );
    for fault in &report.faults {
        println!("FAULT  {fault}");
    }
    Ok(report.faults.is_empty())
}
