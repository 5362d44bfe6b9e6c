//! Passphrases and keys: from a terminal without showing them, from a file, or from a descriptor.

use super::args::Args;
use super::flags::{IDENTITY, PASSPHRASE_FD, PASSPHRASE_FILE, TO};
use super::out;
use crate::model::AppError;
use crate::sealed::{For, Opens, PublicKey, SecretKey, With};
use ctrl_exec_host::bounded::Bounded;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use zeroize::Zeroizing;

/// Shortest passphrase for a new file, in characters: it protects the key of the whole fleet from
/// whoever finds the file and has time.
const SHORTEST: usize = 10;
/// Longest passphrase read, in bytes.
const LONGEST: usize = 1024;

/// Whom a new file is for.
pub fn whom(args: &Args) -> Result<For, AppError> {
    let keys: Vec<PublicKey> = args
        .values(&TO)
        .map(|text| {
            PublicKey::parse(text).ok_or_else(|| {
                AppError::usage(format!(
                    "option --to: '{}' is no public key (age1...); 'ced backup --new-key FILE' \
                     makes a pair",
                    out::clean(text)
                ))
            })
        })
        .collect::<Result<_, _>>()?;
    let given = given(args)?;
    if !keys.is_empty() {
        if given.is_some() {
            return Err(AppError::usage(
                "give --to or a passphrase, not both: a file is for one or the other",
            ));
        }
        return Ok(For::Keys(keys));
    }
    let passphrase = match given {
        Some(passphrase) => passphrase,
        None => {
            let first = ask("Passphrase for the new file: ")?;
            if *first != *ask("The same again: ")? {
                return Err(AppError::usage("the passphrases are not the same"));
            }
            first
        }
    };
    if passphrase.chars().count() < SHORTEST {
        return Err(AppError::usage(format!(
            "the passphrase has fewer than {SHORTEST} characters"
        )));
    }
    Ok(For::Passphrase(passphrase))
}

/// What opens a file.
pub fn with(args: &Args, opens: Opens) -> Result<With, AppError> {
    let given = given(args)?;
    match (args.value(&IDENTITY), given) {
        (Some(path), None) => {
            let text = Bounded::new(1 << 20)
                .any_kind()
                .text(Path::new(path))
                .map(Zeroizing::new)
                .map_err(|error| AppError::system(format!("cannot read {path}: {error}")))?;
            let keys = SecretKey::parse_file(&text).ok_or_else(|| {
                AppError::usage(format!("{path}: no secret keys (AGE-SECRET-KEY-1...)"))
            })?;
            Ok(With::Keys(keys))
        }
        (Some(_), Some(_)) => Err(AppError::usage("give --identity or a passphrase, not both")),
        (None, Some(passphrase)) => Ok(With::Passphrase(passphrase)),
        (None, None) => match opens {
            Opens::ByPassphrase => ask("Passphrase: ").map(With::Passphrase),
            Opens::ByKey => Err(AppError::usage(
                "it is encrypted to a key: give the file of its secret part with --identity",
            )),
        },
    }
}

/// A passphrase that the command line says where to find.
fn given(args: &Args) -> Result<Option<Zeroizing<String>>, AppError> {
    let path = match (args.value(&PASSPHRASE_FILE), args.value(&PASSPHRASE_FD)) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(AppError::usage(
                "give --passphrase-file or --passphrase-fd, not both",
            ));
        }
        (Some(path), None) => path.to_owned(),
        (None, Some(number)) => format!("/proc/self/fd/{number}"),
    };
    let failed = |error: &dyn std::fmt::Display| {
        AppError::system(format!("cannot read a passphrase from {path}: {error}"))
    };
    let mut file = File::open(&path).map_err(|error| failed(&error))?;
    let mut line = Zeroizing::new(Vec::new());
    let mut byte = [0];
    // No further than the line: others may read on.
    while line.len() <= LONGEST && file.read(&mut byte).map_err(|error| failed(&error))? == 1 {
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    passphrase(line).map(Some).map_err(|error| failed(&error))
}

fn passphrase(mut line: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, &'static str> {
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() {
        return Err("it is empty");
    }
    if line.len() > LONGEST {
        return Err("it is too long");
    }
    let text = std::str::from_utf8(&line).map_err(|_| "it is not UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Asks at the terminal, whatever standard input is.
fn ask(prompt: &str) -> Result<Zeroizing<String>, AppError> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let Ok(mut terminal) = terminal else {
        return Err(AppError::usage(
            "there is no terminal to ask for a passphrase: give --passphrase-file, \
             --passphrase-fd, or a key",
        ));
    };
    let failed = |error: std::io::Error| AppError::system(format!("the terminal: {error}"));
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    let hidden = Hidden::new(&terminal).map_err(failed)?;
    let line = read_line(&terminal);
    drop(hidden);
    let _ = terminal.write_all(b"\r\n");
    let line = line
        .map_err(failed)?
        .ok_or_else(|| AppError::usage("given up"))?;
    passphrase(line).map_err(|error| AppError::usage(format!("the passphrase: {error}")))
}

/// A line that is typed; `None` when it was given up (Ctrl-C, Ctrl-D on an empty line).
fn read_line(mut terminal: &File) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::new());
    let mut byte = [0];
    while line.len() <= LONGEST {
        if terminal.read(&mut byte)? == 0 {
            return Ok(None);
        }
        match byte[0] {
            b'\r' | b'\n' => break,
            // Ctrl-C, Ctrl-\.
            3 | 28 => return Ok(None),
            4 if line.is_empty() => return Ok(None),
            // Backspace, of one character.
            8 | 127 => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U.
            21 => line.clear(),
            byte => line.push(byte),
        }
    }
    Ok(Some(line))
}

/// A terminal that shows nothing of what is typed, until this is dropped. Signals are keys
/// meanwhile, so that none leaves it so.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(terminal: &'a File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
