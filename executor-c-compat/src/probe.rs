//! What this kernel and this process can do, found out before a request needs it.

use std::io;

use ctrl_exec_protocol::config::profile::Limits;
use ctrl_exec_protocol::config::{AgentConf, Processes, Profile};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use crate::cgroup::Base;
use crate::confine::Containment;
use crate::identity::Identity;
use crate::sys::{self, Forked};
use crate::{mounts, unix_sockets};

const NO_NAMESPACE: i32 = 1;
const NO_PROPAGATION: i32 = 2;
const NO_SETATTR: i32 = 4;
const NO_NETWORK_NAMESPACE: i32 = 8;
const NO_PROCESS_NAMESPACE: i32 = 16;
const NO_FILTER: i32 = 32;

/// The answer.
pub struct Kernel {
    missing: i32,
    has_pids: bool,
}

impl Kernel {
    /// Tries everything once, in child processes.
    ///
    /// # Errors
    /// There is no child process to be had.
    pub fn probe(cgroups: &Base) -> io::Result<Self> {
        Ok(Self {
            missing: in_a_child(try_all)?.unwrap_or(NO_NAMESPACE),
            has_pids: cgroups.has_pids(),
        })
    }

    /// Without this no script can be run at all.
    pub fn fatal(&self) -> Option<&'static str> {
        if self.missing & NO_NAMESPACE != 0 {
            Some(
                "this system does not let the executor create a mount namespace: the kernel lacks namespaces, or the executor lacks CAP_SYS_ADMIN; no script can be run",
            )
        } else if self.missing & NO_PROPAGATION != 0 {
            Some(
                "this system does not let the executor make its mounts private; no script can be run",
            )
        } else {
            None
        }
    }

    /// What profiles ask for and this system does not have. Their scripts will be refused.
    pub fn faults(&self, conf: &AgentConf) -> Vec<String> {
        let lacks = |bit| self.missing & bit != 0;
        let mut faults = Vec::new();
        for (name, profile) in &conf.profiles {
            let mut fault = |text: &str| faults.push(format!("profile '{name}': {text}"));
            if !profile.writable.is_empty() && lacks(NO_SETATTR) {
                fault("writable needs Linux 5.12");
            }
            if profile.no_network && lacks(NO_NETWORK_NAMESPACE) {
                fault("no_network needs network namespaces (CONFIG_NET_NS)");
            }
            if profile.processes == Some(Processes::Own) && lacks(NO_PROCESS_NAMESPACE) {
                fault("processes = own needs process namespaces (CONFIG_PID_NS)");
            }
            if uid(profile).is_none() {
                continue;
            }
            if containment(profile).no_unix_sockets && lacks(NO_FILTER) {
                fault("unix_sockets = none needs system call filters (CONFIG_SECCOMP_FILTER)");
            }
            if uid(profile) == Some(0) && profile.limits.processes.is_some() && !self.has_pids {
                fault(
                    "limit_processes binds uid 0 through a control group only, and there is no 'pids' controller",
                );
            }
        }
        faults
    }

    /// What profiles have by default, and will do without on this system.
    pub fn warnings(&self, conf: &AgentConf) -> Vec<String> {
        let falls_back = |profile: &Profile| {
            profile.processes.is_none()
                && containment(profile).own_processes
                && self.missing & NO_PROCESS_NAMESPACE != 0
        };
        conf.profiles
            .iter()
            .filter(|(_, profile)| falls_back(profile))
            .map(|(name, _)| {
                format!("profile '{name}': the kernel has no process namespaces, so its scripts see the host's processes")
            })
            .collect()
    }
}

/// The user of a profile; none when it has none that is known.
pub fn uid(profile: &Profile) -> Option<u32> {
    let identity = Identity::of(profile.run_as.as_ref()?).ok()?;
    Some(identity.uid())
}

fn containment(profile: &Profile) -> Containment {
    Containment::of(profile, uid(profile).unwrap_or(u32::MAX))
}

/// What uid 0 may do in a profile that does not say that it shall, or cannot be kept from doing:
/// sentences for `check`.
pub fn loose_ends(name: &str, profile: &Profile) -> Vec<String> {
    const UNDOING: [&str; 8] = [
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_BOOT",
        "CAP_DAC_READ_SEARCH",
        "CAP_MKNOD",
        "CAP_BPF",
    ];
    let mut found = Vec::new();
    let mut say = |text: &str| found.push(format!("profile '{name}': {text}"));
    match uid(profile) {
        None if profile.run_as.is_none() => {
            say(
                "has no run_as, so its scripts are refused: add 'run_as = USER' ('run_as = root' if they must be root)",
            );
            return found;
        }
        Some(0) => {
            if profile.processes.is_none() {
                say(
                    "runs as uid 0 and sees the host's processes: say 'processes = own', or 'processes = host' if that is meant",
                );
            }
            if profile.kernel_settings.is_none() && profile.writable.is_empty() {
                say(
                    "runs as uid 0 and may write /proc/sys and /sys: say 'kernel_settings = read-only', or 'kernel_settings = host' if that is meant",
                );
            }
            if profile.no_network && profile.unix_sockets.is_none() {
                say(
                    "no_network leaves the unix sockets of daemons that trust uid 0: say 'unix_sockets = none', or 'unix_sockets = host' if that is meant",
                );
            }
        }
        _ => {}
    }
    for cap in profile
        .caps
        .iter()
        .filter(|cap| UNDOING.contains(&cap.name.as_str()))
    {
        say(&format!("{} can undo what contains a script", cap.name));
    }
    if profile.limits == Limits::default() && profile.timeout == Some(0) {
        say("timeout = 0 lets a script run for ever");
    }
    found
}

/// What a function returns in a child process; none when that was killed.
///
/// # Errors
/// There is no child process to be had.
pub fn in_a_child(function: impl FnOnce() -> i32) -> io::Result<Option<i32>> {
    let pid = match sys::fork()? {
        Forked::Parent(pid) => pid,
        Forked::Child => sys::exit_now(function()),
    };
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(status) => return Ok(status.and_then(|(_, status)| status.exit_status())),
        }
    }
}

fn try_all() -> i32 {
    if sys::unshare(UnshareFlags::NEWNS).is_err() {
        return NO_NAMESPACE;
    }
    if mounts::isolate().is_err() {
        return NO_PROPAGATION;
    }
    let mut missing = 0;
    // Changing nothing succeeds wherever the call exists.
    if sys::mount_setattr(c"/", true, 0, 0).is_err() {
        missing |= NO_SETATTR;
    }
    if sys::unshare(UnshareFlags::NEWNET).is_err() {
        missing |= NO_NETWORK_NAMESPACE;
    }
    let with_proc = || i32::from(mounts::own_proc().is_err());
    let own = sys::unshare(UnshareFlags::NEWPID).and_then(|()| in_a_child(with_proc));
    if !matches!(own, Ok(Some(0))) {
        missing |= NO_PROCESS_NAMESPACE;
    }
    if unix_sockets::refuse().is_err() {
        missing |= NO_FILTER;
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> AgentConf {
        AgentConf::parse(text, "agent.conf").unwrap().0
    }

    #[test]
    fn what_is_missing_is_named() {
        let conf = conf(
            "[profile w]\nrun_as = root\nwritable = /x\n[profile n]\nrun_as = root\nno_network = yes\n\
             [profile o]\nrun_as = root\nprocesses = own\n[profile d]\nrun_as = 54321\n\
             [profile s]\nrun_as = 54321\nunix_sockets = none\n[profile l]\nrun_as = root\nlimit_processes = 9\n\
             [profile user]\nrun_as = 54321\nlimit_processes = 9\n",
        );
        let kernel = |missing| Kernel {
            missing,
            has_pids: true,
        };
        let faults = |missing| kernel(missing).faults(&conf);
        assert!(faults(0).is_empty());
        assert_eq!(
            faults(NO_SETATTR),
            ["profile 'w': writable needs Linux 5.12"]
        );
        assert!(faults(NO_NETWORK_NAMESPACE)[0].contains("profile 'n'"));
        let own = faults(NO_PROCESS_NAMESPACE);
        assert!(own.len() == 1 && own[0].contains("profile 'o'"), "{own:?}");
        let filter = faults(NO_FILTER);
        assert!(
            filter.len() == 1 && filter[0].contains("profile 's'"),
            "{filter:?}"
        );
        let without_pids = Kernel {
            missing: 0,
            has_pids: false,
        };
        let limit = without_pids.faults(&conf);
        assert!(
            limit.len() == 1 && limit[0].contains("profile 'l'"),
            "{limit:?}"
        );
        assert!(kernel(0).warnings(&conf).is_empty());
        let falls_back = kernel(NO_PROCESS_NAMESPACE).warnings(&conf);
        assert_eq!(falls_back.len(), 3, "{falls_back:?}");
        assert!(falls_back.iter().any(|text| text.contains("profile 'd'")));
        let fatal = |missing| kernel(missing).fatal();
        assert!(fatal(NO_NAMESPACE).unwrap().contains("mount namespace"));
        assert!(fatal(NO_PROPAGATION).unwrap().contains("private"));
        assert!(fatal(NO_SETATTR | NO_PROCESS_NAMESPACE | NO_FILTER).is_none());
    }

    #[test]
    fn what_a_profile_leaves_open_is_named() {
        let conf = conf(
            "[profile bare]\n[profile root]\nrun_as = root\nno_network = yes\n[profile user]\nrun_as = 54321\n\
             [profile said]\nrun_as = 0\nprocesses = host\nkernel_settings = host\n\
             [profile caps]\nrun_as = 54321\ncaps = CAP_SYS_ADMIN CAP_CHOWN\n",
        );
        let ends = |name: &str| loose_ends(name, &conf.profiles[name]);
        assert!(ends("bare").len() == 1 && ends("bare")[0].contains("'run_as = USER'"));
        assert_eq!(ends("root").len(), 3, "{:?}", ends("root"));
        assert!(ends("user").is_empty() && ends("said").is_empty());
        assert_eq!(ends("caps").len(), 1);
        assert!(ends("caps")[0].contains("CAP_SYS_ADMIN can undo"));
    }
}
