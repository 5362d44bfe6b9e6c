//! The scenes of the demonstration, in order.

use ctrl_exec_demo::World;
use ctrl_exec_demo::world::{Script, both};
use std::io;
use std::time::Instant;

/// The three agents.
const AGENTS: [&str; 3] = ["router1", "router2", "router3"];

/// What every agent may run.
const SCRIPTS: [Script<'static>; 4] = [
    (
        "show-args",
        "#!/bin/sh\nprintf '%s argument(s)\\n' \"$#\"\nfor a in \"$@\"; do printf '  [%s]\\n' \"$a\"; done\n",
    ),
    ("show-context", "#!/bin/sh\nprintf 'stdin was: '\ncat\n"),
    (
        "big-output",
        "#!/bin/sh\nhead -c 1048576 /dev/zero | tr '\\0' 'o' &\nhead -c 1048576 /dev/zero | tr '\\0' 'e' >&2\nwait\n",
    ),
    ("fails", "#!/bin/sh\necho 'partition is full' >&2\nexit 3\n"),
];

/// Output of a command longer than this is shown shortened.
const SHOWN: usize = 2_000;

/// Plays all scenes and checks what they promise.
pub fn all(world: &mut World) -> io::Result<()> {
    let start = Instant::now();
    title("0. The files that the programs read, as an operator writes them");
    file(world, "server", "etc/ctrl-exec/ctrl-exec.conf")?;
    // One mebibyte of each stream is kept whole, so the demonstration can show it arrive.
    for name in AGENTS {
        world.add_agent(name, &SCRIPTS, "max_output = 2M")?;
    }
    file(world, AGENTS[0], "etc/ctrl-exec-agent/agent.conf")?;
    file(world, AGENTS[0], "etc/ctrl-exec-agent/scripts.conf")?;

    title("1. The dispatcher makes its private CA and its own certificate");
    command(world, &["setup-ca"], 0)?;
    command(world, &["setup-ctrl-exec"], 0)?;

    title("2. Three agents ask to be paired; the operator compares the codes and approves");
    let listener = world.start_pairing_mode()?;
    shown(
        &format!(
            "ctrl-exec-dispatcher --root server pairing-mode --port {} &",
            world.pairing_port
        ),
        "",
    );
    for name in AGENTS {
        let pairing = world.pair(name, &mut |typed, printed| shown(typed, printed))?;
        expect(
            "both sides show the same code",
            pairing.agent_code == pairing.dispatcher_code,
        )?;
        println!(
            "    -> {name}: code {} on both sides: the same key",
            pairing.agent_code
        );
    }
    drop(listener);

    title("3. The agents serve");
    for name in AGENTS {
        world.start_agent(name)?;
        shown(&format!("ctrl-exec-agent --root {name} serve &"), "");
    }
    command(world, &["list-agents"], 0)?;
    let pong = command(world, &["ping", AGENTS[0], AGENTS[1], AGENTS[2]], 0)?;
    expect(
        "three agents answer",
        pong.matches(" ok ").count() == AGENTS.len(),
    )?;

    title("4. Scripts run: no shell touches the arguments");
    let args = ["two words", "it's \"quoted\"", "$HOME;id", "żółw ☃"];
    let mut words = vec!["run", AGENTS[0], AGENTS[1], AGENTS[2], "show-args", "--"];
    words.extend(args);
    let printed = command(world, &words, 0)?;
    for arg in args {
        expect(
            "arguments arrive as typed",
            printed.matches(&format!("[{arg}]")).count() == AGENTS.len(),
        )?;
    }
    let printed = command(
        world,
        &["run", AGENTS[1], "show-context", "--username", "ann"],
        0,
    )?;
    expect(
        "the script knows who asked",
        printed.contains("\"username\":\"ann\""),
    )?;

    title("5. A mebibyte on both streams at once");
    let printed = command(world, &["run", AGENTS[2], "big-output", "--json"], 0)?;
    let (out, err) = (longest_run(&printed, 'o'), longest_run(&printed, 'e'));
    println!("    -> {out} bytes of standard output, {err} of standard error");
    expect("both streams are whole", out == 1 << 20 && err == 1 << 20)?;

    title("6. What fails says so, and what is not allowed does not run");
    let printed = command(world, &["run", AGENTS[0], "fails"], 1)?;
    expect(
        "the script's exit status is told",
        printed.contains("exit:3"),
    )?;
    let printed = command(world, &["run", AGENTS[0], "rm-everything"], 1)?;
    expect(
        "the refusal is told",
        printed.contains("script not permitted"),
    )?;
    command(world, &["run", "router9", "show-args"], 3)?;

    println!(
        "\nThe demonstration took {:.1} s.",
        start.elapsed().as_secs_f32()
    );
    Ok(())
}

fn title(text: &str) {
    println!("\n=== {text}\n");
}

/// Shows a file below the root of a host.
fn file(world: &World, host: &str, path: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(world.agent_dir(host).join(path))?;
    shown(&format!("cat {host}/{path}"), &text);
    Ok(())
}

/// Runs a dispatcher command, shows it, and checks its exit code.
fn command(world: &World, args: &[&str], code: i32) -> io::Result<String> {
    let output = world.dispatch(args)?;
    let printed = both(&output);
    let typed: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
    shown(
        &format!("ctrl-exec-dispatcher --root server {}", typed.join(" ")),
        &printed,
    );
    match output.status.code() {
        Some(actual) if actual == code => Ok(printed),
        _ => Err(io::Error::other(format!(
            "expected exit code {code}, got {}",
            output.status
        ))),
    }
}

fn shown(typed: &str, printed: &str) {
    println!("$ {typed}");
    if printed.len() <= SHOWN {
        print!("{printed}");
    } else {
        let head: String = printed.chars().take(160).collect();
        let tail: String = printed
            .chars()
            .skip(printed.chars().count().saturating_sub(80))
            .collect();
        println!(
            "{head} ... ({} bytes) ... {}",
            printed.len(),
            tail.trim_end()
        );
    }
}

/// A word as a shell would need it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn longest_run(text: &str, wanted: char) -> usize {
    text.split(|c| c != wanted).map(str::len).max().unwrap_or(0)
}

fn expect(what: &str, holds: bool) -> io::Result<()> {
    if holds {
        Ok(())
    } else {
        Err(io::Error::other(format!("not so: {what}")))
    }
}
