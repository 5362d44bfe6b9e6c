//! What a script cannot do to the host, to other runs and to what decides about it (root tests).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]
#![allow(unsafe_code, reason = "code between fork and exec")]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ctrl_exec_protocol::frame::{CANCEL, Ended, Request};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::thread::UnshareFlags;
use support::{PATIENCE, PEER, Reply, Server, Site, exists, request, root_or_skip};

/// Runs `setup` in the server's process before the program starts.
fn before(
    command: &mut Command,
    setup: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the closures of these tests make system calls only.
    unsafe { command.pre_exec(setup) };
}

fn own_mounts() -> std::io::Result<()> {
    // SAFETY: not `FILES`.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}

fn extended(script: &str, args: &[&str]) -> Request {
    Request {
        extended: true,
        ..request(script, b"", args)
    }
}

fn ended(reply: &Reply) -> Ended {
    reply
        .response
        .ended
        .expect("the executor tells how it ended")
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Audit 2. `rename` is the bare system call: `mv` would go on to copy.
#[test]
fn nothing_above_a_control_directory_can_be_moved_or_replaced() {
    if !root_or_skip("nothing_above_a_control_directory_can_be_moved_or_replaced") {
        return;
    }
    let site = Site::new();
    fs::create_dir_all(site.path("real/lib")).unwrap();
    fs::rename(
        site.path("var/lib/ctrl-exec-agent"),
        site.path("real/lib/ctrl-exec-agent"),
    )
    .unwrap();
    fs::remove_dir(site.path("var/lib")).unwrap();
    // An ancestor that is a link.
    symlink("../real/lib", site.path("var/lib")).unwrap();
    fs::create_dir(site.path("var/other")).unwrap();
    fs::create_dir(site.path("real/lib/other")).unwrap();
    let probe = r#"
        rename() { perl -e 'exit(rename($ARGV[0], $ARGV[1]) ? 0 : 1)' "$1" "$2" && echo "renamed $1"; }
        for d in @ @/etc @/etc/ctrl-exec-agent @/real @/real/lib @/real/lib/ctrl-exec-agent @/var @/run; do
            rename "$d" "$d.moved"; rename "$d" @/elsewhere
        done
        # The link itself, and putting another in its place.
        rename @/var/lib @/var/link; rm -f @/var/lib 2>/dev/null && echo removed the link
        mkdir @/spare; ln -s /tmp @/var/spare 2>/dev/null; rename @/var/spare @/var/lib; rename @/spare @/etc
        perl -e 'syscall(316, -100, $ARGV[0], -100, $ARGV[1], 2) == 0 and print "exchanged\n"' @/spare @/etc
        rmdir @/etc 2>/dev/null && echo removed
        mount --bind @/spare @/etc 2>/dev/null && echo mounted
        umount @/etc 2>/dev/null && echo unmounted
        echo x 2>/dev/null > @/etc/ctrl-exec-agent/planted && echo planted
        echo x 2>/dev/null > @/var/lib/ctrl-exec-agent/planted && echo planted
        # What is beside stays as it was.
        echo x > @/etc/beside && echo x > @/var/other/beside && echo x > @/real/lib/other/beside && echo beside
        rmdir @/spare 2>/dev/null; true"#;
    site.scripts(
        "[profile bare]\nrun_as = root\n[profile caps]\nrun_as = root\ncaps = CAP_DAC_OVERRIDE CAP_FOWNER CAP_CHOWN CAP_SYS_CHROOT\n\
         [profile var]\nrun_as = root\nwritable = @/var:@/etc:@/real\n[profile all]\nrun_as = root\nwritable = @\n\
         [profile slash]\nrun_as = root\nwritable = /\n[profile own]\nrun_as = root\nprocesses = own\nkernel_settings = read-only\n\
         [profile nnp]\nrun_as = root\nno_new_privileges = no\nprocesses = own\n",
        &[
            ("bare", "bare", probe), ("caps", "caps", probe), ("var", "var", probe), ("all", "all", probe),
            ("slash", "slash", probe), ("own", "own", probe), ("nnp", "nnp", probe),
        ],
    );
    let inode = |path: &str| fs::metadata(site.path(path)).unwrap().ino();
    let paths = [
        "etc",
        "etc/ctrl-exec-agent",
        "var/lib",
        "var/lib/ctrl-exec-agent",
        "run",
        "real",
    ];
    let before: Vec<_> = paths.map(inode).to_vec();
    let server = site.start();
    for script in ["bare", "caps", "var", "all", "slash", "own", "nnp"] {
        let reply = server.call(script);
        assert_eq!(reply.stdout, "beside\n", "{script}: {}", reply.stderr);
        assert_eq!(paths.map(inode).to_vec(), before, "{script}");
        let link = fs::read_link(site.path("var/lib")).unwrap();
        assert_eq!(link, Path::new("../real/lib"), "{script}");
    }
    // A script that may mount does so in its own view only.
    let body = "mount -t tmpfs none @/etc && mkdir @/etc/ctrl-exec-agent && echo 'evil = /bin/true' > @/etc/ctrl-exec-agent/scripts.conf; ls @/etc";
    site.script("admin", body);
    let conf = fs::read_to_string(site.agent_conf()).unwrap();
    fs::write(
        site.agent_conf(),
        format!("{conf}[profile admin]\nrun_as = root\ncaps = CAP_SYS_ADMIN\n"),
    )
    .unwrap();
    fs::write(
        site.scripts_conf(),
        site.text("admin = @/opt/admin profile=admin\n"),
    )
    .unwrap();
    assert_eq!(server.call("admin").stdout, "ctrl-exec-agent\n");
    assert_eq!(paths.map(inode).to_vec(), before);
    assert_eq!(server.call("evil").exit, -1);
}

#[test]
fn check_refuses_a_writable_that_reaches_a_control_directory() {
    let site = Site::new();
    site.conf(
        "[profile above]\nrun_as = nobody\nwritable = @/var\n[profile inside]\nrun_as = nobody\nwritable = @/srv:@/etc/ctrl-exec-agent/x\n\
         [profile fine]\nrun_as = nobody\nwritable = @/var/lib/other:@/srv\n[profile slash]\nrun_as = nobody\nwritable = /\n",
        "",
    );
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert_eq!(exit, 1, "{out}");
    let faults: Vec<_> = out
        .lines()
        .filter(|line| line.contains("reaches the control directory"))
        .collect();
    assert_eq!(faults.len(), 3, "{out}");
    for name in ["above", "inside", "slash"] {
        assert!(
            faults
                .iter()
                .any(|line| line.contains(&format!("FAULT: profile '{name}'"))),
            "{out}"
        );
    }
}

#[test]
fn a_control_directory_that_cannot_be_examined_stops_every_run() {
    if !root_or_skip("a_control_directory_that_cannot_be_examined_stops_every_run") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("p", "p", "echo ran")]);
    fs::remove_dir(site.path("var/lib/ctrl-exec-agent")).unwrap();
    let server = site.start();
    assert_eq!(server.call("p").exit, 0, "what does not exist is skipped");
    symlink("ctrl-exec-agent", site.path("var/lib/ctrl-exec-agent")).unwrap();
    let reply = server.call("p");
    assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""));
    assert!(reply.stderr.contains("cannot examine"), "{}", reply.stderr);
    assert!(
        reply.stderr.contains("ctrl-exec-agent': Too many levels"),
        "{}",
        reply.stderr
    );
}

#[test]
fn nothing_leaks_to_a_host_whose_mounts_are_shared() {
    if !root_or_skip("nothing_leaks_to_a_host_whose_mounts_are_shared") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile p]\nrun_as = root\nwritable = @/run\nprocesses = own\nkernel_settings = read-only\n",
        &[("p", "p", "grep ' /tmp ' /proc/self/mountinfo")],
    );
    let mut command = site.serve(PEER);
    before(&mut command, || {
        own_mounts()?;
        let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        Ok(mount_change("/", flags)?)
    });
    let server = site.start_command(command);
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", server.child.id())).unwrap();
    let before = mounts();
    assert!(before.contains(" shared:"));
    let reply = server.call("p");
    assert_eq!(reply.exit, 0, "{}", reply.stderr);
    assert_eq!(mounts(), before);
    // And its private /tmp holds no devices and no set-user-id programs.
    let tmp = reply.stdout.lines().last().unwrap();
    assert!(
        tmp.contains("nosuid,nodev") && tmp.contains(" - tmpfs "),
        "{tmp}"
    );
    assert!(!exists(&site.path("tmp")));
}

/// Audit 3.
#[test]
fn a_profile_of_the_peers_own_user_is_refused() {
    if !root_or_skip("a_profile_of_the_peers_own_user_is_refused") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile name]\nrun_as = daemon\n[profile number]\nrun_as = 1\n[profile other]\nrun_as = nobody\n",
        &[("name", "name", "id -u"), ("number", "number", "id -u"), ("other", "other", "id -u")],
    );
    let server = site.start();
    for script in ["name", "number"] {
        let reply = server.call(script);
        assert_eq!((reply.exit, reply.stdout.as_str()), (-1, ""));
        assert!(
            reply.stderr.contains(&format!(
                "profile '{script}' runs as the user whose requests"
            )),
            "{}",
            reply.stderr
        );
    }
    assert_eq!(server.call("other").stdout, "65534\n");
    let (exit, out, _) = site.run(&["--root", "@", "--peer", PEER, "check"]);
    assert_eq!(exit, 1);
    assert_eq!(
        out.matches("runs as the user whose requests").count(),
        2,
        "{out}"
    );
    assert!(
        !site
            .run(&["--root", "@", "--peer", "bin", "check"])
            .1
            .contains("runs as the user")
    );
}

/// Audit 4: somebody flips a link on an allowlisted path all the time.
#[test]
fn a_flipping_link_never_runs_what_was_not_judged() {
    if !root_or_skip("a_flipping_link_never_runs_what_was_not_judged") {
        return;
    }
    const REQUESTS: usize = 2000;
    let site = Site::new();
    fs::create_dir_all(site.path("good")).unwrap();
    fs::create_dir_all(site.path("evil")).unwrap();
    fs::create_dir_all(site.path("theirs")).unwrap();
    for (dir, word) in [("good", "good"), ("evil", "EVIL")] {
        site.script("s", &format!("echo {word}"));
        fs::rename(site.path("opt/s"), site.path(dir).join("s")).unwrap();
    }
    chown(site.path("theirs"), Some(65_534), Some(65_534)).unwrap();
    symlink(site.path("good"), site.path("theirs/link")).unwrap();
    // Root has said that this user may write above scripts, so that runs get through at all.
    site.conf(
        "script_dirs = @/good\nscript_writers = nobody\n[profile p]\nrun_as = root\nlimit_files = 100\n",
        "s = @/theirs/link/s profile=p\n",
    );
    let server = site.start();
    let stop = AtomicBool::new(false);
    let (mut ran, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let new = site.path("theirs/new");
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let target = site.path(if round % 2 == 0 { "evil" } else { "good" });
                symlink(target, &new).unwrap();
                fs::rename(&new, site.path("theirs/link")).unwrap();
            }
        });
        for _ in 0..REQUESTS {
            let reply = server.call("s");
            match reply.exit {
                0 => {
                    assert_eq!(reply.stdout, "good\n");
                    ran += 1;
                }
                _ => {
                    assert_eq!(
                        (reply.exit, reply.stdout.as_str()),
                        (-1, ""),
                        "{}",
                        reply.stderr
                    );
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        ran > 10 && refused > 10,
        "both happened: {ran} ran, {refused} refused"
    );
    println!("{ran} ran what was judged, {refused} were refused");
}

#[test]
fn a_script_finds_what_is_beside_it() {
    if !root_or_skip("a_script_finds_what_is_beside_it") {
        return;
    }
    let site = Site::new();
    site.script("main", ". \"$(dirname \"$0\")/helper\"; echo \"$0\"");
    site.script("helper", "echo helped");
    fs::create_dir(site.path("links")).unwrap();
    symlink(site.path("opt/main"), site.path("links/other-name")).unwrap();
    symlink("/bin/cat", site.path("links/renamed-cat")).unwrap();
    site.conf(
        "[profile p]\nrun_as = root\n",
        "direct = @/opt/main profile=p\nlinked = @/links/other-name profile=p\ncat = @/links/renamed-cat profile=p\n",
    );
    let server = site.start();
    let expected = site.text("helped\n@/opt/main\n");
    assert_eq!(server.call("direct").stdout, expected);
    assert_eq!(server.call("linked").stdout, expected, "the canonical path");
    // A program of many names learns the one it was called by.
    let reply = server.request(&request("cat", b"", &["/proc/self/cmdline"]));
    assert_eq!(
        reply.stdout,
        site.text("@/links/renamed-cat\0/proc/self/cmdline\0")
    );
}

/// Audit 5.
#[test]
fn files_that_others_may_change_are_refused() {
    if !root_or_skip("files_that_others_may_change_are_refused") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile root]\nrun_as = root\n[profile user]\nrun_as = 54321\n",
        &[("r", "root", "echo ran"), ("u", "user", "echo ran")],
    );
    let server = site.start();
    let mode = |path: &str, mode| {
        fs::set_permissions(site.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let own = |path: &str, uid, gid| chown(site.path(path), Some(uid), Some(gid)).unwrap();
    let runs = |script: &str| {
        let reply = server.call(script);
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (0, "ran\n"),
            "{}",
            reply.stderr
        );
    };
    let refused = |script: &str, path: &str| {
        let reply = server.call(script);
        assert_eq!((reply.exit, reply.stdout.as_str()), (-1, ""), "{path}");
        let path = site.text(path);
        assert!(reply.stderr.contains(&path), "{path}: {}", reply.stderr);
        let (exit, out, _) = site.run(&["--root", "@", "check"]);
        assert_eq!(exit, 1, "{out}");
        assert!(
            out.lines()
                .any(|line| line.contains("FAULT") && line.contains(&path)),
            "{path}: {out}"
        );
    };
    runs("r");
    runs("u");
    // Configuration and the directories above it.
    for path in [
        "etc/ctrl-exec-agent/agent.conf",
        "etc/ctrl-exec-agent/scripts.conf",
    ] {
        own(path, 54_321, 0);
        refused("r", &format!("@/{path}"));
        own(path, 0, 0);
        mode(path, 0o664);
        refused("r", &format!("@/{path}"));
        mode(path, 0o644);
    }
    for path in ["etc/ctrl-exec-agent", "etc", ""] {
        for (open, closed) in [(0o775, 0o755), (0o1777, 0o755)] {
            mode(path, open);
            refused(
                "r",
                &format!("@/{path}").trim_end_matches('/').replace("@ ", "@"),
            );
            mode(path, closed);
        }
    }
    runs("r");
    // Scripts: the file by its own user, the directories by root only.
    own("opt/u", 54_321, 54_321);
    runs("u");
    own("opt/r", 54_321, 54_321);
    refused("r", "@/opt/r");
    own("opt/r", 0, 0);
    mode("opt/u", 0o775);
    refused("u", "@/opt/u");
    mode("opt/u", 0o757);
    refused("u", "@/opt/u");
    mode("opt/u", 0o755);
    own("opt", 54_321, 0);
    refused("u", "@/opt");
    own("opt", 0, 0);
    mode("opt", 0o1777);
    refused("u", "@/opt");
    mode("opt", 0o755);
    // A directory that holds a link on the way counts, wherever the link leads.
    fs::create_dir(site.path("theirs")).unwrap();
    own("theirs", 54_321, 54_321);
    symlink(site.path("opt"), site.path("theirs/link")).unwrap();
    fs::write(
        site.scripts_conf(),
        site.text("r = @/theirs/link/r profile=root\n"),
    )
    .unwrap();
    refused("r", "@/theirs");
    // An access control list shows in the group's bits, where the file system has them.
    let acl = Command::new("setfacl")
        .args(["-m", "u:daemon:rw"])
        .arg(site.path("opt/r"))
        .status();
    if acl.is_ok_and(|status| status.success()) {
        fs::write(site.scripts_conf(), site.text("r = @/opt/r profile=root\n")).unwrap();
        refused("r", "@/opt/r");
    }
}

#[test]
fn exceptions_are_explicit() {
    if !root_or_skip("exceptions_are_explicit") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("p", "p", "echo ran")]);
    fs::set_permissions(site.path("opt"), fs::Permissions::from_mode(0o775)).unwrap();
    chown(site.path("opt"), Some(0), Some(54_321)).unwrap();
    chown(site.path("opt/p"), Some(65_534), Some(0)).unwrap();
    let conf = |top: &str| {
        fs::write(
            site.agent_conf(),
            format!("{top}[profile p]\nrun_as = root\n"),
        )
        .unwrap()
    };
    let server = site.start();
    for (top, expected) in [
        ("", "opt"),
        ("script_writers = nobody\n", "group 54321 may write"),
        (
            "script_writers = no-such-user-x\n",
            "'no-such-user-x' does not exist",
        ),
        (
            "script_writers = %no-such-group-x\n",
            "'%no-such-group-x' does not exist",
        ),
    ] {
        conf(top);
        let reply = server.call("p");
        assert_eq!(reply.exit, -1);
        assert!(reply.stderr.contains(expected), "{top}{}", reply.stderr);
    }
    chown(site.path("opt"), Some(0), Some(1)).unwrap();
    conf("script_writers = nobody:%daemon\n");
    assert_eq!(server.call("p").stdout, "ran\n");
    // Never for the configuration.
    chown(site.agent_conf(), Some(65_534), Some(0)).unwrap();
    assert_eq!(server.call("p").exit, -1);
    drop(server);
    let mut command = site.serve(PEER);
    command.arg("--unsafe-paths");
    conf("");
    let server = site.start_command(command);
    assert_eq!(server.call("p").stdout, "ran\n");
    assert!(server.log().contains("--unsafe-paths"), "{}", server.log());
}

/// Audit 23.
#[test]
fn a_profile_without_run_as_is_refused_with_the_line_to_add() {
    if !root_or_skip("a_profile_without_run_as_is_refused_with_the_line_to_add") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile default]\n[profile w]\nwritable = @/run\ncaps = CAP_CHOWN\n[profile root]\nrun_as = root\n",
        &[("d", "default", "id -u"), ("w", "w", "id -u"), ("r", "root", "id -u")],
    );
    let server = site.start();
    for (script, profile) in [("d", "default"), ("w", "w")] {
        let reply = server.call(script);
        assert_eq!((reply.exit, reply.stdout.as_str()), (-1, ""));
        let line = format!("'run_as = USER' below [profile {profile}]");
        assert!(reply.stderr.contains(&line), "{}", reply.stderr);
    }
    assert_eq!(server.call("r").stdout, "0\n");
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert_eq!(exit, 1);
    assert!(
        out.contains("d: DENY no-run-as\nd: FAULT: profile 'default' has no run_as"),
        "{out}"
    );
    assert!(out.contains("warning: profile 'w': has no run_as"), "{out}");
}

/// Audit 6: neither the executor nor what serves another request can be reached.
#[test]
fn own_processes_cannot_disturb_other_requests() {
    if !root_or_skip("own_processes_cannot_disturb_other_requests") {
        return;
    }
    let site = Site::new();
    let attack = "for p in 1 $PPID $1 $2; do kill -STOP $p; kill -9 $p; done 2>/dev/null; kill -9 -1 2>/dev/null; echo survived; ls /proc | grep -c '^[0-9]'";
    site.scripts(
        "[profile own]\nrun_as = root\nprocesses = own\n[profile user]\nrun_as = 54321\n",
        &[
            ("attack", "own", attack),
            ("user", "user", "ls -d /proc/[0-9]* | wc -l"),
            (
                "gate",
                "own",
                "until [ -e @/run/open ]; do sleep 0.05; done; echo through",
            ),
            ("fine", "own", "echo fine; echo $$ $PPID"),
        ],
    );
    let server = site.start();
    let waiting = server.send(&request("gate", b"", &[]));
    let executor = server.child.id().to_string();
    let parent = std::process::id().to_string();
    let reply = server.request(&extended("attack", &[&executor, &parent]));
    assert!(
        reply.stdout.starts_with("survived\n"),
        "{}{}",
        reply.stdout,
        reply.stderr
    );
    let seen: u32 = reply.stdout.lines().last().unwrap().parse().unwrap();
    assert!(seen <= 6, "{seen} processes are in sight");
    assert_eq!(server.call("fine").stdout, "fine\n2 1\n");
    assert!(server.call("user").stdout.trim().parse::<u32>().unwrap() <= 6);
    fs::write(site.path("run/open"), "").unwrap();
    assert_eq!(waiting.reply().stdout, "through\n");
}

/// Audit 6: what a script leaves behind lives on purpose, until the time is over.
#[test]
fn background_children_outlive_the_answer_and_not_the_time_limit() {
    if !root_or_skip("background_children_outlive_the_answer_and_not_the_time_limit") {
        return;
    }
    let site = Site::new();
    let delayed = "(sleep 1; touch @/run/$1-rebooted; sleep 300; touch @/run/$1-late) >/dev/null 2>&1 & echo answered";
    site.scripts(
        "[profile own]\nrun_as = root\nprocesses = own\n[profile host]\nrun_as = root\nprocesses = host\n\
         [profile limited]\nrun_as = root\nprocesses = own\ntimeout = 3\n[profile limited-host]\nrun_as = root\nprocesses = host\ntimeout = 3\n",
        &[("own", "own", delayed), ("host", "host", delayed), ("limited", "limited", delayed), ("limited-host", "limited-host", delayed)],
    );
    let server = site.start();
    for script in ["own", "host", "limited", "limited-host"] {
        let started = Instant::now();
        let reply = server.request(&extended(script, &[script]));
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (0, "answered\n"),
            "{}",
            reply.stderr
        );
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(ended(&reply), Ended::default());
    }
    for script in ["own", "host", "limited", "limited-host"] {
        wait_for(script, || {
            exists(&site.path("run").join(format!("{script}-rebooted")))
        });
    }
    let marked = |script: &str| alive(&site.text(&format!("@/run/{script}-")), script);
    wait_for("the limited ones are gone", || {
        !marked("limited") && !marked("limited-host")
    });
    for script in ["own", "host"] {
        assert!(marked(script), "{script} lives on");
    }
    assert!(
        server
            .log()
            .contains("ACTION=background-killed SCRIPT=limited"),
        "{}",
        server.log()
    );
    end_all(&site);
}

/// Whether a process with these words in its command line is there.
fn alive(words: &str, arg: &str) -> bool {
    processes().iter().any(|(_, line)| {
        line.contains(&words[..words.rfind("/run").unwrap()])
            && line.split('\0').any(|word| word == arg)
    })
}

fn processes() -> Vec<(i32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).into_owned()))
        })
        .collect()
}

/// Kills what scripts of this site left behind, by its process id.
fn end_all(site: &Site) {
    let dir = site.text("@/opt/");
    for (pid, line) in processes() {
        if line.contains(&dir) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Audit 6 (13 of the review): no session, group or double fork escapes, with or without a
/// namespace.
#[test]
fn a_time_limit_ends_every_descendant() {
    if !root_or_skip("a_time_limit_ends_every_descendant") {
        return;
    }
    let site = Site::new();
    let body = "echo $$ > @/run/$1.0
        setsid sh -c 'echo $$ > @/run/'$1'.1; sleep 300' &
        (setsid sh -c 'trap \"\" TERM HUP; (trap \"\" TERM; setsid sh -c \"trap \\\"\\\" TERM; echo \\$\\$ > @/run/'$1'.2; sleep 300; sleep 300; sleep 300\" &); sleep 1' &)
        sh -c 'kill -STOP $$; sleep 300' &
        sleep 300";
    site.scripts(
        "[profile own]\nrun_as = 54321\ntimeout = 2\n[profile host]\nrun_as = 54321\nprocesses = host\ntimeout = 2\n",
        &[("own", "own", body), ("host", "host", body)],
    );
    fs::set_permissions(site.path("run"), fs::Permissions::from_mode(0o777)).unwrap();
    let server = site.start();
    let started = Instant::now();
    let waiting: Vec<_> = ["own", "host"]
        .map(|script| server.send(&extended(script, &[script])))
        .into();
    for waiting in waiting {
        let reply = waiting.reply();
        assert_eq!(reply.exit, 126, "{}", reply.stderr);
        assert!(
            reply
                .stderr
                .ends_with("executor: script killed after 2 seconds\n"),
            "{}",
            reply.stderr
        );
        let ended = ended(&reply);
        assert!(ended.time_limit && !ended.cancelled, "{ended:?}");
        assert_eq!(ended.signal, Some(15));
    }
    for script in ["own", "host"] {
        for number in 0..3 {
            assert!(
                exists(&site.path("run").join(format!("{script}.{number}"))),
                "{script} {number}"
            );
        }
    }
    let dir = site.text("@/");
    wait_for("everything is gone", || {
        !processes()
            .iter()
            .any(|(_, line)| line.contains(&dir) && !line.contains("ctrl-exec-exec"))
    });
    assert!(started.elapsed() >= Duration::from_secs(2));
}

/// Issue 12.
#[test]
fn a_cancel_reaches_the_script_and_a_closed_connection_does_not() {
    if !root_or_skip("a_cancel_reaches_the_script_and_a_closed_connection_does_not") {
        return;
    }
    let site = Site::new();
    let body = "trap 'echo told; exit 9' TERM; (setsid sleep 300 &) ; echo started > @/run/$1; sleep 300 & wait";
    let stubborn = "trap '' TERM; echo started > @/run/$1; while :; do sleep 300; done";
    let gate = "echo started > @/run/$1; until [ -e @/run/open ]; do sleep 0.05; done; echo through > @/run/$1-through";
    site.scripts(
        "[profile own]\nrun_as = root\nprocesses = own\n[profile host]\nrun_as = root\nprocesses = host\n",
        &[("own", "own", body), ("host", "host", body), ("stubborn", "own", stubborn), ("gate", "own", gate)],
    );
    let server = site.start();
    let started = |script: &str| {
        let waiting = server.send(&extended(script, &[script]));
        wait_for(script, || exists(&site.path("run").join(script)));
        waiting
    };
    for script in ["own", "host"] {
        let mut waiting = started(script);
        // In pieces, and twice.
        waiting.stream.write_all(&CANCEL[..7]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        waiting.stream.write_all(&CANCEL[7..]).unwrap();
        let _ = waiting.stream.write_all(CANCEL);
        let begun = Instant::now();
        let reply = waiting.reply();
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (9, "told\n"),
            "{}",
            reply.stderr
        );
        assert_eq!(reply.stderr, "executor: script cancelled\n");
        let expected = Ended {
            cancelled: true,
            ..Ended::default()
        };
        assert_eq!(ended(&reply), expected);
    }
    let mut waiting = started("stubborn");
    waiting.stream.write_all(CANCEL).unwrap();
    let reply = waiting.reply();
    assert_eq!(reply.exit, 126);
    assert_eq!(ended(&reply).signal, Some(9));
    assert!(ended(&reply).cancelled);
    // What is not a cancel, a half-closed and a closed connection.
    let mut waiting = started("gate");
    waiting.stream.write_all(b"something else").unwrap();
    waiting.stream.write_all(CANCEL).unwrap();
    waiting.stream.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(waiting);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!exists(&site.path("run/gate-through")));
    fs::write(site.path("run/open"), "").unwrap();
    wait_for("the script goes on", || {
        exists(&site.path("run/gate-through"))
    });
}

#[test]
fn the_earlier_time_limit_counts() {
    if !root_or_skip("the_earlier_time_limit_counts") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "script_timeout = 600\n[profile p]\nrun_as = 54321\n[profile short]\nrun_as = 54321\ntimeout = 1\n[profile never]\nrun_as = 54321\ntimeout = 0\n",
        &[("p", "p", "sleep 300"), ("short", "short", "sleep 300"), ("never", "never", "sleep 300"), ("sig", "p", "kill -11 $$")],
    );
    let server = site.start();
    for (script, limit, seconds) in [
        ("p", Some(1), 1),
        ("short", Some(300), 1),
        ("short", None, 1),
        ("never", Some(2), 2),
    ] {
        let request = Request {
            time_limit: limit,
            ..extended(script, &[])
        };
        let reply = server.request(&request);
        assert_eq!(
            reply.stderr,
            format!("executor: script killed after {seconds} seconds\n"),
            "{script}"
        );
        assert!(ended(&reply).time_limit);
    }
    let reply = server.request(&extended("sig", &[]));
    assert_eq!(reply.exit, 126);
    assert_eq!(
        ended(&reply),
        Ended {
            signal: Some(11),
            ..Ended::default()
        }
    );
    assert!(
        server
            .log()
            .contains("EXIT=126 PROFILE=p REQID=r SCRIPT=sig SIGNAL=11"),
        "{}",
        server.log()
    );
}

/// A version 1 control group of `controller`, where this system has it.
fn version_1(controller: &str) -> Option<std::path::PathBuf> {
    let dir = Path::new("/sys/fs/cgroup").join(controller);
    dir.join("cgroup.procs").exists().then_some(dir)
}

#[test]
fn limit_processes_binds_uid_0_or_is_refused() {
    if !root_or_skip("limit_processes_binds_uid_0_or_is_refused") {
        return;
    }
    let site = Site::new();
    let bomb = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo $(jobs -p | wc -l); echo none left";
    site.scripts(
        "[profile root]\nrun_as = root\nprocesses = own\nlimit_processes = 20\ntimeout = 30\n[profile user]\nrun_as = 54321\nlimit_processes = 20\n",
        &[("bomb", "root", bomb), ("user", "user", "grep processes /proc/self/limits")],
    );
    let (_, out, _) = site.run(&["--root", "@", "check"]);
    let server = site.start();
    let reply = server.call("bomb");
    if out.contains("limit_processes binds uid 0 through a control group only") {
        assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""));
        assert!(
            reply.stderr.contains("cannot set limit_processes"),
            "{}",
            reply.stderr
        );
        println!("no pids controller here: refused");
    } else {
        assert!(
            reply.stderr.contains("ork"),
            "{:?}",
            (reply.exit, reply.stdout, reply.stderr)
        );
        assert!(!reply.stdout.contains("none left"), "{}", reply.stdout);
    }
    assert!(
        server.call("user").stdout.contains(" 20 "),
        "{}",
        server.call("user").stdout
    );

    // A system without the controller.
    let mut command = site.serve(PEER);
    drop(server);
    before(&mut command, || {
        own_mounts()?;
        if Path::new("/sys/fs/cgroup").exists() {
            mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MountFlags::empty(), c"")?;
        }
        Ok(())
    });
    let server = site.start_command(command);
    let reply = server.call("bomb");
    assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""));
    assert!(
        reply.stderr.contains("cannot set limit_processes"),
        "{}",
        reply.stderr
    );
    assert!(
        server
            .log()
            .contains("profile 'root': limit_processes binds uid 0"),
        "{}",
        server.log()
    );
}

#[test]
fn death_for_want_of_memory_is_told() {
    if !root_or_skip("death_for_want_of_memory_is_told") {
        return;
    }
    let Some(base) = version_1("memory") else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED (no version 1 memory controller): death_for_want_of_memory_is_told"
        );
        return;
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let below = own
        .lines()
        .find_map(|line| line.split_once(":memory:"))
        .map_or("/", |(_, path)| path);
    let group = base
        .join(below.trim_start_matches('/'))
        .join(format!("exec-test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    fs::write(group.join("memory.limit_in_bytes"), (48 << 20).to_string()).unwrap();
    let _ = fs::write(group.join("memory.swappiness"), "0");
    let site = Site::new();
    let body = "exec perl -e '$a .= \"x\" x 1000000 while 1'";
    site.scripts(
        "[profile own]\nrun_as = 54321\n[profile host]\nrun_as = root\nprocesses = host\n",
        &[
            ("own", "own", body),
            ("host", "host", body),
            ("killed", "host", "kill -9 $$"),
        ],
    );
    let mut command = site.serve(PEER);
    let procs = group.join("cgroup.procs");
    before(&mut command, move || fs::write(&procs, "0"));
    let server = site.start_command(command);
    for script in ["own", "host"] {
        let reply = server.request(&extended(script, &[]));
        assert_eq!(reply.exit, 126, "{}", reply.stderr);
        assert_eq!(
            ended(&reply),
            Ended {
                signal: Some(9),
                oom: true,
                ..Ended::default()
            },
            "{script}"
        );
    }
    let reply = server.request(&extended("killed", &[]));
    assert_eq!(
        ended(&reply),
        Ended {
            signal: Some(9),
            ..Ended::default()
        },
        "not for want of memory"
    );
    drop(server);
    wait_for("the groups of the runs are removed", || {
        fs::remove_dir(&group).is_ok()
    });
}

#[test]
fn kernel_settings_and_unix_sockets_are_as_the_profile_says() {
    if !root_or_skip("kernel_settings_and_unix_sockets_are_as_the_profile_says") {
        return;
    }
    let site = Site::new();
    let probe = "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/kernel/profiling /sys/kernel/mm/ksm/run; do \
            [ -e $f ] || continue; perl -e 'use Fcntl; print sysopen(my $f, $ARGV[0], O_WRONLY) ? \"open\\n\" : \"closed\\n\"' $f; done; mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; umount /proc/sys 2>/dev/null && echo unmounted; true";
    let connect = "perl -MSocket -e 'for my $d (AF_UNIX, AF_INET) { print socket(my $s, $d, SOCK_STREAM, 0) ? \"made\\n\" : \"$!\\n\" } print socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) ? \"pair\\n\" : \"$!\\n\"'";
    site.scripts(
        "[profile closed]\nrun_as = root\nkernel_settings = read-only\n[profile closed-own]\nrun_as = root\nkernel_settings = read-only\nprocesses = own\n\
         [profile open]\nrun_as = root\nkernel_settings = host\n[profile unsaid]\nrun_as = root\n\
         [profile sockets]\nrun_as = 54321\n[profile none]\nrun_as = 54321\nunix_sockets = none\n[profile none-root]\nrun_as = root\nunix_sockets = none\nno_new_privileges = no\n",
        &[
            ("closed", "closed", probe), ("closed-own", "closed-own", probe), ("open", "open", probe), ("unsaid", "unsaid", probe),
            ("sockets", "sockets", connect), ("none", "none", connect), ("none-root", "none-root", connect),
        ],
    );
    let server = site.start();
    for script in ["closed", "closed-own"] {
        let reply = server.call(script);
        assert!(
            reply.stdout.contains("closed\n") && !reply.stdout.contains("open"),
            "{script}: {}{}",
            reply.stdout,
            reply.stderr
        );
        assert!(!reply.stdout.contains("mounted"), "{}", reply.stdout);
    }
    for script in ["open", "unsaid"] {
        let reply = server.call(script);
        assert!(
            reply.stdout.starts_with("open\n"),
            "{script}: {}{}",
            reply.stdout,
            reply.stderr
        );
    }
    assert_eq!(server.call("sockets").stdout, "made\nmade\npair\n");
    for script in ["none", "none-root"] {
        assert_eq!(
            server.call(script).stdout,
            "Permission denied\nmade\npair\n",
            "{script}"
        );
    }
    let (_, out, _) = site.run(&["--root", "@", "check"]);
    assert!(
        out.contains("profile 'unsaid': runs as uid 0 and may write /proc/sys"),
        "{out}"
    );
    assert!(
        out.contains("profile 'unsaid': runs as uid 0 and sees the host's processes"),
        "{out}"
    );
}

/// A kernel without a namespace or filter, by a filter of system calls.
fn without(call: libc::c_long, argument: Option<u32>) -> std::io::Result<()> {
    let number = u32::try_from(call).map_err(std::io::Error::other)?;
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let argument_at = if cfg!(target_endian = "big") { 20 } else { 16 };
    let errno = u32::try_from(libc::EINVAL).map_err(std::io::Error::other)?;
    let mut filter = vec![op(load, 0, 0, 0)];
    match argument {
        Some(bits) => {
            filter.push(op(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                number,
                0,
                3,
            ));
            filter.push(op(load, argument_at, 0, 0));
            filter.push(op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, 0, 1));
        }
        None => filter.push(op(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            number,
            0,
            1,
        )),
    }
    filter.push(op(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ERRNO | errno,
        0,
        0,
    ));
    filter.push(op(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ALLOW,
        0,
        0,
    ));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(std::io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions live until the call returns.
    match unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn what_a_kernel_lacks_refuses_the_profiles_that_ask_for_it() {
    if !root_or_skip("what_a_kernel_lacks_refuses_the_profiles_that_ask_for_it") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile asks]\nrun_as = 54321\nprocesses = own\n[profile unsaid]\nrun_as = 54321\ntimeout = 2\n[profile sockets]\nrun_as = 54321\nunix_sockets = none\n",
        &[("asks", "asks", "echo ran"), ("unsaid", "unsaid", "echo ran; setsid sleep 300 & wait"), ("sockets", "sockets", "echo ran")],
    );
    let newpid = u32::try_from(libc::CLONE_NEWPID).unwrap();
    let mut command = site.serve(PEER);
    before(&mut command, move || {
        without(libc::SYS_unshare, Some(newpid))
    });
    let server = site.start_command(command);
    let reply = server.call("asks");
    assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""));
    assert!(
        reply.stderr.contains("cannot create a process namespace"),
        "{}",
        reply.stderr
    );
    let reply = server.call("unsaid");
    assert_eq!(
        (reply.exit, reply.stdout.as_str()),
        (126, "ran\n"),
        "{}",
        reply.stderr
    );
    let log = server.log();
    assert!(
        log.contains("profile 'asks': processes = own needs process namespaces"),
        "{log}"
    );
    assert!(
        log.contains("profile 'unsaid': the kernel has no process namespaces"),
        "{log}"
    );
    let mut check = site.exec();
    check.arg("--root").arg(&site.dir).arg("check");
    before(&mut check, move || without(libc::SYS_unshare, Some(newpid)));
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("kernel: FAULT: profile 'asks'"));
}

/// Issue 12.9.
#[test]
fn files_that_the_kernel_does_not_run_are_explained() {
    if !root_or_skip("files_that_the_kernel_does_not_run_are_explained") {
        return;
    }
    let site = Site::new();
    let elf: Vec<u8> = [
        &b"\x7fELF\x02\x02\x01"[..],
        &[0; 9],
        &[0, 2, 0, 22, 0, 0, 0, 1],
        &[0; 80],
    ]
    .concat();
    let files: [(&str, &[u8], u32, &str); 5] = [
        (
            "crlf",
            b"#!/bin/sh\r\necho hello\r\n",
            0o755,
            "ends in CR LF",
        ),
        (
            "gone",
            b"#!/usr/bin/no-such-thing -w\n",
            0o755,
            "its interpreter '/usr/bin/no-such-thing' does not exist",
        ),
        (
            "foreign",
            &elf,
            0o755,
            "another processor (S/390, 64 bits, big endian)",
        ),
        ("plain", b"echo hello\n", 0o755, "no shell is guessed"),
        ("empty", b"", 0o755, "it is empty"),
    ];
    let mut list = String::new();
    for (name, bytes, mode, _) in files {
        fs::write(site.path("opt").join(name), bytes).unwrap();
        fs::set_permissions(
            site.path("opt").join(name),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
        list += &format!("{name} = @/opt/{name} profile=p\n");
    }
    site.script("unreadable", "echo hello");
    site.script("closed", "echo hello");
    for (name, mode) in [("unreadable", 0o711), ("closed", 0o750)] {
        fs::set_permissions(
            site.path("opt").join(name),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
        list += &format!("{name} = @/opt/{name} profile=p\n");
    }
    site.conf("[profile p]\nrun_as = 54321\n", &list);
    let (exit, out, _) = site.run(&["--root", "@", "check"]);
    assert_eq!(exit, 1);
    let server = site.start();
    for (name, _, _, words) in files {
        let reply = server.call(name);
        assert_eq!(
            (reply.exit, reply.stdout.as_str()),
            (127, ""),
            "{name}: {}",
            reply.stderr
        );
        assert!(reply.stderr.contains(words), "{name}: {}", reply.stderr);
        assert_eq!(reply.stderr.lines().count(), 1, "{}", reply.stderr);
        assert!(
            out.lines()
                .any(|line| line.starts_with(&format!("{name}: FAULT")) && line.contains(words)),
            "{name}: {out}"
        );
    }
    assert!(out.contains("user '54321' may not read it"), "{out}");
    assert!(out.contains("user '54321' may not execute it"), "{out}");
    let reply = server.call("closed");
    assert_eq!(reply.exit, 126);
    assert!(
        reply
            .stderr
            .contains("not executable by the profile's run_as user"),
        "{}",
        reply.stderr
    );
}

/// Memory that an executor and its children hold, in KiB: what several share counts once.
fn memory(server: &Server) -> u64 {
    let executor = i32::try_from(server.child.id()).unwrap();
    let mut sum = 0;
    for (pid, line) in processes() {
        if pid != executor && !(line.contains("ctrl-exec-exec") && parent_of(pid) == Some(executor))
        {
            continue;
        }
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        sum += smaps
            .lines()
            .filter(|line| line.starts_with("Pss_Anon:") || line.starts_with("Pss_Shmem:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    sum
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Audit 21.
#[test]
fn half_sent_frames_hold_little() {
    if !root_or_skip("half_sent_frames_hold_little") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("known", "p", "wc -c")]);
    let mut command = site.serve(PEER);
    command.args(["--frame-timeout", "30"]);
    let server = site.start_command(command);
    assert_eq!(
        server
            .request(&request("known", &[0; 1000], &[]))
            .stdout
            .trim(),
        "1000"
    );
    let idle = memory(&server);
    // A quarter each: not known, known and small enough, known and too large, and a head that has no end.
    let frames = [
        request("unknown", &vec![0; 16_000_000], &[])
            .encode()
            .unwrap(),
        request("known", &vec![0; 1 << 20], &[]).encode().unwrap(),
        request("known", &vec![0; 16_000_000], &[])
            .encode()
            .unwrap(),
        Request {
            reqid: vec![b'r'; 16_000_000],
            ..request("known", b"", &[])
        }
        .encode()
        .unwrap(),
    ];
    let mut held = Vec::new();
    for number in 0..80 {
        let stream = server.connect();
        stream.set_nonblocking(true).unwrap();
        held.push((stream, 0, &frames[number % 4]));
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        for (stream, sent, frame) in &mut held {
            let end = frame.len() - 100;
            if *sent < end {
                if let Ok(count) = stream.write(&frame[*sent..end]) {
                    *sent += count;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent: usize = held.iter().map(|(_, sent, _)| sent).sum();
    let grown = memory(&server).saturating_sub(idle);
    println!(
        "{} MiB sent in 80 unfinished frames; {grown} KiB held",
        sent >> 20
    );
    assert!(sent > 500 << 20, "{sent}");
    assert!(grown < 16 << 10, "{grown} KiB");
    // They are gone, and so is what they held.
    drop(held);
    let answer = server.request(&request("known", &vec![0; 4_000_000], &[]));
    assert_eq!(answer.stdout.trim(), "4000000", "{}", answer.stderr);
    let reply = server.request(&request("known", &vec![0; 4 << 20], &[]));
    assert_eq!(reply.exit, -1);
    assert!(
        reply
            .stderr
            .contains("larger than executor_max_input (4194304)"),
        "{}",
        reply.stderr
    );
    let reply = server.request(&request("unknown", &vec![0; 16_000_000], &[]));
    assert_eq!(reply.stderr, "executor: script not permitted\n");
}

#[test]
fn a_killed_worker_ends_its_run_and_gives_back_what_it_held() {
    if !root_or_skip("a_killed_worker_ends_its_run_and_gives_back_what_it_held") {
        return;
    }
    let site = Site::new();
    let body = "echo $$ > @/run/pid; sleep 300";
    site.scripts(
        "[profile p]\nrun_as = root\nprocesses = host\n",
        &[("p", "p", body), ("wc", "p", "wc -c")],
    );
    let server = site.start();
    let _waiting = server.send(&request("p", &vec![0; 4_000_000], &[]));
    wait_for("it runs", || {
        fs::read_to_string(site.path("run/pid")).is_ok_and(|text| text.ends_with('\n'))
    });
    let pid: i32 = fs::read_to_string(site.path("run/pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let supervisor = parent_of(pid).unwrap();
    let worker = parent_of(supervisor).unwrap();
    assert_eq!(parent_of(worker), i32::try_from(server.child.id()).ok());
    kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    wait_for("the script is ended", || {
        test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
    });
    let reply = server.request(&request("wc", &vec![0; 4_000_000], &[]));
    assert_eq!(reply.stdout.trim(), "4000000", "{}", reply.stderr);
}

#[test]
fn a_killed_supervisor_is_told() {
    if !root_or_skip("a_killed_supervisor_is_told") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile p]\nrun_as = root\nprocesses = host\n",
        &[("p", "p", "kill -9 $PPID; sleep 1; echo alone")],
    );
    let server = site.start();
    let reply = server.request(&extended("p", &[]));
    assert_eq!(reply.exit, 126);
    assert!(
        reply.stderr.contains("supervisor was killed"),
        "{}",
        reply.stderr
    );
}

/// Issue 19.6.
#[test]
fn records_go_to_the_system_log_once_with_the_name() {
    if !root_or_skip("records_go_to_the_system_log_once_with_the_name") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("p", "p", "true")]);
    fs::create_dir(site.path("dev")).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(site.path("dev/log")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = site.start();
    assert_eq!(server.call("p").exit, 0);
    let mut line = [0; 2048];
    let mut next = || {
        let count = socket.recv(&mut line).unwrap();
        String::from_utf8_lossy(&line[..count]).into_owned()
    };
    let run = next();
    // Facility daemon, severity info.
    assert!(run.starts_with("<30>"), "{run}");
    assert_eq!(run.matches("ctrl-exec-exec").count(), 1, "{run}");
    assert!(
        run.contains("ACTION=run DISPATCHER=d EXIT=0 PROFILE=p REQID=r SCRIPT=p"),
        "{run}"
    );
    server.call("other");
    let deny = next();
    assert!(
        deny.starts_with("<28>") && deny.contains("ACTION=deny"),
        "{deny}"
    );
    assert_eq!(server.log(), "", "nothing on standard error");
}

/// Audit 6: a delayed `reboot` signals process 1. The host here is a namespace of the test's own.
#[test]
fn a_reboot_reaches_the_hosts_init_if_the_profile_says_so() {
    if !root_or_skip("a_reboot_reaches_the_hosts_init_if_the_profile_says_so") {
        return;
    }
    let site = Site::new();
    let reboot =
        "(sleep 0.3; kill -$1 1; touch @/run/$2-sent; sleep 60) >/dev/null 2>&1 & echo answered";
    site.scripts(
        "[profile boot]\nrun_as = root\nprocesses = own\ncaps = CAP_SYS_BOOT\n[profile own]\nrun_as = root\nprocesses = own\n\
         [profile host]\nrun_as = root\nprocesses = host\n",
        &[("boot", "boot", reboot), ("own", "own", reboot), ("host", "host", reboot)],
    );
    // Process 1 of the namespace notes what it is told, and ends everything with its input.
    let init = r#"my $dir = shift;
        for my $s (qw(TERM USR1 USR2 INT)) { $SIG{$s} = sub { open(my $f, ">", "$dir/init-$s") } }
        if (!fork) { exec { $ARGV[0] } @ARGV }
        while (1) { my $got = sysread(STDIN, my $byte, 1); last if defined $got && $got == 0 }"#;
    let serve = site.serve(PEER);
    let mut host = Command::new("unshare");
    host.args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["perl", "-e", init])
        .arg(site.path("run"))
        .arg(serve.get_program())
        .args(serve.get_args())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(fs::File::create(site.path("log")).unwrap());
    let server = site.start_command(host);
    let told = |signal: &str| exists(&site.path("run").join(format!("init-{signal}")));
    let call = |script: &str, signal: &str| {
        let reply = server.request(&request(script, b"", &[signal, script]));
        assert_eq!(reply.stdout, "answered\n", "{}", reply.stderr);
        let sent = site.path("run").join(format!("{script}-sent"));
        wait_for("the signal is sent", || exists(&sent));
        fs::remove_file(&sent).unwrap();
    };
    call("own", "USR1");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!told("USR1"), "not without the capability");
    call("host", "USR2");
    call("boot", "TERM");
    wait_for("TERM and USR2 have come", || told("TERM") && told("USR2"));
    assert!(!told("USR1") && !told("INT"));
}
