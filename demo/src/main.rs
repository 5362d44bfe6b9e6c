//! `cargo demo`: from an empty directory to scripts run on three agents, on loopback, by the real
//! programs, each command shown as an operator would type it.
#![forbid(unsafe_code)]

mod scenes;

use ctrl_exec_demo::{Binaries, World};
use std::process::ExitCode;

const HELP: &str = "\
cargo demo [--keep]

Creates a CA, pairs three agents, and runs scripts on them over mutual TLS,
all on loopback and in a temporary directory.

  --keep   leave the directory in place and say where it is
  --help   this text
";

fn main() -> ExitCode {
    let mut args = pico_args::Arguments::from_env();
    if args.contains(["-h", "--help"]) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let keep = args.contains("--keep");
    if let Some(word) = args.finish().first() {
        eprintln!(
            "cargo demo: unknown argument {}\n\n{HELP}",
            word.to_string_lossy()
        );
        return ExitCode::from(3);
    }
    match play(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ncargo demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(keep: bool) -> std::io::Result<()> {
    eprintln!("Building the programs (the first time takes a minute or two) ...");
    let mut world = World::new(Binaries::build()?, "demo")?;
    if keep {
        world.keep();
    }
    let dir = world.dir.clone();
    interruptible(&dir, keep)?;
    scenes::all(&mut world)?;
    if keep {
        println!("\nEverything is kept in {}", dir.display());
    }
    Ok(())
}

/// On an interrupt: the agents got it too, being in the same process group, so only the files are
/// left to remove.
fn interruptible(dir: &std::path::Path, keep: bool) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            ctrl_exec_demo::process::end_children();
            if !keep {
                let _ = std::fs::remove_dir_all(&dir);
            }
            std::process::exit(130);
        }
    });
    Ok(())
}
