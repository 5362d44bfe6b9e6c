//! `ping` and `discover` (dispatcher.md §3.4, §9.2, §9.3).

use super::run::{strict_exit, summary};
use crate::fleet::select::{SelectError, Selection};
use crate::fleet::{Call, Identity, Target};
use crate::front::cli::dispatch::{Fanout, Results};
use crate::front::cli::session::{self, Session};
use crate::front::cli::table::{ALL, JSON, JSON_LINES, QUIET, SORT, STRICT, TAGS};
use crate::front::cli::{Ctx, Exit, Fatal, out, parse::Args, render};
use crate::jval::{self, Object, Value};
use crate::store::files::issued::IssuedCert;
use crate::store::files::registry::{
    AGENT_VERSION, MAX_TAG, MAX_TAGS, Record, bounded_tags, is_perl_version,
};
use crate::store::files::revoked;
use crate::tasks::renew::{self, Renewal};
use crate::tasks::{self, Outcome};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use std::collections::HashMap;
use std::fmt::Write;

/// Tests mutual TLS with agents.
pub fn ping(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let config = ctx.config()?;
    let words = session::select(ctx, args, &args.words)?;
    if session::list(ctx, args, &words)? {
        return Ok(0);
    }
    let request = session::hook_request("ping", &words, session::credentials(args)?);
    if !session::authorise(ctx, &config, args, request)? {
        return Ok(1);
    }
    let targets = session::resolve(&ctx.registry(), args, &words)?;
    let session = Session::open(ctx, config, args, false)?;
    let streamed = !args.has(&JSON) && !args.has(&JSON_LINES) && !args.has(&SORT);
    if streamed {
        out::raw(&render::ping_head());
    }
    let mut pinged = fan_out(ctx, args, &session, targets, |result| {
        if args.has(&JSON_LINES) {
            out::line(jval::line(&*result));
        } else if streamed {
            out::raw(&render::ping_result(result));
        }
    })?;
    renew_due(ctx, &session, &pinged.due)?;
    sort(args, &mut pinged.results);
    let objects = || pinged.results.results.iter().map(|(_, result)| result);
    if args.has(&JSON) {
        show_json(objects());
    } else if args.has(&SORT) && !args.has(&JSON_LINES) {
        let rows: String = objects().map(render::ping_result).collect();
        out::raw(&format!("{}{rows}", render::ping_head()));
    }
    finish(args, &pinged.results)
}

/// The pings of some targets.
pub struct Pinged {
    /// Results in order of completion.
    pub results: Results,
    /// Targets whose certificate is due, with the identity they know us by.
    pub due: Vec<(Target, Identity)>,
}

/// Pings targets and notes whose certificate is due.
pub fn fan_out(
    ctx: &Ctx,
    args: &Args,
    session: &Session,
    targets: Vec<Target>,
    mut arrived: impl FnMut(&mut Object),
) -> Result<Pinged, Fatal> {
    let reqid = session::new_reqid()?;
    let cert_days = session.config.cert_days()?;
    let now = Utc::now();
    let calls: Vec<Call> = targets
        .into_iter()
        .map(|target| {
            let identity = session.identity(&target);
            tasks::ping_call(target, identity, &reqid)
        })
        .collect();
    let mut due = Vec::new();
    let mut told = HashMap::new();
    let results = Fanout::new(session, calls, args)?.run(
        move |call, answer| {
            let result = tasks::ping_result(&call.target.name, &answer);
            let is_due = renew::is_due(&result, answer.certificate.as_deref(), cert_days, now);
            let shown = answer.certificate.as_deref();
            let shown = shown.and_then(|der| cert::facts(der).ok());
            (result, (is_due, shown))
        },
        |call, result, (is_due, shown)| {
            if is_due {
                due.push((call.target.clone(), call.identity.clone()));
            }
            // Only agents of the reference, and those that were, need a note in their record.
            let version = jval::str_or_empty(result, "version");
            let version = (!version.is_empty()
                && version.len() <= MAX_VERSION
                && (call.target.perl || is_perl_version(version)))
            .then(|| version.to_owned());
            if version.is_some() || shown.is_some() {
                told.insert(call.target.name.clone(), Told { version, shown });
            }
            log_ping(ctx, call, result, &reqid);
            arrived(result);
        },
    )?;
    note(ctx, &told);
    // A name given twice is renewed once.
    due.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    due.dedup_by(|a, b| a.0.name == b.0.name);
    Ok(Pinged { results, due })
}

/// Longest version that is kept of an agent.
const MAX_VERSION: usize = 64;

/// What a ping told of an agent that its record should say.
struct Told {
    version: Option<String>,
    shown: Option<CertFacts>,
}

impl Told {
    /// Brings a record up to date; whether anything was new.
    fn apply(&self, record: &mut Record) -> bool {
        let mut new = false;
        let mut set = |record: &mut Record, key: &str, value: &str| {
            if record.text(key) != value {
                record.set(key, value);
                new = true;
            }
        };
        if let Some(version) = &self.version {
            set(record, AGENT_VERSION, version);
        }
        // Another agent may answer at that address: its certificate is not this one's.
        if let Some(shown) = self.shown_of(record) {
            let end = Utc(shown.not_after);
            set(record, "cert_serial", &revoked::normal(&shown.serial_hex));
            set(record, "expiry", &end.openssl());
            let staged = Utc::parse_openssl(record.staged_expiry());
            if staged.is_some_and(|staged| end.0 >= staged.0) {
                record.unset("staged_expiry");
                new = true;
            }
        }
        new
    }

    fn shown_of(&self, record: &Record) -> Option<&CertFacts> {
        let shown = self.shown.as_ref()?;
        (shown.subject_cn.as_deref() == Some(record.paired_cn())).then_some(shown)
    }
}

/// Keeps what pings told: versions, so that requests can be made to fit them, and the certificates
/// that agents show. A certificate that was not noted when it was given away is noted now.
fn note(ctx: &Ctx, told: &HashMap<String, Told>) {
    let registry = ctx.registry();
    let mut changed = Vec::new();
    let mut certs = Vec::new();
    for (name, told) in told {
        let Ok(Some(mut record)) = registry.load(name) else {
            continue;
        };
        if told.apply(&mut record) {
            changed.push(name.as_str());
            certs.extend(
                told.shown_of(&record)
                    .map(|shown| IssuedCert::new(shown, name)),
            );
        }
    }
    let noted = ctx
        .issued()
        .add(&certs)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let update = |record: &mut Record| {
                let told = told.get(record.name());
                told.is_some_and(|told| told.apply(record))
            };
            registry
                .update_many(&changed, update)
                .map_err(|error| error.to_string())
        });
    // Whoever may not write the registry can still ping.
    if let Err(error) = noted {
        ctx.log(
            Level::Warning,
            &Line::new("registry-fail").field("ERROR", error),
        );
    }
}

/// Renews what is due, if we hold the CA key; failures never change a ping's result.
pub fn renew_due(
    ctx: &Ctx,
    session: &Session,
    due: &[(Target, Identity)],
) -> Result<Vec<renew::Renewed>, Fatal> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let authority = match renew::authority(&session.config) {
        Ok(authority) => authority,
        Err(error) => {
            ctx.log(Level::Err, &Line::new("renew").field("ERROR", &error));
            let failed = due.iter().map(|(target, _)| renew::Renewed {
                name: target.name.clone(),
                result: Err(error.clone()),
                expired: None,
            });
            return Ok(failed.collect());
        }
    };
    let reqid = session::new_reqid()?;
    let registry = ctx.registry();
    let with = Renewal {
        engine: &session.engine,
        plan: &session.plan,
        config: &session.config,
        authority: &authority,
        registry: &registry,
        issued: &ctx.issued(),
    };
    let renewed = renew::renew(&with, due.to_vec(), &reqid);
    for renewed in &renewed {
        log_renewal(ctx, renewed, &reqid);
    }
    Ok(renewed)
}

/// The log line of a renewal.
pub fn log_renewal(ctx: &Ctx, renewed: &renew::Renewed, reqid: &str) {
    let line = |action| {
        Line::new(action)
            .field("TARGET", &renewed.name)
            .field("REQID", reqid)
    };
    match &renewed.result {
        Ok(end) => ctx.log(Level::Info, &line("renew-complete").field("EXPIRY", end)),
        Err(error) => ctx.log(Level::Err, &line("renew").field("ERROR", error)),
    }
}

/// Shows what agents offer, and caches their tags.
pub fn discover(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let config = ctx.config()?;
    let words = if args.words.is_empty() && !args.has(&ALL) && !args.has(&TAGS) {
        let all = Selection {
            all: true,
            ..Selection::default()
        };
        all.words(&ctx.registry()).map_err(|error| match error {
            SelectError::Nobody => Fatal("no agent is registered".to_owned()),
            error => error.into(),
        })?
    } else {
        session::select(ctx, args, &args.words)?
    };
    if session::list(ctx, args, &words)? {
        return Ok(0);
    }
    let request = session::hook_request("discovery", &words, session::credentials(args)?);
    if !session::authorise(ctx, &config, args, request)? {
        return Ok(1);
    }
    let targets = session::resolve(&ctx.registry(), args, &words)?;
    let session = Session::open(ctx, config, args, false)?;
    let calls: Vec<Call> = targets
        .into_iter()
        .map(|target| {
            let identity = session.identity(&target);
            tasks::capabilities_call(target, identity)
        })
        .collect();
    let streamed = !args.has(&JSON) && !args.has(&JSON_LINES) && !args.has(&SORT);
    let mut results = Fanout::new(&session, calls, args)?.run(
        |call, answer| (tasks::capabilities_result(&call.target.name, &answer), ()),
        |call, result, ()| {
            log_capabilities(ctx, call, result);
            if args.has(&JSON_LINES) {
                out::line(jval::line(&*result));
            } else if streamed {
                out::raw(&capabilities_text(result));
            }
        },
    )?;
    cache_tags(ctx, &results)?;
    sort(args, &mut results);
    let objects = || results.results.iter().map(|(_, result)| result);
    if args.has(&JSON) {
        show_json(objects());
    } else if args.has(&SORT) && !args.has(&JSON_LINES) {
        out::raw(&objects().map(capabilities_text).collect::<String>());
    }
    finish(args, &results)
}

fn cache_tags(ctx: &Ctx, results: &Results) -> Result<(), Fatal> {
    let mut left_out = Vec::new();
    let tags: HashMap<&str, Object> = results
        .results
        .iter()
        .filter(|(_, result)| jval::str_or_empty(result, "status") == "ok")
        .filter_map(|(_, result)| {
            let host = jval::str_or_empty(result, "host");
            let (tags, dropped) = bounded_tags(jval::sub_object(result, "tags")?);
            if dropped > 0 {
                left_out.push((host, dropped));
            }
            Some((host, tags))
        })
        .collect();
    let registry = ctx.registry();
    let names: Vec<&str> = tags.keys().copied().collect();
    // Only changed records are written. Those who may only read the registry still see the answer.
    let written = registry.update_many(&names, |record| {
        let Some(tags) = tags.get(record.name()) else {
            return false;
        };
        let changed =
            jval::sub_object(record.raw(), "tags").map(jval::line) != Some(jval::line(tags));
        if changed {
            record.set_tags(tags.clone());
        }
        changed
    });
    for (host, dropped) in left_out {
        let line = Line::new("tags-dropped")
            .field("AGENT", host)
            .field("COUNT", dropped);
        ctx.log(Level::Warning, &line);
        out::error(format_args!(
            "Warning: {host}: {dropped} tag(s) not kept: at most {MAX_TAGS} are, of at most \
             {MAX_TAG} bytes"
        ));
    }
    if let Err(error) = written {
        out::error(format_args!("Warning: tags were not cached: {error}"));
    }
    Ok(())
}

fn capabilities_text(result: &Object) -> String {
    let word = |key| out::clean(&jval::text(result, key).unwrap_or_default());
    let mut text = format!("==> {}  [{}  {}", word("host"), word("status"), word("rtt"));
    if result.contains_key("version") {
        let _ = write!(text, "  {}", word("version"));
    }
    text.push_str("]\n");
    if let Some(error) = jval::text(result, "error") {
        let _ = write!(text, "    ERROR: {}", out::clean(&error));
        match Outcome::of(result) {
            Outcome::Refused => text.push_str(" [refused]"),
            Outcome::Unreached => {
                let _ = write!(text, " [not reached: {}]", word("phase"));
            }
            _ => {}
        }
        text.push('\n');
    }
    if let Some(tags) = jval::sub_object(result, "tags").filter(|tags| !tags.is_empty()) {
        let tags: Vec<String> = tags
            .keys()
            .map(|key| {
                let value = jval::text(tags, key).unwrap_or_default();
                format!("{}={}", out::clean(key), out::clean(&value))
            })
            .collect();
        let _ = writeln!(text, "    tags: {}", tags.join(", "));
    }
    if let Some(Value::Array(scripts)) = result.get("scripts") {
        for script in scripts {
            let Value::Object(script) = script else {
                continue;
            };
            let field = |key| out::clean(&jval::text(script, key).unwrap_or_default());
            let note = if jval::truthy(script, "executable") {
                ""
            } else {
                "  (not executable)"
            };
            let _ = writeln!(text, "    {:<24}  {}{note}", field("name"), field("path"));
        }
    }
    text
}

fn sort(args: &Args, results: &mut Results) {
    if args.has(&SORT) {
        results
            .results
            .sort_by(|a, b| super::run::name_of(&a.1).cmp(super::run::name_of(&b.1)));
    }
}

fn show_json<'a>(results: impl Iterator<Item = &'a Object>) {
    out::line(jval::line(&jval::object([
        ("ok", jval::int(1)),
        ("results", jval::objects(results.cloned())),
    ])));
}

fn finish(args: &Args, results: &Results) -> Result<Exit, Fatal> {
    if !args.has(&JSON) && !args.has(&JSON_LINES) && !args.has(&QUIET) {
        summary(results);
    }
    if results.interrupted {
        return Ok(1);
    }
    if args.has(&STRICT) {
        return Ok(strict_exit(
            results.results.iter().map(|(_, result)| result),
        ));
    }
    Ok(0)
}

fn log_ping(ctx: &Ctx, call: &Call, result: &Object, reqid: &str) {
    let line = Line::new("ping")
        .field("AGENT", &call.target.name)
        .field(
            "TARGET",
            format_args!("{}:{}", call.target.address(), call.target.port()),
        )
        .field("RTT", jval::str_or_empty(result, "rtt"))
        .field("REQID", reqid);
    match jval::text(result, "error") {
        None => ctx.log(Level::Info, &line.field("RESULT", "ok")),
        Some(error) => ctx.log(Level::Err, &line.field("ERROR", error)),
    }
}

fn log_capabilities(ctx: &Ctx, call: &Call, result: &Object) {
    let line = Line::new("capabilities")
        .field(
            "TARGET",
            format_args!("{}:{}", call.target.address(), call.target.port()),
        )
        .field("RTT", jval::str_or_empty(result, "rtt"));
    let scripts = match result.get("scripts") {
        Some(Value::Array(scripts)) => scripts.len(),
        _ => 0,
    };
    match jval::text(result, "error") {
        None => ctx.log(Level::Info, &line.field("SCRIPTS", scripts)),
        Some(error) => ctx.log(Level::Err, &line.field("ERROR", error)),
    }
}
