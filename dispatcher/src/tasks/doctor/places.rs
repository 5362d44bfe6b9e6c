//! Files and directories: modes, and whether they can be used.

use super::report::{Grade, Report};
use crate::config::Config;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(super) fn secret(report: &mut Report, path: &Path) {
    let Ok(meta) = fs::metadata(path) else { return };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        report.add(
            "permissions",
            Grade::Ok,
            format!("{} has mode {mode:04o}", path.display()),
        );
    } else {
        report.add(
            "permissions",
            Grade::Fault,
            format!(
                "{} has mode {mode:04o}: others can read the key; chmod 0600",
                path.display()
            ),
        );
    }
}

pub(super) fn hook(report: &mut Report, config: &Config) {
    let Some(hook) = config.auth_hook() else {
        report.add(
            "auth-hook",
            Grade::Ok,
            "none configured: the command line asks nobody",
        );
        return;
    };
    match fs::metadata(hook) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
            report.add("auth-hook", Grade::Ok, hook.display().to_string());
        }
        _ => report.add(
            "auth-hook",
            Grade::Fault,
            format!(
                "{} is no executable file: everything is denied",
                hook.display()
            ),
        ),
    }
}

pub(super) fn directory(report: &mut Report, dir: &Path) {
    let text = dir.display();
    if !dir.exists() {
        report.add(
            "directories",
            Grade::Ok,
            format!("{text} is made when needed"),
        );
    } else if !dir.is_dir() {
        report.add(
            "directories",
            Grade::Fault,
            format!("{text} is no directory"),
        );
    } else if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        report.add(
            "directories",
            Grade::Warning,
            format!("{text} is not writable for you: join the group that owns it, or use sudo"),
        );
    } else {
        report.add("directories", Grade::Ok, text.to_string());
    }
}
