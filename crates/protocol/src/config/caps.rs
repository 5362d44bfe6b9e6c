//! Linux capability names and sets.

use std::fmt;

/// Capability names by number, `CAP_` left out (linux/capability.h; order is the number).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability as a profile lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    /// The name as written, `CAP_` included.
    pub name: String,
    /// Its number; none for a name this program does not know, which grants nothing
    /// (executor.md §5.2).
    pub number: Option<u8>,
}

impl Cap {
    /// Reads a name of the form `CAP_` + upper-case letters, digits and underscores
    /// (agent.md §7.4). None when the text has another form.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("CAP_")?;
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if rest.is_empty() || !rest.bytes().all(fits) {
            return None;
        }
        let number = NAMES.iter().position(|known| *known == rest);
        Some(Self {
            name: name.to_owned(),
            number: number.and_then(|n| u8::try_from(n).ok()),
        })
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The set as the kernel writes it in `/proc/self/status`: bit n is capability n.
pub fn mask(caps: &[Cap]) -> u64 {
    caps.iter()
        .filter_map(|cap| cap.number)
        .fold(0, |mask, number| mask | 1u64 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let number = |name| Cap::parse(name).and_then(|cap| cap.number);
        assert_eq!(number("CAP_CHOWN"), Some(0));
        assert_eq!(number("CAP_NET_BIND_SERVICE"), Some(10));
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("CAP_OF_TOMORROW"), None);
        for bad in [
            "NOTCAP",
            "CAP_",
            "cap_chown",
            "CAP_chown",
            "#",
            "CAP_A-B",
            "",
        ] {
            assert_eq!(Cap::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn mask_has_one_bit_per_known_name() {
        let caps: Vec<Cap> = ["CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_OF_TOMORROW"]
            .iter()
            .filter_map(|name| Cap::parse(name))
            .collect();
        assert_eq!(mask(&caps), 0x401);
        let twice = [caps.clone(), caps].concat();
        assert_eq!(mask(&twice), 0x401);
    }
}
