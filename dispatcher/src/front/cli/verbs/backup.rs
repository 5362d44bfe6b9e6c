//! `backup`, `restore`, `export-ca` and `join-ca`.

use crate::backup::{Kind, Places};
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::{JSON, NEW_KEY, NO_RUNS, OFFLINE, OVERWRITE};
use crate::front::cli::{out, secret};
use crate::model::AppError;
use crate::sealed::SecretKey;
use crate::tasks;
use ctrl_exec_host::durable::{self, Perm};
use ctrl_exec_protocol::json::{Json, Members};
use std::path::Path;

/// Writes a backup, or makes a key pair for backups.
pub fn backup(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    if let Some(path) = args.value(&NEW_KEY) {
        return new_key(args, Path::new(path));
    }
    let file = Path::new(
        args.words
            .first()
            .ok_or_else(|| AppError::usage("backup needs the name of the file to write"))?,
    );
    let places = Places::of(ctx.config()?);
    let whom = secret::whom(args)?;
    let runs = !args.has(&NO_RUNS);
    let written = tasks::backup::backup(&places, file, &whom, runs, ctx.syslog())?;
    if args.has(&JSON) {
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("file", Json::text(file.display().to_string())),
                ("made", Json::text(written.made.iso())),
                ("agents", Json::count(written.agents)),
                ("runs", Json::count(written.runs)),
                ("bytes", Json::count(written.bytes)),
                ("notes", Json::texts(&written.notes)),
            ])
            .render(),
        );
        return Ok(0);
    }
    for note in &written.notes {
        out::error(format_args!("Note: {}", out::clean(note)));
    }
    out::line(format_args!(
        "Backup of {} agent(s) and {} run(s) in {} ({} bytes).",
        written.agents,
        written.runs,
        out::clean(&file.display().to_string()),
        written.bytes
    ));
    Ok(0)
}

fn new_key(args: &Args, path: &Path) -> Result<Exit, AppError> {
    if !args.words.is_empty() {
        return Err(AppError::usage("--new-key makes a key and no backup"));
    }
    if path.symlink_metadata().is_ok() {
        return Err(AppError::usage(format!(
            "{} exists; it is not overwritten",
            path.display()
        )));
    }
    let key = SecretKey::generate().map_err(|error| AppError::system(error.to_string()))?;
    let public = key.public();
    let text = zeroize::Zeroizing::new(format!("# public key: {public}\n{}\n", *key.text()));
    durable::write(path, text.as_bytes(), &Perm::mode(0o600))
        .map_err(|error| AppError::system(format!("cannot write the key: {error}")))?;
    out::line(public);
    out::error(format_args!(
        "The secret key is in {}. Keep it away from this host: it opens the backups.",
        path.display()
    ));
    Ok(0)
}

/// Puts a backup in place.
pub fn restore(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let file = Path::new(&args.words[0]);
    let opened = tasks::restore::open(file, Kind::Backup, &mut |opens| secret::with(args, opens))?;
    let manifest = &opened.archive.manifest;
    let (host, id) = (manifest.host.clone(), manifest.dispatcher_id.clone());
    let config = ctx.config_path.as_deref();
    let log = ctx.syslog();
    let done = tasks::restore::restore(&ctx.root, config, &opened, args.has(&OVERWRITE), log)?;
    drop(opened);
    let fleet = if args.has(&OFFLINE) {
        Vec::new()
    } else {
        match ctx
            .dispatcher()
            .and_then(|dispatcher| tasks::restore::reach(&dispatcher))
        {
            Ok(found) => found,
            // It is restored all the same.
            Err(error) => vec![format!("the agents could not be asked: {}", error.message)],
        }
    };
    let kept = done.kept.as_ref().map(|path| path.display().to_string());
    if args.has(&JSON) {
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("made", Json::text(done.made.iso())),
                ("host", Json::text(host)),
                ("agents", Json::count(done.agents)),
                ("runs", Json::count(done.runs)),
                ("kept", Json::text(kept.unwrap_or_default())),
                ("older", Json::texts(&done.older)),
                ("fleet", Json::texts(&fleet)),
            ])
            .render(),
        );
        return Ok(0);
    }
    out::line(format_args!(
        "Restored the dispatcher '{}' of {} as it was on {}: {} agent(s), {} run(s).",
        out::clean(&id),
        out::clean(&host),
        done.made.iso(),
        done.agents,
        done.runs
    ));
    for older in &done.older {
        out::line(format_args!(
            "Older than what was here: {}.",
            out::clean(older)
        ));
    }
    if let Some(kept) = kept {
        out::line(format_args!(
            "What was here is in {kept}, with its keys, not encrypted: 'ced restore --force' takes \
             it back; remove it when you do not need it."
        ));
    }
    for found in fleet {
        out::line(format_args!("Fleet: {}.", out::clean(&found)));
    }
    Ok(0)
}

/// Writes the CA for a second dispatcher.
pub fn export_ca(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let file = Path::new(&args.words[0]);
    let places = Places::of(ctx.config()?);
    let whom = secret::whom(args)?;
    tasks::backup::export_ca(&places, file, &whom, ctx.syslog())?;
    out::line(format_args!(
        "The CA is in {}. On the other host: 'ced join-ca'. Then remove the file.",
        out::clean(&file.display().to_string())
    ));
    Ok(0)
}

/// Becomes a second dispatcher of a CA.
pub fn join_ca(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let file = Path::new(&args.words[0]);
    let opened = tasks::restore::open(file, Kind::Ca, &mut |opens| secret::with(args, opens))?;
    let places = Places::of(ctx.config()?);
    let joined = tasks::join::join(&places, &opened, ctx.syslog())?;
    let of = &opened.archive.manifest.dispatcher_id;
    let (revoked, issued) = joined.gained;
    if args.has(&JSON) {
        out::line(
            Members::of([
                ("ok", Json::integer(1)),
                ("again", Json::integer(i64::from(joined.again))),
                ("dispatcher_id", Json::text(joined.dispatcher_id)),
                ("serial", Json::text(joined.serial)),
                ("revoked", Json::count(revoked)),
                ("issued", Json::count(issued)),
            ])
            .render(),
        );
        return Ok(0);
    }
    out::line(format_args!(
        "{} the CA of dispatcher '{}' ({}).",
        if joined.again {
            "This dispatcher already has"
        } else {
            "This dispatcher now has"
        },
        out::clean(of),
        places.ca().cert().display()
    ));
    if joined.new_identity {
        out::line(format_args!(
            "It is '{}', with a certificate of its own, serial {}. Pair each agent with it too: trust \
             is added.",
            joined.dispatcher_id, joined.serial
        ));
    }
    out::line(format_args!(
        "Learnt: {revoked} revoked and {issued} issued certificate(s)."
    ));
    Ok(0)
}
