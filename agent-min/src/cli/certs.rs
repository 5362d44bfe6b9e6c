//! `cert-staged` and `promote-cert` (agent.md §10, §12).

use crate::config::paths::Paths;
use crate::config::{self, Notes};
use crate::identity::files::Files;
use crate::identity::install::{self, Owner};
use crate::identity::staging::{self, Promotion};
use crate::serve::command_log;
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::config::AgentConf;
use ctrl_exec_protocol::log_line::Line;
use log::error;

/// 0 when a renewed certificate waits, 1 when not or when the configuration cannot be read.
pub(super) fn cert_staged(paths: &Paths) -> u8 {
    match load(paths) {
        Ok((conf, files)) => {
            let waits = staging::waits(&paths.staged(&conf)) || staging::ca_waits(&files);
            u8::from(!waits)
        }
        Err(_) => 1,
    }
}

/// Puts a renewed certificate in place; always 0, since a service must start whatever happened.
pub(super) fn promote_cert(paths: &Paths) -> u8 {
    // An interrupted pairing is completed by the first start that may write.
    if let Err(error) = install::finish(paths, Owner::of_agent()) {
        error!("completing the pairing: {error}");
    }
    let (conf, files) = match load(paths) {
        Ok(loaded) => loaded,
        Err(fault) => {
            error!("{fault}");
            return 0;
        }
    };
    let log = command_log(&paths.root);
    // The certificate may be of the new CA.
    let line = Line::new("ca-promote");
    match staging::promote_ca(&files) {
        Ok(false) => {}
        Ok(true) => log.log(Level::Info, &line.field("STATUS", "installed")),
        Err(reason) => {
            error!("CA certificates not installed: {reason}");
            log.log(Level::Warning, &line.field("ERROR", reason));
        }
    }
    let line = Line::new("cert-promote");
    match staging::promote(&paths.staged(&conf), &files, &files.clock()) {
        Ok(Promotion::Nothing) => {}
        Ok(Promotion::Installed) => {
            log.log(Level::Info, &line.field("STATUS", "installed"));
        }
        Ok(Promotion::Refused(reason)) | Err(reason) => {
            error!("staged certificate not installed: {reason}");
            log.log(Level::Warning, &line.field("ERROR", reason));
        }
    }
    0
}

fn load(paths: &Paths) -> Result<(AgentConf, Files), String> {
    config::load_conf(paths, &mut Notes::default())
        .map(|(conf, _, files)| (conf, files))
        .map_err(|error| error.to_string())
}
