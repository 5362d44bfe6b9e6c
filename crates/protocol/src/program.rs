//! Why the kernel would not execute a file, in words.
//!
//! Both ways to run a script use it, so that a fault reads the same in both: the executor after
//! `execve` failed, the agent in direct mode likewise, and both self-tests beforehand. Nobody
//! guesses a shell: a file without `#!` that is no program is not run.

use std::fmt;
use std::path::{Path, PathBuf};

/// How many bytes of a file say what it is.
pub const HEAD_BYTES: usize = 256;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// It names its interpreter after `#!`.
    Script(PathBuf),
    /// An ELF file; class, byte order and machine.
    Elf(Elf),
    /// Neither.
    Unknown,
}

/// What an ELF file is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elf {
    /// 32 or 64; 0 = neither.
    pub bits: u8,
    /// Byte order.
    pub big_endian: bool,
    /// `e_machine`.
    pub machine: u16,
}

/// What keeps a file from being executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The interpreter's name ends in a carriage return.
    CarriageReturn,
    /// The interpreter does not exist.
    NoInterpreter(PathBuf),
    /// Nothing follows `#!`.
    EmptyInterpreter,
    /// Made for another processor.
    Foreign(Elf),
    /// No `#!` and no program.
    NoInterpreterLine,
    /// Nothing in it.
    Empty,
}

impl Program {
    /// Judges a file by its first bytes (at most [`HEAD_BYTES`] count).
    pub fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
            let start = line.iter().position(|byte| !blank(byte));
            let word = start.map_or(&line[..0], |start| &line[start..]);
            let end = word.iter().position(|byte| blank(byte) || *byte == 0);
            let word = &word[..end.unwrap_or(word.len())];
            return Self::Script(path_of(word));
        }
        match head {
            [0x7f, b'E', b'L', b'F', class, order, rest @ ..] if rest.len() >= 14 => {
                let big_endian = *order == 2;
                let pair = [rest[12], rest[13]];
                let read = if big_endian {
                    u16::from_be_bytes
                } else {
                    u16::from_le_bytes
                };
                Self::Elf(Elf {
                    bits: match class {
                        1 => 32,
                        2 => 64,
                        _ => 0,
                    },
                    big_endian,
                    machine: read(pair),
                })
            }
            _ => Self::Unknown,
        }
    }
}

/// What is wrong with a file of which these are the first bytes; none = nothing that can be seen.
/// `exists` tells whether an interpreter is there.
///
/// A foreign ELF file may still run where the kernel has an emulator for it (binfmt_misc); so this
/// explains a failure, and is a warning before one.
pub fn fault(head: &[u8], exists: &dyn Fn(&Path) -> bool) -> Option<Fault> {
    match Program::of(head) {
        Program::Unknown if head.is_empty() => Some(Fault::Empty),
        Program::Unknown => Some(Fault::NoInterpreterLine),
        Program::Elf(elf) => (!elf.is_native()).then_some(Fault::Foreign(elf)),
        Program::Script(path) if path.as_os_str().is_empty() => Some(Fault::EmptyInterpreter),
        Program::Script(path) => {
            let carriage_return = path.as_os_str().as_encoded_bytes().ends_with(b"\r");
            if exists(&path) {
                None
            } else if carriage_return {
                Some(Fault::CarriageReturn)
            } else {
                Some(Fault::NoInterpreter(path))
            }
        }
    }
}

impl Elf {
    /// Whether this program's own processor is meant; true when that is not known.
    pub fn is_native(&self) -> bool {
        let native = match NATIVE_MACHINE {
            Some(machine) => machine == self.machine,
            None => true,
        };
        let bits: u32 = usize::BITS;
        native && u32::from(self.bits) == bits && self.big_endian == cfg!(target_endian = "big")
    }
}

impl fmt::Display for Elf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = MACHINES.iter().find(|(number, _)| *number == self.machine);
        match known {
            Some((_, name)) => f.write_str(name)?,
            None => write!(f, "machine {}", self.machine)?,
        }
        let order = if self.big_endian { "big" } else { "little" };
        write!(f, ", {} bits, {order} endian", self.bits)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CarriageReturn => f.write_str(
                "its first line ends in CR LF, as Windows writes it: the interpreter's name includes the CR (convert it with: sed -i 's/\\r$//' FILE)",
            ),
            Self::NoInterpreter(path) => {
                write!(f, "its interpreter '{}' does not exist", shown(path))
            }
            Self::EmptyInterpreter => f.write_str("no interpreter is named after '#!'"),
            Self::Foreign(elf) => write!(f, "it is a program for another processor ({elf})"),
            Self::NoInterpreterLine => f.write_str(
                "it has no '#!' line and is no program; no shell is guessed (begin a shell script with: #!/bin/sh)",
            ),
            Self::Empty => f.write_str("it is empty"),
        }
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
    }
    #[cfg(not(unix))]
    {
        PathBuf::from(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// A path from a file's content, harmless in a message.
fn shown(path: &Path) -> String {
    crate::config::shown(&path.to_string_lossy()).to_string()
}

/// `e_machine` of this program; none where the table below does not have it.
const NATIVE_MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "x86") {
    Some(3)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else if cfg!(target_arch = "arm") {
    Some(40)
} else if cfg!(any(target_arch = "mips", target_arch = "mips64")) {
    Some(8)
} else if cfg!(any(target_arch = "riscv32", target_arch = "riscv64")) {
    Some(243)
} else {
    None
};

const MACHINES: [(u16, &str); 10] = [
    (3, "x86"),
    (8, "MIPS"),
    (20, "PowerPC"),
    (21, "PowerPC 64"),
    (22, "S/390"),
    (40, "ARM"),
    (62, "x86-64"),
    (183, "AArch64"),
    (243, "RISC-V"),
    (258, "LoongArch"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elf(bits: u8, big_endian: bool, machine: u16) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', bits / 32, 1 + u8::from(big_endian)];
        head.resize(18, 0);
        let machine = if big_endian {
            machine.to_be_bytes()
        } else {
            machine.to_le_bytes()
        };
        head.extend_from_slice(&machine);
        head
    }

    fn text(head: &[u8]) -> String {
        let there = |path: &Path| path == Path::new("/bin/sh");
        fault(head, &there).map_or_else(String::new, |fault| fault.to_string())
    }

    #[test]
    fn scripts() {
        for good in [
            "#!/bin/sh",
            "#!/bin/sh\n",
            "#! /bin/sh -e\nx",
            "#!\t/bin/sh\t\n",
        ] {
            assert_eq!(text(good.as_bytes()), "", "{good}");
        }
        assert!(text(b"#!/bin/sh\r\necho\r\n").contains("CR LF"));
        assert!(text(b"#!/usr/bin/perl\n").contains("'/usr/bin/perl' does not exist"));
        assert!(text(b"#!/no\x1b[2J\n").contains("'/no\\u{1b}[2J' does not exist"));
        assert!(text(b"#!\n/bin/sh").contains("no interpreter is named"));
        assert!(text(b"#!  ").contains("no interpreter is named"));
        assert!(text(b"echo hello\n").contains("no '#!' line"));
        assert!(text(b"\n#!/bin/sh\n").contains("no '#!' line"));
        assert!(text(b"").contains("empty"));
        // A carriage return after an argument does not change the interpreter.
        assert_eq!(text(b"#!/bin/sh -e\r\n"), "");
    }

    #[test]
    fn programs() {
        let mut own = Vec::new();
        use std::io::Read;
        std::fs::File::open("/proc/self/exe")
            .unwrap()
            .take(64)
            .read_to_end(&mut own)
            .unwrap();
        assert_eq!(text(&own), "");
        for (bits, big, machine, words) in [
            (32, true, 8, "MIPS, 32 bits, big endian"),
            (32, false, 8, "MIPS, 32 bits, little endian"),
            (64, true, 22, "S/390, 64 bits, big endian"),
            (32, false, 9999, "machine 9999, 32 bits, little endian"),
        ] {
            let said = text(&elf(bits, big, machine));
            if !said.is_empty() {
                assert!(
                    said.contains("another processor") && said.contains(words),
                    "{said}"
                );
            }
        }
        assert_ne!(text(&elf(32, false, 9999)), "");
        assert!(text(b"\x7fELF").contains("no '#!' line"), "cut short");
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(head: Vec<u8>) {
            let said = text(&head);
            prop_assert!(!said.chars().any(char::is_control));
        }
    }
}
