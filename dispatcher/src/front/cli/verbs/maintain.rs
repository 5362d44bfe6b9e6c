//! `renew`, `rotate-cert`, `serial-status` and `maintain` (dispatcher.md §3.5, §3.11;
//! pki-and-pairing.md §9, §10).

use crate::front::cli::args::Args;
use crate::front::cli::ask;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{EXPIRED, FORCE, JSON, PORT, QUICK};
use crate::front::cli::out;
use crate::model::AppError;
use crate::model::{AgentRecord, RotationState, SerialStatus};
use crate::rotation::Broadcast;
use crate::store::files::rotation;
use crate::tasks;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::time::Utc;
use std::fmt::Write;

/// Renews the certificates of agents now.
pub fn renew(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let words = dispatcher.select(&ask::choice(args, &args.words)?)?;
    let port = args.number(&PORT);
    let renewed = tasks::renew::renew(&dispatcher, &words, port, args.has(&EXPIRED))?;
    let mut failed = false;
    let mut results = Vec::new();
    for renewed in &renewed {
        let (ok, text) = match &renewed.result {
            Ok(end) => (true, end),
            Err(error) => (false, error),
        };
        failed |= !ok;
        if args.has(&JSON) {
            results.push(Members::of([
                ("host", Json::text(&*renewed.name)),
                ("status", Json::text(if ok { "ok" } else { "error" })),
                (
                    if ok { "expiry" } else { "error" },
                    Json::text(text.as_str()),
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
        out::line(
            Members::of([("ok", Json::integer(1)), ("results", Json::list(results))]).render(),
        );
    }
    Ok(u8::from(failed))
}

/// Replaces the dispatcher's certificate and tells the agents.
pub fn rotate_cert(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let rotated = tasks::rotate::rotate(&dispatcher, args.has(&FORCE))?;
    if !args.has(&JSON) {
        out::raw(&format!(
            "Rotating dispatcher certificate...\nNew serial:      {}\nOld serial:      {}\nOverlap expires: {}\nAgents pending:  {}\n\n\
             Broadcasting new serial to agents...\n",
            rotated.new_serial,
            rotated.old_serial.as_deref().unwrap_or("(none)"),
            rotated.overlap_expires.iso(),
            rotated.pending
        ));
    }
    if !rotated.stale.is_empty() {
        out::error(format_args!(
            "Warning: left behind, as they knew only the certificate before the last one; they must be \
             paired again: {}",
            rotated.stale.join(", ")
        ));
    }
    let told = tasks::rotate::broadcast(&dispatcher)?;
    if args.has(&JSON) {
        let failed = told.failed.iter().map(|(name, error)| {
            Members::of([
                ("host", Json::text(name.as_str())),
                ("error", Json::text(error.as_str())),
            ])
        });
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("new_serial", Json::text(&*rotated.new_serial)),
                (
                    "old_serial",
                    Json::text(rotated.old_serial.unwrap_or_default()),
                ),
                ("overlap_expires", Json::text(rotated.overlap_expires.iso())),
                ("pending", Json::count(rotated.pending)),
                ("stale", Json::texts(&rotated.stale)),
                ("updated", Json::texts(&told.updated)),
                ("failed", Json::list(failed)),
            ])
            .render(),
        );
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

/// Shows which agents trust the current certificate.
pub fn serial_status(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    // The reference looks at the default paths whatever the configuration says; ours looks where
    // rotation works, and at the default paths when there is no configuration to be read.
    let state = match ctx.dispatcher() {
        Ok(dispatcher) => {
            dispatcher.reconcile();
            rotation::load(&dispatcher.config.rotation_file(), ctx.syslog())?
        }
        Err(_) => rotation::load(
            &ctx.root.path("/var/lib/ctrl-exec/rotation.json"),
            ctx.syslog(),
        )?,
    };
    let listing = ctx.registry().list()?;
    out::damaged(&listing.damaged);
    let exit = Exit::from(!listing.damaged.is_empty());
    let agents = listing.records;
    if args.has(&JSON) {
        let agents = agents.into_iter().map(|mut record| {
            let standing = standing(state.as_ref(), &record);
            if standing != record.serial_status() {
                record.serial_status = Some(standing);
            }
            record.members()
        });
        let shown = state
            .as_ref()
            .map_or(Json::null(), |state| state.members().into());
        out::line(Members::of([("state", shown), ("agents", Json::list(agents))]).render());
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
        let serial = out::clean(record.dispatcher_serial());
        let short: String = serial.chars().take(16).collect();
        let serial = if short.len() < serial.len() {
            format!("{short}...")
        } else {
            serial
        };
        row(
            &out::clean(record.hostname()),
            standing(state.as_ref(), record).word(),
            &out::clean(record.serial_confirmed.as_deref().unwrap_or_default()),
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

fn standing(state: Option<&RotationState>, record: &AgentRecord) -> SerialStatus {
    state.map_or_else(|| record.serial_status(), |state| state.standing(record))
}

/// Periodic work. Exit status 1 when a phase failed or a host did.
pub fn maintain(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let report = tasks::maintain::maintain(
        &dispatcher,
        args.number(&PORT),
        args.has(&QUICK),
        &mut |failure| {
            let error = out::clean(&failure.error);
            if failure.host.is_empty() {
                out::error(format_args!("maintain: {}: {error}", failure.phase));
            } else {
                let host = out::clean(&failure.host);
                out::error(format_args!("maintain: {}: {host}: {error}", failure.phase));
            }
        },
    );
    let complete = report.failed.is_empty();
    if let Some(due) = &report.backup {
        out::error(format_args!("maintain: backup: {}", out::clean(due)));
    }
    if args.has(&JSON) {
        let failures = report.failed.iter().map(|failure| {
            Members::of([
                ("phase", Json::text(failure.phase)),
                ("host", Json::text(failure.host.as_str())),
                ("error", Json::text(failure.error.as_str())),
            ])
        });
        let mut result = Members::of([
            ("ok", Json::integer(i64::from(complete))),
            ("agents", Json::count(report.agents)),
            ("pinged", Json::count(report.pinged)),
            ("failed", Json::list(failures)),
        ]);
        result.set_text("backup_due", report.backup.as_deref());
        out::line(result.render());
    } else {
        out::line(format_args!(
            "Maintenance {}: pinged {}/{} agents.",
            if complete { "complete" } else { "incomplete" },
            report.pinged,
            report.agents
        ));
    }
    Ok(u8::from(!complete))
}
