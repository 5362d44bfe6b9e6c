//! `setup-ca` and `setup-ctrl-exec` (dispatcher.md §3.10).

use crate::ca::{self, Authority, CaDir, CaOptions, Owner};
use crate::config::DEFAULT_DIR;
use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Ctx, Exit};
use crate::front::cli::flags::YES;
use crate::front::cli::out;
use crate::model::AppError;
use crate::tasks::revocation;
use crate::tasks::rotate::rotator;
use crate::trust;
use ctrl_exec_protocol::time::Utc;
use ctrl_exec_protocol::x509::keys::KeyType;
use std::path::Path;

/// Days of a dispatcher certificate made by hand.
const DAYS: u32 = 825;

/// Creates the CA, always in the default directory.
pub fn setup_ca(ctx: &Ctx) -> Result<Exit, AppError> {
    let dir = CaDir::new(ctx.root.path(DEFAULT_DIR));
    ca::setup_ca(&dir, &CaOptions::default(), Utc::now())?;
    out::raw(&format!(
        "CA created.\n  Key:         {}\n  Certificate: {}\nKeep the key safe: whoever has it \
         can pose as any dispatcher and any agent.\n",
        dir.key().display(),
        dir.cert().display()
    ));
    Ok(0)
}

/// Creates the dispatcher's key and certificate.
pub fn setup_dispatcher(ctx: &Ctx, args: &Args) -> Result<Exit, AppError> {
    let config = ctx.config()?;
    let files = trust::identity_files(&config);
    let agents = ctx.registry().names()?.len();
    if files.cert.exists() && agents > 0 && !args.has(&YES) && !confirmed(&files.cert, agents) {
        out::line("Aborted; nothing was changed.");
        return Ok(1);
    }
    let replaces = files.cert.exists();
    let before = ca::trust_serial(&files.cert).ok();
    let authority = Authority::load(&CaDir::new(ctx.root.path(DEFAULT_DIR)))?;
    let owner = Owner::of_user(Path::new("/etc/passwd"), config.service_user());
    let issued = ca::setup_dispatcher(
        &authority,
        &files,
        owner,
        KeyType::EcdsaP256,
        DAYS,
        Utc::now(),
    )?;
    out::raw(&format!(
        "Dispatcher certificate created.\n  Key:         {}\n  Certificate: {}\n  Expires:     {}\n",
        files.key.display(),
        files.cert.display(),
        issued.expiry()
    ));
    if replaces {
        if let Some(before) = before {
            revocation::retire_own(&ctx.root, &before, Utc::now())?;
        }
        // What the records and the state say of the old certificate holds no more.
        let stale = rotator(&ctx.dispatcher()?)?.start_over(ctx.syslog(), Utc::now())?;
        if !stale.is_empty() {
            out::line(format_args!(
                "{} agent(s) do not trust it and must be paired again: {}",
                stale.len(),
                stale.join(", ")
            ));
        }
    }
    Ok(0)
}

/// Anything but `y` is a no, end of input too.
fn confirmed(cert: &Path, agents: usize) -> bool {
    out::error_raw(&format!(
        "WARNING: {} exists and {agents} agent(s) are registered.\nA new certificate has a new \
         serial, which those agents do not trust: each would have to be\npaired again. \
         'rotate-cert' replaces the certificate without that.\nReplace it all the same? [y/N] ",
        cert.display()
    ));
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    matches!(line.trim(), "y" | "Y")
}
