//! `renew`, `rotate-cert`, `serial-status` and `maintain` (dispatcher.md §3.5, §3.11;
//! pki-and-pairing.md §9, §10).

use super::ping::log_renewal;
use crate::cli::session::{self, Session};
use crate::cli::table::{EXPIRED, JSON};
use crate::cli::{Ctx, Exit, Fatal, out, parse::Args};
use crate::engine::Engine;
use crate::jval;
use crate::renewal;
use crate::trust;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::verify::Clock;
use std::sync::Arc;

/// Renews the certificates of agents now.
pub fn renew(ctx: &Ctx, args: &Args) -> Result<Exit, Fatal> {
    let config = ctx.config()?;
    let words = session::select(ctx, args, &args.words)?;
    let targets = session::resolve(&ctx.registry(), args, &words)?;
    let authority = renewal::authority(&config).map_err(Fatal)?;
    let session = Session::open(ctx, config, args, false)?;
    let registry = ctx.registry();
    let reqid = session::new_reqid()?;
    let mut renewed = Vec::new();
    if args.has(&EXPIRED) {
        // One engine each: its clock stands where that agent's certificate was still valid.
        for target in targets {
            let record = registry.require(&target.name)?;
            let engine = engine_for_expired(&session, Utc::parse_openssl(record.expiry()))?;
            let target = vec![(target, 0)];
            renewed.extend(renewal::renew(
                &engine,
                &session.config,
                &authority,
                &registry,
                target,
                &reqid,
            )?);
        }
    } else {
        let targets = targets
            .into_iter()
            .map(|t| (t.clone(), session.identity(&t)))
            .collect();
        renewed = renewal::renew(
            &session.engine,
            &session.config,
            &authority,
            &registry,
            targets,
            &reqid,
        )?;
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

/// An engine that takes a certificate which ended at `end`; what is still valid stays so.
fn engine_for_expired(session: &Session, end: Option<Utc>) -> Result<Engine, Fatal> {
    let clock: Clock = Arc::new(move || {
        let now = Utc::now().0;
        end.map_or(now, |end| now.min(end.0 - 60))
    });
    let files = trust::identity_files(&session.config);
    let tls = trust::client_config_of(&session.config, &files, false, &clock)?;
    Ok(session.engine.clone().with_identity(tls))
}
