//! What root alone can show: identities, capabilities, mounts, namespaces (executor.md §8.4).
//!
//! Mounts of these tests exist only in the namespace of the server under test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, reason = "the support module serves several test programs")]
#![allow(unsafe_code, reason = "code between fork and exec")]

mod support;

use std::fs;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Instant;

use ctrl_exec_protocol::config::caps::Cap;
use rustix::mount::{MountFlags, mount};
use rustix::thread::CapabilitySet;
use support::{PEER, Reply, Site, before, exists, own_mounts, request, root_or_skip, status};

const STATUS: &str = "cat /proc/self/status";

fn capability_masks(text: &str) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|key| u64::from_str_radix(status(text, key), 16).unwrap())
}

#[test]
fn masks_of_the_specification() {
    if !root_or_skip("masks_of_the_specification") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile bind]\nrun_as = nobody\ncaps = CAP_NET_BIND_SERVICE\n[profile none]\nrun_as = nobody\n\
         [profile bare]\nrun_as = root\n[profile root]\nrun_as = root\n[profile chown]\nrun_as = root\ncaps = CAP_CHOWN CAP_OF_TOMORROW\n\
         [profile off]\nrun_as = nobody\nno_new_privileges = no\n",
        &[
            ("bind", "bind", STATUS),
            ("none", "none", STATUS),
            ("bare", "bare", STATUS),
            ("root", "root", STATUS),
            ("chown", "chown", STATUS),
            ("off", "off", STATUS),
            ("undef", "nope", STATUS),
        ],
    );
    let server = site.start();
    for (script, mask, uid, nnp) in [
        ("bind", [0x400; 5], "65534\t65534\t65534\t65534", "1"),
        ("none", [0; 5], "65534\t65534\t65534\t65534", "1"),
        ("bare", [0; 5], "0\t0\t0\t0", "1"),
        ("root", [0; 5], "0\t0\t0\t0", "1"),
        ("chown", [1; 5], "0\t0\t0\t0", "1"),
        ("off", [0; 5], "65534\t65534\t65534\t65534", "0"),
    ] {
        let reply = server.call(script);
        assert_eq!(reply.exit, 0, "{script}: {}", reply.stderr);
        assert_eq!(capability_masks(&reply.stdout), mask, "{script}");
        assert_eq!(status(&reply.stdout, "Uid"), uid, "{script}");
        assert_eq!(status(&reply.stdout, "NoNewPrivs"), nnp, "{script}");
    }
    let reply = server.call("undef");
    assert_eq!(
        (reply.exit, reply.stderr.as_str()),
        (-1, "executor: undefined profile\n")
    );
}

#[test]
fn each_capability_alone() {
    if !root_or_skip("each_capability_alone") {
        return;
    }
    let names = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
        LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
        SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE \
        SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP \
        MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF \
        CHECKPOINT_RESTORE";
    let site = Site::new();
    site.script("status", STATUS);
    let (mut agent, mut scripts) = (String::new(), String::new());
    let names: Vec<_> = names.split_whitespace().collect();
    for (number, name) in names.iter().enumerate() {
        agent += &format!("[profile p{number}]\nrun_as = nobody\ncaps = CAP_{name}\n");
        scripts += &format!("s{number} = @/opt/status profile=p{number}\n");
    }
    site.conf(&agent, &scripts);
    let server = site.start();
    let mut granted = 0;
    for (number, name) in names.iter().enumerate() {
        let cap = Cap::parse(&format!("CAP_{name}")).unwrap();
        assert_eq!(cap.number, u8::try_from(number).ok(), "{name}");
        let bit = 1u64 << number;
        let reply = server.call(&format!("s{number}"));
        match rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            // This test itself lacks it (a container, say), so the executor cannot give it.
            Ok(false) => {
                assert_eq!(reply.exit, 126, "{name}");
                assert!(
                    reply
                        .stderr
                        .contains("cannot set the profile's capabilities"),
                    "{}",
                    reply.stderr
                );
            }
            // Unknown to this kernel: nothing is granted.
            Err(_) => assert_eq!(capability_masks(&reply.stdout), [0; 5], "{name}"),
            Ok(true) => {
                assert_eq!(
                    capability_masks(&reply.stdout),
                    [bit; 5],
                    "{name}: {}",
                    reply.stderr
                );
                granted += 1;
            }
        }
    }
    assert!(granted > 0);
}

#[test]
fn run_as_in_all_its_forms() {
    if !root_or_skip("run_as_in_all_its_forms") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile number]\nrun_as = 54321\n[profile minus]\nrun_as = 4294967295\n\
         [profile ghost]\nrun_as = no-such-user-x\n[profile zero]\nrun_as = 0\n[profile name]\nrun_as = root\n",
        &[
            ("number", "number", STATUS),
            ("minus", "minus", STATUS),
            ("ghost", "ghost", STATUS),
            ("zero", "zero", STATUS),
            ("name", "name", "id -G"),
        ],
    );
    let server = site.start();
    let text = server.call("number").stdout;
    assert_eq!(status(&text, "Uid"), "54321\t54321\t54321\t54321");
    assert_eq!(status(&text, "Gid"), "54321\t54321\t54321\t54321");
    assert_eq!(status(&text, "Groups"), "");
    assert_eq!(status(&server.call("zero").stdout, "Groups"), "");
    for (script, words) in [
        ("minus", "not a usable user id"),
        ("ghost", "unknown run_as user 'no-such-user-x'"),
    ] {
        let reply = server.call(script);
        assert_eq!((reply.exit, reply.stdout.as_str()), (126, ""), "{script}");
        assert!(reply.stderr.contains(words), "{}", reply.stderr);
    }
    let groups = Command::new("id")
        .args(["-G", "root"])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(server.call("name").stdout.as_bytes(), groups);

    let config = fs::read_to_string(site.agent_conf()).unwrap();
    fs::write(
        site.agent_conf(),
        config.replace("4294967295", "4294967296"),
    )
    .unwrap();
    for script in ["minus", "number"] {
        let reply = server.call(script);
        assert_eq!(
            (reply.exit, reply.stderr.as_str()),
            (-1, "executor: config error\n")
        );
    }
}

#[test]
fn writable_is_all_that_can_be_written() {
    if !root_or_skip("writable_is_all_that_can_be_written") {
        return;
    }
    let site = Site::new();
    fs::create_dir_all(site.path("w/below")).unwrap();
    fs::create_dir_all(site.path("other")).unwrap();
    let probe = "for d in @/w @/w/below @/w/mnt @/other @/opt /tmp /var/tmp /etc /dev/shm @/etc/ctrl-exec-agent \
         @/etc/ctrl-exec-agent/sub; do if echo x 2>/dev/null >$d/cee-probe; then echo $d yes; else echo $d no; fi; done; \
         ls -A /tmp; echo secret > /tmp/cee-secret; mount -o remount,rw / 2>/dev/null && echo remounted; \
         umount @/etc/ctrl-exec-agent 2>/dev/null && echo unmounted; true";
    site.scripts(
        "[profile w]\nrun_as = root\nwritable = @/w:@/absent\n[profile user]\nrun_as = nobody\nwritable = @/w\n\
         [profile all]\nrun_as = root\nwritable = @\n[profile ctl]\nrun_as = root\nwritable = @/etc/ctrl-exec-agent:@/etc/ctrl-exec-agent/sub\n[profile caps]\nrun_as = root\nwritable = @/w\ncaps = CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER\n",
        &[("w", "w", probe), ("user", "user", probe), ("all", "all", probe),
            ("ctl", "ctl", probe), ("caps", "caps", probe)],
    );
    let mut command = site.serve(PEER);
    fs::create_dir_all(site.path("w/mnt")).unwrap();
    fs::create_dir_all(site.path("etc/ctrl-exec-agent/sub")).unwrap();
    let points = [site.path("w/mnt"), site.path("etc/ctrl-exec-agent/sub")];
    before(&mut command, move || {
        own_mounts()?;
        for point in &points {
            mount("tmpfs", point, "tmpfs", MountFlags::empty(), c"mode=1777")?;
        }
        Ok(())
    });
    let server = site.start_command(command);
    let writes = |script: &str| {
        let reply = server.call(script);
        assert_eq!(reply.exit, 0, "{}", reply.stderr);
        reply.stdout.replace(site.dir.to_str().unwrap(), "@")
    };
    // A mount inside a writable directory has to be listed itself, as in the reference.
    let only_w = "@/w yes\n@/w/below yes\n@/w/mnt no\n@/other no\n@/opt no\n/tmp yes\n/var/tmp no\n\
        /etc no\n/dev/shm no\n@/etc/ctrl-exec-agent no\n@/etc/ctrl-exec-agent/sub no\ncee-probe\n";
    assert_eq!(writes("w"), only_w);
    assert_eq!(writes("caps"), only_w);
    assert_eq!(
        writes("w"),
        only_w,
        "every run has a /tmp of its own, empty at first"
    );
    assert_eq!(
        writes("user"),
        only_w
            .replace("@/w yes", "@/w no")
            .replace("@/w/below yes", "@/w/below no"),
        "the file's permissions still count"
    );
    let ctl = writes("ctl");
    assert!(ctl.contains("@/w no\n@/w/below no\n"), "{ctl}");
    assert!(
        ctl.contains("@/etc/ctrl-exec-agent no\n@/etc/ctrl-exec-agent/sub no\n"),
        "{ctl}"
    );
    let all = writes("all");
    assert!(all.contains("@/other yes\n"), "{all}");
    assert!(
        all.contains("@/etc/ctrl-exec-agent no\n"),
        "control directories stay closed: {all}"
    );
    assert!(all.contains("@/etc/ctrl-exec-agent/sub no\n"), "{all}");
    assert!(!exists("/tmp/cee-secret".as_ref()) && !exists("/tmp/cee-probe".as_ref()));
}

#[test]
fn control_directories_are_closed_to_root_scripts() {
    if !root_or_skip("control_directories_are_closed_to_root_scripts") {
        return;
    }
    let site = Site::new();
    control_directories(&site, false);
}

#[test]
fn before_linux_5_12_control_directories_are_closed_and_writable_is_refused() {
    if !root_or_skip("before_linux_5_12_control_directories_are_closed_and_writable_is_refused") {
        return;
    }
    let site = Site::new();
    control_directories(&site, true);
}

/// A server on a system with or without `mount_setattr`.
fn control_directories(site: &Site, old_kernel: bool) {
    fs::create_dir_all(site.path("etc/ctrl-exec-agent/a sub")).unwrap();
    fs::create_dir_all(site.path("overlay/upper/etc/ctrl-exec-agent")).unwrap();
    fs::write(site.path("etc/ctrl-exec-agent/file"), "kept").unwrap();
    let probe = "for d in @/etc/ctrl-exec-agent '@/etc/ctrl-exec-agent/a sub' @/var/lib/ctrl-exec-agent \
        @/overlay/upper/etc/ctrl-exec-agent @/other /tmp; do if echo x 2>/dev/null >\"$d/$0\"; then echo yes; else echo no; fi; done; \
        rm -f @/etc/ctrl-exec-agent/file; mv @/etc/ctrl-exec-agent @/moved; rm -rf @/run/exec.sock; \
        mount -o remount,bind,rw @/etc/ctrl-exec-agent; true"
        .replace("$0", &format!("cee-{}", std::process::id()));
    site.scripts(
        "[profile bare]\nrun_as = root\n[profile caps]\nrun_as = root\ncaps = CAP_DAC_OVERRIDE CAP_FOWNER\n[profile w]\nrun_as = root\nwritable = @\n",
        &[("bare", "bare", &probe), ("caps", "caps", &probe), ("w", "w", &probe)],
    );
    fs::create_dir(site.path("other")).unwrap();
    let mut command = site.serve(PEER);
    let point = site.path("etc/ctrl-exec-agent/a sub");
    before(&mut command, move || {
        own_mounts()?;
        mount("tmpfs", &point, "tmpfs", MountFlags::NOEXEC, c"mode=1777")?;
        if old_kernel {
            without_mount_setattr()
        } else {
            Ok(())
        }
    });
    let inode = |path: &str| fs::metadata(site.path(path)).unwrap().ino();
    let before = inode("etc/ctrl-exec-agent");
    let server = site.start_command(command);
    for script in ["bare", "caps"] {
        let reply = server.call(script);
        assert_eq!(
            reply.stdout, "no\nno\nno\nno\nyes\nyes\n",
            "{script}: {}",
            reply.stderr
        );
    }
    let _ = fs::remove_file(format!("/tmp/cee-{}", std::process::id()));
    assert_eq!(
        fs::read(site.path("etc/ctrl-exec-agent/file")).unwrap(),
        b"kept"
    );
    // `mv` may have copied it, and could not remove it then.
    assert_eq!(inode("etc/ctrl-exec-agent"), before);
    assert!(exists(&site.socket()));
    if old_kernel {
        let reply = server.call("w");
        assert_eq!(reply.exit, 126);
        assert!(
            reply.stderr.contains("needs Linux 5.12"),
            "{}",
            reply.stderr
        );
        assert!(
            server
                .log()
                .contains("profile 'w': writable needs Linux 5.12"),
            "{}",
            server.log()
        );
    }
}

/// Makes the system call answer as an older kernel does, for this process and its descendants.
fn without_mount_setattr() -> io::Result<()> {
    let number = u32::try_from(libc::SYS_mount_setattr).map_err(io::Error::other)?;
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let errno = u32::try_from(libc::ENOSYS).map_err(io::Error::other)?;
    let filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1),
        op(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | errno,
            0,
            0,
        ),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and its four instructions live until the call returns.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[test]
fn a_system_without_mount_namespaces_is_refused_at_start() {
    if !root_or_skip("a_system_without_mount_namespaces_is_refused_at_start") {
        return;
    }
    let site = Site::new();
    site.conf("[profile default]\nrun_as = root\n", "");
    let drop_power = || {
        rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN)?;
        Ok(())
    };
    let mut command = site.serve(PEER);
    before(&mut command, drop_power);
    assert_eq!(command.status().unwrap().code(), Some(1));
    let log = fs::read_to_string(site.path("log")).unwrap();
    assert!(log.contains("create a mount namespace"), "{log}");
    assert!(log.contains("CAP_SYS_ADMIN"), "{log}");
    assert!(!exists(&site.socket()));

    let mut check = site.exec();
    check.arg("--root").arg(&site.dir).arg("check");
    before(&mut check, drop_power);
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("kernel: FAULT: this system"));
}

#[test]
fn no_descriptor_reaches_a_script() {
    if !root_or_skip("no_descriptor_reaches_a_script") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile p]\nrun_as = root\n",
        &[("fds", "p", "ls /proc/self/fd | tr '\\n' ' '")],
    );
    let mut command = site.serve(PEER);
    before(&mut command, || {
        // As a careless service manager leaves them behind.
        for fd in [7, 300] {
            // SAFETY: duplicates standard input.
            if unsafe { libc::dup2(0, fd) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    });
    let server = site.start_command(command);
    // The last one is the directory that `ls` reads.
    assert_eq!(server.call("fds").stdout, "0 1 2 3 ");
}

#[test]
fn a_root_script_cannot_use_the_executors_socket() {
    if !root_or_skip("a_root_script_cannot_use_the_executors_socket") {
        return;
    }
    let site = Site::new();
    let look = "[ -S @/run/exec.sock ] && echo socket || echo hidden";
    site.scripts(
        "[profile p]\nrun_as = root\n[profile w]\nrun_as = root\nwritable = @/run\n",
        &[("p", "p", look), ("w", "w", look)],
    );
    let server = site.start();
    assert_eq!(server.call("p").stdout, "hidden\n");
    assert_eq!(server.call("w").stdout, "hidden\n");
}

#[test]
fn other_users_are_turned_away() {
    if !root_or_skip("other_users_are_turned_away") {
        return;
    }
    let site = Site::new();
    site.scripts("[profile p]\nrun_as = root\n", &[("p", "p", "true")]);
    let server = site.start();
    assert_eq!(server.call("p").exit, 0);
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    let meta = fs::metadata(site.socket()).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o600, 1, 1));
    // Even when the file's mode does not protect it.
    fs::set_permissions(site.socket(), mode(0o666)).unwrap();
    let answer_to = |uid: u32| {
        let frame = request("p", b"", &[]).encode().unwrap();
        let socket = site.socket();
        std::thread::spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            // Linux changes this thread only.
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            // The other end may be gone already.
            let _ = io::Write::write_all(&mut stream, &frame);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            answer
        })
        .join()
        .unwrap()
    };
    assert_eq!(answer_to(12_345), b"");
    assert!(
        server
            .log()
            .contains("ACTION=connection-refused REASON=\"uid 12345 is not served\""),
        "{}",
        server.log()
    );
    assert_eq!(Reply::of(&answer_to(1)).exit, 0);
    assert_eq!(Reply::of(&answer_to(0)).exit, 0);
}

#[test]
fn no_network_and_resource_limits() {
    if !root_or_skip("no_network_and_resource_limits") {
        return;
    }
    let site = Site::new();
    site.scripts(
        "[profile off]\nrun_as = root\nno_network = yes\n[profile on]\nrun_as = root\n[profile limits]\nrun_as = nobody\nlimit_files = 20\n\
         limit_cpu = 7\nlimit_file_size = 1M\nlimit_processes = 50\nlimit_memory = 512M\n[profile cpu]\nrun_as = root\nlimit_cpu = 1\n",
        &[
            (
                "off",
                "off",
                "readlink /proc/self/ns/net; cat /proc/net/dev; echo routes $(tail -n +2 /proc/net/route | wc -l)",
            ),
            ("on", "on", "readlink /proc/self/ns/net"),
            ("limits", "limits", "cat /proc/self/limits"),
            ("cpu", "cpu", "while :; do :; done"),
        ],
    );
    let server = site.start();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let own = own.to_str().unwrap();
    assert_eq!(server.call("on").stdout.trim(), own);
    let off = server.call("off").stdout;
    assert!(!off.contains(own) && off.starts_with("net:["), "{off}");
    // The kernel may add tunnels that lead nowhere; there is no real device and no route.
    assert!(off.contains("lo:") && !off.contains("eth"), "{off}");
    assert!(off.ends_with("routes 0\n"), "{off}");
    let limits = server.call("limits").stdout;
    for (name, limit) in [
        ("Max cpu time", "7"),
        ("Max file size", "1048576"),
        ("Max processes", "50"),
        ("Max open files", "20"),
        ("Max address space", "536870912"),
    ] {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        let words: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(words, [limit, limit], "{name}");
    }
    assert_eq!(server.call("cpu").exit, 126);
}

#[test]
fn a_hundred_mebibytes_of_output() {
    if !root_or_skip("a_hundred_mebibytes_of_output") {
        return;
    }
    let site = Site::new();
    let body = "grep VmHWM /proc/$PPID/status >&2; head -c 104857600 /dev/zero; grep VmHWM /proc/$PPID/status >&2";
    site.scripts(
        "max_output = 256K\n[profile p]\nrun_as = root\n",
        &[("flood", "p", body)],
    );
    let server = site.start();
    let started = Instant::now();
    let mut flood = request("flood", b"", &[]);
    flood.extended = true;
    let reply = server.request(&flood);
    assert_eq!(reply.exit, 0);
    let output = &reply.response.stdout;
    assert_eq!(output.head.len() + output.tail.len(), 256 << 10);
    assert_eq!(output.dropped, (100 << 20) - (256 << 10));
    let peaks: Vec<u64> = reply
        .stderr
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(
        peaks.len() == 2 && peaks[1] - peaks[0] < 2048,
        "{peaks:?} KiB"
    );
    println!("100 MiB in {:?}, peak {peaks:?} KiB", started.elapsed());
}
