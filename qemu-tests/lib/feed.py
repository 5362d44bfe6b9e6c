"""The programs as OpenWrt's package feed would build them, run as user-mode programs.

What the feed does differently from cross/build: musl is linked dynamically, programs are position
independent, a panic says what it was before it ends the program, and the standard library is built
for speed. SETTINGS, for the crates' own tests, are those of the release profile in
lang/rust/rust-values.mk in openwrt/packages, and `cargo install --path` is what its
rust-package.mk calls. Two things stay apart: linker and C compiler are zig's, and the standard library
is compiled along (there is none ready-made for MIPS), while OpenWrt builds it with the compiler.
"""

import os
import re
import shutil
import subprocess

import bench
import binfmt
import debian
import musl
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
PACKAGE = bench.REPO / "openwrt-feed/net/ctrl-exec"


def run(checks, target, cross, build_feed, dispatcher, with_suites, no_build):
    label = f"{target['name']}-feed"
    programs = cross.target_dir() / "feed-build" / target["name"] / "bin"
    if not no_build and not checks.run(f"{label}: builds with OpenWrt's settings", build, target, cross, programs.parent):
        return
    if not checks.run(f"{label}: musl is linked dynamically", dynamic, programs):
        return
    if target["qemu"]:
        bench.need_packages("qemu-user-static")
        binfmt.enable(target)
    sysroot = musl.provide(target, cross, programs / "ctrl-exec-agent")
    checks.run(f"{label}: --version is the package's version", version, build_feed, programs)
    user.scenario(checks, {**target, "name": label}, programs, dispatcher)
    for package in ("ctrl-exec-agent", "ctrl-exec-exec"):
        if os.geteuid() == 0:
            checks.run(f"{label}: test.sh of {package}", test_sh, target, cross, build_feed, programs, sysroot, package)
        else:
            checks.skip(f"{label}: test.sh of {package}", "needs root, for chroot")
    if with_suites:
        suites.run(checks, label, target, programs, recipe(target, cross))


def makefile():
    """(cargo profile, compiler flags) that the package's Makefile asks for."""
    text = (PACKAGE / "Makefile").read_text()
    return re.search(r"^CARGO_PKG_PROFILE:=(\w+)$", text, re.M)[1], re.findall(r"^CARGO_RUSTFLAGS\+=(.*)$", text, re.M)


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
    profile, flags = makefile()
    env["RUSTFLAGS"] = " ".join([env["RUSTFLAGS"], *flags])
    env["CARGO_UNSTABLE_BUILD_STD"] = "std,panic_abort"
    calls = re.findall(r"^\t\$\(call Build/Compile/Cargo,([a-z-]+)(?:,([a-z -]+))?\)$", (PACKAGE / "Makefile").read_text(), re.M)
    expect(len(calls) == 2, calls)
    for path, more in calls:
        command = ["cargo-zigbuild", "install", "--profile", profile, "--root", str(root), "--path", path, "--locked", "--force", *more.split()]
        done = subprocess.run([*command, "--target", target["rust"]], cwd=bench.REPO, env=env, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(done.stderr[-6000:])
    for program in (root / "bin").iterdir():
        cross.elf.drop_sections(program)  # OpenWrt strips what it packs
    return ", ".join(f"{p.name} {p.stat().st_size} bytes" for p in sorted((root / "bin").iterdir()))


def recipe(target, cross):
    """For the test programs. They are many: no optimisation across crates while linking."""
    env = environment(target, cross) | {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
    return env, ["--profile", "release"]


def dynamic(programs):
    loaders = {musl.loader_of(p) for p in programs.iterdir()}
    expect(len(loaders) == 1 and None not in loaders, loaders)
    return loaders.pop()


def version(build_feed, programs):
    variables, _ = build_feed.feedmake.read(PACKAGE / "Makefile")
    for name in ("ctrl-exec-agent", "ctrl-exec-exec"):
        done = subprocess.run([programs / name, "--version"], capture_output=True, text=True)
        expect((done.returncode, done.stdout) == (0, f"{name} {variables['PKG_VERSION']}\n"), done)
    return variables["PKG_VERSION"]


def test_sh(target, cross, build_feed, programs, sysroot, name):
    """The feed CI's script in a root that holds busybox, musl and the installed package."""
    variables, sections = build_feed.feedmake.read(PACKAGE / "Makefile")
    package = build_feed.package.make_ipk(
        sections[name], variables, "1", target["openwrt"][0], lambda source: build_feed.read_source(source, programs, PACKAGE), 0
    )
    root = bench.temporary(f"root-{target['name']}")
    for directory in ("bin", "lib", "tmp", "etc", "dev", *package.dirs):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for path, (mode, content) in package.files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        (root / path).chmod(mode)
    loader = musl.loader_of(programs / name)
    shutil.copy(sysroot / "lib" / loader, root / "lib")
    # The shell is the host's; only the package's programs are the target's.
    host = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
    shutil.copy(debian.unpacked(host, ["busybox-static"], "-busybox") / "bin/busybox", root / "bin")
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
