//! `doctor`.

use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{JSON, OFFLINE, REPAIR};
use crate::front::cli::out;
use crate::model::AppError;
use crate::tasks::doctor::{self, Grade};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;

/// Checks everything and says what is wrong.
pub fn doctor(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let dispatcher = ctx.dispatcher()?;
    let registry = dispatcher.agents();
    let repaired = if args.has(&REPAIR) {
        repair(ctx)?
    } else {
        Vec::new()
    };
    dispatcher.reconcile();
    let mut report = doctor::examine(&ctx.root, &dispatcher.config, &registry, Utc::now());
    if !args.has(&OFFLINE) {
        if let Err(error) = doctor::reach(&dispatcher, &mut report) {
            report.add("reachability", Grade::Fault, error.message);
        }
    }
    for message in repaired {
        report.add("repair", Grade::Warning, message);
    }
    let bad = report.worst() == Grade::Fault;
    if args.has(&JSON) {
        let checks = report.findings().iter().map(|finding| {
            let mut check = Members::of([
                ("check", Json::text(finding.check)),
                ("grade", Json::text(finding.grade.word())),
                ("message", Json::text(&*finding.message)),
            ]);
            if !finding.agents.is_empty() {
                check.set("agents", Json::texts(&finding.agents));
            }
            check
        });
        out::line(
            Members::of([
                ("ok", Json::integer(i64::from(!bad))),
                ("checks", Json::list(checks)),
            ])
            .render(),
        );
    } else {
        let mut text = String::new();
        for finding in report.findings() {
            text.push_str(&format!(
                "{:<8} {:<13} {}\n",
                finding.grade.word().to_uppercase(),
                finding.check,
                out::clean(&finding.message)
            ));
        }
        out::raw(&text);
    }
    Ok(u8::from(bad))
}

/// Makes new records for those that cannot be read; says of each what became of it.
fn repair(ctx: &Ctx) -> Result<Vec<String>, AppError> {
    let (registry, issued) = (ctx.registry(), ctx.issued());
    let now = Utc::now();
    let mut messages = Vec::new();
    for damaged in registry.list()?.damaged {
        let certs = issued.of(&damaged.name, now)?;
        let newest = certs.iter().max_by_key(|cert| cert.until.0);
        let repaired = registry.repair(&damaged.name, now, |record| {
            if let (Some(cert), "") = (newest, record.cert_serial()) {
                record.cert_serial = Some(cert.serial.clone());
            }
            if let (Some(cert), "") = (newest, record.expiry()) {
                record.expiry = Some(cert.until.openssl());
            }
        })?;
        let Some(repaired) = repaired else { continue };
        let saved = match repaired.saved.as_slice() {
            [] => "nothing".to_owned(),
            fields => fields.join(", "),
        };
        let line = Line::new("registry-repair")
            .field("AGENT", &damaged.name)
            .field("SAVED", &saved)
            .field("KEPT", repaired.kept.display());
        ctx.log(Level::Warning, &line);
        let message = format!(
            "'{}' has a new record; saved of the old one: {saved}; the file is kept as {}. Check it \
             with list-agents, set its address with edit-agent if that is lost, then ping it",
            damaged.name,
            repaired.kept.display()
        );
        messages.push(message);
    }
    Ok(messages)
}
