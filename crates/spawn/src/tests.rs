use super::*;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};

fn shell(script: &str) -> Strings {
    let mut strings = Strings::new(OsStr::new("/bin/sh"));
    strings.arg(OsStr::new("-c"));
    strings.arg(OsStr::new(script));
    strings
}

/// What a child wrote to its standard output, and how it ended.
fn output(strings: &Strings, stdin: Option<&[u8]>, own_group: bool) -> (String, Exit) {
    let input = stdin.map_or(Stdio::Null, |_| Stdio::Pipe);
    let started = start(strings, [input, Stdio::Pipe, Stdio::Null], own_group).unwrap();
    let [to, from, none] = started.pipes;
    assert!(none.is_none());
    if let Some(text) = stdin {
        File::from(to.unwrap()).write_all(text).unwrap();
    }
    let mut text = String::new();
    File::from(from.unwrap()).read_to_string(&mut text).unwrap();
    (text, wait(started.pid, true).unwrap().unwrap())
}

#[test]
fn streams_arguments_and_codes_pass() {
    let mut strings = shell("cat; echo \"<$1|$2>\" >&2; echo \"<$1|$2>\"; exit 7");
    for word in ["me", "a b", ""] {
        strings.arg(OsStr::new(word));
    }
    assert_eq!(
        output(&strings, Some(b"in\n"), false),
        ("in\n<a b|>\n".to_owned(), Exit::Code(7))
    );
    let file = File::open("/proc/self/stat").unwrap();
    let cat = shell("cat");
    let started = start(
        &cat,
        [Stdio::File(file.as_fd()), Stdio::Pipe, Stdio::Null],
        false,
    );
    let mut text = String::new();
    let [_, from, _] = started.unwrap().pipes;
    File::from(from.unwrap()).read_to_string(&mut text).unwrap();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
}

#[test]
fn the_environment_is_ours_or_what_was_given() {
    let path = std::env::var("PATH").unwrap();
    assert_eq!(output(&shell("echo $PATH"), None, false).0.trim(), path);
    let mut strings = Strings::new(OsStr::new("/usr/bin/env"));
    strings.clear_env();
    assert_eq!(output(&strings, None, false).0, "");
    for (name, value) in [("A", "1"), ("B", ""), ("C", "x=y z")] {
        strings.env(OsStr::new(name), OsStr::new(value));
    }
    assert_eq!(output(&strings, None, false).0, "A=1\nB=\nC=x=y z\n");
}

#[test]
fn a_child_has_its_own_group_and_nothing_of_our_signals_and_files() {
    let exe = std::env::current_exe().unwrap();
    let kept = File::open(&exe).unwrap();
    let files = "set -- $(cat /proc/$$/stat); echo $(($5 - $1)); ls -l /proc/self/fd";
    let (text, _) = output(&shell(files), None, true);
    assert!(text.starts_with("0\n"), "{text}");
    assert!(!text.contains(exe.to_str().unwrap()), "{text}");
    let (text, _) = output(&shell(files), None, false);
    assert!(!text.starts_with("0\n"), "{text}");
    let signals = "grep -E '^Sig(Ign|Blk)' /proc/self/status";
    let (text, _) = output(&shell(signals), None, false);
    for line in text.lines() {
        let mask = line.split_whitespace().nth(1).unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(
            mask & (1 << (rustix::process::Signal::PIPE.as_raw() - 1)),
            0,
            "{text}"
        );
        assert!(line.starts_with("SigIgn") || mask == 0, "{text}");
    }
    drop(kept);
}

#[test]
fn ends_by_signals_are_told_and_a_child_is_waited_for_once() {
    let started = start(
        &shell("kill -9 $$"),
        [Stdio::Null, Stdio::Null, Stdio::Null],
        false,
    );
    let pid = started.unwrap().pid;
    assert_eq!(wait(pid, true).unwrap(), Some(Exit::Signal(9)));
    wait(pid, true).unwrap_err();
    let started = start(
        &shell("read x"),
        [Stdio::Pipe, Stdio::Null, Stdio::Null],
        false,
    );
    let started = started.unwrap();
    assert_eq!(wait(started.pid, false).unwrap(), None);
    drop(started.pipes);
    assert_eq!(wait(started.pid, true).unwrap(), Some(Exit::Code(1)));
}

#[test]
fn what_cannot_start_says_why() {
    let streams = || [Stdio::Null, Stdio::Null, Stdio::Null];
    let fault = |program: &str| {
        let strings = Strings::new(OsStr::new(program));
        match start(&strings, streams(), false).unwrap_err() {
            Fault::Exec(error) => error.raw_os_error(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fault("/no/such"), Some(libc::ENOENT));
    assert_eq!(fault("/etc/passwd"), Some(libc::EACCES));
    assert_eq!(fault("/bin/\0sh"), Some(libc::EINVAL));
    let mut strings = shell("exit 0");
    strings.clear_env();
    strings.env(OsStr::new("A\0B"), OsStr::new("1"));
    assert!(matches!(
        start(&strings, streams(), false),
        Err(Fault::Exec(_))
    ));
}
