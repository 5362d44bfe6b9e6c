//! The filter's program, in the kernel's classic BPF.

use libc::{EAFNOSUPPORT, ENOSYS, EPERM, sock_filter};
use linux_raw_sys::general as nr;

/// The kernel's name for this architecture (`AUDIT_ARCH_*`); `None`: not in the table.
pub const ARCHITECTURE: Option<u32> = architecture();

/// The numbers of the calls that are refused whatever their arguments.
pub const REFUSED: &[u32] = &[
    nr::__NR_acct,
    nr::__NR_add_key,
    nr::__NR_bpf,
    nr::__NR_chroot,
    nr::__NR_clock_adjtime,
    nr::__NR_clock_settime,
    #[cfg(target_pointer_width = "32")]
    nr::__NR_clock_adjtime64,
    #[cfg(target_pointer_width = "32")]
    nr::__NR_clock_settime64,
    nr::__NR_delete_module,
    nr::__NR_fanotify_init,
    nr::__NR_finit_module,
    nr::__NR_fsconfig,
    nr::__NR_fsmount,
    nr::__NR_fsopen,
    nr::__NR_fspick,
    nr::__NR_init_module,
    nr::__NR_io_uring_enter,
    nr::__NR_io_uring_register,
    nr::__NR_io_uring_setup,
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    nr::__NR_ioperm,
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    nr::__NR_iopl,
    nr::__NR_kcmp,
    nr::__NR_kexec_load,
    nr::__NR_keyctl,
    nr::__NR_mbind,
    nr::__NR_migrate_pages,
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    nr::__NR_modify_ldt,
    nr::__NR_mount,
    nr::__NR_mount_setattr,
    nr::__NR_move_mount,
    nr::__NR_move_pages,
    nr::__NR_name_to_handle_at,
    nr::__NR_open_by_handle_at,
    nr::__NR_open_tree,
    nr::__NR_perf_event_open,
    nr::__NR_pidfd_getfd,
    nr::__NR_pivot_root,
    nr::__NR_process_madvise,
    nr::__NR_process_vm_readv,
    nr::__NR_process_vm_writev,
    nr::__NR_ptrace,
    nr::__NR_quotactl,
    nr::__NR_quotactl_fd,
    nr::__NR_reboot,
    nr::__NR_request_key,
    nr::__NR_set_mempolicy,
    nr::__NR_setdomainname,
    nr::__NR_sethostname,
    nr::__NR_setns,
    nr::__NR_settimeofday,
    nr::__NR_swapoff,
    nr::__NR_swapon,
    nr::__NR_syslog,
    nr::__NR_umount2,
    nr::__NR_unshare,
    nr::__NR_userfaultfd,
    nr::__NR_vhangup,
];

/// Families of sockets that are left: local ones, IPv4, IPv6, and netlink, which resolvers use.
const FAMILIES: [u32; 4] = [
    libc::AF_UNIX as u32,
    libc::AF_INET as u32,
    libc::AF_INET6 as u32,
    libc::AF_NETLINK as u32,
];

/// Flags of `clone` that make namespaces.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

// Places in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The low half of the first argument.
const ARGUMENT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

// Instructions of classic BPF.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The program for an architecture.
pub(crate) fn build(architecture: u32) -> Vec<sock_filter> {
    let plain = |code, k| sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    // Skips the next instruction when the test fails.
    let unless = |code, k| sock_filter {
        code,
        jt: 0,
        jf: 1,
        k,
    };
    let give = |errno: i32| plain(RETURN, ERRNO | errno.unsigned_abs());
    let mut program = vec![
        plain(LOAD, ARCH),
        // A call by another architecture's table means something else.
        sock_filter {
            code: IF_EQUAL,
            jt: 1,
            jf: 0,
            k: architecture,
        },
        give(ENOSYS),
        plain(LOAD, NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        // So does one by the x32 table.
        program.extend([unless(IF_ANY_BIT, 0x4000_0000), give(ENOSYS)]);
    }
    // Its flags are where no filter can look. Libraries fall back to `clone`.
    program.extend([unless(IF_EQUAL, nr::__NR_clone3), give(ENOSYS)]);
    for number in REFUSED {
        program.extend([unless(IF_EQUAL, *number), give(EPERM)]);
    }
    // Each of these looks at the argument, and leaves with an answer.
    let clone = [
        plain(LOAD, ARGUMENT),
        unless(IF_ANY_BIT, NAMESPACES),
        give(EPERM),
        plain(RETURN, ALLOW),
    ];
    program.push(skip_unless(nr::__NR_clone, clone.len()));
    program.extend(clone);
    let mut socket = vec![plain(LOAD, ARGUMENT)];
    for family in FAMILIES {
        socket.extend([unless(IF_EQUAL, family), plain(RETURN, ALLOW)]);
    }
    socket.push(give(EAFNOSUPPORT));
    program.push(skip_unless(nr::__NR_socket, socket.len()));
    program.extend(socket);
    program.push(plain(RETURN, ALLOW));
    program
}

/// Goes on with the next `count` instructions for call `number`, else after them.
fn skip_unless(number: u32, count: usize) -> sock_filter {
    sock_filter {
        code: IF_EQUAL,
        jt: 0,
        // The blocks have a handful of instructions.
        jf: u8::try_from(count).unwrap_or(u8::MAX),
        k: number,
    }
}

/// ELF machine, with bits for 64-bit and for little-endian.
const fn architecture() -> Option<u32> {
    const WIDE: u32 = 0x8000_0000;
    const LITTLE: u32 = 0x4000_0000;
    let endian = if cfg!(target_endian = "little") {
        LITTLE
    } else {
        0
    };
    if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some(62 | WIDE | LITTLE)
    } else if cfg!(target_arch = "x86") {
        Some(3 | LITTLE)
    } else if cfg!(target_arch = "aarch64") {
        Some(183 | WIDE | LITTLE)
    } else if cfg!(target_arch = "arm") {
        Some(40 | endian)
    } else if cfg!(any(target_arch = "mips", target_arch = "mips32r6")) {
        Some(8 | endian)
    } else if cfg!(any(target_arch = "mips64", target_arch = "mips64r6")) {
        Some(8 | WIDE | endian)
    } else if cfg!(target_arch = "riscv64") {
        Some(243 | WIDE | LITTLE)
    } else if cfg!(target_arch = "powerpc") {
        Some(20)
    } else if cfg!(target_arch = "powerpc64") {
        Some(21 | WIDE | endian)
    } else if cfg!(target_arch = "loongarch64") {
        Some(258 | WIDE | LITTLE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType};
    use rustix::system::{sethostname, uname};

    /// Runs a program as the kernel does.
    fn verdict(arch: u32, number: u32, argument: u32) -> u32 {
        let program = build(ARCHITECTURE.unwrap());
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD => {
                    value = match step.k {
                        NUMBER => number,
                        ARCH => arch,
                        ARGUMENT => argument,
                        other => panic!("loads {other}"),
                    }
                }
                IF_EQUAL if value == step.k => at += usize::from(step.jt),
                IF_ANY_BIT if value & step.k != 0 => at += usize::from(step.jt),
                IF_EQUAL | IF_ANY_BIT => at += usize::from(step.jf),
                RETURN => return step.k,
                other => panic!("unknown instruction {other}"),
            }
        }
    }

    fn refusal(errno: i32) -> u32 {
        ERRNO | errno.unsigned_abs()
    }

    #[test]
    fn every_call_has_its_answer() {
        let own = ARCHITECTURE.unwrap();
        for number in 0..1000 {
            // For `clone` and `socket` this argument is harmless.
            let expected = if REFUSED.contains(&number) {
                refusal(EPERM)
            } else if number == nr::__NR_clone3 {
                refusal(ENOSYS)
            } else {
                ALLOW
            };
            assert_eq!(verdict(own, number, 1), expected, "{number}");
            assert_eq!(verdict(own ^ 1, number, 1), refusal(ENOSYS));
        }
        for family in 0..64 {
            let expected = if FAMILIES.contains(&family) {
                ALLOW
            } else {
                refusal(EAFNOSUPPORT)
            };
            assert_eq!(verdict(own, nr::__NR_socket, family), expected, "{family}");
        }
        for flag in 0..32 {
            let bit = 1 << flag;
            let expected = if NAMESPACES & bit != 0 {
                refusal(EPERM)
            } else {
                ALLOW
            };
            assert_eq!(verdict(own, nr::__NR_clone, bit), expected, "{bit:#x}");
        }
        if cfg!(target_arch = "x86_64") {
            assert_eq!(verdict(own, 0x4000_0000 + 101, 1), refusal(ENOSYS));
        }
    }

    #[test]
    fn the_kernel_takes_the_program() {
        // 4096 is the kernel's limit.
        assert!(build(ARCHITECTURE.unwrap()).len() < 200);
        let refused = std::thread::spawn(|| {
            crate::install().unwrap();
            let socket = |family| rustix::net::socket(family, SocketType::DGRAM, None).map(drop);
            (
                sethostname(uname().nodename().to_bytes()),
                [AddressFamily::PACKET, AddressFamily::VSOCK].map(socket),
                [AddressFamily::INET, AddressFamily::UNIX].map(socket),
            )
        });
        let (name, strange, usual) = refused.join().unwrap();
        // Root could have set it.
        assert_eq!(name, Err(Errno::PERM));
        assert_eq!(strange, [Err(Errno::AFNOSUPPORT); 2]);
        assert_eq!(usual, [Ok(()); 2]);
    }
}
