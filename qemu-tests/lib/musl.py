"""musl's dynamic loader, which is musl itself, for programs that link it dynamically. Debian has it for
few architectures, and not for soft-float MIPS: built from Debian's source with zig, in about a minute."""

import atexit
import os
import pathlib
import re
import shutil
import subprocess
import sys

import bench
import debian

# zig's name of each target's C library interface. The loader's own name is in the programs.
ZIG = {
    "mips": "mips-linux-musleabi",
    "mipsel": "mipsel-linux-musleabi",
    "armv5": "arm-linux-musleabi",
    "armv6": "arm-linux-musleabihf",
    "armv7": "arm-linux-musleabihf",
    "aarch64": "aarch64-linux-musl",
}


def provide(target, cross, program):
    """Makes dynamically linked programs of the target start, like `program`, for the time of the test."""
    name = loader_of(program)
    if not target["qemu"]:
        bench.need_packages("musl")
        return pathlib.Path("/")
    sysroot = debian.CACHE / f"musl-{target['name']}"
    if not (sysroot / "lib" / name).exists():
        build(target, cross, sysroot, name)
    emulator = shutil.which(f"qemu-{target['qemu']}-static") or f"qemu-{target['qemu']}"
    shown = subprocess.run([emulator, "-h"], capture_output=True, text=True).stdout
    prefix = pathlib.Path(re.search(r"^QEMU_LD_PREFIX\s*=\s*(\S+)", shown, re.M)[1])
    try:
        if prefix.is_symlink():
            prefix.unlink()
        prefix.parent.mkdir(parents=True, exist_ok=True)
        prefix.symlink_to(sysroot)
    except OSError as error:
        sys.exit(f"cannot show {emulator} the loader of musl: {error}")
    atexit.register(prefix.unlink, True)
    return sysroot


def loader_of(program):
    """The loader's file name, from the program's interpreter; None for a static program."""
    found = re.search(rb"/lib/(ld-musl-[a-z0-9_-]+\.so\.1)\0", program.read_bytes())
    return found and found[1].decode()


def build(target, cross, sysroot, name):
    print(f"building musl for {target['name']}", flush=True)
    bench.need_packages("make", "dpkg-dev")
    tools = cross.install_tools()
    work = sysroot.parent / f"{sysroot.name}.work"
    shutil.rmtree(work, ignore_errors=True)
    debian.source("musl", work)
    compiler = work / "zig-cc"
    compiler.write_text(f'#!/bin/sh\nexec {tools}/python -m ziglang cc -target {ZIG[target["name"]]} "$@"\n')
    compiler.chmod(0o755)
    # LIBCC: zig brings the compiler's own library by itself.
    env = os.environ | {"CC": str(compiler), "AR": f"{tools}/python -m ziglang ar", "RANLIB": "true"}
    configure = ["./configure", f"--target={ZIG[target['name']]}", "--disable-static", "LIBCC= "]
    for command in (configure, ["make", f"-j{os.cpu_count()}", "lib/libc.so"]):
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"musl: {command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    (sysroot / "lib").mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "lib/libc.so", sysroot / "lib" / name)
    shutil.rmtree(work)
