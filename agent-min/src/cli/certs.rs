//! `cert-staged` and `promote-cert` (agent.md §10, §12).

use crate::identity::{self, Owner};
use crate::live::{self, Files, Notes};
use crate::places::Places;
use crate::serve::command_log;
use crate::staging::{self, Promotion};
use ctrl_exec_host::syslog::Level;
use ctrl_exec_protocol::config::AgentConf;
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::cert;
use std::io::{self, Write};

/// 0 when a renewed certificate waits, 1 when not or when the configuration cannot be read.
pub(super) fn cert_staged(places: &Places) -> u8 {
    match load(places) {
        Ok((conf, _)) => u8::from(!places.staged(&conf).is_file()),
        Err(_) => 1,
    }
}

/// Puts a renewed certificate in place; always 0, since a service must start whatever happened.
pub(super) fn promote_cert(places: &Places) -> u8 {
    let say = |text: &str| {
        let _ = writeln!(io::stderr(), "ctrl-exec-agent: {text}");
    };
    // An interrupted pairing is completed by the first start that may write.
    if let Err(error) = identity::finish(places, Owner::of_agent()) {
        say(&format!("completing the pairing: {error}"));
    }
    let (conf, files) = match load(places) {
        Ok(loaded) => loaded,
        Err(fault) => {
            say(&fault);
            return 0;
        }
    };
    let log = command_log(&places.root);
    let line = Line::new("cert-promote");
    match staging::promote(&places.staged(&conf), &files, now(&files)) {
        Ok(Promotion::Nothing) => {}
        Ok(Promotion::Installed) => {
            log.log(Level::Info, &line.field("STATUS", "installed"));
        }
        Ok(Promotion::Refused(reason)) | Err(reason) => {
            say(&format!("staged certificate not installed: {reason}"));
            log.log(Level::Warning, &line.field("ERROR", reason));
        }
    }
    0
}

fn load(places: &Places) -> Result<(AgentConf, Files), String> {
    live::load_conf(places, &mut Notes::default())
        .map(|(conf, _, files)| (conf, files))
        .map_err(|error| error.to_string())
}

/// The time by the clock rule, with what the present certificate proves.
fn now(files: &Files) -> i64 {
    let text = std::fs::read_to_string(&files.cert).unwrap_or_default();
    let not_before = cert::facts_from_pem(&text).map_or(0, |facts| facts.not_before);
    Utc::now()
        .0
        .max(live::floor(not_before, &[&files.cert, &files.ca]))
}
