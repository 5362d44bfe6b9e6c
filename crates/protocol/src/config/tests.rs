//! Tables and properties of the two parsers together.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

const CONFORMANCE: &str =
    include_str!("../../../../executor-c-compat/tests/fixtures/conformance.txt");
const REQUIRED: &str = "port = 7443\ncert = /x\nkey = /y\nca = /z";

fn nothing_exists(path: &Path) -> Option<PathBuf> {
    (path == Path::new("/")).then(|| PathBuf::from("/"))
}

fn parse(text: &str) -> Result<(AgentConf, Vec<Warning>), ConfigError> {
    AgentConf::parse(text, "agent.conf")
}

fn fault(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_byte_order_mark_is_named() {
    for text in [
        "\u{feff}port = 7443\n",
        "\u{feff}# a comment\n",
        "\u{feff}[tags]\n",
    ] {
        let error = AgentConf::parse(text, "agent.conf")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "agent.conf: line 1: begins with a byte order mark (BOM): save the file without"
        );
    }
    let (conf, warnings) = ScriptsConf::parse("\u{feff}a = /b\nc = /d\n", "s").unwrap();
    assert_eq!(conf.scripts.len(), 1);
    assert!(
        warnings[0].message.contains("byte order mark"),
        "{warnings:?}"
    );
}

#[test]
fn conformance_table() {
    let mut cases = 0;
    for case in CONFORMANCE.split("\n== ").skip(1) {
        let (title, rest) = case.split_once("\n-- agent\n").unwrap();
        let (agent, rest) = rest.split_once("-- scripts\n").unwrap();
        let (scripts, expect) = rest.split_once("-- expect\n").unwrap();
        let agent = agent.replace('~', "").replace("REQ", REQUIRED);
        let scripts = ScriptsConf::parse(scripts, "scripts.conf").unwrap().0;
        for line in expect.lines().filter(|line| !line.is_empty()) {
            let (script, expected) = line.split_once(": ").unwrap();
            match (parse(&agent), expected.strip_prefix("CONFIG-ERROR ")) {
                (Ok((conf, _)), None) => {
                    let decision = decision::resolve(&conf, &scripts, script, &nothing_exists);
                    assert_eq!(decision.to_string(), expected, "{title}: {script}");
                }
                (Err(error), Some(words)) => {
                    assert!(error.to_string().contains(words), "{title}: {error}");
                }
                (parsed, _) => panic!("{title}: {parsed:?}, expected {expected}"),
            }
            cases += 1;
        }
    }
    assert!(cases > 35, "{cases}");
}

#[test]
fn every_key_of_the_reference_and_ours() {
    let text = "port = 7443\ncert = /c\nkey = /k\nca = /a\nbind = ::1\nscript_dirs = /a::/b\n\
        allowed_ips = 10.0.0.0/8\nrate_limit_disable = yes please\nrate_limit_volume = 1/2/3\n\
        rate_limit_probe = 4/5/6\nmax_children = 8\nauth_hook = /h\nauth_hook_timeout = 0\n\
        executor_socket = /s\nstdin_timeout = 5\nasync_runs_dir = /r\nrevoked_serials = /v\n\
        trusted_dispatchers_path = /t\ncert_staging_path = /g\nallow_root = yes\nmax_output = 1M\n\
        memory_budget = 4M\nscript_timeout = 60\nasync_max_records = 9\nasync_max_bytes = 1G\n\
        executor_max_children = 2\n[tags]\nenv = prod\nblank = \n[profile p]\nrun_as = 7\n\
        no_network = yes\ntimeout = 3\nlimit_cpu = 1\nlimit_memory = 2K\nlimit_files = 3\n\
        limit_processes = 4\nlimit_file_size = 5M\n";
    let (conf, warnings) = parse(text).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        conf.listener("agent.conf").unwrap(),
        Listener {
            port: 7443,
            cert: "/c",
            key: "/k",
            ca: "/a"
        }
    );
    assert_eq!(conf.bind, Some("::1".parse().unwrap()));
    assert_eq!(
        conf.script_dirs.as_deref(),
        Some(&["/a".to_owned(), "/b".to_owned()][..])
    );
    assert!(
        conf.allowed_ips
            .unwrap()
            .contains("10.9.9.9".parse().unwrap())
    );
    assert!(conf.rate_limit_disable && conf.allow_root);
    assert_eq!(
        conf.rate_limit_volume,
        RateLimit {
            limit: 1,
            window: 2,
            block: 3
        }
    );
    assert_eq!(
        conf.rate_limit_probe,
        RateLimit {
            limit: 4,
            window: 5,
            block: 6
        }
    );
    assert_eq!(
        (
            conf.max_children,
            conf.auth_hook_timeout,
            conf.stdin_timeout
        ),
        (8, 0, 5)
    );
    assert_eq!((conf.max_output, conf.memory_budget), (1 << 20, 4 << 20));
    assert_eq!((conf.script_timeout, conf.async_max_records), (60, 9));
    assert_eq!(
        (conf.async_max_bytes, conf.executor_max_children),
        (1 << 30, 2)
    );
    assert_eq!(conf.tags["env"], "prod");
    assert_eq!(conf.tags["blank"], " ");
    let profile = &conf.profiles["p"];
    assert_eq!(profile.run_as.as_ref().unwrap().number, Some(7));
    assert_eq!((profile.no_network, profile.timeout), (true, Some(3)));
    assert_eq!(profile.limits.file_size, Some(5 << 20));
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let (conf, warnings) = parse("").unwrap();
    assert_eq!((conf, warnings), (AgentConf::default(), vec![]));
}

#[test]
fn required_keys_are_asked_for_by_the_front_end_only() {
    for (missing, rest) in [
        ("port", "cert = /x\nkey = /y\nca = /z\n"),
        ("cert", "port = 1\nkey = /y\nca = /z\n"),
        ("key", "port = 1\ncert = /x\nca = /z\n"),
        ("ca", "port = 1\ncert = /x\nkey = /y\n"),
    ] {
        let error = parse(rest).unwrap().0.listener("a.conf").unwrap_err();
        let expected = format!("a.conf: Missing required config key '{missing}'");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn faults_name_file_line_and_fault() {
    assert_eq!(
        fault("\n# c\nport = abc\n"),
        "agent.conf: line 3: 'port' must be a number, not 'abc'"
    );
    assert_eq!(
        fault("port = 0"),
        "agent.conf: line 1: 'port' is out of range (1 to 65535)"
    );
    assert_eq!(
        fault("port = 65536"),
        "agent.conf: line 1: 'port' is out of range (0 to 65535): 65536"
    );
    assert_eq!(
        fault("k v\x07"),
        "agent.conf: line 1: malformed line 'k v\\u{7}'"
    );
    for bad in [
        "max_children = 0",
        "max_children = many",
        "auth_hook_timeout = 10s",
        "cert = ",
        "allow_root = perhaps",
        "bind = here",
        "max_output = 1T",
        "[profile p]\nno_network = maybe",
        "a = b\0c",
    ] {
        assert!(fault(bad).contains("line "), "{bad}");
    }
}

#[test]
fn limits_of_the_reference_executor_are_faults_not_cuts() {
    let profiles = |count: usize| {
        (0..count)
            .map(|n| format!("[profile p{n}]\n"))
            .collect::<String>()
    };
    assert!(parse(&profiles(64)).is_ok());
    assert!(fault(&profiles(65)).contains("more than 64 profiles"));
    let caps = |count| {
        format!(
            "[profile p]\ncaps = {}\n",
            vec!["CAP_KILL"; count].join(",")
        )
    };
    assert!(parse(&caps(32)).is_ok());
    assert!(parse(&caps(33)).is_err());
    for key in ["script_dirs", "[profile p]\nwritable"] {
        let list = |count| format!("{key} = {}\n", vec!["/a"; count].join(":"));
        assert!(parse(&list(32)).is_ok());
        assert!(parse(&list(33)).is_err());
    }
    let name = |length| format!("[profile {}]\n", "n".repeat(length));
    assert!(parse(&name(127)).is_ok());
    assert!(parse(&name(128)).is_err());
    let value = |length| format!("cert = {}\n", "v".repeat(length));
    assert!(parse(&value(4095)).is_ok());
    assert!(parse(&value(4096)).is_err());
    let script = format!("{} = /x\n", "n".repeat(128));
    assert!(
        ScriptsConf::parse(&script, "s")
            .unwrap()
            .0
            .scripts
            .is_empty()
    );
}

#[test]
fn warnings_for_what_is_probably_a_mistake() {
    let text = "prot = 7443\nport = 1\nport = 2\nallowed_ips = x\nrate_limit_volume = 1/2\n\
        script_dirs = /\n[colours]\nred = 1\n[profile p]\nnice = 5\nno_new_privileges = ture\n\
        caps = CAP_OF_TOMORROW\n";
    let (conf, warnings) = parse(text).unwrap();
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "line 1: prot: unknown key, ignored",
        "line 3: port: given more than once; the last one counts",
        "line 4: x: malformed IPv4 address",
        "line 4: allowed_ips: no usable entry: every peer is refused",
        "line 5: rate_limit_volume: must be limit/window/block, three numbers; the default is used",
        "line 6: /: as a script directory it permits nothing; leave script_dirs out to permit every path",
        "line 7: colours: unknown section, ignored",
        "line 10: nice: unknown profile key, ignored",
        "line 11: no_new_privileges: unknown word; it switches no_new_privileges off",
        "line 12: caps: a listed capability is not known here and grants nothing",
    ];
    assert_eq!(lines, expected);
    assert_eq!(conf.port, Some(2));
    assert!(conf.allowed_ips.unwrap().is_empty());
    assert!(!conf.profiles["p"].no_new_privileges);
}

#[test]
fn undefined_profiles_are_listed() {
    let (conf, _) = parse("[profile p]\n").unwrap();
    let (scripts, _) =
        ScriptsConf::parse("b = /b\na = /a profile=q\nc = /c profile=p\n", "s").unwrap();
    assert_eq!(
        decision::undefined_profiles(&conf, &scripts),
        [("a", "q"), ("b", "default")]
    );
}

#[test]
fn bytes_that_are_not_utf8_are_tolerated_in_comments_only() {
    let text = decode(b" # caf\xe9\nport = 1\n", "f").unwrap();
    assert_eq!(parse(&text).unwrap().0.port, Some(1));
    let error = decode(b"# ok\ncert = /caf\xe9\n", "f").unwrap_err();
    assert_eq!(error.to_string(), "f: line 2: line is not UTF-8 text");
    assert!(decode(&vec![b'#'; MAX_FILE_BYTES + 1], "f").is_err());
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        let _ = parse(&text);
        let _ = ScriptsConf::parse(&text, "s");
        if let Ok(text) = decode(&bytes, "f") {
            let _ = parse(&text);
        }
    }

    /// Lines glued from the grammar's own pieces reach further than random text.
    #[test]
    fn likely_lines_are_parsed_or_refused(lines in prop::collection::vec(likely_line(), 0..12)) {
        let text = lines.join("\n");
        if let Ok((conf, _)) = parse(&text) {
            for profile in conf.profiles.values() {
                prop_assert!(profile.writable.iter().all(|path| path.starts_with('/')));
                if let Some(user) = &profile.run_as {
                    let digits = user.text.bytes().all(|byte| byte.is_ascii_digit());
                    prop_assert_eq!(digits, user.number.is_some());
                    // Only a text of zeros is uid 0.
                    let zeros = user.text.bytes().all(|byte| byte == b'0');
                    prop_assert_eq!(user.number == Some(0), zeros);
                }
            }
            prop_assert!(conf.script_dirs.is_none_or(|dirs| !dirs.is_empty()));
        }
        let (scripts, _) = ScriptsConf::parse(&text, "s").unwrap();
        prop_assert!(scripts.scripts.values().all(|script| script.path.starts_with('/')));
    }
}

fn likely_line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "port",
        "script_dirs",
        "allowed_ips",
        "run_as",
        "caps",
        "writable",
        "no_new_privileges",
        "limit_memory",
        "max_children",
        "a",
        "profile",
    ]);
    let value = prop_oneof![
        "[0-9]{1,21}",
        "(/[a-z.]{0,3}){0,3}(:/?[a-z]{0,2}){0,2}",
        "(CAP_)?[A-Z_]{1,6}[, #]{0,2}(CAP_KILL)?",
        "profile=[a-z]{0,2} /[a-z]{1,3}",
        "[ -~]{0,12}",
    ];
    let pair = (key, "[ \t]{0,2}=[ \t]{0,2}", value).prop_map(|(k, eq, v)| format!("{k}{eq}{v}"));
    prop_oneof![6 => pair, 1 => "\\[ ?(profile|Profile|tags|x) ?[a-z.]{0,3} ?\\]", 1 => "[ -~]{0,20}"]
}
