//! Runs at random, and an oracle: what is reported of each is held against what the scripts wrote
//! down themselves.
//!
//! Workers begin runs that wait, that are given up, cancelled, limited, killed or detached, on an
//! agent that runs scripts itself and one with an executor. Beside them an agent is restarted, killed or reloaded
//! now and then, and all its runs are cancelled. Every script notes its beginning and its end, and whether it met
//! another run of the same kind. In the end nothing may be lost, doubled, stuck or told falsely.

use crate::Binaries;
use crate::process::{Running, wait_until};
use crate::world::{PATIENCE, Script, World};
use ctrl_exec_protocol::json::{Bounds, Members, Raw};
use rustix::process::Signal;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many runs.
    pub runs: usize,
    /// How many at a time.
    pub workers: usize,
    /// What chance begins with.
    pub seed: u64,
    /// Whether agents are restarted and killed, too. What their scripts do then only an operator can
    /// look up, and passes over locks by judgement.
    pub restarts: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// How many runs were reported how.
    pub told: BTreeMap<String, usize>,
    /// How often an agent was restarted, killed, reloaded, or had all its runs cancelled.
    pub disturbed: BTreeMap<&'static str, usize>,
    /// How many scripts began, and how many came to their own end.
    pub scripts: (usize, usize),
    /// What should not have been.
    pub faults: Vec<String>,
}

/// Scripts of which one copy runs at a time on a host. Arguments: id, seconds, directory.
const WORK: &str = r#"#!/bin/sh
id=$1 dir=$3
mine="$dir/at/$(echo "$0" | tr / _)"
if ! mkdir "$mine" 2>/dev/null; then
    other=$(cat "$mine/pid" 2>/dev/null)
    if [ -n "$other" ] && kill -0 "$other" 2>/dev/null; then
        echo "met $id $(cat "$mine/id")" >> "$dir/log"
    fi
fi
echo $$ > "$mine/pid"
echo "$id" > "$mine/id"
echo "begun $id" >> "$dir/log"
trap 'rm -rf "$mine"; exit 99' TERM
sleep "$2" &
wait $!
rm -rf "$mine"
echo "out $id"
echo "ended $id" >> "$dir/log"
exit 7
"#;

/// Names under which the script stands on each agent; those beginning with `d` run detached.
const WAITED: [&str; 4] = ["w0", "w1", "w2", "w3"];
const DETACHED: [&str; 3] = ["d0", "d1", "d2"];
const HOSTS: [&str; 2] = ["alpha", "beta"];

/// A number that looks like chance (xorshift).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or_default() % n.max(1)
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

/// How commands of the dispatcher are started.
#[derive(Clone, Debug)]
struct Ced {
    program: PathBuf,
    dir: PathBuf,
}

impl Ced {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--root", "server"])
            .args(args)
            .current_dir(&self.dir)
            .env_remove("ENVEXEC_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> io::Result<Output> {
        self.command(args).output()
    }
}

/// What a command said of a run.
#[derive(Clone, Debug)]
struct Told {
    id: String,
    kind: &'static str,
    host: &'static str,
    /// `ok`, `failed`, … of the result; `locked`; `gone` when the command was killed.
    outcome: String,
    exit: i64,
    stdout: String,
    cancelled: bool,
    text: String,
}

struct Stage {
    ced: Ced,
    next: AtomicUsize,
    runs: usize,
    over: AtomicBool,
    told: Mutex<Vec<Told>>,
    faults: Mutex<Vec<String>>,
}

impl Stage {
    fn fault(&self, text: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("fault: {text}");
        faults.push(text);
    }
}

/// Plays it.
///
/// # Errors
/// When the programs cannot be built or started; what goes wrong in a run is in the report.
pub fn play(binaries: Binaries, plan: Plan, keep: bool) -> io::Result<Report> {
    let mut world = World::new(binaries, "soak")?;
    if keep {
        world.keep();
    }
    let executor = set_up(&mut world)?;
    fs::create_dir(world.dir.join("at"))?;
    let stage = Stage {
        ced: Ced {
            program: world.binaries.dispatcher.clone(),
            dir: world.dir.clone(),
        },
        next: AtomicUsize::new(0),
        runs: plan.runs,
        over: AtomicBool::new(false),
        told: Mutex::default(),
        faults: Mutex::default(),
    };
    let mut report = Report::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.workers.max(1))
            .map(|n| {
                let stage = &stage;
                let chance = Chance::new(plan.seed.wrapping_add(n as u64 + 1));
                scope.spawn(move || work(stage, chance))
            })
            .collect();
        let stage = &stage;
        let world = &mut world;
        let chance = Chance::new(plan.seed);
        let disturbing = scope.spawn(move || disturb(stage, world, chance, plan.restarts));
        for worker in workers {
            if worker.join().is_err() {
                stage.fault("a worker has panicked".to_owned());
            }
        }
        stage.over.store(true, Ordering::Relaxed);
        match disturbing.join() {
            Ok(disturbed) => report.disturbed = disturbed,
            Err(_) => stage.fault("the disturber has panicked".to_owned()),
        }
    });
    settle(&stage)?;
    judge(&stage, &mut report)?;
    drop(executor);
    report.faults = stage
        .faults
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(report)
}

/// A dispatcher, an agent that runs scripts itself, and one with an executor.
fn set_up(world: &mut World) -> io::Result<Running> {
    for verb in ["setup-ca", "setup-ctrl-exec"] {
        let output = world.dispatch(&[verb])?;
        if !output.status.success() {
            return Err(io::Error::other(crate::world::both(&output)));
        }
    }
    let scripts: Vec<Script<'_>> = WAITED
        .iter()
        .chain(&DETACHED)
        .map(|name| (*name, WORK))
        .collect();
    let socket = world.dir.join("exec.sock");
    let executor = format!("executor_socket = {}", socket.display());
    for (name, extra) in [("alpha", ""), ("beta", executor.as_str())] {
        let extra = format!("{extra}\nasync_max_records = 100000\nmax_children = 64\n");
        world.add_agent(name, &scripts, &extra)?;
        let listener = world.start_pairing_mode()?;
        world.pair(name, &mut |_, _| ())?;
        drop(listener);
        world.start_agent(name)?;
    }
    let etc = world.agent_dir("beta").join("etc/ctrl-exec-agent");
    let user = Command::new("id").arg("-un").output()?;
    let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
    let executor = Running::start(
        Command::new(&world.binaries.executor)
            // The stage is below /tmp, where everybody may write.
            .args(["--root", "beta", "--unsafe-paths", "serve"])
            .args([&socket, &etc.join("agent.conf"), &etc.join("scripts.conf")])
            .arg(user)
            .current_dir(&world.dir)
            .env("CTRL_EXEC_EXEC_ALLOW_UNPRIV", "1"),
    )?;
    wait_until("the executor's socket", PATIENCE, || socket.exists())?;
    Ok(executor)
}

fn work(stage: &Stage, mut chance: Chance) {
    loop {
        let number = stage.next.fetch_add(1, Ordering::Relaxed);
        if number >= stage.runs {
            return;
        }
        let id = format!("n{number}");
        match one(stage, &mut chance, &id) {
            Ok(told) => stage
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(told),
            Err(error) => stage.fault(format!("{id}: {error}")),
        }
    }
}

/// One run of a kind drawn by lot.
fn one(stage: &Stage, chance: &mut Chance, id: &str) -> io::Result<Told> {
    const KINDS: [&str; 10] = [
        "plain",
        "plain",
        "plain",
        "detached",
        "detached",
        "given-up",
        "limited",
        "interrupted",
        "killed",
        "hung-up",
    ];
    let kind = chance.of(&KINDS);
    let host = chance.of(&HOSTS);
    let script = match kind {
        "detached" => chance.of(&DETACHED),
        _ => chance.of(&WAITED),
    };
    // Long enough to be disturbed, now and then for a limit to end it.
    let seconds = format!("0.{}", chance.below(6));
    let seconds = match kind {
        "given-up" | "limited" => format!("{}", 1 + chance.below(2)),
        _ => seconds,
    };
    let dir = stage.ced.dir.display().to_string();
    let more: &[&str] = match kind {
        "detached" => &["--async"],
        "given-up" => &["--timeout", "1"],
        "limited" => &["--time-limit", "1"],
        "hung-up" => &["--on-hangup", "cancel"],
        _ => &[],
    };
    let words = [
        &["run", host, script, "--json"],
        more,
        &["--", id, &seconds, &dir],
    ]
    .concat();
    let first = begin(stage, chance, kind, &words)?;
    let last = told(id, kind, host, &first);
    // An agent that was restarted cannot tell of runs before that. An operator looks on the host, as
    // this does, and then passes over the lock.
    let left = last.outcome == "locked" && last.text.contains("\"live\":false");
    let output = if left && rests(stage, host, script) {
        // The run whose lock was seen, and nothing that began since.
        let seen = last
            .text
            .split("\"reqid\":\"")
            .nth(1)
            .and_then(|rest| rest.get(..16));
        let seen = seen.unwrap_or_default();
        let words = [&words[..1], &["--despite-unknown", seen], &words[1..]].concat();
        begin(stage, chance, kind, &words)?
    } else {
        first
    };
    if kind == "detached" && output.status.success() {
        return detached(stage, id, host, &output);
    }
    Ok(told(id, kind, host, &output))
}

/// Whether nothing of a script runs on a host, and nothing begins within a while.
fn rests(stage: &Stage, host: &str, script: &str) -> bool {
    (0..5).all(|_| {
        thread::sleep(Duration::from_millis(300));
        !alive(stage).iter().any(|name| {
            name.contains(&format!("_{host}_")) && name.ends_with(&format!("_{script}.sh"))
        })
    })
}

/// What the scripts that are alive have noted themselves as.
fn alive(stage: &Stage) -> Vec<String> {
    let notes = fs::read_dir(stage.ced.dir.join("at")).into_iter().flatten();
    let alive = notes.flatten().filter(|note| {
        let pid = fs::read_to_string(note.path().join("pid")).unwrap_or_default();
        let pid = pid.trim();
        !pid.is_empty() && std::path::Path::new("/proc").join(pid).exists()
    });
    alive
        .filter_map(|note| note.file_name().into_string().ok())
        .collect()
}

/// Runs one command, and does to it what its kind is about.
fn begin(stage: &Stage, chance: &mut Chance, kind: &str, words: &[&str]) -> io::Result<Output> {
    let mut child = stage.ced.command(words).spawn()?;
    let pid = rustix::process::Pid::from_child(&child);
    let send = |signal| {
        let _ = rustix::process::kill_process(pid, signal);
    };
    let pause = Duration::from_millis(chance.below(400) as u64);
    match kind {
        "interrupted" => {
            thread::sleep(pause);
            send(Signal::INT);
            thread::sleep(pause / 2);
            send(Signal::INT);
        }
        "killed" => {
            thread::sleep(pause);
            let _ = child.kill();
        }
        "hung-up" => {
            thread::sleep(pause);
            send(Signal::HUP);
        }
        _ => {}
    }
    child.wait_with_output()
}

/// Waits for a run that was accepted.
fn detached(stage: &Stage, id: &str, host: &'static str, output: &Output) -> io::Result<Told> {
    let object = object(&output.stdout)?;
    let reqid = text(&object, "reqid");
    let output = stage
        .ced
        .run(&["wait", &reqid, "--timeout", "120", "--json"])?;
    let record = self::object(&output.stdout)?;
    let entry = record.object("hosts").and_then(|hosts| hosts.object(host));
    let entry = entry.unwrap_or_default();
    let (status, stderr) = (text(&entry, "status"), text(&entry, "stderr"));
    if status != "done" {
        stage.fault(format!("{id}: accepted, and then {status}: {entry:?}"));
    }
    Ok(Told {
        // A supervisor that was killed is told as such.
        outcome: if stderr.contains("lost") {
            "lost"
        } else {
            "done"
        }
        .to_owned(),
        ..of_end(id, "detached", host, &entry)
    })
}

fn object(bytes: &[u8]) -> io::Result<Members> {
    Members::parse(bytes, &Bounds::ANSWER)
        .map_err(|error| io::Error::other(format!("{error}: {}", String::from_utf8_lossy(bytes))))
}

/// A member as text.
fn text(object: &Members, name: &str) -> String {
    object.text(name).unwrap_or_default().into_owned()
}

fn of_end(id: &str, kind: &'static str, host: &'static str, end: &Members) -> Told {
    Told {
        id: id.to_owned(),
        kind,
        host,
        outcome: text(end, "outcome"),
        exit: end.integer("exit").unwrap_or(-1),
        stdout: text(end, "stdout"),
        cancelled: ["cancelled", "time_limit"]
            .iter()
            .any(|key| end.is_true(key)),
        text: end.render(),
    }
}

/// What a command said that has ended.
fn told(id: &str, kind: &'static str, host: &'static str, output: &Output) -> Told {
    let text = crate::world::both(output);
    let bare = |outcome: &str| Told {
        id: id.to_owned(),
        kind,
        host,
        outcome: outcome.to_owned(),
        exit: -1,
        stdout: String::new(),
        cancelled: false,
        text: text.clone(),
    };
    let Ok(object) = object(&output.stdout) else {
        // Killed, hung up or interrupted before it could say anything.
        return bare("gone");
    };
    if object.text("error").as_deref() == Some("locked") {
        return bare("locked");
    }
    let results = object.get("results").map(Raw::items);
    match results.and_then(|mut results| Members::from_raw(results.next()?)) {
        Some(end) => of_end(id, kind, host, &end),
        None => bare("gone"),
    }
}

/// Restarts, kills and reloads agents, and cancels all that runs, until the workers have ended.
fn disturb(
    stage: &Stage,
    world: &mut World,
    mut chance: Chance,
    restarts: bool,
) -> BTreeMap<&'static str, usize> {
    const GENTLE: [&str; 5] = ["reload", "reload", "cancel", "cancel", "status"];
    const ROUGH: [&str; 2] = ["restart", "kill"];
    let ways = match restarts {
        true => [&GENTLE[..], &ROUGH].concat(),
        false => GENTLE.to_vec(),
    };
    let mut counts = BTreeMap::new();
    while !stage.over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(200 + chance.below(1_500) as u64));
        let host = chance.of(&HOSTS);
        let what = chance.of(&ways);
        *counts.entry(what).or_default() += 1;
        let done = match what {
            "reload" => world
                .running(host)
                .map_or(Ok(()), |agent| agent.signal(Signal::HUP)),
            "cancel" => stage.ced.run(&["cancel", host, "--all"]).map(|_| ()),
            "status" => stage.ced.run(&["running"]).map(|_| ()),
            kind => {
                if kind == "kill" {
                    if let Some(agent) = world.running(host) {
                        let _ = agent.signal(Signal::KILL);
                    }
                }
                world.stop_agent(host);
                world.start_agent(host)
            }
        };
        if let Err(error) = done {
            stage.fault(format!("{what} of {host}: {error}"));
        }
    }
    counts
}

/// Ends what is left, and waits until the agents say that nothing runs.
fn settle(stage: &Stage) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let told = stage.ced.run(&["running", "--json"])?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        if told.status.success() && text.matches("\"runs\":[]").count() == HOSTS.len() {
            break;
        }
        if Instant::now() > until {
            stage.fault(format!("something is stuck: {text}"));
            break;
        }
        let _ = stage.ced.run(&["cancel", "alpha", "beta", "--all"])?;
        thread::sleep(Duration::from_millis(300));
    }
    let locks = stage.ced.run(&["list-locks", "--json"])?;
    let locks = String::from_utf8_lossy(&locks.stdout).into_owned();
    if locks.contains("\"live\":true") {
        stage.fault(format!("locks are held by nobody: {locks}"));
    }
    // What an agent before the present one has started ends by itself.
    let quiet = wait_until("the end of all scripts", PATIENCE, || {
        alive(stage).is_empty()
    });
    if quiet.is_err() {
        stage.fault(format!("scripts go on: {:?}", alive(stage)));
    }
    Ok(())
}

/// Holds what was told against what the scripts have written.
fn judge(stage: &Stage, report: &mut Report) -> io::Result<()> {
    let log = fs::read_to_string(stage.ced.dir.join("log")).unwrap_or_default();
    let mut begun: HashMap<&str, usize> = HashMap::new();
    let mut ended: HashMap<&str, usize> = HashMap::new();
    for line in log.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("begun"), Some(id)) => *begun.entry(id).or_default() += 1,
            (Some("ended"), Some(id)) => *ended.entry(id).or_default() += 1,
            _ => stage.fault(format!("two at once of one host and script: {line}")),
        }
    }
    report.scripts = (begun.len(), ended.len());
    for (id, count) in begun.iter().filter(|(_, count)| **count > 1) {
        stage.fault(format!("{id} ran {count} times"));
    }
    let recorded = recorded(stage)?;
    for id in begun.keys() {
        if !recorded.contains_key(*id) {
            stage.fault(format!("{id} ran, and there is no record of it"));
        }
    }
    let all = stage.told.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() != stage.runs {
        stage.fault(format!("{} of {} runs were told of", all.len(), stage.runs));
    }
    for told in all.iter() {
        let word = if told.cancelled {
            "cut"
        } else {
            &*told.outcome
        };
        *report
            .told
            .entry(format!("{} {word}", told.kind))
            .or_default() += 1;
        let (began, came_to_end) = (begun.contains_key(&*told.id), ended.contains_key(&*told.id));
        if let Some(fault) = false_claim(told, began, came_to_end) {
            let Told { id, host, text, .. } = told;
            stage.fault(format!("{id} on {host}: {fault}: {text}"));
        }
    }
    Ok(())
}

/// What was said and is not so.
fn false_claim(told: &Told, began: bool, came_to_end: bool) -> Option<&'static str> {
    let whole = told.exit == 7 && told.stdout == format!("out {}\n", told.id);
    match told.outcome.as_str() {
        // Told to end before its first line, in the middle, or when it was through.
        "failed" | "ok" | "done" if told.cancelled => None,
        "failed" | "ok" | "done" if !whole => Some("ended otherwise than the script"),
        "failed" | "ok" | "done" => (!came_to_end).then_some("ended, and the script did not"),
        "refused" | "unreached" | "skipped" | "locked" => {
            began.then_some("nothing was to run, and it began")
        }
        // Killed before it was asked, or its end is not known: all may be.
        "unknown" | "gone" | "lost" => None,
        // A submission that was not accepted.
        _ => began.then_some("told as something unheard of, and it began"),
    }
}

/// The arguments of all recorded runs: the first is the id.
fn recorded(stage: &Stage) -> io::Result<HashMap<String, ()>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(stage.ced.dir.join("server/var/lib/ctrl-exec/runs"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let record = object(&fs::read(&path)?)?;
        found.extend(record.texts("args").into_iter().next().map(|id| (id, ())));
    }
    Ok(found)
}
