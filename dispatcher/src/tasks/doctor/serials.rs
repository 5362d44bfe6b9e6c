//! Serials that agents of 0.12.3 take for one another.

use super::report::{Grade, Report};
use crate::config::Config;
use crate::store::files::issued::Issued;
use crate::store::files::registry::Registry;
use crate::store::files::revoked;
use crate::trust;
use ctrl_exec_host::paths::Root;
use ctrl_exec_protocol::time::Utc;
use std::collections::BTreeMap;

/// Serials that agents take for one another: one of digits only, read as hex, is another read as
/// decimal. New certificates never have such serials; those of the reference's counter do.
pub(super) fn twins(
    report: &mut Report,
    config: &Config,
    root: &Root,
    registry: &Registry,
    now: Utc,
) {
    let files = trust::identity_files(config);
    let mut serials: Vec<(String, String)> = Vec::new();
    for (files, whose) in [
        (files.clone(), "this dispatcher"),
        (
            files.suffixed(".prev"),
            "this dispatcher, before the rotation",
        ),
    ] {
        if let Ok(serial) = crate::ca::live_serial(&files.cert) {
            serials.push((serial, whose.to_owned()));
        }
    }
    let issued = Issued::at(root).all(now).unwrap_or_default();
    serials.extend(
        issued
            .into_iter()
            .map(|cert| (cert.serial, format!("'{}'", cert.name))),
    );
    let records = registry.list().unwrap_or_default().records;
    serials.extend(
        records
            .iter()
            .filter(|record| !record.cert_serial().is_empty())
            .map(|record| {
                (
                    record.cert_serial().to_owned(),
                    format!("'{}'", record.name()),
                )
            }),
    );
    let mut by_key: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (serial, whose) in serials {
        // As it is shown in a handshake: an even number of digits.
        let normal = revoked::normal(&serial);
        let live = if normal.len() % 2 == 0 {
            normal.clone()
        } else {
            format!("0{normal}")
        };
        let key = ctrl_exec_protocol::serial::canonical(&live);
        by_key
            .entry(key)
            .or_default()
            .entry(normal)
            .or_insert(whose);
    }
    for twins in by_key.values().filter(|serials| serials.len() > 1) {
        let all: Vec<String> = twins
            .iter()
            .map(|(serial, whose)| format!("0x{serial} of {whose}"))
            .collect();
        report.add(
            "serials",
            Grade::Fault,
            format!(
                "agents of the Perl release cannot tell these serials apart: {}. Replace them: \
                 'rotate-cert' for the dispatcher, 'renew' for an agent",
                all.join(", ")
            ),
        );
    }
}
