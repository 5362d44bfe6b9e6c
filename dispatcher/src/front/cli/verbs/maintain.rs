//! `renew`, `rotate-cert`, `serial-status` and `maintain` (dispatcher.md §3.5, §3.11;
//! pki-and-pairing.md §9, §10).

use super::ping::{fan_out, log_renewal, renew_due};
use crate::config::Config;
use crate::fleet::Identity;
use crate::fleet::address;
use crate::front::cli::rotating::{EngineAgents, rotator};
use crate::front::cli::session::{self, Session};
use crate::front::cli::table::{EXPIRED, FORCE, JSON, PORT};
use crate::front::cli::{Ctx, Exit, Fatal, out, parse::Args};
use crate::jval::{self, Value};
use crate::rotation::{Broadcast, Rotator};
use crate::store::files::registry::Record;
use crate::tasks::Outcome;
use crate::tasks::renew::{self, Renewal};
use crate::trust;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::verify::Clock;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

/// Renews the certificates of agents now.
pub fn renew(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let config = ctx.config()?;
    let words = session::select(ctx, args, &args.words)?;
    let targets = session::resolve(&ctx.registry(), args, &words)?;
    let authority = renew::authority(&config).map_err(Fatal)?;
    let session = Session::open(ctx, config, args, false)?;
    let registry = ctx.registry();
    let reqid = session::new_reqid()?;
    let issued = ctx.issued();
    let with = Renewal {
        engine: &session.engine,
        plan: &session.plan,
        config: &session.config,
        authority: &authority,
        registry: &registry,
        issued: &issued,
    };
    let mut renewed = Vec::new();
    if args.has(&EXPIRED) {
        // One identity each: its clock stands where that agent's certificate was still valid.
        for target in targets {
            let record = registry.require(&target.name)?;
            let at = |end: Option<Utc>| -> Result<Vec<renew::Renewed>, Fatal> {
                let target = vec![(target.clone(), identity_for_expired(&session, end)?)];
                Ok(renew::renew(&with, target, &reqid))
            };
            let mut tried = at(Utc::parse_openssl(record.expiry()))?;
            // The registry may say another end than the agent shows: it was renewed and lost what
            // was staged.
            if let Some(end) = tried.iter().find_map(|renewed| renewed.expired) {
                tried = at(Some(end))?;
            }
            renewed.extend(tried);
        }
    } else {
        let targets = targets
            .into_iter()
            .map(|target| {
                let identity = session.identity(&target);
                (target, identity)
            })
            .collect();
        renewed = renew::renew(&with, targets, &reqid);
    }
    let mut failed = false;
    let mut results = Vec::new();
    for renewed in &renewed {
        log_renewal(ctx, renewed, &reqid);
        let (ok, text) = match &renewed.result {
            Ok(end) => (true, end),
            Err(error) => (false, error),
        };
        failed |= !ok;
        if args.has(&JSON) {
            results.push(jval::object([
                ("host", jval::string(&*renewed.name)),
                ("status", jval::string(if ok { "ok" } else { "error" })),
                (
                    if ok { "expiry" } else { "error" },
                    jval::string(text.as_str()),
                ),
            ]));
        } else if ok {
            out::line(format_args!("{:<30}  renewed  until {text}", renewed.name));
        } else {
            out::line(format_args!(
                "{:<30}  FAILED   {}",
                renewed.name,
                out::clean(text)
            ));
        }
    }
    if args.has(&JSON) {
        out::line(jval::line(&jval::object([
            ("ok", jval::int(1)),
            ("results", jval::objects(results)),
        ])));
    }
    Ok(u8::from(failed))
}

/// An identity that takes a certificate which ended at `end`; what is still valid stays so.
fn identity_for_expired(session: &Session, end: Option<Utc>) -> Result<Identity, Fatal> {
    let clock: Clock = Arc::new(move || {
        let now = Utc::now().0;
        end.map_or(now, |end| now.min(end.0 - 60))
    });
    let files = trust::identity_files(&session.config);
    let tls = trust::client_config_of(&session.config, &files, false, &clock)?;
    Ok(Identity(tls))
}

/// Replaces the dispatcher's certificate and tells the agents.
pub fn rotate_cert(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let config = ctx.config()?;
    let rotator = rotator(ctx, &config)?;
    let authority = renew::authority(&config).map_err(Fatal)?;
    if !args.has(&JSON) {
        out::line("Rotating dispatcher certificate...");
    }
    let rotated = rotator.rotate(&authority, args.has(&FORCE), ctx.syslog(), Utc::now())?;
    if !args.has(&JSON) {
        out::raw(&format!(
            "New serial:      {}\nOld serial:      {}\nOverlap expires: {}\nAgents pending:  {}\n\n\
             Broadcasting new serial to agents...\n",
            rotated.new_serial,
            rotated.old_serial.as_deref().unwrap_or("(none)"),
            rotated.overlap_expires.iso(),
            rotated.pending
        ));
    }
    let told = broadcast(ctx, args, &rotator)?;
    if args.has(&JSON) {
        let failed = told.failed.iter().map(|(name, error)| {
            jval::object([
                ("host", jval::string(name.as_str())),
                ("error", jval::string(error.as_str())),
            ])
        });
        out::line(jval::line(&jval::object([
            ("ok", jval::int(1)),
            ("new_serial", jval::string(&*rotated.new_serial)),
            (
                "old_serial",
                jval::string(rotated.old_serial.unwrap_or_default()),
            ),
            (
                "overlap_expires",
                jval::string(rotated.overlap_expires.iso()),
            ),
            ("pending", jval::count(rotated.pending)),
            ("updated", jval::strings(&told.updated)),
            ("failed", jval::objects(failed)),
        ])));
    } else {
        out::raw(&broadcast_text(&told));
    }
    Ok(0)
}

fn broadcast_text(told: &Broadcast) -> String {
    let mut text = format!(
        "  Updated: {}\n  Failed:  {}\n",
        told.updated.len(),
        told.failed.len()
    );
    if told.failed.is_empty() {
        return text;
    }
    text.push_str("\nAgents requiring attention:\n");
    for (name, error) in &told.failed {
        let _ = writeln!(text, "  {name:<30}  {}", out::clean(error));
    }
    text.push_str(
        "\nThey are reached with the old certificate until then, and told again by 'maintain'.\n\
         Agents offline longer than the overlap window will require re-pairing.\n",
    );
    text
}

/// Tells pending agents the serial. The session is opened here: it needs the pairs as they are
/// after the rotation.
fn broadcast(ctx: &Ctx, args: &Args, rotator: &Rotator) -> Result<Broadcast, Fatal> {
    let config = ctx.config()?;
    let id = config.dispatcher_id();
    let session = Session::open(ctx, config, args, false)?;
    let mut agents = EngineAgents::new(&session);
    Ok(rotator.broadcast(&mut agents, &id, ctx.syslog(), Utc::now())?)
}

/// Shows which agents trust the current certificate.
pub fn serial_status(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    // The reference looks at the default paths whatever the configuration says; ours looks where
    // rotation works, and at the default paths when there is no configuration to be read.
    let state = match ctx.config() {
        Ok(config) => rotator(ctx, &config)?.status(ctx.syslog())?,
        Err(_) => crate::rotation::RotationState::load(
            &ctx.root.path("/var/lib/ctrl-exec/rotation.json"),
            ctx.syslog(),
        )?,
    };
    let listing = ctx.registry().list()?;
    out::damaged(&listing.damaged);
    let exit = Exit::from(!listing.damaged.is_empty());
    let agents = listing.records;
    if args.has(&JSON) {
        let state = state.map_or(Value::Null, |state| Value::Object(state.raw().clone()));
        let agents = agents.into_iter().map(Record::into_raw);
        out::line(jval::line(&jval::object([
            ("state", state),
            ("agents", jval::objects(agents)),
        ])));
        return Ok(exit);
    }
    let mut text = match &state {
        None => "No rotation has been performed.\n\n".to_owned(),
        Some(state) => format!(
            "Current serial:  {}\nPrevious serial: {}\nRotated at:      {}\nOverlap expires: {}\n\n",
            state.current_serial(),
            if state.previous_serial().is_empty() {
                "(none)"
            } else {
                state.previous_serial()
            },
            state.rotated_at(),
            state
                .overlap_expires()
                .map_or_else(|| "?".to_owned(), Utc::iso)
        ),
    };
    let mut row = |name: &str, status: &str, confirmed: &str, serial: &str| {
        let _ = writeln!(text, "{name:<30}  {status:<10}  {confirmed:<24}  {serial}");
    };
    row("HOSTNAME", "STATUS", "CONFIRMED", "SERIAL");
    row(&"-".repeat(85), "", "", "");
    for record in &agents {
        let serial = out::clean(record.text("dispatcher_serial"));
        let short: String = serial.chars().take(16).collect();
        let serial = if short.len() < serial.len() {
            format!("{short}...")
        } else {
            serial
        };
        row(
            &out::clean(record.hostname()),
            record.serial_status().word(),
            &out::clean(record.text("serial_confirmed")),
            &serial,
        );
    }
    let text: String = text
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    out::raw(&text);
    Ok(exit)
}

/// Periodic work. Each phase is on its own: what fails is said and logged, and the next one is
/// done. Exit status 1 when a phase failed or a host did.
pub fn maintain(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let config = ctx.config()?;
    let mut work = Maintenance {
        ctx,
        args,
        config: &config,
        failed: Vec::new(),
    };
    let agents = ctx.registry().names().map_or(0, |names| names.len());
    let pinged = work.phase("ping", Maintenance::ping).unwrap_or(0);
    match rotator(ctx, &config) {
        Ok(rotator) => {
            work.phase("rotate", |work| work.rotate(&rotator));
            work.phase("broadcast", |work| {
                let told = broadcast(ctx, args, &rotator)?;
                work.hosts("broadcast", told.failed);
                Ok(())
            });
            work.phase("expire", |_| {
                Ok(rotator.expire_stale(ctx.syslog(), Utc::now()).map(|_| ())?)
            });
            work.phase("retire", |work| work.retire(&rotator));
        }
        Err(error) => {
            work.phase::<()>("rotate", |_| Err(error));
        }
    }
    work.phase("purge", |_| {
        ctx.issued().prune(Utc::now())?;
        Ok(ctx.runs().purge(SystemTime::now()).map(|_| ())?)
    });
    let failed = work.failed;
    let line = Line::new("maintain")
        .field("AGENTS", agents)
        .field("PINGED", pinged)
        .field("FAILED", failed.len());
    ctx.log(Level::Info, &line);
    if args.has(&JSON) {
        let failures = failed.iter().map(|failure| {
            jval::object([
                ("phase", jval::string(failure.phase)),
                ("host", jval::string(failure.host.as_str())),
                ("error", jval::string(failure.error.as_str())),
            ])
        });
        out::line(jval::line(&jval::object([
            ("ok", jval::int(i64::from(failed.is_empty()))),
            ("agents", jval::count(agents)),
            ("pinged", jval::count(pinged)),
            ("failed", jval::objects(failures)),
        ])));
    } else {
        out::line(format_args!(
            "Maintenance {}: pinged {pinged}/{agents} agents.",
            if failed.is_empty() {
                "complete"
            } else {
                "incomplete"
            }
        ));
    }
    Ok(u8::from(!failed.is_empty()))
}

struct Maintenance<'a> {
    ctx: &'a Ctx,
    args: &'a Args,
    config: &'a Config,
    failed: Vec<Failure>,
}

/// Something that maintenance could not do.
struct Failure {
    phase: &'static str,
    /// The agent, or empty.
    host: String,
    error: String,
}

impl Maintenance<'_> {
    fn phase<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T, Fatal>,
    ) -> Option<T> {
        match work(self) {
            Ok(done) => Some(done),
            Err(Fatal(error)) => {
                let line = Line::new("maintain")
                    .field("PHASE", name)
                    .field("ERROR", &error);
                self.ctx.log(Level::Err, &line);
                out::error(format_args!("maintain: {name}: {error}"));
                self.failed.push(Failure {
                    phase: name,
                    host: String::new(),
                    error,
                });
                None
            }
        }
    }

    /// Notes agents for which a phase failed; the phase has logged them.
    fn hosts(&mut self, phase: &'static str, failed: Vec<(String, String)>) {
        for (host, error) in failed {
            out::error(format_args!(
                "maintain: {phase}: {host}: {}",
                out::clean(&error)
            ));
            self.failed.push(Failure { phase, host, error });
        }
    }

    /// Pings all agents and renews what is due; returns how many answered as they should.
    fn ping(&mut self) -> Result<usize, Fatal> {
        let listing = self.ctx.registry().list()?;
        let damaged = listing.damaged.iter();
        let damaged = damaged.map(|damaged| (damaged.name.clone(), damaged.to_string()));
        self.hosts("registry", damaged.collect());
        let mut records = listing.records;
        records.retain(|record| record.revoked().is_none());
        if records.is_empty() {
            return Ok(0);
        }
        let session = Session::open(self.ctx, self.config.clone(), self.args, false)?;
        let option = self.args.number(&PORT);
        let targets = records
            .iter()
            .map(|record| address::target(record, None, option))
            .collect();
        let pinged = fan_out(self.ctx, self.args, &session, targets, |_| ())?;
        let (good, bad): (Vec<_>, Vec<_>) = pinged
            .results
            .results
            .iter()
            .map(|(_, result)| result)
            .partition(|result| Outcome::of(result) == Outcome::Ok);
        let answered = good.len();
        let bad = bad
            .into_iter()
            .map(|result| {
                let error =
                    jval::text(result, "error").unwrap_or("the agent reports a fault".into());
                let host = jval::str_or_empty(result, "host").to_owned();
                (host, error.into_owned())
            })
            .collect();
        self.hosts("ping", bad);
        let renewed = renew_due(self.ctx, &session, &pinged.due)?;
        let failed = renewed.into_iter().filter_map(|renewed| {
            let error = renewed.result.err()?;
            Some((renewed.name, error))
        });
        self.hosts("renew", failed.collect());
        Ok(answered)
    }

    fn rotate(&self, rotator: &Rotator) -> Result<(), Fatal> {
        let now = Utc::now();
        let check = rotator.check(self.ctx.syslog(), now)?;
        if !check.is_due() {
            return Ok(());
        }
        let line = Line::new("cert-renewal-start").field("DAYS_LEFT", check.days_left);
        self.ctx.log(Level::Info, &line);
        let authority = renew::authority(self.config).map_err(Fatal)?;
        rotator.rotate(&authority, false, self.ctx.syslog(), now)?;
        Ok(())
    }

    fn retire(&mut self, rotator: &Rotator) -> Result<(), Fatal> {
        let session = Session::open(self.ctx, self.config.clone(), self.args, false)?;
        let mut agents = EngineAgents::new(&session);
        let retired = rotator.retire(&mut agents, self.ctx.syslog(), Utc::now())?;
        for retired in retired {
            self.hosts("retire", retired.failed);
        }
        Ok(())
    }
}
