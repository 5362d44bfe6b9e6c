"""Lets the kernel run a foreign architecture's programs by themselves, which re-execution by the
agent and scripts' interpreters need. Root registers with binfmt_misc for the time of the test.
Others get a user namespace of their own where the kernel has binfmt_misc per namespace (Linux 6.7)."""

import atexit
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

BASE = pathlib.Path("/proc/sys/fs/binfmt_misc")


def enable(target):
    """Makes programs of the target's architecture executable; exits with a clear word if it cannot."""
    if not target["qemu"]:
        return
    emulator = shutil.which(f"qemu-{target['qemu']}-static") or shutil.which(f"qemu-{target['qemu']}")
    if emulator is None:
        sys.exit(f"no qemu-{target['qemu']}-static")
    if os.geteuid() != 0:
        _own_namespace()
    if not (BASE / "register").exists():
        _mount()
    name = f"ctrl-exec-{target['name']}-{os.getpid()}"
    for old in BASE.glob("ctrl-exec-*"):
        if not pathlib.Path("/proc", old.name.rsplit("-", 1)[1]).exists():  # its process was killed
            old.write_text("-1")
    if (BASE / name).exists():
        return
    # F: the emulator is opened now, so it works in every mount namespace. P and O are not needed.
    entry = f":{name}:M::{target['magic']}:{target['mask']}:{emulator}:F"
    try:
        (BASE / "register").write_text(entry)
    except OSError as error:
        sys.exit(f"cannot register {emulator} with binfmt_misc: {error}")
    atexit.register(lambda: (BASE / name).exists() and (BASE / name).write_text("-1"))


def _mount():
    done = subprocess.run(["mount", "-t", "binfmt_misc", "none", str(BASE)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"binfmt_misc cannot be mounted: {done.stderr.strip()}; run as root, or as any user on Linux 6.7 or newer")


def _own_namespace():
    """This process becomes root of a new user namespace with mounts of its own."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
        sys.exit(f"no user namespace: {os.strerror(ctypes.get_errno())}; run as root")
    pathlib.Path("/proc/self/setgroups").write_text("deny")
    pathlib.Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    pathlib.Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _mount()
