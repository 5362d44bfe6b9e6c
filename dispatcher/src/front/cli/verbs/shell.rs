//! `help`, `completions` and `man`: all out of the one table.

use crate::front::cli::args::Args;
use crate::front::cli::ctx::{Exit, VERSION};
use crate::front::cli::flags::{self, Flag, Takes};
use crate::front::cli::table::{self, VERBS, Verb, Words};
use crate::front::cli::{help as texts, out};
use crate::model::AppError;
use std::fmt::Write;

/// Shows help.
pub fn help(args: &Args) -> Result<Exit, AppError> {
    match args.words.first() {
        None => out::raw(&texts::overview()),
        Some(name) => {
            let verb = table::verb(name).ok_or_else(|| {
                AppError::usage(format!("unknown verb '{}'", name.escape_debug()))
            })?;
            out::raw(&texts::of_verb(verb));
        }
    }
    Ok(0)
}

/// Prints a completion script.
pub fn completions(args: &Args) -> Result<Exit, AppError> {
    out::raw(&match args.words[0].as_str() {
        "bash" => bash(),
        "zsh" => zsh(),
        "fish" => fish(),
        other => {
            let other = other.escape_debug();
            return Err(AppError::usage(format!(
                "no completions for '{other}': bash, zsh or fish"
            )));
        }
    });
    Ok(0)
}

/// Prints the manual page.
pub fn man() -> Result<Exit, AppError> {
    out::raw(&manual());
    Ok(0)
}

/// Lists registered names, one a line, for the completion scripts.
const AGENTS: &str = "ls ${ROOT}/var/lib/ctrl-exec/agents 2>/dev/null | sed -n 's/\\.json$//p'";
const REQUESTS: &str = "ls ${ROOT}/var/lib/ctrl-exec/pairing 2>/dev/null | sed -n 's/\\.json$//p'";

fn bash() -> String {
    let mut text = String::from(
        "# bash completion of ctrl-exec-dispatcher; source it or put it into\n\
         # /usr/share/bash-completion/completions/ctrl-exec-dispatcher\n\
         _ctrl_exec_dispatcher() {\n  local cur=${COMP_WORDS[COMP_CWORD]} \
         prev=${COMP_WORDS[COMP_CWORD-1]} verb= word ROOT=\n  \
         for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case $word in\n",
    );
    let names: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
    let _ = writeln!(
        text,
        "      {}) [ -n \"$verb\" ] || verb=$word;;",
        names.join("|")
    );
    text.push_str("    esac\n  done\n  case $prev in\n");
    for flag in table::all_flags() {
        match flag.takes {
            Takes::Nothing => {}
            Takes::File => {
                let _ = writeln!(
                    text,
                    "    --{}) COMPREPLY=($(compgen -f -- \"$cur\")); return;;",
                    flag.name
                );
            }
            Takes::OneOf(words) => {
                let _ = writeln!(
                    text,
                    "    --{}) COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return;;",
                    flag.name,
                    words.join(" ")
                );
            }
            Takes::Text(_) | Takes::Number(..) => {
                let _ = writeln!(text, "    --{}) return;;", flag.name);
            }
        }
    }
    text.push_str("  esac\n  local words=\n  case $verb in\n");
    let _ = writeln!(text, "    '') words='{}';;", names.join(" "));
    for verb in VERBS {
        let flags: Vec<String> = verb
            .all_flags()
            .map(|flag| format!("--{}", flag.name))
            .collect();
        let words = match verb.complete {
            Words::None => String::new(),
            Words::Agents => format!(" \"$({AGENTS})\""),
            Words::Requests => format!(" \"$({REQUESTS})\""),
            Words::OneOf(words) => format!(" '{}'", words.join(" ")),
        };
        let _ = writeln!(
            text,
            "    {}) if [[ $cur == -* ]]; then words='{}'; else words={}; fi;;",
            verb.name,
            flags.join(" "),
            if words.is_empty() {
                "''"
            } else {
                words.trim_start()
            }
        );
    }
    text.push_str(
        "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\n\
         complete -F _ctrl_exec_dispatcher ctrl-exec-dispatcher ced\n",
    );
    text
}

fn zsh() -> String {
    let mut text = String::from(
        "#compdef ctrl-exec-dispatcher ced\n# zsh completion; put it into a directory of $fpath \
         as _ctrl-exec-dispatcher\n_ctrl_exec_dispatcher() {\n  local ROOT= verb=\n  local -a \
         verbs=(\n",
    );
    for verb in VERBS {
        let _ = writeln!(
            text,
            "    '{}:{}'",
            verb.name,
            quote(verb.summary).replace(':', "\\:")
        );
    }
    text.push_str(
        "  )\n  verb=${words[(r)(${(j:|:)${(@)verbs%%:*}})]}\n  case $verb in\n    '') _describe \
         verb verbs;;\n",
    );
    for verb in VERBS {
        let _ = write!(text, "    {}) _arguments", verb.name);
        for flag in verb.all_flags() {
            let _ = write!(
                text,
                " '--{}[{}]{}'",
                flag.name,
                bracket(flag.help),
                zsh_value(flag)
            );
        }
        let words = match verb.complete {
            Words::None => "_default".to_owned(),
            Words::Agents => format!("compadd -- $({AGENTS})"),
            Words::Requests => format!("compadd -- $({REQUESTS})"),
            Words::OneOf(words) => format!("compadd -- {}", words.join(" ")),
        };
        let _ = writeln!(text, " '*:word:{{ {} }}';;", quote(&words));
    }
    text.push_str("  esac\n}\n_ctrl_exec_dispatcher \"$@\"\n");
    text
}

fn zsh_value(flag: &Flag) -> String {
    match flag.takes {
        Takes::Nothing => String::new(),
        Takes::File => ":path:_files".to_owned(),
        Takes::OneOf(words) => format!(":word:({})", words.join(" ")),
        Takes::Text(word) | Takes::Number(word, ..) => format!(":{}:", bracket(word)),
    }
}

fn fish() -> String {
    let mut text = String::from(
        "# fish completion of ctrl-exec-dispatcher; put it into ~/.config/fish/completions/\n",
    );
    for program in ["ctrl-exec-dispatcher", "ced"] {
        let _ = writeln!(text, "complete -c {program} -f");
        for verb in VERBS {
            let _ = writeln!(
                text,
                "complete -c {program} -n __fish_use_subcommand -a {} -d '{}'",
                verb.name,
                quote_fish(verb.summary)
            );
            let seen = format!("-n '__fish_seen_subcommand_from {}'", verb.name);
            for flag in verb.all_flags() {
                let takes = match flag.takes {
                    Takes::Nothing => String::new(),
                    Takes::File => " -r -F".to_owned(),
                    Takes::OneOf(words) => format!(" -x -a '{}'", words.join(" ")),
                    Takes::Text(_) | Takes::Number(..) => " -x".to_owned(),
                };
                let _ = writeln!(
                    text,
                    "complete -c {program} {seen} -l {}{takes} -d '{}'",
                    flag.name,
                    quote_fish(flag.help)
                );
            }
            let list =
                |list: &str| format!("({})", list.replace("${ROOT}", "").replace('\'', "\""));
            let words = match verb.complete {
                Words::None => continue,
                Words::Agents => list(AGENTS),
                Words::Requests => list(REQUESTS),
                Words::OneOf(words) => words.join(" "),
            };
            let _ = writeln!(text, "complete -c {program} {seen} -a '{words}'");
        }
    }
    text
}

fn quote(text: &str) -> String {
    text.replace('\'', "'\\''")
}

fn quote_fish(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn bracket(text: &str) -> String {
    quote(text).replace(['[', ']', ':'], " ")
}

/// The date that manual pages bear.
const DATE: &str = "2026-11-28";

fn manual() -> String {
    let mut text = format!(
        ".TH CTRL-EXEC-DISPATCHER 8 \"{DATE}\" \"ctrl-exec {}\"\n.SH NAME\nctrl-exec-dispatcher, ced \\- \
         run scripts on a fleet of agents over mutual TLS\n.SH SYNOPSIS\n.B ctrl-exec-dispatcher\n\
         .I verb\n[options] [words]\n.SH DESCRIPTION\nPairs agents by a confirmation code, signs \
         and renews their certificates, and runs allowlisted scripts on them in parallel.\n.SH \
         VERBS\n",
        VERSION
    );
    for verb in VERBS {
        let _ = write!(text, "{}", manual_of(verb));
    }
    text.push_str(".SH COMMON OPTIONS\n");
    text.push_str(&manual_flags(flags::COMMON));
    text.push_str(
        ".SH EXIT STATUS\n.TP\n.B 0\nSuccess. For ping also when hosts failed.\n.TP\n.B 1\nrun: \
         denied, locked, or any host failed. status, wait: not found; wait: a host failed. doctor: \
         something is wrong.\n.TP\n.B 2\nwait: still pending at the time limit.\n.TP\n.B 3\nFatal \
         error: bad usage, unreadable configuration, unknown agent.\n.TP\n.B 4, 5, 6\nWith \
         \\-\\-strict: a host refused; a host was not reached; a host may still be running.\n.SH FILES\n.I \
         /etc/ctrl-exec/ctrl-exec.conf\n.br\n.I /var/lib/ctrl-exec/\n",
    );
    text
}

fn manual_of(verb: &Verb) -> String {
    let mut text = format!(
        ".SS {}\n.B ctrl-exec-dispatcher {}\n{}\n.PP\n{}\n",
        verb.name,
        verb.name,
        roff(verb.usage),
        roff(verb.summary)
    );
    for paragraph in verb
        .detail
        .split("\n\n")
        .filter(|paragraph| !paragraph.is_empty())
    {
        let _ = writeln!(text, ".PP\n{}", roff(paragraph));
    }
    text.push_str(&manual_flags(verb.flags));
    text
}

fn manual_flags(flags: &[&Flag]) -> String {
    flags.iter().fold(String::new(), |mut text, flag| {
        let _ = writeln!(text, ".TP\n.B {}\n{}", roff(&flag.shown()), roff(flag.help));
        text
    })
}

fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_and_flag_is_in_every_text() {
        for text in [bash(), zsh(), fish(), manual().replace("\\-", "-")] {
            for verb in VERBS {
                assert!(text.contains(verb.name), "{}", verb.name);
                for flag in verb.flags {
                    assert!(text.contains(flag.name), "{}", flag.name);
                }
            }
        }
    }

    #[test]
    fn the_bash_script_is_shell() {
        let Ok(mut child) = std::process::Command::new("bash")
            .arg("-n")
            .stdin(std::process::Stdio::piped())
            .spawn()
        else {
            return;
        };
        use std::io::Write as _;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(bash().as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }
}
