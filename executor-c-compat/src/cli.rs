//! The command line (executor.md §1).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Shown for anything that is not understood.
pub const USAGE: &str = "\
usage: ctrl-exec-exec [--root DIR] serve <socket> <agent.conf> <scripts.conf> <peer-user>
       ctrl-exec-exec resolve <agent.conf> <scripts.conf> <script-name>
       ctrl-exec-exec [--root DIR] check [<agent.conf> <scripts.conf>]
       ctrl-exec-exec --version

serve    run scripts for <peer-user> and root, who connect to <socket>
resolve  print what would be done for one script
check    validate both files and print what would be done for every script
--root   prefix of the default paths and of the protected directories
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the usage text.
    Help,
    /// Print name and version.
    Version,
    /// Print one decision.
    Resolve {
        /// agent.conf
        agent: PathBuf,
        /// scripts.conf
        scripts: PathBuf,
        /// The script's name.
        name: String,
    },
    /// Print all decisions and faults.
    Check {
        /// agent.conf
        agent: PathBuf,
        /// scripts.conf
        scripts: PathBuf,
    },
    /// Serve.
    Serve {
        /// Prefix of the protected directories.
        root: PathBuf,
        /// Where to listen.
        socket: PathBuf,
        /// agent.conf
        agent: PathBuf,
        /// scripts.conf
        scripts: PathBuf,
        /// Who may connect, besides root.
        peer_user: String,
    },
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// A sentence.
pub fn parse(args: &[OsString]) -> Result<Command, String> {
    let mut root = PathBuf::from("/");
    let mut words = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        if text == "--root" {
            root = args
                .next()
                .map(PathBuf::from)
                .ok_or("--root needs a directory")?;
        } else if let Some(dir) = text.strip_prefix("--root=") {
            root = PathBuf::from(dir);
        } else if text == "--version" && words.is_empty() {
            return Ok(Command::Version);
        } else if matches!(text, "--help" | "-h") && words.is_empty() {
            return Ok(Command::Help);
        } else if text.starts_with('-') && words.is_empty() {
            return Err(format!("unknown option: {text}"));
        } else {
            words.push(arg);
        }
    }
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let path = |word: &OsString| PathBuf::from(word);
    let verb = words.first().map(|verb| text(verb)).unwrap_or_default();
    match (verb.as_str(), words.get(1..).unwrap_or_default()) {
        ("serve", [socket, agent, scripts, peer_user]) => Ok(Command::Serve {
            root,
            socket: path(socket),
            agent: path(agent),
            scripts: path(scripts),
            peer_user: text(peer_user),
        }),
        ("resolve", [agent, scripts, name]) => Ok(Command::Resolve {
            agent: path(agent),
            scripts: path(scripts),
            name: text(name),
        }),
        ("check", [agent, scripts]) => Ok(Command::Check {
            agent: path(agent),
            scripts: path(scripts),
        }),
        ("check", []) => Ok(Command::Check {
            agent: default(&root, "agent.conf"),
            scripts: default(&root, "scripts.conf"),
        }),
        ("serve" | "resolve" | "check", _) => Err(format!("{verb}: wrong number of arguments")),
        ("", _) => Err("no command".to_owned()),
        _ => Err(format!("unknown command: {verb}")),
    }
}

fn default(root: &Path, file: &str) -> PathBuf {
    root.join("etc/ctrl-exec-agent").join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(
            &line
                .split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn commands() {
        assert_eq!(parsed("--version"), Ok(Command::Version));
        let resolve = Command::Resolve {
            agent: "a".into(),
            scripts: "s".into(),
            name: "-n".to_owned(),
        };
        assert_eq!(parsed("resolve a s -n"), Ok(resolve));
        let check = |dir: &str| Command::Check {
            agent: format!("{dir}/etc/ctrl-exec-agent/agent.conf").into(),
            scripts: format!("{dir}/etc/ctrl-exec-agent/scripts.conf").into(),
        };
        assert_eq!(parsed("check"), Ok(check("")));
        assert_eq!(parsed("--root /r check"), Ok(check("/r")));
        assert_eq!(parsed("check --root=/r"), Ok(check("/r")));
        assert!(matches!(parsed("serve k a s u"), Ok(Command::Serve { .. })));
        for bad in [
            "",
            "serve",
            "serve k a s",
            "resolve a s",
            "check a",
            "--rot / check",
            "x",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
