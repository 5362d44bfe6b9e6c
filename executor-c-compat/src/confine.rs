//! What happens between `fork` and `execve`: executor.md §5.1, steps 2 to 13, in that order.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ctrl_exec_host::bounded::Bounded;
use ctrl_exec_protocol::config::caps::mask;
use ctrl_exec_protocol::config::profile::Limits;
use ctrl_exec_protocol::config::{KernelSettings, Permit, Processes, Profile, UnixSockets};
use ctrl_exec_protocol::program::{self, Fault};
use rustix::fs::Access;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets, UnshareFlags};

use crate::cgroup::Group;
use crate::guard::Guarded;
use crate::identity::Identity;
use crate::{mounts, report, sys, unix_sockets};

/// Exit status when the script could not be confined or is not executable.
pub const EXIT_REFUSED: i32 = 126;
/// Exit status when `execve` failed.
const EXIT_EXEC: i32 = 127;
/// The whole environment of a script.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a profile means for a script's surroundings, its defaults resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Containment {
    /// A process namespace of its own.
    pub own_processes: bool,
    /// /proc/sys, /sys and the like are read-only.
    pub kernel_read_only: bool,
    /// No unix sockets.
    pub no_unix_sockets: bool,
}

impl Containment {
    /// For a profile that runs as a user with this id. Scripts of uid 0 that were written for the
    /// reference signal the host's daemons and set the kernel up, so for them the profile has to
    /// say what they do without.
    pub fn of(profile: &Profile, uid: u32) -> Self {
        let processes = profile.processes.unwrap_or(match uid {
            0 => Processes::Host,
            _ => Processes::Own,
        });
        let settings = profile.kernel_settings.unwrap_or(match uid {
            0 => KernelSettings::Host,
            _ => KernelSettings::ReadOnly,
        });
        Self {
            own_processes: processes == Processes::Own,
            kernel_read_only: settings == KernelSettings::ReadOnly,
            no_unix_sockets: profile.unix_sockets == Some(UnixSockets::None),
        }
    }
}

/// What the script is started with.
pub struct Start<'a> {
    /// What is run, and how.
    pub permit: &'a Permit<'a>,
    /// Whom it runs as.
    pub identity: &'a Identity,
    /// Its surroundings.
    pub containment: Containment,
    /// Its arguments.
    pub args: &'a [Vec<u8>],
    /// What it may not change.
    pub guarded: &'a Guarded,
    /// The groups it counts in.
    pub group: &'a Group,
    /// Whether this executor has root's powers.
    pub privileged: bool,
}

/// Confines this process and becomes the script. Returns only on failure: the exit status and the
/// text for the caller.
pub fn become_script(start: &Start<'_>) -> (i32, String) {
    let confined = if start.privileged {
        confine(start)
    } else {
        confine_unprivileged(start)
    };
    if let Err(fault) = confined {
        return (EXIT_REFUSED, format!("executor: {fault}"));
    }
    let path = start.permit.real.as_path();
    if let Err(error) = rustix::fs::access(path, Access::EXEC_OK) {
        let reason = report::text(&error.into());
        let fault = format!(
            "executor: '{}' is not executable by the profile's run_as user ({reason}) - check the script's owner/group/mode",
            path.display()
        );
        return (EXIT_REFUSED, fault);
    }
    let error = exec(start.permit.path, path, start.args);
    let mut text = format!(
        "executor: exec '{}' failed: {}",
        path.display(),
        report::text(&error)
    );
    if let Some(fault) = program_fault(path) {
        text = format!("{text}: {fault}");
    }
    (EXIT_EXEC, text)
}

/// What in the file itself keeps the kernel from executing it.
pub fn program_fault(path: &Path) -> Option<Fault> {
    let mut head = Vec::new();
    let file = Bounded::new(u64::MAX).open(path).ok()?;
    file.take(program::HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .ok()?;
    program::fault(&head, &|path| path.exists())
}

fn confine(start: &Start<'_>) -> Result<(), String> {
    let profile = start.permit.profile;
    start
        .group
        .join()
        .map_err(|error| cannot("enter the run's control group", &error))?;
    let mut namespaces = UnshareFlags::NEWNS;
    if profile.no_network {
        namespaces |= UnshareFlags::NEWNET;
    }
    sys::unshare(namespaces).map_err(|error| cannot("create namespaces", &error))?;
    view(start).map_err(|failed| cannot(&failed.step, &failed.error))?;
    limit(&profile.limits, start.identity.uid())?;
    if start.containment.no_unix_sockets {
        unix_sockets::refuse().map_err(|error| cannot("refuse unix sockets", &error))?;
    }
    become_user(profile, start.identity)?;
    no_new_privileges(profile)
}

/// Takes on the profile's user and capabilities.
///
/// # Errors
/// A sentence.
pub fn become_user(profile: &Profile, identity: &Identity) -> Result<(), String> {
    let caps = mask(&profile.caps);
    let known = bound_capabilities(caps)?;
    identity
        .assume()
        .map_err(|error| cannot("switch to the run_as user", &error))?;
    keep_capabilities(caps & known)
}

/// Without root (tests, executor.md §5.6): what would need privileges is refused, not skipped,
/// except the namespaces.
fn confine_unprivileged(start: &Start<'_>) -> Result<(), String> {
    let profile = start.permit.profile;
    let asks = profile.no_network
        || start.containment.no_unix_sockets
        || profile.processes == Some(Processes::Own)
        || profile.kernel_settings == Some(KernelSettings::ReadOnly);
    if asks || !start.identity.is_own() || !profile.caps.is_empty() {
        return Err("the profile needs an executor that runs as root".to_owned());
    }
    limit(&profile.limits, start.identity.uid())?;
    no_new_privileges(profile)
}

fn view(start: &Start<'_>) -> Result<(), mounts::Failed> {
    mounts::isolate()?;
    if start.containment.own_processes {
        mounts::own_proc()?;
    }
    let writable = &start.permit.profile.writable;
    if !writable.is_empty() {
        mounts::restrict(writable)?;
    }
    if start.containment.kernel_read_only {
        mounts::protect_kernel_settings()?;
    }
    start.guarded.close()
}

fn limit(limits: &Limits, uid: u32) -> Result<(), String> {
    // The kernel does not hold uid 0 to it; the control group does.
    let processes = limits.processes.filter(|_| uid != 0);
    let table = [
        (Resource::Cpu, limits.cpu),
        (Resource::As, limits.memory),
        (Resource::Nofile, limits.files),
        (Resource::Nproc, processes),
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
