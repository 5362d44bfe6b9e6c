//! The command line: a thin layer that turns verbs into calls of the library and results into
//! text or JSON.

mod args;
mod ask;
mod ctx;
mod flags;
mod follow;
mod help;
mod hosts;
mod out;
mod output_dir;
mod parse;
mod progress;
mod render;
mod secret;
mod stops;
mod table;
mod verbs;

use super::file_limit::raise_file_limit;
use crate::backup;
use crate::model::AppError;
use args::Args;
use ctrl_exec_host::paths::Root;
use ctx::{Ctx, Exit, IDENT, VERSION};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use table::Command;

/// Exit status of every fatal error: bad usage, unreadable configuration, unknown agents
/// (dispatcher.md §4; the reference exits with whatever errno was).
pub const FATAL: u8 = 3;
/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    raise_file_limit();
    ExitCode::from(out::finish(run(std::env::args_os().skip(1))))
}

fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let (verb, args) = match parse::parse(args) {
        Ok(parse::Parsed::Verb(verb, args)) => (verb, args),
        Ok(parse::Parsed::Version) => {
            out::line(format_args!("{IDENT} {VERSION}"));
            return 0;
        }
        Ok(parse::Parsed::Help(verb)) => {
            out::raw(&verb.map_or_else(help::overview, help::of_verb));
            return 0;
        }
        Err(error) => {
            out::error(format_args!("Error: {}", error.message));
            if error.show_usage {
                out::error(format_args!("{}", help::overview().trim_end()));
            }
            return FATAL;
        }
    };
    out::set_raw(args.has(&flags::RAW));
    let root = args.value(&flags::ROOT).map_or_else(Root::system, Root::at);
    let ctx = Ctx::new(root, args.value(&flags::CONFIG).map(PathBuf::from));
    match carry_out(verb.command, &ctx, &args) {
        Ok(exit) => exit,
        Err(error) => {
            out::failure(&args, &error);
            error.kind.exit()
        }
    }
}

fn carry_out(command: Command, ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let speaks_only = matches!(command, Command::Help | Command::Man | Command::Completions);
    if !speaks_only && backup::finish_interrupted(&ctx.root)?.is_some() {
        out::error("A restore that was interrupted is complete now.");
    }
    match command {
        Command::Approve => verbs::pairing::approve(ctx, args),
        Command::Cancel => verbs::control::cancel(ctx, args),
        Command::Backup => verbs::backup::backup(ctx, args),
        Command::Completions => verbs::shell::completions(args),
        Command::Deny => verbs::pairing::deny(ctx, args),
        Command::Discover => verbs::discover::discover(ctx, args),
        Command::Doctor => verbs::doctor::doctor(ctx, args),
        Command::EditAgent => verbs::agents::edit_agent(ctx, args),
        Command::ExportCa => verbs::backup::export_ca(ctx, args),
        Command::JoinCa => verbs::backup::join_ca(ctx, args),
        Command::Help => verbs::shell::help(args),
        Command::ListAgents => verbs::agents::list_agents(ctx, args),
        Command::ListLocks => verbs::agents::list_locks(ctx, args),
        Command::ListRequests => verbs::pairing::list_requests(ctx, args),
        Command::Maintain => verbs::maintain::maintain(ctx, args),
        Command::ListRevoked => verbs::revoke::list_revoked(ctx, args),
        Command::Man => verbs::shell::man(),
        Command::Mcp => verbs::bridge::mcp(args),
        Command::PairingMode => verbs::pairing::pairing_mode(ctx, args),
        Command::Ping => verbs::ping::ping(ctx, args),
        Command::Renew => verbs::maintain::renew(ctx, args),
        Command::Restore => verbs::backup::restore(ctx, args),
        Command::RenewCa => verbs::ca::renew_ca(ctx, args),
        Command::ReplaceCa => verbs::ca::replace_ca(ctx, args),
        Command::Revoke => verbs::revoke::revoke(ctx, args),
        Command::RotateCert => verbs::maintain::rotate_cert(ctx, args),
        Command::Run => verbs::run::run(ctx, args),
        Command::Running => verbs::control::running(ctx, args),
        Command::Runs => verbs::history::runs(ctx, args),
        Command::Show => verbs::history::show(ctx, args),
        Command::SerialStatus => verbs::maintain::serial_status(ctx, args),
        Command::SetupCa => verbs::setup::setup_ca(ctx),
        Command::SetupDispatcher => verbs::setup::setup_dispatcher(ctx, args),
        Command::Status => verbs::follow::status(ctx, args),
        Command::Unrevoke => verbs::revoke::unrevoke(ctx, args),
        Command::Token => verbs::token::token(ctx, args),
        Command::Unpair => verbs::agents::unpair(ctx, args),
        Command::Wait => verbs::follow::wait(ctx, args),
    }
}
