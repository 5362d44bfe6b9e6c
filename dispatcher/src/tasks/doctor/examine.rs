//! All that is looked at without asking an agent.

use super::agents::agents;
use super::certificates::{authority, certificates};
use super::handover::handover;
use super::places::{directory, hook};
use super::report::{Grade, Report};
use super::serials::twins;
use crate::backup::{LastBackup, Places};
use crate::config::Config;
use crate::model::RotationState;
use crate::store::files::registry::Registry;
use crate::store::files::revoked;
use crate::tasks::backup::reminder;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::time::Utc;

/// Looks at everything that does not need an agent.
pub fn examine(root: &Root, config: &Config, registry: &Registry, now: Utc) -> Report {
    let mut report = Report::default();
    let path = config.path().display();
    report.add(
        "config",
        Grade::Ok,
        if config.path().exists() {
            path.to_string()
        } else {
            format!("{path} is not there: defaults")
        },
    );
    for warning in &config.settings().warnings {
        report.add(
            "config",
            Grade::Warning,
            format!("{}: {warning}", config.path().display()),
        );
    }
    for error in [
        config.read_timeout().err(),
        config.auth_hook_timeout().err(),
        config.cert_days().err(),
        config.max_answer().err(),
    ]
    .into_iter()
    .flatten()
    {
        report.add("config", Grade::Fault, error.to_string());
    }
    certificates(&mut report, config, now);
    authority(&mut report, config, registry, now);
    handover(&mut report, root, config, registry);
    hook(&mut report, config);
    for dir in [
        crate::store::files::registry::DIR,
        crate::store::files::runs::DIR,
        crate::store::files::locks::DIR,
    ] {
        directory(&mut report, &root.path(dir));
    }
    let state = Bounded::new(1 << 16)
        .text(&config.rotation_file())
        .map(|text| RotationState::of_text(&text))
        .ok();
    agents(&mut report, registry, state.as_ref(), now);
    twins(&mut report, config, root, registry, now);
    backup(&mut report, config, registry);
    if let Err(error) = revoked::load(root) {
        report.add(
            "revoked",
            Grade::Fault,
            format!("{}: {error}", revoked::path(root).display()),
        );
    }
    report
}

/// Whether a backup is due.
fn backup(report: &mut Report, config: &Config, registry: &Registry) {
    if !config.backup_reminder() {
        return;
    }
    let places = Places::of(config.clone());
    let records = registry.list().unwrap_or_default().records;
    match reminder(&places, &records) {
        Some(due) => report.add("backup", Grade::Warning, due),
        None => {
            let made = LastBackup::load(&places).map_or_else(String::new, |last| last.made.iso());
            report.add(
                "backup",
                Grade::Ok,
                format!("of {made}, and nothing has changed since"),
            );
        }
    }
}
