//! The HTTP API (`ctrl-exec-api`, api.md): the same tasks as the command line, over REST.
//!
//! One loop has the sockets ([`server`]). A request is a chain of steps ([`step`]): answer, ask the
//! hook, work on a thread. The table of routes ([`routes`]) says what there is.

mod app;
mod call;
mod feed;
mod looks;
mod meters;
mod options;
mod pieces;
mod reply;
mod routes;
mod server;
mod settings;
mod step;
mod tidy;

use super::file_limit::raise_file_limit;
use crate::model::AppError;
use app::{App, IDENT, Source, VERSION};
use server::Server;
use std::io::Write;
use std::process::ExitCode;

/// Exit status of every fatal error.
const FATAL: u8 = 3;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(options::Parsed::Serve(source)) => source,
        Ok(options::Parsed::Help) => return said(options::HELP),
        Ok(options::Parsed::Version) => return said(&format!("{IDENT} {VERSION}\n")),
        Ok(options::Parsed::OpenApi) => return said(&routes::openapi::text()),
        Err(message) => {
            log::error!("{message}");
            let _ = std::io::stderr().write_all(options::HELP.as_bytes());
            return ExitCode::from(FATAL);
        }
    };
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(FATAL)
        }
    }
}

fn serve(source: Source) -> Result<(), AppError> {
    raise_file_limit();
    let app = App::load(&source, None)?;
    if let Some(notice) = notice(&app) {
        log::warn!("{notice}");
    }
    let server = Server::bind(source, app)?;
    let tls = if server.has_tls() { "TLS" } else { "no TLS" };
    said(&format!(
        "{IDENT}: listening on {}, {tls}\n",
        server.address()
    ));
    server.run()?;
    said(&format!("{IDENT}: stopped\n"));
    Ok(())
}

/// What whoever starts it should know about who is let in.
fn notice(app: &App) -> Option<String> {
    let config = &app.dispatcher.config;
    match (config.auth_hook(), app.tokens.now()) {
        (_, Err(fault)) => Some(format!("everything is denied: {fault}")),
        (None, Ok(None)) if config.api_auth_default() => {
            Some("no auth hook and no token: only this machine is served".to_owned())
        }
        (None, Ok(None)) => Some(
            "no auth hook and no token: everything is denied (ced token create makes one)"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Writes to standard output; whoever closed it does not want it.
fn said(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}
