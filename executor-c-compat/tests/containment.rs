//! What a script cannot do to the host, to other runs and to what decides about it (root tests).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]
#![allow(unsafe_code, reason = "code between fork and exec")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use support::{PEER, Site, before, exists, extended, own_mounts, request, root_or_skip};

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
        reply.stderr.contains("var/lib/ctrl-exec-agent': "),
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
