"""musl's dynamic loader, which is musl itself, for programs that link it dynamically. Debian has none for
soft-float MIPS: there it is built from Debian's source with zig, in about a minute."""

import atexit
import os
import pathlib
import re
import shutil
import subprocess
import sys

import bench
import debian

# Debian's architecture, or zig's name of a target that Debian has no musl for.
DEBIAN = {"armv5": "armel", "armv6": "armhf", "armv7": "armhf", "aarch64": "arm64"}
ZIG = {"mips": "mips-linux-musleabi", "mipsel": "mipsel-linux-musleabi"}


def provide(target, cross, program):
    """Makes dynamically linked programs of the target start, like `program`, for the time of the test."""
    name = loader_of(program)
    if not target["qemu"]:
        bench.need_packages("musl")
        return pathlib.Path("/")
    sysroot = debian.CACHE / f"musl-{target['name']}"
    if not (sysroot / "lib" / name).exists():
        fetch = build if target["name"] in ZIG else unpack
        (sysroot / "lib").mkdir(parents=True, exist_ok=True)
        fetch(target, cross, sysroot / "lib" / name)
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


def unpack(target, _cross, loader):
    found = debian.unpacked(DEBIAN[target["name"]], ["musl"], "-musl")
    (library,) = found.glob("lib/*/libc.so")
    shutil.copy(library, loader)


def build(target, cross, loader):
    print(f"building musl for {target['name']}", flush=True)
    bench.need_packages("make", "dpkg-dev")
    zig, interface = [str(cross.install_tools() / "python"), "-m", "ziglang"], ZIG[target["name"]]
    work = debian.CACHE / f"musl-{target['name']}.work"
    shutil.rmtree(work, ignore_errors=True)
    debian.source("musl", work)
    compiler = work / "zig-cc"
    # Linking is done below.
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) exit 0 ;; esac\nexec {" ".join(zig)} cc -target {interface} "$@"\n')
    compiler.chmod(0o755)

    def run(*command):
        done = subprocess.run(command, cwd=work, env=os.environ | {"CC": str(compiler)}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"musl: {' '.join(command)[:200]} failed:\n{(done.stdout + done.stderr)[-3000:]}")

    run("./configure", f"--target={interface}", "--disable-static", "LIBCC= ")
    run("make", f"-j{os.cpu_count()}", "lib/libc.so")
    (work / "empty.c").write_text("int empty;\n")
    run(*zig, "build-lib", "-static", "-target", interface, "-fcompiler-rt", "-fPIC", "-OReleaseSmall", "--name", "rt", "empty.c")
    # The compiler's library has hidden functions of these names too, and would make musl's hidden.
    runtime = (work / "librt.a").read_bytes()
    for name in (b"memcpy", b"memmove", b"memset", b"memcmp", b"bcmp"):
        runtime = runtime.replace(b"\0" + name + b"\0", b"\0_" + name[1:] + b"\0")
    (work / "librt.a").write_bytes(runtime)
    objects = sorted(str(p) for p in work.glob("obj/**/*.lo"))
    link = ["ld.lld", "-m", "elf32btsmip" if target["name"] == "mips" else "elf32ltsmip", "-shared", "-e", "_dlstart", "--gc-sections"]
    run(*zig, *link, "-Bsymbolic-functions", "--dynamic-list=dynamic.list", "-o", str(loader), *objects, "librt.a")
    shutil.rmtree(work)
