//! `pairing-mode`, `list-requests`, `approve`, `deny` (pki-and-pairing.md §7, §8).

use crate::ca::{CaDir, CaError};
use crate::config::{Config, DEFAULT_DIR};
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{AGENT_PORT, CODE, IP, JSON, LOOKUP_BY, PORT, REPLACE, TIMEOUT};
use crate::front::cli::out;
use crate::model::AppError;
use crate::pairing::{
    self, Child, Console, Desk, Ended, Listener, ListenerOptions, Overrides, PID_FILE, Queue,
    RateLimit, Stopped,
};
use crate::trust;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::names;
use ctrl_exec_protocol::names::PAIRING_PORT;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::wire::pairing::LookupBy;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

/// Longest session.
const MAX_SESSION: u32 = 600;

/// Accepts pairing requests, in the foreground or in the background.
pub fn pairing_mode(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    match args.words.first().map(String::as_str) {
        None => foreground(ctx, args),
        Some("start") => start(ctx, args),
        Some("stop") => stop(ctx),
        Some(other) => Err(AppError::usage(format!(
            "pairing-mode: '{}' is neither start nor stop",
            other.escape_debug()
        ))),
    }
}

fn foreground(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let child = Child::recognise(&ctx.root.path(PID_FILE));
    match bind(ctx, args) {
        Ok(ready) => serve(ctx, ready, child),
        Err(error) => {
            if let Some(child) = child {
                child.failed(&error.message);
            }
            Err(error)
        }
    }
}

/// Nothing could be approved without the CA's key: said before agents are asked to pair.
fn has_ca(ctx: &Ctx) -> Result<(), AppError> {
    let key = CaDir::new(ctx.root.path(DEFAULT_DIR)).key();
    match key.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(CaError::io("read", &key, error).into())
        }
        _ => Ok(()),
    }
}

struct Ready {
    config: Config,
    listener: Listener,
    session: Duration,
}

fn bind(ctx: &Ctx, args: &Args) -> Result<Ready, AppError> {
    let config = ctx.config()?;
    let session = session_length(args, &config)?;
    has_ca(ctx)?;
    let identity = trust::identity_files(&config).load()?;
    let port = args.number(&PORT).unwrap_or(PAIRING_PORT);
    let options = ListenerOptions {
        bind: SocketAddr::from(([0, 0, 0, 0], port)),
        session,
        max_queue: usize::try_from(config.number(
            "pairing_max_queue",
            10,
            (1, 10_000),
            "a number of requests",
        )?)?,
        rate: rate_limit(&config),
        ..ListenerOptions::default()
    };
    let listener = Listener::bind(options, &identity, queue(ctx))?;
    Ok(Ready {
        config,
        listener,
        session,
    })
}

fn serve(ctx: &Ctx, ready: Ready, child: Option<Child>) -> Result<Exit, AppError> {
    let Ready {
        config,
        listener,
        session,
    } = ready;
    let port = listener.address().port();
    let ended = if let Some(mut child) = child {
        child.ready(port)?;
        listener.run(&mut (), &ctx.new_syslog())?
    } else {
        out::line(format_args!(
            "Pairing mode: port {port}, for {} seconds. Agents request pairing with:\n  \
             ctrl-exec-agent request-pairing --dispatcher <this host>",
            session.as_secs()
        ));
        if std::io::stdin().is_terminal() {
            out::line(
                "Commands: a approve, d deny, s skip, l list, q quit (a<n>, d<n> with several).",
            );
            let input = std::io::BufReader::new(std::io::stdin());
            let mut console = Console::start(
                desk(ctx, &config),
                ctx.new_syslog(),
                input,
                listener.waker(),
                std::io::stdout(),
            )?;
            listener.run(&mut console, ctx.syslog())?
        } else {
            listener.run(&mut (), ctx.syslog())?
        }
    };
    out::line(match ended {
        Ended::Timeout => "Pairing mode: time is over.",
        Ended::Stopped => "Pairing mode stopped.",
    });
    Ok(0)
}

fn start(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let config = ctx.config()?;
    let session = session_length(args, &config)?;
    has_ca(ctx)?;
    let program = std::env::current_exe()
        .map_err(|error| AppError::usage(format!("cannot find this program: {error}")))?;
    let mut command = Command::new(program);
    // Options first; the child leaves our directory, so relative paths are made absolute.
    if !ctx.root.is_system() {
        command
            .arg("--root")
            .arg(std::path::absolute(ctx.root.path("/"))?);
    }
    if let Some(path) = &ctx.config_path {
        command.arg("--config").arg(std::path::absolute(path)?);
    }
    command.arg("--timeout").arg(session.as_secs().to_string());
    if let Some(port) = args.value(&PORT) {
        command.args(["--port", port]);
    }
    command.arg("pairing-mode");
    let started = pairing::start(command, &ctx.root.path(PID_FILE))?;
    let line = Line::new("pairing-mode-start")
        .field("PID", started.pid)
        .field("TIMEOUT", session.as_secs());
    ctx.log(Level::Info, &line);
    out::line(format_args!(
        "Pairing mode started in the background: pid {}, port {}, for {} seconds.\nSee requests \
         with 'ctrl-exec-dispatcher list-requests'; end it with 'ctrl-exec-dispatcher pairing-mode \
         stop'.",
        started.pid,
        started.port,
        session.as_secs()
    ));
    Ok(0)
}

fn stop(ctx: &Ctx) -> Result<Exit, AppError> {
    match pairing::stop(&ctx.root.path(PID_FILE))? {
        Stopped::NotRunning => out::line("Pairing mode is not running."),
        Stopped::Stale => out::line("Pairing mode is not running (a stale pid file was removed)."),
        Stopped::Stopped(pid) => {
            ctx.log(
                Level::Info,
                &Line::new("pairing-mode-stop").field("PID", pid),
            );
            out::line(format_args!("Pairing mode stopped (pid {pid})."));
        }
    }
    Ok(0)
}

/// Lists pending requests.
pub fn list_requests(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let queue = queue(ctx);
    // Clearing the overdue ones needs write access; looking does not.
    let _ = queue.expire();
    let pending = queue.pending()?;
    if !args.has(&JSON) {
        out::raw(&pairing::list_text(&pending, &looking(ctx)));
        return Ok(0);
    }
    let desk = looking(ctx);
    let requests = pending.iter().map(|queued| {
        let taken = desk.taken(queued, Utc::now()).ok().flatten();
        let taken = taken.map(|taken| {
            let serials = taken.certs.iter().map(|cert| cert.serial.as_str());
            Members::of([
                ("since", Json::text(&*taken.since)),
                ("ip", Json::text(&*taken.ip)),
                ("serials", Json::texts(serials)),
            ])
        });
        Members::of([
            ("taken", taken.map_or(Json::null(), Json::from)),
            ("id", Json::text(&*queued.id)),
            ("hostname", Json::text(&*queued.hostname)),
            ("ip", Json::text(&*queued.ip)),
            ("source_ip", Json::text(&*queued.source_ip)),
            ("code", Json::text(&*queued.code)),
            ("received", Json::text(&*queued.received)),
            ("reverse_dns", Json::text(&*queued.reverse_dns)),
            (
                "reverse_confirmed",
                Json::integer(i64::from(queued.reverse_confirmed)),
            ),
        ])
    });
    out::line(Json::list(requests).into_string());
    Ok(0)
}

/// Approves a request.
pub fn approve(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let id = request_id(args)?;
    let ip = match args.value(&IP) {
        None => None,
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
            AppError::usage(format!(
                "option --ip: '{}' is no IP address",
                text.escape_debug()
            ))
        })?),
    };
    let overrides = Overrides {
        lookup_by: args.value(&LOOKUP_BY).and_then(LookupBy::parse),
        ip,
        port: args.number(&AGENT_PORT),
        code: Some(compared(ctx, args, id)?),
        replace: args.has(&REPLACE),
    };
    let desk = desk(ctx, &ctx.config()?);
    let approved = desk.approve(id, &overrides, ctx.syslog(), Utc::now())?;
    out::raw(&approved.text());
    Ok(0)
}

/// The code that was compared: given, or asked for on a terminal. Without it nothing is signed: whoever
/// writes to the queue could put a request of their own in the place of the one that was looked at.
fn compared(ctx: &Ctx, args: &Args, id: &str) -> Result<String, AppError> {
    if let Some(code) = args.value(&CODE) {
        return Ok(code.trim().to_owned());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(AppError::usage(
            "approve needs --code with the six digits that the agent shows; on a terminal it asks \
             for them",
        ));
    }
    let desk = looking(ctx);
    let queued = desk.queue.undecided(id)?;
    out::error_raw(&format!("Request {id} of '{}'.\n", queued.hostname));
    for warning in desk.warnings(&queued) {
        out::error(format_args!("Warning: {warning}"));
    }
    out::error_raw("Type the six digits that the agent shows: ");
    let mut line = String::new();
    stdin.read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Denies a request.
pub fn deny(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let id = request_id(args)?;
    let desk = desk(ctx, &ctx.config()?);
    desk.deny(id, ctx.syslog())?;
    out::line(format_args!("Denied request '{id}'."));
    Ok(0)
}

fn request_id(args: &Args) -> Result<&str, AppError> {
    let id = args.words[0].as_str();
    if names::is_queue_id(id) {
        Ok(id)
    } else {
        Err(AppError::usage(format!(
            "'{}' is no request id: expected 16 hex digits as 'list-requests' shows them",
            id.escape_debug()
        )))
    }
}

/// Decisions use the CA in the default directory, whatever `ca_dir` says, as the reference does.
fn desk(ctx: &Ctx, config: &Config) -> Desk {
    Desk {
        cert: config.cert(),
        dispatcher_id: config.dispatcher_id(),
        ..looking(ctx)
    }
}

/// A desk at which requests can be looked at, without a configuration.
fn looking(ctx: &Ctx) -> Desk {
    Desk {
        queue: queue(ctx),
        registry: ctx.registry(),
        issued: ctx.issued(),
        root: ctx.root.clone(),
        ca: CaDir::new(ctx.root.path(DEFAULT_DIR)),
        cert: std::path::PathBuf::new(),
        dispatcher_id: String::new(),
    }
}

fn queue(ctx: &Ctx) -> Queue {
    Queue::new(ctx.root.path(pairing::DIR))
}

fn session_length(args: &Args, config: &Config) -> Result<Duration, AppError> {
    let seconds = match args.number::<u32>(&TIMEOUT) {
        Some(seconds) if seconds <= MAX_SESSION => seconds,
        Some(seconds) => {
            return Err(AppError::usage(format!(
                "option --timeout: {seconds} is not from 1 to {MAX_SESSION}"
            )));
        }
        None => config.number(
            "pairing_timeout",
            600,
            (1, MAX_SESSION),
            "seconds from 1 to 600",
        )?,
    };
    Ok(Duration::from_secs(u64::from(seconds)))
}

/// A malformed limit is the default one, as in the reference.
fn rate_limit(config: &Config) -> RateLimit {
    if config.settings().flag("pairing_rate_limit_disable") {
        return RateLimit {
            limit: 0,
            ..RateLimit::default()
        };
    }
    config
        .settings()
        .text("pairing_rate_limit_volume")
        .and_then(RateLimit::parse)
        .unwrap_or_default()
}
