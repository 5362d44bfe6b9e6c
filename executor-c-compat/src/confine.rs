//! What happens between `fork` and `execve`: executor.md §5.1, steps 2 to 13, in that order.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ctrl_exec_protocol::config::caps::mask;
use ctrl_exec_protocol::config::profile::Limits;
use ctrl_exec_protocol::config::{Permit, Profile};
use rustix::fs::Access;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets, UnshareFlags};

use crate::identity::Identity;
use crate::mounts::{self, Guarded};
use crate::{report, sys};

/// Exit status when the script could not be confined or is not executable.
pub const EXIT_REFUSED: i32 = 126;
/// Exit status when `execve` failed.
const EXIT_EXEC: i32 = 127;
/// The whole environment of a script.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Confines this process as the profile says and becomes the script. Returns only on failure:
/// the exit status and the text for the caller.
pub fn become_script(
    permit: &Permit<'_>,
    args: &[Vec<u8>],
    guarded: &Guarded,
    privileged: bool,
) -> (i32, String) {
    let confined = if privileged {
        confine(permit.profile, guarded)
    } else {
        confine_unprivileged(permit.profile)
    };
    if let Err(fault) = confined {
        return (EXIT_REFUSED, format!("executor: {fault}"));
    }
    let path = permit.real.as_path();
    if let Err(error) = rustix::fs::access(path, Access::EXEC_OK) {
        let reason = report::text(&error.into());
        let fault = format!(
            "executor: '{}' is not executable by the profile's run_as user ({reason}) - check the script's owner/group/mode",
            path.display()
        );
        return (EXIT_REFUSED, fault);
    }
    let reason = report::text(&exec(permit.path, path, args));
    (
        EXIT_EXEC,
        format!("executor: exec '{}' failed: {reason}", path.display()),
    )
}

fn confine(profile: &Profile, guarded: &Guarded) -> Result<(), String> {
    let identity = profile.run_as.as_ref().map(Identity::of).transpose()?;
    let mut namespaces = UnshareFlags::NEWNS;
    if profile.no_network {
        namespaces |= UnshareFlags::NEWNET;
    }
    sys::unshare(namespaces).map_err(|error| cannot("create namespaces", &error))?;
    view(profile, guarded).map_err(|failed| cannot(&failed.step, &failed.error))?;
    limit(&profile.limits)?;
    let caps = mask(&profile.caps);
    let known = bound_capabilities(caps)?;
    if let Some(identity) = &identity {
        identity
            .assume()
            .map_err(|error| cannot("switch to the run_as user", &error))?;
    }
    keep_capabilities(caps & known)?;
    no_new_privileges(profile)
}

/// Without root (tests, executor.md §5.6): what would need privileges is refused, not skipped,
/// except the namespaces.
fn confine_unprivileged(profile: &Profile) -> Result<(), String> {
    let identity = profile.run_as.as_ref().map(Identity::of).transpose()?;
    let another = identity.is_none_or(|identity| !identity.is_own());
    if another || !profile.caps.is_empty() || profile.no_network {
        return Err("the profile needs an executor that runs as root".to_owned());
    }
    limit(&profile.limits)?;
    no_new_privileges(profile)
}

fn view(profile: &Profile, guarded: &Guarded) -> Result<(), mounts::Failed> {
    mounts::isolate()?;
    mounts::guard(guarded)?;
    if profile.writable.is_empty() {
        return Ok(());
    }
    mounts::restrict(&profile.writable, guarded)
}

fn limit(limits: &Limits) -> Result<(), String> {
    let table = [
        (Resource::Cpu, limits.cpu),
        (Resource::As, limits.memory),
        (Resource::Nofile, limits.files),
        (Resource::Nproc, limits.processes),
        (Resource::Fsize, limits.file_size),
    ];
    for (resource, limit) in table {
        if limit.is_some() {
            setrlimit(
                resource,
                Rlimit {
                    current: limit,
                    maximum: limit,
                },
            )
            .map_err(|error| cannot("set a resource limit", &error.into()))?;
        }
    }
    Ok(())
}

/// Drops every capability but `keep` from the bounding set; returns the ones the kernel knows.
fn bound_capabilities(keep: u64) -> Result<u64, String> {
    let mut known = 0;
    for number in 0..64 {
        let cap = CapabilitySet::from_bits_retain(1 << number);
        match thread::capability_is_in_bounding_set(cap) {
            // The first number that the kernel does not know.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            Err(error) => return Err(cannot("read the bounding set", &error.into())),
            Ok(present) => {
                known |= cap.bits();
                if present && keep & cap.bits() == 0 {
                    thread::remove_capability_from_bounding_set(cap)
                        .map_err(|error| cannot("limit the bounding set", &error.into()))?;
                }
            }
        }
    }
    Ok(known)
}

/// Permitted, effective, inheritable and ambient become exactly `caps`.
fn keep_capabilities(caps: u64) -> Result<(), String> {
    let set = CapabilitySet::from_bits_retain(caps);
    let sets = CapabilitySets {
        effective: set,
        permitted: set,
        inheritable: set,
    };
    thread::set_capabilities(None, sets)
        .map_err(|error| cannot("set the profile's capabilities", &error.into()))?;
    if caps == 0 {
        // Ambient follows permitted. Kernels before 4.3 have no ambient set at all.
        return Ok(());
    }
    for number in (0..64).filter(|number| caps >> number & 1 == 1) {
        let cap = CapabilitySet::from_bits_retain(1 << number);
        thread::configure_capability_in_ambient_set(cap, true)
            .map_err(|error| cannot("set the ambient capabilities", &error.into()))?;
    }
    Ok(())
}

fn no_new_privileges(profile: &Profile) -> Result<(), String> {
    if profile.no_new_privileges {
        thread::set_no_new_privs(true)
            .map_err(|error| cannot("set no_new_privileges", &error.into()))?;
    }
    Ok(())
}

/// `argv[0]` is the path as written, which tells a program of many names which one is meant; for a
/// `#!` script the kernel puts `real` in its place.
fn exec(path: &str, real: &Path, args: &[Vec<u8>]) -> io::Error {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
    let texts = || {
        let program = c_string(real.as_os_str().as_bytes().to_vec())?;
        let name = c_string(path.as_bytes().to_vec());
        let args: Result<Vec<_>, _> = std::iter::once(name)
            .chain(args.iter().cloned().map(c_string))
            .collect();
        Ok((
            program,
            args?,
            c_string(ENVIRONMENT.to_owned().into_bytes())?,
        ))
    };
    match texts() {
        Ok((program, args, path)) => sys::execve(&program, &args, &[path]),
        Err(error) => error,
    }
}

fn cannot(step: &str, error: &io::Error) -> String {
    format!("cannot {step}: {}", report::text(error))
}
