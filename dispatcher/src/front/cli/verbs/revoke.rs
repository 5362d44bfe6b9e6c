//! `revoke`, `list-revoked`, `unrevoke`.

use super::agents::{serials, until};
use crate::ca;
use crate::fleet::address;
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{JSON, PORT, SERIAL};
use crate::front::cli::out;
use crate::model::AgentRecord;
use crate::model::AppError;
use crate::store::files::issued::IssuedCert;
use crate::store::files::registry::RegistryError;
use crate::store::files::revoked;
use crate::tasks::Limits;
use crate::tasks::ping::{NO_CA, ping_call};
use crate::tasks::revocation;
use crate::tasks::revoke::{Barred, Barring, RevokeError};
use crate::trust;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::json::{Json, Members};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert::{self, CertFacts};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// What a command is about.
enum Subject<'a> {
    Name(&'a str),
    Serial(String),
}

fn subject(args: &Args) -> Result<Subject<'_>, AppError> {
    match (args.words.first(), args.value(&SERIAL)) {
        (Some(name), None) => Ok(Subject::Name(name)),
        (None, Some(text)) => revoked::read(text).map(Subject::Serial).ok_or_else(|| {
            AppError::usage(format!(
                "option --serial: '{}' is no serial (hex, as openssl x509 -serial prints it)",
                out::clean(text)
            ))
        }),
        _ => Err(AppError::usage(
            "name an agent, or give one certificate with --serial".to_owned(),
        )),
    }
}

/// Bars an agent's certificates, or one certificate.
pub fn revoke(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let (registry, issued) = (ctx.registry(), ctx.issued());
    let barring = Barring {
        root: &ctx.root,
        registry: &registry,
        issued: &issued,
    };
    let now = Utc::now();
    match subject(args)? {
        Subject::Serial(serial) => {
            not_our_own(ctx, &serial)?;
            let cert = IssuedCert {
                serial,
                until: Utc(i64::MAX),
                name: String::new(),
            };
            let new = barring.bar(
                std::slice::from_ref(&cert),
                &format!("by serial {}", now.iso()),
            )?;
            let cert = [cert];
            let listed = listed(ctx);
            report(ctx, args, "", &cert, new);
            if !args.has(&JSON) {
                out::raw(&for_agents(ctx, &cert, listed)?);
            }
        }
        Subject::Name(name) => {
            let barred = barring.revoke(name, now, |record| shown(ctx, args, record));
            let Barred {
                certs,
                new,
                registered,
            } = match barred {
                Ok(barred) => barred,
                Err(error @ RevokeError::NoSerial(_)) => return Ok(nothing(args, name, &error)),
                Err(error) => return Err(error.into()),
            };
            report(ctx, args, name, &certs, new);
            if !args.has(&JSON) {
                out::raw(&instructions(name, registered));
            }
        }
    }
    Ok(0)
}

fn nothing(args: &Args, name: &str, error: &RevokeError) -> Exit {
    if args.has(&JSON) {
        out::line(
            Members::of([
                ("ok", Json::integer(0)),
                ("agent", Json::text(name)),
                ("error", Json::text(error.to_string())),
            ])
            .render(),
        );
    } else {
        out::error(format_args!("Error: {error}"));
    }
    1
}

fn report(ctx: &Ctx, args: &Args, name: &str, certs: &[IssuedCert], new: usize) {
    let line = Line::new("revoke")
        .field("AGENT", name)
        .field("SERIALS", serials(certs));
    ctx.log(Level::Warning, &line);
    if args.has(&JSON) {
        let certs: Vec<Members> = certs.iter().map(object).collect();
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("agent", Json::text(name)),
                ("new", Json::count(new)),
                ("certificates", Json::list(certs)),
            ])
            .render(),
        );
        return;
    }
    let mut text = String::from("Refused from now on:\n");
    for cert in certs {
        let _ = writeln!(text, "  {}  until {}", cert.serial, until(cert));
    }
    if new == 0 {
        text.push_str("(all of them were before)\n");
    }
    out::raw(&text);
}

fn object(cert: &IssuedCert) -> Members {
    let until = match cert.until.0 {
        i64::MAX => String::new(),
        _ => cert.until.iso(),
    };
    Members::of([
        ("serial", Json::text(&*cert.serial)),
        ("until", Json::text(until)),
    ])
}

/// The certificate the agent shows now.
fn shown(ctx: &Ctx, args: &Args, record: &AgentRecord) -> Option<CertFacts> {
    let dispatcher = ctx.dispatcher().ok()?;
    let target = address::target(record, None, args.number(&PORT));
    let identity = dispatcher.identities(false).ok()?.of(&target);
    let plan = dispatcher.plan(&Limits::default(), 1).ok()?;
    let call = ping_call(target, identity, "");
    let answers = dispatcher.engine().all(vec![call], plan);
    let facts = cert::facts(answers.first()?.certificate.as_deref()?).ok()?;
    // Another agent may answer at that address: its certificate must not be barred.
    (facts.subject_cn.as_deref() == Some(record.paired_cn())).then_some(facts)
}

fn instructions(name: &str, registered: bool) -> String {
    let mut text = String::new();
    if registered {
        let _ = writeln!(
            text,
            "'{name}' is marked revoked and is not called any more. 'ced unrevoke {name}' takes it \
             back, 'ced unpair {name}' forgets it."
        );
    }
    let _ = writeln!(
        text,
        "\nAgents trust dispatchers by serial, so these certificates open no other agent.\nOn '{name}' \
         itself, if you still have it: stop the agent and remove /etc/ctrl-exec-agent/agent.key."
    );
    text
}

/// A dispatcher that bars its own certificate could tell no agent so again.
fn not_our_own(ctx: &Ctx, serial: &str) -> Result<(), AppError> {
    let files = trust::identity_files(&ctx.config()?);
    for (files, remedy) in [
        (files.clone(), "'rotate-cert' replaces it first"),
        (
            files.suffixed(".prev"),
            "it is needed until its overlap is over",
        ),
    ] {
        let own = ca::live_serial(&files.cert).map(|own| revoked::normal(&own));
        if own.is_ok_and(|own| own == serial) {
            return Err(AppError::usage(format!(
                "{serial} is the serial of this dispatcher's own certificate ({}): {remedy}",
                files.cert.display()
            )));
        }
    }
    Ok(())
}

/// Makes the list that agents are handed fit what is revoked now.
fn listed(ctx: &Ctx) -> Result<(), AppError> {
    revocation::refresh(&ctx.dispatcher()?, Utc::now()).map(|_| ())
}

/// How agents learn of a certificate that may be a dispatcher's.
fn for_agents(
    ctx: &Ctx,
    certs: &[IssuedCert],
    listed: Result<(), AppError>,
) -> Result<String, AppError> {
    let mut text = match listed {
        Ok(()) => {
            "\nAgents are handed the new list with the next 'ping' or 'maintain'.\n".to_owned()
        }
        Err(error) => format!(
            "\nNo new list could be made for the agents: {}\n'maintain' makes it, where the CA's key \
             can be read.\n",
            out::clean(&error.message)
        ),
    };
    let listing = ctx.registry().list()?;
    let perl = listing.records.iter();
    let perl = perl.filter(|record| record.is_perl() || record.ca_digest() == NO_CA);
    let names: Vec<String> = perl.map(|record| out::clean(record.name())).collect();
    if !names.is_empty() {
        let _ = writeln!(
            text,
            "Not reached by it, being of release 0.12.3: {}. Run on each, and reload its agent:",
            names.join(", ")
        );
        for cert in certs {
            let _ = writeln!(
                text,
                "  echo '{}' >> /etc/ctrl-exec-agent/revoked-serials",
                cert.serial
            );
        }
    }
    Ok(text)
}

/// Lists what is refused.
pub fn list_revoked(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let entries = revoked::entries(&ctx.root).map_err(|error| list_error(ctx, &error))?;
    let known: HashMap<String, IssuedCert> = ctx
        .issued()
        .all(Utc(0))?
        .into_iter()
        .map(|cert| (cert.serial.clone(), cert))
        .collect();
    let end = |serial: &str| known.get(serial).map(until);
    if args.has(&JSON) {
        let list = entries.iter().map(|entry| {
            let cert = known.get(&entry.serial);
            Members::of([
                ("serial", Json::text(&*entry.serial)),
                ("note", Json::text(&*entry.comment)),
                ("agent", Json::text(cert.map_or("", |cert| &cert.name))),
                ("until", Json::text(end(&entry.serial).unwrap_or_default())),
            ])
        });
        out::line(Members::of([("ok", Json::integer(1)), ("revoked", Json::list(list))]).render());
        return Ok(0);
    }
    if entries.is_empty() {
        out::line("No certificate is revoked.");
        return Ok(0);
    }
    let mut text = format!("{:<34}  {:<24}  NOTE\n", "SERIAL", "UNTIL");
    for entry in &entries {
        let _ = writeln!(
            text,
            "{:<34}  {:<24}  {}",
            entry.serial,
            end(&entry.serial).unwrap_or_else(|| "?".to_owned()),
            out::clean(&entry.comment)
        );
    }
    out::raw(&text);
    Ok(0)
}

/// Takes a revocation back.
pub fn unrevoke(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let (registry, issued) = (ctx.registry(), ctx.issued());
    let barring = Barring {
        root: &ctx.root,
        registry: &registry,
        issued: &issued,
    };
    let (name, freed) = match subject(args)? {
        Subject::Serial(serial) => ("", barring.unbar(&HashSet::from([serial]))?),
        Subject::Name(name) => match barring.unrevoke(name) {
            Ok(freed) => (name, freed),
            Err(RevokeError::Registry(RegistryError::Unknown(_))) => {
                return Err(AppError::usage(format!(
                    "nothing of '{}' is revoked",
                    out::clean(name)
                )));
            }
            Err(error) => return Err(error.into()),
        },
    };
    if let Err(error) = listed(ctx) {
        out::error(format_args!(
            "Warning: no new list for the agents: {}",
            out::clean(&error.message)
        ));
    }
    let line = Line::new("unrevoke")
        .field("AGENT", name)
        .field("SERIALS", freed.join(","));
    ctx.log(Level::Warning, &line);
    if args.has(&JSON) {
        out::line(
            Members::of([
                (
                    "ok",
                    Json::integer(i64::from(!freed.is_empty() || !name.is_empty())),
                ),
                ("agent", Json::text(name)),
                ("serials", Json::texts(&freed)),
            ])
            .render(),
        );
    } else if freed.is_empty() {
        out::line("No certificate was revoked for that reason.");
    } else {
        out::line(format_args!("Accepted again: {}", freed.join(", ")));
    }
    Ok(u8::from(freed.is_empty() && name.is_empty()))
}

fn list_error(ctx: &Ctx, error: &std::io::Error) -> AppError {
    AppError::usage(format!(
        "cannot read {}: {error}",
        revoked::path(&ctx.root).display()
    ))
}
