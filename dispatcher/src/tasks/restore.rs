//! Putting a backup back (`restore`), and taking over a CA (`join-ca`).

use super::dispatcher::{Dispatcher, Limits};
use super::fanout::{Event, Task};
use super::ping;
use crate::backup::{
    Archive, Folder, Item, Kind, LastBackup, Place, Places, Staging, newer, restored_from, snapshot,
};
use crate::config::Config;
use crate::fleet::address;
use crate::model::RotationState;
use crate::model::{self, AppError, Outcome};
use crate::sealed::{self, Opens, SealError, With};
use crate::store::files::registry::Registry;
use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_host::paths::Root;
use ctrl_exec_host::syslog::{Level, Syslog};
use ctrl_exec_protocol::log_line::Line;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::tls::Identity;
use ctrl_exec_protocol::x509::cert;
use ctrl_exec_protocol::x509::keys::PrivateKey;
use ctrl_exec_protocol::x509::verify::ChainVerifier;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// Largest file read.
const MAX_FILE: u64 = 1 << 30;
/// How long an agent may take to answer after a restore, for each step.
const REACH: Duration = Duration::from_secs(10);

/// A file that was opened.
#[derive(Debug)]
pub struct Opened {
    bytes: Zeroizing<Vec<u8>>,
    /// What is in it.
    pub archive: Archive,
}

/// What a restore came to.
#[derive(Debug)]
pub struct Outcomes {
    /// When the backup was made.
    pub made: Utc,
    /// How many agents it knows.
    pub agents: usize,
    /// How many runs.
    pub runs: usize,
    /// Where what was replaced is kept.
    pub kept: Option<PathBuf>,
    /// In words: what was here that is newer than the backup.
    pub older: Vec<String>,
}

/// Reads a file of `backup` or `export-ca`. `with` is asked how to open it. What `restore` kept of
/// a former state is not encrypted and read as it is.
///
/// # Errors
/// One message that names the file and what is wrong with it.
pub fn open(
    file: &Path,
    kind: Kind,
    with: &mut dyn FnMut(Opens) -> Result<With, AppError>,
) -> Result<Opened, AppError> {
    let named = |fault: String| {
        AppError::new(
            model::Kind::Setup,
            format!("{}: {fault}; nothing was changed", file.display()),
        )
    };
    let sealed = Bounded::new(MAX_FILE)
        .read(file)
        .map_err(|error| AppError::system(format!("cannot read {}: {error}", file.display())))?;
    let bytes = match sealed::opens(&sealed) {
        Ok(opens) => {
            sealed::open(&sealed, &with(opens)?).map_err(|error| named(error.to_string()))?
        }
        Err(SealError::Foreign) if Archive::parse(&sealed).is_ok() => Zeroizing::new(sealed),
        Err(SealError::Foreign) => return Err(named("no backup of ctrl-exec".to_owned())),
        Err(error) => return Err(named(error.to_string())),
    };
    let archive = Archive::parse(&bytes).map_err(named)?;
    match (archive.manifest.kind, kind) {
        (Kind::Ca, Kind::Backup) => Err(named(
            "a CA for another dispatcher, not a backup: 'ced join-ca' takes it".to_owned(),
        )),
        (Kind::Backup, Kind::Ca) => Err(named(
            "a backup, not a CA: 'ced restore' takes it; 'ced export-ca' makes the file for a \
             second dispatcher"
                .to_owned(),
        )),
        _ => Ok(Opened { bytes, archive }),
    }
}

/// Puts a backup in place. Without `force` only where nothing is in the way.
///
/// # Errors
/// A backup that would not work, something in the way, or the operating system's; nothing was
/// changed unless the message says so.
pub fn restore(
    root: &Root,
    config: Option<&Path>,
    opened: &Opened,
    force: bool,
    log: &Syslog,
) -> Result<Outcomes, AppError> {
    let archive = &opened.archive;
    let places = restored_from(root, config, archive)?;
    sound(archive, &places)?;
    let present = in_the_way(archive, &places)?;
    if !force && !present.is_empty() {
        return Err(AppError::new(
            model::Kind::Conflict,
            format!(
                "there is a dispatcher here already ({}); --force replaces it and keeps what it \
                 replaces; nothing was changed",
                present.join(", ")
            ),
        ));
    }
    let before = if present.is_empty() {
        None
    } else {
        // By this host's configuration, as far as there is one that can be read.
        let here = Config::load(root, config).map_or_else(|_| places.clone(), Places::of);
        Some(snapshot(&here, false, false)?.archive)
    };
    let older = before
        .as_ref()
        .map(|before| older_than(before, archive))
        .unwrap_or_default();
    let staging = Staging::prepare(root, config, &opened.bytes, archive, before.as_ref())?;
    let restored = staging.commit()?;
    LastBackup::of(archive, String::new()).store(&places)?;
    let line = Line::new("restore")
        .field("MADE", archive.manifest.made.iso())
        .field("HOST", &archive.manifest.host)
        .field("AGENTS", archive.agents().count());
    log.log(Level::Warning, &line);
    Ok(Outcomes {
        made: archive.manifest.made,
        agents: archive.agents().count(),
        runs: archive.runs(),
        kept: restored.kept,
        older,
    })
}

/// Whether a dispatcher could go on from it, and it stays in a dispatcher's directories.
fn sound(archive: &Archive, places: &Places) -> Result<(), AppError> {
    let wrong = |what: String| {
        AppError::new(
            model::Kind::Setup,
            format!("the backup is not sound: {what}; nothing was changed"),
        )
    };
    let text = |place: &Place| archive.text(place);
    if let (Some(cert), Some(key)) = (text(&Place::Cert), text(&Place::Key)) {
        Identity::from_pem(cert, key)
            .map_err(|error| wrong(format!("the dispatcher's certificate: {error}")))?;
    }
    let ca = Place::Ca("ca.crt".to_owned());
    for place in [&ca, &Place::Trust] {
        if let Some(pem) = text(place) {
            ChainVerifier::from_pem(pem)
                .map_err(|error| wrong(format!("{}: {error}", place.name())))?;
        }
    }
    if let Some(key) = text(&Place::Ca("ca.key".to_owned())) {
        let key = PrivateKey::from_pem(key).map_err(|error| wrong(format!("ca.key: {error}")))?;
        let facts = text(&ca).and_then(|pem| cert::facts_from_pem(pem).ok());
        if facts.is_none_or(|facts| facts.spki_der != key.spki_der()) {
            return Err(wrong(
                "its CA key and certificate do not belong together".to_owned(),
            ));
        }
    }
    let config = Bounded::new(Place::Config.most()).read(&places.path(&Place::Config));
    let known = config.is_ok_and(|here| {
        archive
            .get(&Place::Config)
            .is_none_or(|item| *item.data == here)
    });
    let strays = archive
        .items
        .iter()
        .find(|item| !known && !places.is_own(&item.place));
    if let Some(item) = strays {
        return Err(AppError::new(
            model::Kind::Setup,
            format!(
                "the configuration in the backup puts {} at {}; if that is meant, put that \
                 configuration to {} first; nothing was changed",
                item.place.name(),
                places.path(&item.place).display(),
                places.config().path().display()
            ),
        ));
    }
    Ok(())
}

/// What of the backup is here already and differs, for people.
fn in_the_way(archive: &Archive, places: &Places) -> Result<Vec<String>, AppError> {
    let mut found = Vec::new();
    for item in &archive.items {
        if matches!(item.place, Place::Agent(_) | Place::Run(_)) {
            continue;
        }
        let path = places.path(&item.place);
        let same = Bounded::new(item.place.most())
            .optional(&path)
            .is_ok_and(|here| here.is_none_or(|here| here == *item.data));
        if !same {
            found.push(path.display().to_string());
        }
    }
    let registry = Registry::new(places.folder(Folder::Agents));
    let wanted: HashSet<&str> = archive.agents().collect();
    let names = registry.names()?;
    let differs = |name: &&String| {
        let place = Place::Agent((*name).clone());
        let here = Bounded::new(place.most()).optional(&places.path(&place));
        let kept = archive.get(&place).map(|item| &item.data);
        !wanted.contains(name.as_str())
            || here.is_ok_and(|here| here.as_ref() != kept.map(|k| &**k))
    };
    // Of many, one is enough.
    if names.iter().take(1_000).any(|name| differs(&name)) {
        found.push(format!("{} agent(s)", names.len()));
    }
    Ok(found)
}

/// What was here that the backup does not know.
fn older_than(before: &Archive, archive: &Archive) -> Vec<String> {
    let mut found = Vec::new();
    let (old, new) = (&archive.manifest.serial, &before.manifest.serial);
    if !new.is_empty() && old != new {
        let rotated = |archive: &Archive| {
            let state = archive.text(&Place::Rotation).map(RotationState::of_text);
            state.map_or_else(String::new, |state| state.rotated_at().to_owned())
        };
        let (then, rotated) = (rotated(archive), rotated(before));
        let since = if rotated > then {
            format!("a rotation since: on {rotated} this dispatcher's certificate was replaced")
        } else {
            "another certificate than the one that was here".to_owned()
        };
        found.push(format!(
            "{since}. Agents that were told of serial {new} go on trusting {old} for as long as the \
             overlap lasts: run 'ced rotate-cert' now; one that does not must be paired again"
        ));
    }
    let known: HashSet<&str> = archive.agents().collect();
    let gone: Vec<&str> = before
        .agents()
        .filter(|name| !known.contains(name))
        .collect();
    if !gone.is_empty() {
        found.push(format!(
            "pairings since: {} (not in the registry any more; the records are kept, see below)",
            shortened(&gone)
        ));
    }
    let lists = [
        ("revoked-serials", "revocation(s) since, which are kept"),
        (
            "issued-certificates",
            "certificate(s) issued since, which are kept on the list",
        ),
    ];
    for (name, what) in lists {
        let text = |archive: &Archive| {
            let text = archive.text(&Place::State(name.to_owned()));
            text.unwrap_or_default().to_owned()
        };
        let count = newer(name, &text(before), &text(archive));
        if count > 0 {
            found.push(format!("{count} {what}"));
        }
    }
    found
}

/// What agents' answers say about how old the backup is, in words.
///
/// # Errors
/// Certificates or settings; agents that do not answer are told of.
pub fn reach(dispatcher: &Dispatcher) -> Result<Vec<String>, AppError> {
    let records = dispatcher.agents().list()?.records;
    let known: HashSet<(String, String)> = issued(dispatcher)?;
    let targets: Vec<_> = records
        .iter()
        .filter(|record| record.revoked().is_none())
        .map(|record| address::target(record, None, None))
        .collect();
    let total = targets.len();
    if total == 0 {
        return Ok(vec!["no agent is registered in it".to_owned()]);
    }
    let limits = Limits {
        timeout: Some(REACH),
        ..Limits::default()
    };
    let mut task = ping::of_targets(dispatcher, targets, limits)?;
    let (mut reached, mut refused, mut silent) = (0, Vec::new(), 0);
    while task.left() > 0 {
        let Some(Event::Ended(result)) = task.next(Duration::from_secs(3600)) else {
            continue;
        };
        match result.outcome {
            Outcome::Ok => reached += 1,
            Outcome::Refused => refused.push(result.host.clone()),
            _ => silent += 1,
        }
    }
    let mut renewed: Vec<String> = issued(dispatcher)?
        .difference(&known)
        .map(|(_, name)| name.clone())
        .collect();
    renewed.sort();
    refused.sort();
    let mut found = vec![format!("{reached} of {total} agent(s) answer")];
    if !refused.is_empty() {
        let names: Vec<&str> = refused.iter().map(String::as_str).collect();
        found.push(format!(
            "{} agent(s) refuse this dispatcher's certificate, so it was rotated after the backup: \
             {}. Find a newer backup, or pair them again",
            refused.len(),
            shortened(&names)
        ));
    }
    if !renewed.is_empty() {
        let names: Vec<&str> = renewed.iter().map(String::as_str).collect();
        found.push(format!(
            "{} agent(s) show a certificate that the backup did not know, now noted: {}",
            renewed.len(),
            shortened(&names)
        ));
    }
    if silent > 0 {
        found.push(format!(
            "{silent} agent(s) do not answer now; 'ced doctor' asks again"
        ));
    }
    Ok(found)
}

fn issued(dispatcher: &Dispatcher) -> Result<HashSet<(String, String)>, AppError> {
    let all = dispatcher.issued().all(Utc::now())?;
    Ok(all
        .into_iter()
        .map(|cert| (cert.serial, cert.name))
        .collect())
}

fn shortened(names: &[&str]) -> String {
    const MOST: usize = 10;
    let shown = names[..names.len().min(MOST)].join(", ");
    if names.len() > MOST {
        format!("{shown} and {} more", names.len() - MOST)
    } else {
        shown
    }
}

/// The item of a place, or an error that names it.
pub(super) fn required<'a>(archive: &'a Archive, place: &Place) -> Result<&'a Item, AppError> {
    archive.get(place).ok_or_else(|| {
        AppError::new(
            model::Kind::Setup,
            format!("the file has no {}; nothing was changed", place.name()),
        )
    })
}
