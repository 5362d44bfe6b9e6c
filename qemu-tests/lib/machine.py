"""Booted machines of 64 MB that live a router's life: install, pair, run, renew, reboot, upgrade,
remove. The kernel is Debian's (big-endian MIPS: built from Debian's source), user space is busybox,
our packages and the stand-ins for OpenWrt's base system."""

import base64
import functools
import glob
import http.server
import io
import os
import pathlib
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time

import bench
import debian
import lifecycle
from bench import Failed, Process

HERE = pathlib.Path(__file__).resolve().parents[1]
VIRTIO = "virtio virtio_ring virtio_mmio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net".split()

# Debian architecture, kernel package and file, QEMU program with its machine, modules for the network
MACHINES = {
    "malta-el": {
        "debian": "mipsel", "kernel": "linux-image-4kc-malta", "file": "boot/vmlinu[xz]-*",
        "qemu": "qemu-system-mipsel -M malta -cpu 24Kc", "nic": "pcnet", "console": "ttyS0",
        "modules": ["mii", "pcnet32"], "memory": 64,
    },
    "malta-be": {
        "debian": None, "kernel": None, "file": "vmlinux",
        "qemu": "qemu-system-mips -M malta -cpu 24Kc", "nic": "pcnet", "console": "ttyS0", "modules": [], "memory": 64,
    },
    "virt-armv7": {
        "debian": "armhf", "kernel": "linux-image-armmp", "file": "boot/vmlinuz-*",
        "qemu": "qemu-system-arm -M virt -cpu cortex-a7", "nic": "virtio-net-device", "console": "ttyAMA0", "modules": VIRTIO, "memory": 64,
    },
    # Debian's arm64 kernel is built for servers: it needs more than 64 MB before the first program.
    "virt-aarch64": {
        "debian": "arm64", "kernel": "linux-image-arm64", "file": "boot/vmlinuz-*",
        "qemu": "qemu-system-aarch64 -M virt -cpu cortex-a53", "nic": "virtio-net-device", "console": "ttyAMA0", "modules": VIRTIO, "memory": 128,
    },
}  # fmt: skip


def scenario(checks, target, cross, dispatcher_program):
    """The life of one router of this architecture."""
    # QEMU's package only recommends the firmware of the display and network cards it gives a machine.
    bench.need_packages("qemu-system-mips" if "mips" in target["name"] else "qemu-system-arm", "seabios", "ipxe-qemu", "dpkg-dev")
    directory = bench.temporary(f"system-{target['name']}")
    feed = directory / "feed"
    programs = cross.target_dir() / "dist" / target["name"]
    for release, tree in (("1", None), ("2", None), ("3", directory / "changed")):
        command = [str(bench.REPO / "openwrt-feed/build-feed"), "--no-build", "--out", str(feed / release), "--release", release, target["openwrt"][0]]
        env = dict(os.environ, CARGO_TARGET_DIR=str(tree)) if tree else None
        if tree:
            # Programs that are other files and do the same.
            (tree / "dist" / target["name"]).mkdir(parents=True)
            for name in ("ctrl-exec-agent", "ctrl-exec-exec"):
                (tree / "dist" / target["name"] / name).write_bytes((programs / name).read_bytes() + b"\n")
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            checks.run(f"{target['name']}: packages", lambda: (_ for _ in ()).throw(Failed(done.stdout + done.stderr)))
            return
    for kind in os.environ.get("PACKAGES", "ipk apk").split():
        place = directory / kind
        place.mkdir()
        router = Router(target, place, feed, kind)
        try:
            lifecycle.run(checks, target, router, bench.Dispatcher(dispatcher_program, place))
        finally:
            router.close()


class Router:
    """One machine, booted as often as wanted; what is on its flash survives."""

    def __init__(self, target, directory, feed, packages):
        self.target, self.directory, self.feed = target, directory, feed
        self.packages = packages  # "ipk" or "apk"
        self.kind = MACHINES[target["system"]]
        self.arch = target["openwrt"][0]
        self.name = f"router-{target['name']}"
        self.port, self.control_port = bench.free_port(), bench.free_port()
        self.kernel, self.base = base_system(target["system"], self.kind, self.arch)
        self.flash = []  # archive members
        self.process = None
        self.server = _serve(feed)

    def boot(self, clock=None):
        """Boots, and returns the seconds the machine counted until its services were started."""
        image = self.directory / "initramfs"
        image.write_bytes(self.base + (cpio(self.flash) if self.flash else b""))
        words = f"console={self.kind['console']} quiet panic=-1 rdinit=/init host={self.name}" + (f" clock={clock}" if clock is not None else "")
        net = f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:7443,hostfwd=tcp:127.0.0.1:{self.control_port}-:7000"
        command = [
            *self.kind["qemu"].split(), "-m", str(self.kind["memory"]), "-nographic", "-no-reboot", "-monitor", "none",
            "-kernel", str(self.kernel), "-initrd", str(image), "-append", words,
            "-netdev", net, "-device", f"{self.kind['nic']},netdev=net",
        ]  # fmt: skip
        self.process = Process(command)
        booted = self.process.wait_for(r"^BOOTED ([0-9.]+)", 300)
        self.run("true")
        return float(booted[1])

    def run(self, script, code=0, limit=180):
        """Runs shell commands on the machine; their output. `code` None takes any exit code."""
        deadline = time.monotonic() + limit
        while True:
            try:
                text = self._exchange(script, deadline)
                break
            except (OSError, EOFError) as error:
                # QEMU accepts before the machine listens, and then closes.
                if time.monotonic() > deadline or self.process.child.poll() is not None:
                    raise Failed(f"no answer from the machine ({error}):\n{self.console()}") from error
                time.sleep(0.3)
        found = re.search(r"\n__EXIT__ (\d+)\n$", text)
        output = text[: found.start()]
        if code is not None and int(found[1]) != code:
            raise Failed(f"exit code {found[1]}, not {code}, of:\n{script}\n{output}")
        return output

    def reboot(self, clock=None):
        """Cuts the power and boots again with what is on flash. Nothing is shut down in order."""
        self.save()
        self.process.stop()
        return self.boot(clock)

    def save(self):
        text = self.run("tar -cf - /etc /opt /usr /lib/upgrade /lib/apk 2>/dev/null | base64")
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text))) as tar:
            self.flash = [
                (m.name, m.mode, m.uid, m.gid, int(m.mtime), "l" if m.issym() else "d" if m.isdir() else "f",
                 m.linkname.encode() if m.issym() else tar.extractfile(m).read() if m.isfile() else b"")
                for m in tar
            ]  # fmt: skip

    def wait_until(self, script, what, limit=90):
        """Polls a command on the machine until it succeeds."""
        deadline = time.monotonic() + limit
        while True:
            begin = self._try(script)
            if begin:
                return
            if time.monotonic() > deadline:
                raise Failed(f"not within {limit} s: {what}\n{self.log()}")
            time.sleep(0.5)

    def log(self):
        return self.run("logread | tail -n 40; ps", code=None)

    def console(self):
        return self.process.text()[-3000:]

    def url(self, release, package):
        pattern = f"{package}_*.ipk" if self.packages == "ipk" else f"{package}-[0-9]*.apk"
        (found,) = (self.feed / release / self.arch).glob(pattern)
        return f"http://10.0.2.2:{self.server.server_port}/{release}/{self.arch}/{found.name}"

    def install(self, *packages):
        """Installs or upgrades what `bench.fetch` brought; what the installer says."""
        files = " ".join(f"/tmp/{p}.{self.packages}" for p in packages)
        return self.run(f"opkg install {files}" if self.packages == "ipk" else f"apk add {files}")

    def close(self):
        if self.process:
            self.process.stop()
        self.server.shutdown()

    def _try(self, script):
        return self.run(f"({script}) >/dev/null 2>&1 && echo yes", code=None).strip() == "yes"

    def _exchange(self, script, deadline):
        with socket.create_connection(("127.0.0.1", self.control_port), timeout=10) as s:
            s.settimeout(max(5, deadline - time.monotonic()))
            s.sendall(script.encode() + b"\n__END__\n")
            text = b""
            while b"\n__EXIT__ " not in text or not text.endswith(b"\n"):
                data = s.recv(65536)
                if not data:
                    raise EOFError("connection closed")
                text += data
            return text.decode("utf-8", "replace")


def base_system(name, kind, arch):
    """(kernel file, cpio archive of everything but our packages)"""
    if kind["debian"]:
        root = debian.unpacked(kind["debian"], [kind["kernel"], "busybox-static"])
        kernel = pathlib.Path(glob.glob(str(root / kind["file"]))[0])
        busybox = (root / "bin/busybox").read_bytes()
    else:
        if subprocess.run([str(HERE / "system/build-malta-be")]).returncode:
            sys.exit("cannot build the big-endian kernel")
        root = debian.CACHE / "malta-be"
        kernel, busybox = root / "vmlinux", (root / "busybox").read_bytes()
    standin, system = HERE / "standin", HERE / "system"
    files = [
        ("bin/busybox", 0o755, busybox),
        ("init", 0o755, (system / "init").read_bytes()),
        ("lib/control", 0o755, (system / "control").read_bytes()),
        ("etc/rc.common", 0o755, (standin / "rc.common").read_bytes()),
        ("lib/functions.sh", 0o644, (standin / "functions.sh").read_bytes()),
        ("sbin/ubus", 0o755, (standin / "ubus").read_bytes()),
        ("sbin/opkg", 0o755, (standin / "opkg").read_bytes()),
        ("sbin/apk", 0o755, (standin / "apk").read_bytes()),
        ("usr/lib/procd-standin/adb.awk", 0o644, (standin / "adb.awk").read_bytes()),
        ("sbin/uci", 0o755, (standin / "uci").read_bytes()),
        ("sbin/reload_config", 0o755, (standin / "reload_config").read_bytes()),
        ("usr/lib/procd-standin/flatten.awk", 0o644, (standin / "flatten.awk").read_bytes()),
        ("usr/lib/procd-standin/supervise", 0o755, (standin / "supervise").read_bytes()),
        ("etc/opkg.conf", 0o644, f"arch all 1\narch noarch 1\narch {arch} 10\n".encode()),
        ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/var:/bin/false\n"),
        ("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n"),
        ("etc/shadow", 0o600, b"root:*:0:0:99999:7:::\n"),
        ("etc/openwrt_release", 0o644, b"DISTRIB_DESCRIPTION='test machine'\n"),
    ]
    modules = []
    for module in kind["modules"]:
        for path in glob.glob(str(root / f"lib/modules/*/kernel/**/{module}.ko"), recursive=True):
            files.append((f"lib/modules/{module}.ko", 0o644, pathlib.Path(path).read_bytes()))
            modules.append(f"/lib/modules/{module}.ko")
    files.append(("lib/modules-to-load", 0o644, "\n".join(modules).encode()))
    dirs = {"proc", "sys", "dev", "tmp", "root", "opt", "etc/rc.d", "etc/init.d", "usr/bin", "usr/sbin", "lib/upgrade/keep.d", "mnt"}
    for path, _, _ in files:
        parts = path.split("/")[:-1]
        dirs.update("/".join(parts[: i + 1]) for i in range(len(parts)))
    for path in list(dirs):
        parts = path.split("/")
        dirs.update("/".join(parts[: i + 1]) for i in range(len(parts)))
    members = [(d, 0o755, 0, 0, 0, "d", b"") for d in sorted(dirs)]
    members += [(p, mode, 0, 0, 0, "f", content) for p, mode, content in files]
    members += [("var", 0o777, 0, 0, 0, "l", b"tmp"), ("bin/sh", 0o777, 0, 0, 0, "l", b"busybox"), ("dev/console", 0o600, 0, 0, 0, "c", b"")]
    return kernel, cpio(members)


def cpio(members):
    """A newc archive; later members and archives replace earlier ones in the kernel's root."""
    out = bytearray()
    bits = {"d": 0o040000, "f": 0o100000, "l": 0o120000, "c": 0o020000}

    def entry(number, path, mode, uid, gid, mtime, content, device=(0, 0)):
        name = path.encode() + b"\0"
        fields = [number, mode, uid, gid, 1, mtime, len(content), 0, 0, *device, len(name), 0]
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name)
        out.extend(bytes(-len(out) % 4))
        out.extend(content)
        out.extend(bytes(-len(out) % 4))

    for number, (path, mode, uid, gid, mtime, kind, content) in enumerate(members, 1):
        entry(number, path.strip("/"), bits[kind] | (mode & 0o7777), uid, gid, max(0, mtime), content, (5, 1) if kind == "c" else (0, 0))
    entry(0, "TRAILER!!!", 0, 0, 0, 0, b"")
    out.extend(bytes(-len(out) % 512))
    return bytes(out)


def _serve(directory):
    """Hands the packages to the machine, which reaches this host as 10.0.2.2."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
