//! Command line: `resolve` against the conformance table and against the shared resolver,
//! `check`, usage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]

mod support;

use std::fs;

use ctrl_exec_protocol::config::{AgentConf, ScriptsConf, decision};
use proptest::prelude::*;
use support::{Site, can_mount, is_root};

#[test]
fn conformance_table() {
    let site = Site::new();
    let required = "port = 7443\ncert = /x\nkey = /y\nca = /z";
    let mut cases = 0;
    for case in include_str!("fixtures/conformance.txt")
        .split("\n== ")
        .skip(1)
    {
        let (title, rest) = case.split_once("\n-- agent\n").unwrap();
        let (agent, rest) = rest.split_once("-- scripts\n").unwrap();
        let (scripts, expect) = rest.split_once("-- expect\n").unwrap();
        // The executor does without the front-end's keys.
        for required in [required, ""] {
            site.conf(&agent.replace('~', "").replace("REQ", required), scripts);
            for line in expect.lines().filter(|line| !line.is_empty()) {
                let (script, expected) = line.split_once(": ").unwrap();
                let (exit, out, err) = resolve(&site, script);
                if let Some(words) = expected.strip_prefix("CONFIG-ERROR ") {
                    assert_eq!((exit, out.as_str()), (2, ""), "{title}");
                    assert!(err.contains(words), "{title}: {err}");
                } else {
                    assert_eq!((exit, out), (0, format!("{expected}\n")), "{title}: {err}");
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 70, "{cases}");
}

fn resolve(site: &Site, script: &str) -> (i32, String, String) {
    site.run(&[
        "resolve",
        "@/etc/ctrl-exec-agent/agent.conf",
        "@/etc/ctrl-exec-agent/scripts.conf",
        script,
    ])
}

#[test]
fn symbolic_links_lead_out_of_script_dirs() {
    let site = Site::new();
    fs::create_dir(site.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(site.path("elsewhere"), site.path("opt/out")).unwrap();
    std::os::unix::fs::symlink(site.path("opt"), site.path("link")).unwrap();
    site.script("real", "");
    fs::copy(site.path("opt/real"), site.path("elsewhere/real")).unwrap();
    site.conf(
        "script_dirs = @/link/\n[profile default]\nrun_as = nobody\n",
        "direct = @/opt/real\nlinked = @/link/real\nmissing = @/link/gone\n\
         out = @/opt/out/real\nout-missing = @/opt/out/gone\nup = @/opt/../elsewhere/real\n\
         climbs = @/opt/gone/../../elsewhere/real\nprefix = @/optional\n",
    );
    for (script, expected) in [
        ("direct", "OK "),
        ("linked", "OK "),
        ("missing", "OK "),
        ("out", "DENY not-in-script-dirs"),
        ("out-missing", "DENY not-in-script-dirs"),
        ("up", "DENY not-in-script-dirs"),
        ("climbs", "DENY not-in-script-dirs"),
        ("prefix", "DENY not-in-script-dirs"),
    ] {
        let (_, out, _) = resolve(&site, script);
        assert!(out.starts_with(expected), "{script}: {out}");
    }
}

#[test]
fn unreadable_files() {
    let site = Site::new();
    fs::write(site.scripts_conf(), "a = /a\n").unwrap();
    let (exit, out, err) = resolve(&site, "a");
    assert_eq!((exit, out.as_str()), (2, ""));
    assert!(
        err.contains("cannot read: No such file or directory"),
        "{err}"
    );
    fs::write(site.agent_conf(), "[profile default]\n").unwrap();
    fs::remove_file(site.scripts_conf()).unwrap();
    let (exit, out, _) = resolve(&site, "a");
    assert_eq!((exit, out.as_str()), (0, "DENY not-allowlisted\n"));
    // Neither a directory nor a FIFO may hold the executor up.
    fs::create_dir(site.scripts_conf()).unwrap();
    let (_, out, err) = resolve(&site, "a");
    assert_eq!(out, "DENY not-allowlisted\n");
    assert!(
        err.contains("not a regular file") || err.contains("directory"),
        "{err}"
    );
}

#[test]
fn usage_and_version() {
    let site = Site::new();
    let version = format!("ctrl-exec-exec {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(site.run(&["--version"]), (0, version, String::new()));
    for args in [
        &[][..],
        &["serve"],
        &["serve", "a", "b", "c"],
        &["resolve", "a", "b"],
        &["--x"],
    ] {
        let (exit, out, err) = site.run(args);
        assert_eq!((exit, out.as_str()), (1, ""), "{args:?}");
        assert!(err.contains("usage: ctrl-exec-exec"), "{args:?}");
    }
    assert!(site.run(&["--help"]).1.contains("serve"));
}

#[test]
fn check_says_what_would_happen_and_what_is_wrong() {
    let site = Site::new();
    site.script("good", "true");
    site.script("plain", "true");
    site.conf(
        "colour = red\n[profile default]\nrun_as = root\n[profile ghost]\nrun_as = no-such-user-x\n",
        "good = @/opt/good\n",
    );
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert!(
        out.contains("agent.conf: warning: line 1: colour: unknown key, ignored"),
        "{out}"
    );
    assert!(out.contains("scripts.conf: ok"), "{out}");
    assert!(
        out.contains(&site.text("good: OK path=@/opt/good|profile=default|")),
        "{out}"
    );
    assert_eq!(
        out.contains("not examined (needs root)"),
        !is_root(),
        "{out}"
    );
    let able = !is_root() || can_mount();
    assert_eq!(exit, i32::from(!able), "{out}");

    let append = "bad line\nundef = @/opt/good profile=nope\nghost = @/opt/good profile=ghost\n\
        gone = @/opt/gone\nplain = @/opt/plain\n";
    fs::write(site.scripts_conf(), site.text(append)).unwrap();
    let plain = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(site.path("opt/plain"), plain).unwrap();
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert_eq!(exit, 1, "{out}");
    for line in [
        "warning: line 1: skipped: malformed line",
        "undef: DENY undefined-profile",
        "ghost: FAULT: unknown run_as user 'no-such-user-x'",
        "gone: FAULT: @/opt/gone: No such file or directory",
        "plain: FAULT: @/opt/plain: not executable",
    ] {
        assert!(out.contains(&site.text(line)), "{line}\n{out}");
    }

    fs::write(site.agent_conf(), "[profile p]\ncaps = CAP_x\n").unwrap();
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert_eq!(exit, 1);
    assert!(out.contains("FAULT: "), "{out}");
    assert!(
        out.contains("agent.conf: line 2: invalid capability 'CAP_x'"),
        "{out}"
    );
}

#[test]
fn check_warns_of_configuration_that_others_may_write() {
    let site = Site::new();
    site.conf("[profile default]\n", "");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(site.agent_conf(), open).unwrap();
    let (_, out, _) = site.run(&["--root", "@", "check"]);
    assert!(
        out.contains(&site.text("everybody may write @/etc/ctrl-exec-agent/agent.conf")),
        "{out}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the files say, the program decides as the shared resolver, which the front-end
    /// calls, does.
    #[test]
    fn executor_and_front_end_agree(
        agent in prop::collection::vec(agent_line(), 0..10),
        scripts in prop::collection::vec(scripts_line(), 0..6),
    ) {
        let site = Site::new();
        let (agent, scripts) = (agent.join("\n"), scripts.join("\n"));
        fs::write(site.agent_conf(), &agent).unwrap();
        fs::write(site.scripts_conf(), &scripts).unwrap();
        let front_end = AgentConf::parse(&agent, "agent.conf");
        let list = ScriptsConf::parse(&scripts, "scripts.conf").unwrap().0;
        for name in ["a", "b", "a-b"] {
            let (exit, out, err) = resolve(&site, name);
            match &front_end {
                Ok((conf, _)) => {
                    let decision = decision::resolve(conf, &list, name, &|path| path.canonicalize().ok());
                    prop_assert_eq!((exit, out), (0, format!("{decision}\n")), "{}", agent);
                }
                Err(error) => {
                    prop_assert_eq!((exit, out.as_str()), (2, ""), "{}", agent);
                    prop_assert!(err.contains(&error.fault), "{}", err);
                }
            }
        }
    }
}

fn agent_line() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "port = 7443", "# comment", "", "script_dirs = /opt:/usr/bin", "script_dirs = /",
            "[profile default]", "[profile p]", "[Profile p]", "[tags]", "[other]",
            "run_as = nobody", "run_as = 0", "caps = CAP_KILL,CAP_CHOWN", "caps = CAP_KILL CAP_X",
            "writable = /a:/b", "no_new_privileges = no", "no_new_privileges = Yes", "env = prod",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "nonsense", "[profile]", "run_as=", "run_as = 4294967296", "caps = x", "writable = a",
            "script_dirs = ", "[p] x", "port = x",
        ]).prop_map(str::to_owned),
    ]
}

fn scripts_line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "a-b", "# a", "a.b"]);
    let path = prop::sample::select(vec![
        "/opt/x",
        "/usr/bin/env",
        "/usr/bin/../../x",
        "rel",
        "",
    ]);
    let note = prop::sample::select(vec!["", "profile=p", "profile=q", "x=1", "/second"]);
    (name, path, note, any::<bool>()).prop_map(|(name, path, note, first)| {
        if first {
            format!("{name} = {note} {path}")
        } else {
            format!("{name}={path} {note}")
        }
    })
}
