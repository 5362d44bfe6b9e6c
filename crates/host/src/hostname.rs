//! The name of this host (agent.md §9.6).

use crate::bounded::Bounded;

/// The kernel's host name, cut at the first dot; `localhost` when it is empty.
pub fn short() -> String {
    let name = node();
    match name.split('.').next() {
        Some(first) if !first.is_empty() => first.to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// The fully qualified name if one is known, else [`short`].
///
/// A host name with a dot is taken as it is. Otherwise the canonical name that `/etc/hosts` gives
/// to the short name, then the short name with the kernel's domain. No look-up leaves the host, so
/// this cannot hang at boot without a network.
pub fn fqdn() -> String {
    let name = node();
    if name.contains('.') {
        return name;
    }
    let short = short();
    let hosts = read("/etc/hosts");
    if let Some(full) = from_hosts(&hosts, &short) {
        return full;
    }
    let domain = read("/proc/sys/kernel/domainname");
    let domain = domain.trim();
    if !domain.is_empty() && domain != "(none)" {
        return format!("{short}.{domain}");
    }
    short
}

fn read(path: &str) -> String {
    Bounded::new(1 << 20)
        .text(path.as_ref())
        .unwrap_or_default()
}

fn node() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .trim_end_matches('.')
        .to_owned()
}

/// The canonical name with a dot that a hosts file gives to `short`.
fn from_hosts(hosts: &str, short: &str) -> Option<String> {
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let names: Vec<&str> = line.split_ascii_whitespace().skip(1).collect();
        if names.contains(&short) {
            let full = names.iter().find(|name| {
                name.strip_prefix(short)
                    .is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
            });
            if let Some(full) = full {
                return Some((*full).to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_file() {
        let hosts =
            "127.0.0.1 localhost\n# 1.1.1.1 web.commented web\n127.0.1.1 web.example.org web\n";
        assert_eq!(from_hosts(hosts, "web").as_deref(), Some("web.example.org"));
        assert_eq!(from_hosts(hosts, "localhost"), None);
        assert_eq!(from_hosts("127.0.0.1 web. web\n", "web"), None);
    }

    #[test]
    fn this_host_has_a_name() {
        assert!(!short().is_empty() && !short().contains('.'));
        assert!(fqdn().starts_with(&short()));
    }
}
