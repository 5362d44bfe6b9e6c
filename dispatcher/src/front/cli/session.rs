//! What verbs that talk to agents share: the auth hook, the engine with our identities, the
//! selection of hosts.

use super::table::{ALL, FAILED_OF, JSON, LIST, PARALLEL, PORT, TAGS, TIMEOUT, TOKEN, USERNAME};
use super::{Ctx, Fatal, out, parse::Args};
use crate::config::Config;
use crate::fleet::address;
use crate::fleet::select::{Selection, TagFilter};
use crate::fleet::{Engine, Identity, Plan, Target};
use crate::jval;
use crate::store::files::registry::{Registry, SerialStatus};
use crate::store::files::revoked;
use crate::store::files::runs;
use crate::trust;
use ctrl_exec_host::random;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::hook::HookRequest;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use std::sync::Arc;
use std::time::Duration;

/// A configuration and an engine made of it.
pub struct Session {
    /// The configuration.
    pub config: Config,
    /// Makes calls.
    pub engine: Engine,
    /// How it makes them unless a verb says otherwise.
    pub plan: Plan,
    /// Our certificate.
    pub current: Identity,
    /// The certificate from before a rotation, while agents still need it.
    pub previous: Option<Identity>,
}

impl Session {
    /// Reads certificates and keys. With `resumption`, TLS sessions are remembered, which pays
    /// when agents are called again and again.
    pub fn open(ctx: &Ctx, config: Config, args: &Args, resumption: bool) -> Result<Self, Fatal> {
        let timeout = match args.number::<u64>(&TIMEOUT) {
            Some(seconds) => Duration::from_secs(seconds),
            None => config.read_timeout()?,
        };
        Self::with_timeout(ctx, config, args, resumption, timeout)
    }

    /// The same with a step time limit that does not come from `--timeout`.
    pub fn with_timeout(
        ctx: &Ctx,
        config: Config,
        args: &Args,
        resumption: bool,
        timeout: Duration,
    ) -> Result<Self, Fatal> {
        let parallel = args
            .number(&PARALLEL)
            .unwrap_or_else(|| config.max_parallel());
        let tls = trust::client_config(&config, resumption)?;
        let revoked = revoked::load(&ctx.root).map_err(|error| {
            Fatal(format!(
                "cannot read {}: {error}",
                revoked::path(&ctx.root).display()
            ))
        })?;
        let plan = Plan {
            revoked: Arc::new(revoked),
            max_answer: config.max_answer()?,
            ..Plan::new(parallel, timeout)
        };
        // Without the old pair, agents not told of the new one are out of reach; the others not.
        let previous = match trust::previous_client_config(&config, resumption) {
            Ok(previous) => previous.map(Identity),
            Err(error) => {
                out::error(format_args!(
                    "Warning: the certificate before the rotation: {error}"
                ));
                None
            }
        };
        Ok(Self {
            config,
            engine: Engine::default(),
            plan,
            current: Identity(tls),
            previous,
        })
    }

    /// Which of our identities an agent is to be shown.
    pub fn identity(&self, target: &Target) -> Identity {
        let previous = match target.serial_status {
            SerialStatus::Current => None,
            _ => self.previous.as_ref(),
        };
        previous.unwrap_or(&self.current).clone()
    }
}

/// Who asks, for the hook and for agents: `--username`, else `$USER`; `--token`, else
/// `$ENVEXEC_TOKEN`.
pub fn credentials(args: &Args) -> Result<(String, String), Fatal> {
    let or_env = |flag, variable: &str| match args.value(flag) {
        Some(text) => Ok(text.to_owned()),
        None => match std::env::var(variable) {
            Ok(text) => Ok(text),
            Err(std::env::VarError::NotPresent) => Ok(String::new()),
            Err(std::env::VarError::NotUnicode(_)) => Err(Fatal(format!(
                "the environment variable {variable} is not valid UTF-8"
            ))),
        },
    };
    Ok((or_env(&USERNAME, "USER")?, or_env(&TOKEN, "ENVEXEC_TOKEN")?))
}

/// Asks the auth hook, if there is one. When it denies, says so and returns `false`.
pub fn authorise(
    ctx: &Ctx,
    config: &Config,
    args: &Args,
    request: HookRequest,
) -> Result<bool, Fatal> {
    let line = |result: &str, reason: &str| {
        Line::new("auth")
            .field("RESULT", result)
            .field("REASON", reason)
            .field("AUTHACTION", request.action)
            .field(
                "USER",
                if request.username.is_empty() {
                    "(none)"
                } else {
                    &request.username
                },
            )
            .field("IP", &request.source_ip)
    };
    let Some(hook) = config.auth_hook() else {
        ctx.log(
            Level::Info,
            &line("pass", "no hook configured").field("DISPATCHER", ""),
        );
        return Ok(true);
    };
    let limit = config.auth_hook_timeout()?;
    let verdict = crate::tasks::auth::ask(hook, limit, &request);
    if verdict.timed_out {
        let seconds = limit.unwrap_or_default().as_secs();
        ctx.log(
            Level::Warning,
            &Line::new("auth-hook-timeout").field("TIMEOUT", seconds),
        );
    }
    match verdict.result {
        Ok(()) => {
            ctx.log(Level::Info, &line("pass", "").field("HOOK", hook.display()));
            Ok(true)
        }
        Err(denial) => {
            let line = line("deny", &denial.reason).field("HOOK", hook.display());
            ctx.log(Level::Warning, &line);
            if args.has(&JSON) {
                out::line(jval::line(&jval::object([
                    ("ok", jval::int(0)),
                    ("error", jval::string(denial.reason)),
                    ("code", jval::int(i64::from(denial.code))),
                ])));
            } else {
                out::error(format_args!("Denied: {}", denial.reason));
            }
            Ok(false)
        }
    }
}

/// A hook request of this command line.
pub fn hook_request(
    action: &'static str,
    hosts: &[String],
    credentials: (String, String),
) -> HookRequest {
    HookRequest {
        action,
        hosts: hosts.to_vec(),
        username: credentials.0,
        token: credentials.1,
        source_ip: "127.0.0.1".to_owned(),
        timestamp: Utc::now().iso(),
        ..HookRequest::default()
    }
}

/// The host words meant by words and selection flags. Flags that are not the verb's are absent.
pub fn select(ctx: &Ctx, args: &Args, words: &[String]) -> Result<Vec<String>, Fatal> {
    let among = match args.value(&FAILED_OF) {
        None => None,
        Some(reqid) => {
            let record = ctx
                .runs()
                .load(reqid)
                .ok_or_else(|| Fatal(format!("no record of run '{}'", reqid.escape_debug())))?;
            let failed = runs::failed_hosts(&record);
            if failed.is_empty() {
                return Err(Fatal(format!("run '{reqid}' has no failed host")));
            }
            Some(failed)
        }
    };
    let selection = Selection {
        words: words.to_vec(),
        all: args.has(&ALL),
        tags: args
            .value(&TAGS)
            .map(TagFilter::parse)
            .transpose()
            .map_err(Fatal)?,
        among,
    };
    if selection.is_empty() {
        return Err(Fatal(
            "no host given (name one, or use --all or --tags)".to_owned(),
        ));
    }
    Ok(selection.words(&ctx.registry())?)
}

/// The targets of host words.
pub fn resolve(registry: &Registry, args: &Args, words: &[String]) -> Result<Vec<Target>, Fatal> {
    Ok(address::resolve(registry, words, args.number(&PORT))?)
}

/// `--list`: shows who would be reached. Returns whether that was asked for.
pub fn list(ctx: &Ctx, args: &Args, words: &[String]) -> Result<bool, Fatal> {
    if !args.has(&LIST) {
        return Ok(false);
    }
    let targets = resolve(&ctx.registry(), args, words)?;
    if args.has(&JSON) {
        let hosts = targets.iter().map(|target| {
            jval::object([
                ("host", jval::string(&*target.name)),
                ("address", jval::string(target.address())),
                ("port", jval::int(i64::from(target.port()))),
            ])
        });
        out::line(jval::line(&jval::objects(hosts)));
    } else {
        let mut text = String::new();
        for target in &targets {
            text.push_str(&format!(
                "{:<30}  {}:{}\n",
                target.name,
                target.address(),
                target.port()
            ));
        }
        out::raw(&text);
        out::error(format_args!("{} host(s)", targets.len()));
    }
    Ok(true)
}

/// A new request id.
pub fn new_reqid() -> Result<String, Fatal> {
    random::hex_id().map_err(|error| Fatal(format!("no random numbers: {error}")))
}
