"""The programs as OpenWrt's package feed would build them, run as user-mode programs.

What the feed does differently from cross/build: the release profile, set by environment variables;
panics unwind; arithmetic overflow panics; musl is linked dynamically. SETTINGS are those of
lang/rust/rust-values.mk in openwrt/packages, and `cargo install --path` is what its
rust-package.mk calls. Two things stay apart: linker and C compiler are zig's, and the standard library
is compiled along (there is none ready-made for MIPS), while OpenWrt builds it with the compiler.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import bench
import binfmt
import debian
import suites
import user
from bench import Failed, expect

SETTINGS = {
    "CODEGEN_UNITS": "1",
    "DEBUG": "false",
    "DEBUG_ASSERTIONS": "false",
    "LTO": "true",
    "OPT_LEVEL": "z",
    "OVERFLOW_CHECKS": "true",
    "PANIC": "unwind",
    "RPATH": "false",
}
# Debian architecture that has the target's musl. There is none for soft-float MIPS.
MUSL = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf", "armv6": "armhf", "armv5": "armel"}
PACKAGE = bench.REPO / "openwrt-feed/net/ctrl-exec"


def run(checks, target, cross, build_feed, dispatcher, with_suites, no_build):
    label = f"{target['name']}-feed"
    if target["name"] not in MUSL:
        checks.skip(label, "Debian has no musl for it to run with")
        return
    programs = cross.target_dir() / "feed-build" / target["name"] / "bin"
    if not no_build and not checks.run(f"{label}: builds with OpenWrt's settings", build, target, cross, programs.parent):
        return
    sysroot = musl(target)
    if target["qemu"]:
        bench.need_packages("qemu-user-static")
        binfmt.enable(target)
        give_loader(target, sysroot)
    else:
        bench.need_packages("musl")
    checks.run(f"{label}: musl is linked dynamically", dynamic, programs)
    checks.run(f"{label}: --version is the package's version", version, build_feed, programs)
    user.scenario(checks, {**target, "name": label}, programs, dispatcher)
    for package in ("ctrl-exec-agent", "ctrl-exec-exec"):
        if os.geteuid() == 0:
            checks.run(f"{label}: test.sh of {package}", test_sh, target, cross, build_feed, programs, sysroot, package)
        else:
            checks.skip(f"{label}: test.sh of {package}", "needs root, for chroot")
    if with_suites:
        suites.run(checks, label, target, programs, recipe(target, cross))


def environment(target, cross):
    env = cross.environment(target, cross.install_tools())
    del env["CARGO_ENCODED_RUSTFLAGS"]
    env.pop(f"CFLAGS_{target['rust'].replace('-', '_')}")
    # -crt-static is the feed's; the others make zig link dynamically, with its own start files.
    env["RUSTFLAGS"] = "-Ctarget-feature=-crt-static -Clink-self-contained=no -Clink-arg=-dynamic"
    env["CARGO_UNSTABLE_BUILD_STD"] = "std,panic_unwind,test"
    return env | {f"CARGO_PROFILE_RELEASE_{key}": value for key, value in SETTINGS.items()}


def build(target, cross, root):
    """What the Makefile's Build/Compile does."""
    env = environment(target, cross)
    paths = re.findall(r"^\t\$\(call Build/Compile/Cargo,([a-z-]+)\)$", (PACKAGE / "Makefile").read_text(), re.M)
    expect(len(paths) == 2, paths)
    for path in paths:
        command = ["cargo-zigbuild", "install", "--profile", "release", "--root", str(root), "--path", path, "--locked", "--force"]
        done = subprocess.run([*command, "--target", target["rust"]], cwd=bench.REPO, env=env, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(done.stderr[-6000:])
    return ", ".join(f"{p.name} {p.stat().st_size} bytes" for p in sorted((root / "bin").iterdir()))


def recipe(target, cross):
    """For the test programs. They are many: no optimisation across crates while linking."""
    env = environment(target, cross) | {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
    return env, ["--profile", "release"]


def musl(target):
    """A directory with nothing but the dynamic loader, which is musl itself."""
    arch = MUSL[target["name"]]
    found = debian.unpacked(arch, ["musl", "busybox-static"], "-musl")
    lib = found / "sysroot/lib"
    if not lib.exists():
        (link,) = found.glob("lib/ld-musl-*.so.1")
        (library,) = found.glob("lib/*/libc.so")
        lib.mkdir(parents=True)
        shutil.copy(library, lib / link.name)
    return lib.parent


def give_loader(target, sysroot):
    """Puts the loader where this emulator looks for those of its programs, for the time of the test."""
    import atexit

    emulator = shutil.which(f"qemu-{target['qemu']}-static") or f"qemu-{target['qemu']}"
    shown = subprocess.run([emulator, "-h"], capture_output=True, text=True).stdout
    prefix = pathlib.Path(re.search(r"^QEMU_LD_PREFIX\s*=\s*(\S+)", shown, re.M)[1])
    if prefix.is_symlink():
        prefix.unlink()
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        prefix.symlink_to(sysroot)
    except OSError as error:
        sys.exit(f"cannot give {emulator} the loader of musl: {error}")
    atexit.register(prefix.unlink, True)


def dynamic(programs):
    loaders = {re.search(rb"/lib/ld-musl-[a-z0-9_-]+\.so\.1", p.read_bytes()) for p in programs.iterdir()}
    expect(None not in loaders, loaders)
    return loaders.pop()[0].decode()


def version(build_feed, programs):
    variables, _ = build_feed.feedmake.read(PACKAGE / "Makefile")
    for name in ("ctrl-exec-agent", "ctrl-exec-exec"):
        done = subprocess.run([programs / name, "--version"], capture_output=True, text=True)
        expect((done.returncode, done.stdout) == (0, f"{name} {variables['PKG_VERSION']}\n"), done)
    return variables["PKG_VERSION"]


def test_sh(target, cross, build_feed, programs, sysroot, name):
    """The feed CI's script in a root that holds busybox, musl and the installed package."""
    variables, sections = build_feed.feedmake.read(PACKAGE / "Makefile")
    package = build_feed.make_package(sections[name], variables, "1", target["openwrt"][0], programs, 0)
    root = bench.temporary(f"root-{target['name']}")
    for directory in ("bin", "lib", "tmp", "etc", "dev", *package.dirs):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for path, (mode, content) in package.files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        (root / path).chmod(mode)
    for loader in (sysroot / "lib").iterdir():
        shutil.copy(loader, root / "lib")
    shutil.copy(sysroot.parent / "bin/busybox", root / "bin")
    shutil.copy(PACKAGE / "test.sh", root / "test.sh")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/var:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "dev/null").touch()
    script = f"/bin/busybox --install -s /bin && exec sh /test.sh {name} {variables['PKG_VERSION']}"
    done = subprocess.run(
        ["chroot", root, "/bin/busybox", "sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=bench.PATIENCE,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
