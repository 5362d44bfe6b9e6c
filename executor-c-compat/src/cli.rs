//! The command line (executor.md §1).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pico_args::Arguments;

/// Shown for anything that is not understood.
pub const USAGE: &str = "\
usage: ctrl-exec-exec [OPTIONS] serve <socket> <agent.conf> <scripts.conf> <peer-user>
       ctrl-exec-exec resolve <agent.conf> <scripts.conf> <script-name>
       ctrl-exec-exec [OPTIONS] check [<agent.conf> <scripts.conf>]
       ctrl-exec-exec --version

serve    run scripts for <peer-user> and root, who connect to <socket>
resolve  print what would be done for one script
check    validate both files and print what would be done for every script

--root DIR           prefix of the default paths and of the protected directories
--peer USER          check: the user whose requests are served (ctrl-exec-agent)
--frame-timeout SEC  serve: how long a peer has to send a request (10)
--unsafe-paths       obey and run files that others than root may change
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
        /// Prefix of the protected directories.
        root: PathBuf,
        /// agent.conf
        agent: PathBuf,
        /// scripts.conf
        scripts: PathBuf,
        /// Whose requests the executor serves.
        peer_user: String,
        /// Accept files that others may change.
        unsafe_paths: bool,
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
        /// How long a peer has to send a request.
        frame_timeout: Duration,
        /// Obey and run files that others may change.
        unsafe_paths: bool,
    },
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// A sentence.
pub fn parse(args: Vec<OsString>) -> Result<Command, String> {
    // What follows the name of `resolve` is taken as it is, also with a hyphen in front.
    if let [verb, agent, scripts, name] = args.as_slice() {
        if verb == "resolve" {
            return Ok(Command::Resolve {
                agent: agent.into(),
                scripts: scripts.into(),
                name: name.to_string_lossy().into_owned(),
            });
        }
    }
    let mut args = Arguments::from_vec(args);
    if args.contains(["-h", "--help"]) {
        return Ok(Command::Help);
    }
    if args.contains("--version") {
        return Ok(Command::Version);
    }
    let fault = |error: pico_args::Error| error.to_string();
    let root: Option<PathBuf> = args.opt_value_from_str("--root").map_err(fault)?;
    let root = root.unwrap_or_else(|| PathBuf::from("/"));
    let peer: Option<String> = args.opt_value_from_str("--peer").map_err(fault)?;
    let seconds: Option<u32> = args.opt_value_from_str("--frame-timeout").map_err(fault)?;
    let unsafe_paths = args.contains("--unsafe-paths");
    let words = args.finish();
    if let Some(option) = words
        .iter()
        .find(|word| word.as_encoded_bytes().starts_with(b"-"))
    {
        return Err(format!("unknown option: {}", option.to_string_lossy()));
    }
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let verb = words.first().map(text).unwrap_or_default();
    match (verb.as_str(), words.get(1..).unwrap_or_default()) {
        (_, _) if peer.is_some() && verb != "check" => Err("--peer belongs to check".to_owned()),
        (_, _) if seconds.is_some() && verb != "serve" => {
            Err("--frame-timeout belongs to serve".to_owned())
        }
        ("serve", [socket, agent, scripts, peer_user]) => Ok(Command::Serve {
            root,
            socket: socket.into(),
            agent: agent.into(),
            scripts: scripts.into(),
            peer_user: text(peer_user),
            frame_timeout: Duration::from_secs(seconds.unwrap_or(10).max(1).into()),
            unsafe_paths,
        }),
        ("check", paths @ ([] | [_, _])) => Ok(Command::Check {
            agent: paths
                .first()
                .map_or_else(|| default(&root, "agent.conf"), PathBuf::from),
            scripts: paths
                .last()
                .map_or_else(|| default(&root, "scripts.conf"), PathBuf::from),
            root,
            peer_user: peer.unwrap_or_else(|| "ctrl-exec-agent".to_owned()),
            unsafe_paths,
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
        parse(line.split_whitespace().map(OsString::from).collect())
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
            root: if dir.is_empty() { "/" } else { dir }.into(),
            agent: format!("{dir}/etc/ctrl-exec-agent/agent.conf").into(),
            scripts: format!("{dir}/etc/ctrl-exec-agent/scripts.conf").into(),
            peer_user: "ctrl-exec-agent".to_owned(),
            unsafe_paths: false,
        };
        assert_eq!(parsed("check"), Ok(check("")));
        assert_eq!(parsed("--root /r check"), Ok(check("/r")));
        assert_eq!(parsed("check --root=/r"), Ok(check("/r")));
        let Ok(Command::Check {
            agent,
            scripts,
            peer_user,
            unsafe_paths: true,
            ..
        }) = parsed("--unsafe-paths check --peer me a s")
        else {
            panic!("{:?}", parsed("--unsafe-paths check --peer me a s"))
        };
        assert_eq!((agent, scripts), ("a".into(), "s".into()));
        assert_eq!(peer_user, "me");
        let seconds = |line: &str| match parsed(line) {
            Ok(Command::Serve { frame_timeout, .. }) => frame_timeout.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(seconds("serve k a s u"), 10);
        assert_eq!(seconds("--frame-timeout 3 serve k a s u"), 3);
        for bad in [
            "",
            "serve",
            "serve k a s",
            "resolve a s",
            "check a",
            "check a s x",
            "--rot / check",
            "--root",
            "check --frame-timeout 3",
            "serve k a s u --frame-timeout x",
            "serve k a s u --peer x",
            "x",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
