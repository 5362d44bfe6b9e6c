//! The server: one thread, one loop, everything bounded.

mod answer;
mod conns;
mod live;
mod steps;

use crate::admission::{self, Admission};
use crate::config::paths::Paths;
use crate::config::{LoadError, Loaded, Notes, host_name};
use crate::handlers::State;
use crate::rate_limit::{RateLimiter, Rule};
use crate::restrict::{self, Extent};
use crate::runs::in_flight::{self, InFlight};
use crate::runs::lock::since_boot;
use crate::table::Table;
use crate::verdict::Verdict;
use conns::{Conn, Stage};
use ctrl_exec_host::Root;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::config::{LogLevel, RateLimit};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_reactor::{
    ChildId, Config, ConnId, Event, ListenerId, Reactor, ServerLimits, Signal,
};
use log::{error, warn};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use steps::Waiting;

/// How long a stop waits for what is running; procd kills after 5 s.
const DRAIN: Duration = Duration::from_secs(4);
/// Waiting connections that the kernel keeps for us.
const BACKLOG: i32 = 128;
/// Exit code for a configuration fault or an agent that is not paired (agent.md §7.6).
pub const EXIT_CONFIG: u8 = 78;
/// Exit code for every other fatal fault.
const EXIT_FATAL: u8 = 3;
const DRAIN_TOKEN: u64 = 1;
/// The most connections that any configuration may ask for.
const CONNS: usize = 3 * in_flight::MOST + conns::CONTROL + admission::MOST + 16;

/// How long a peer may be silent in the handshake: a link with 11 s there and back is in use.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// For each piece of an answer that a peer has to take: it may pause, and the link may.
const WRITE: Duration = Duration::from_secs(60);
/// How long after a port that cannot be had it is tried again, and after how many tries that is said
/// again: once an hour.
const RETRY: Duration = Duration::from_secs(10);
const SAID_AGAIN: u32 = 360;

/// Runs the server until it is told to stop. With `wait` a port that another program has is waited
/// for, and said once instead of at every restart. The result is the exit code.
pub fn serve(paths: Paths, wait: bool) -> u8 {
    let log = Syslog::open("ctrl-exec-agent", &paths.root);
    let mut notes = Notes::default();
    // Before the key is read. Whether it holds is told with the rest.
    let _ = restrict::protect_memory();
    let loaded = Loaded::load(&paths, &mut notes);
    if let Ok(loaded) = &loaded {
        log.set_least(least(loaded));
        if loaded.revoked.is_absent() {
            notes.lines.push((Level::Info, no_list(&paths, loaded)));
        }
    }
    report(&log, notes);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            explain(&paths, &error);
            return EXIT_CONFIG;
        }
    };
    if rustix::process::geteuid().is_root() && !loaded.conf.allow_root {
        error!(
            "configuration error: refusing to serve as root\n  \
             Start it as the user '{}', or set 'allow_root = yes' in {}.",
            crate::config::paths::USER,
            paths.config.display()
        );
        return EXIT_CONFIG;
    }
    match Server::start(paths, loaded, log, wait) {
        Ok(mut server) => match server.run() {
            Ok(()) => 0,
            Err(error) => {
                let line = Line::new("loop-fatal").field("REASON", &error);
                server.log.log(Level::Err, &line);
                error!("{error}");
                EXIT_FATAL
            }
        },
        Err(error) => {
            error!("{error}");
            EXIT_FATAL
        }
    }
}

/// The server's whole state.
struct Server {
    reactor: Reactor,
    listener: Option<ListenerId>,
    log: Syslog,
    state: State,
    limits: Arc<ServerLimits>,
    rate: RateLimiter,
    admission: Admission<ConnId>,
    conns: Table<ConnId, Conn, CONNS>,
    hooks: Table<ChildId, Waiting, { in_flight::MOST }>,
    /// Hooks whose question nobody asks any more.
    gone_hooks: Table<ChildId, (), { in_flight::MOST }>,
    runs: InFlight,
    /// It will be looked who has to be shown that his script still runs.
    showing_life: bool,
    stopping: bool,
    verdict: Verdict,
}

impl Server {
    fn start(paths: Paths, loaded: Loaded, log: Syslog, wait: bool) -> io::Result<Server> {
        let budget = loaded.conf.memory_budget as usize;
        let max_conns = max_conns(&loaded);
        let mut reactor = Reactor::new(Config {
            max_conns,
            max_buffered: budget,
            ..Config::default()
        })?;
        // Signals come after it: who waits for the port is ended by them as any program is.
        let listener = listen_or_wait(&mut reactor, &loaded, &log, wait)?;
        reactor.watch_signals(&[Signal::Hup, Signal::Term, Signal::Int])?;
        // The port may have needed a privilege; nothing from here on does.
        let restrictions = restrict::apply(Extent::of(&loaded.conf));
        log.log(Level::Info, &Line::new("start").field("PORT", loaded.port));
        for (part, error) in restrictions.missing() {
            let line = Line::new("restrict").field("MISSING", part);
            log.log(Level::Warning, &line.field("ERROR", error));
        }
        if loaded.conf.executor_socket.is_none() {
            let mut profiled = loaded
                .scripts
                .scripts
                .values()
                .filter(|s| s.profile != "default");
            if profiled.next().is_some() {
                warn!(
                    "scripts name profiles, but without \
                        executor_socket profiles have no effect",
                );
            }
        }
        Ok(Server {
            verdict: Verdict::new(&paths),
            rate: limiter(&loaded),
            state: State {
                paths,
                host: host_name(&loaded.conf),
                started: since_boot(),
                loaded,
                lines: Vec::new(),
            },
            reactor,
            listener: Some(listener),
            log,
            limits: Arc::new(ServerLimits {
                handshake: HANDSHAKE,
                write: WRITE,
                ..ServerLimits::default()
            }),
            admission: Admission::new(admission::DEFAULTS),
            conns: Table::new(),
            hooks: Table::new(),
            gone_hooks: Table::new(),
            runs: InFlight::new(budget),
            showing_life: false,
            stopping: false,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            // Answers that are still being taken count: their connections close when they are out.
            if self.stopping && self.conns.len() == 0 {
                return Ok(());
            }
            let Some(event) = self.reactor.next(None)? else {
                continue;
            };
            if let Event::Timer {
                token: DRAIN_TOKEN, ..
            } = event
            {
                self.tell_cut_runs();
                return Ok(());
            }
            self.event(event);
            for (level, line) in self.state.lines.drain(..) {
                self.log.log(level, &line);
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Incoming { conn, peer, .. } => self.incoming(conn, peer.ip()),
            Event::Handshaken { conn } => self.handshaken(conn),
            Event::Request { conn, request } => self.request(conn, &request),
            Event::BadRequest { conn, error } => self.bad_request(conn, error),
            Event::Closed { conn, reason } => self.closed(conn, &reason),
            Event::Received { conn, bytes } => self.executor_says(conn, &bytes),
            Event::Output {
                child,
                stream,
                bytes,
            } => self.script_says(child, stream, &bytes),
            Event::Sent { conn } => self.sent(conn),
            Event::Timer {
                token: live::TOKEN, ..
            } => self.show_life(),
            Event::Child { child, result } => self.child_ended(child, *result),
            Event::Signal(Signal::Hup) => self.reload(),
            Event::Signal(_) => self.stop(),
            _ => {}
        }
    }

    /// Swaps everything for what the files say now, or keeps everything and says why.
    fn reload(&mut self) {
        let mut notes = Notes::default();
        match Loaded::load(&self.state.paths, &mut notes) {
            Ok(loaded) => {
                for (key, changed) in [
                    ("port", loaded.port != self.state.loaded.port),
                    ("bind", loaded.conf.bind != self.state.loaded.conf.bind),
                    (
                        "memory_budget",
                        loaded.conf.memory_budget as usize != self.runs.budget(),
                    ),
                ] {
                    if changed {
                        let line = Line::new("config-warn").field("KEY", key);
                        notes.lines.push((
                            Level::Warning,
                            line.field("MSG", "takes effect at the next start"),
                        ));
                    }
                }
                self.rate = limiter(&loaded);
                self.reactor.set_max_conns(max_conns(&loaded));
                self.state.host = host_name(&loaded.conf);
                self.log.set_least(least(&loaded));
                // What was never there is not worth a word at each reload; what is gone now is.
                if loaded.revoked.is_absent() && !self.state.loaded.revoked.is_absent() {
                    let line = no_list(&self.state.paths, &loaded);
                    notes.lines.push((Level::Warning, line));
                }
                self.state.loaded = loaded;
                self.judge_waiting();
                self.verdict.tell("");
                notes
                    .lines
                    .push((Level::Info, Line::new("reload").field("RESULT", "ok")));
            }
            Err(error) => {
                error!("reload failed, the old configuration stays: {error}");
                self.verdict.tell(&error.to_string());
                let line = Line::new("reload")
                    .field("RESULT", "error")
                    .field("ERROR", &error);
                notes.lines.push((Level::Err, line));
            }
        }
        report(&self.log, notes);
    }

    /// Accepts nothing more, lets what runs finish for a while.
    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        if let Some(listener) = self.listener.take() {
            self.reactor.close_listener(listener);
        }
        let owes_nothing = |conn: &Conn| !matches!(conn.stage, Stage::Busy(_) | Stage::Over);
        let idle = self.conns.iter().filter(|(_, conn)| owes_nothing(conn));
        let idle: Vec<ConnId> = idle.map(|(id, _)| id).collect();
        for conn in idle {
            self.reactor.close(conn);
        }
        self.reactor.set_timer(DRAIN, DRAIN_TOKEN);
    }

    /// Leaves a line for each run whose end this process will not see. Detached runs have their
    /// supervisors.
    fn tell_cut_runs(&self) {
        for (run, _) in self.runs.all() {
            let line = Line::new("run-cut")
                .field("SCRIPT", &run.request.script)
                .field("DISPATCHER", &run.dispatcher)
                .field("REQID", &run.request.reqid)
                .field(
                    "MSG",
                    "the agent stops; the script goes on, its result is lost",
                );
            self.log.log(Level::Warning, &line);
        }
    }

    /// Seconds of the monotonic clock.
    fn now(&self) -> u32 {
        u32::try_from(self.reactor.now().as_secs()).unwrap_or(u32::MAX)
    }
}

/// The least grave lines that the configuration wants logged.
fn least(loaded: &Loaded) -> Level {
    match loaded.conf.log_level {
        LogLevel::Info => Level::Info,
        LogLevel::Warning => Level::Warning,
        LogLevel::Err => Level::Err,
    }
}

/// The line that says that nobody is revoked.
fn no_list(paths: &Paths, loaded: &Loaded) -> Line {
    Line::new("revoked-serials-absent")
        .field("PATH", paths.revoked(&loaded.conf).display())
        .field("REASON", "file does not exist; nothing is revoked")
}

/// Explains on standard error why the server does not start (agent.md §7.6).
fn explain(paths: &Paths, error: &LoadError) {
    let (config, allowlist) = (paths.config.display(), paths.allowlist.display());
    match error {
        LoadError::Config(fault) => error!(
            "configuration error\n  {fault}\n  \
             Files: {config}, {allowlist}\n  \
             Correct it and start again; 'ctrl-exec-agent self-check' shows the state."
        ),
        LoadError::Unpaired(missing) => {
            let mut text = String::from("this host has not been paired\n");
            for path in missing {
                text.push_str(&format!("  missing: {}\n", path.display()));
            }
            text.push_str(&format!(
                "  Pair it:  ctrl-exec-agent request-pairing --dispatcher HOST\n  \
                 Check it: ctrl-exec-agent pairing-status\n  Configuration: {config}"
            ));
            error!("{text}");
        }
    }
}

fn listen_or_wait(
    reactor: &mut Reactor,
    loaded: &Loaded,
    log: &Syslog,
    wait: bool,
) -> io::Result<ListenerId> {
    let (bind, port) = (loaded.conf.bind, loaded.port);
    let address = SocketAddr::new(bind.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), port);
    let mut tries = 0u32;
    loop {
        let error = match listen(reactor, bind, port) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let passes = matches!(
            error.kind(),
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
        );
        if !(wait && passes) {
            return Err(io::Error::new(
                error.kind(),
                format!("cannot listen on {address}: {error}"),
            ));
        }
        if tries % SAID_AGAIN == 0 {
            let line = Line::new("listen-wait").field("ADDRESS", address);
            log.log(Level::Err, &line.field("ERROR", error));
        }
        tries = tries.wrapping_add(1);
        std::thread::sleep(RETRY);
    }
}

fn listen(reactor: &mut Reactor, bind: Option<IpAddr>, port: u16) -> io::Result<ListenerId> {
    if let Some(address) = bind {
        return reactor.listen(SocketAddr::new(address, port), BACKLOG);
    }
    // `::` takes IPv4 too, where the kernel has IPv6.
    reactor
        .listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), BACKLOG)
        .or_else(|_| reactor.listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), BACKLOG))
}

/// Connections at a time: those whose script runs or whose hook decides, idle ones, those to the
/// executor, unproven ones, and those that are being closed.
fn max_conns(loaded: &Loaded) -> usize {
    let runs = (loaded.conf.max_children as usize).min(in_flight::MOST);
    4 * runs + conns::CONTROL + admission::MOST + 16
}

fn limiter(loaded: &Loaded) -> RateLimiter {
    let rule = |r: RateLimit| Rule {
        limit: r.limit,
        window: r.window,
        block: r.block,
    };
    let conf = &loaded.conf;
    RateLimiter::new(
        conf.rate_limit_disable,
        rule(conf.rate_limit_volume),
        rule(conf.rate_limit_probe),
    )
}

fn report(log: &Syslog, notes: Notes) {
    for text in notes.stderr {
        warn!("{text}");
    }
    for (level, line) in notes.lines {
        log.log(level, &line);
    }
}

/// The log of a command that is not the server.
pub fn command_log(root: &Root) -> Syslog {
    Syslog::open("ctrl-exec-agent", root)
}
