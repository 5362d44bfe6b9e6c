"""The stand-in for apk with real bytes of a package, in a root of busybox. Needs root (chroot) and a
static busybox; says so without."""

import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
STANDIN = HERE.parent / "standin"
sys.path.insert(0, str(HERE.parents[1] / "openwrt-feed/lib"))
import apk  # noqa: E402



def static(path):
    """Whether a 64-bit program names no loader (PT_INTERP)."""
    if not os.path.exists(path):
        return False
    head = pathlib.Path(path).read_bytes()[:4096]
    start, (size, count) = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<HH", head, 54)
    return all(struct.unpack_from("<I", head, start + n * size)[0] != 3 for n in range(count))


BUSYBOX = next((p for p in ("/usr/bin/busybox", "/bin/busybox") if static(p)), None)


@unittest.skipUnless(os.geteuid() == 0 and BUSYBOX, "needs root and a static busybox (busybox-static)")
class StandIn(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        for d in ("bin", "sbin", "tmp", "dev", "usr/lib/procd-standin", "lib"):
            (self.root / d).mkdir(parents=True)
        shutil.copy(BUSYBOX, self.root / "bin/busybox")
        subprocess.run(["chroot", self.root, "/bin/busybox", "--install", "-s", "/bin"], check=True)
        (self.root / "dev/null").touch()
        shutil.copy(STANDIN / "apk", self.root / "sbin")
        shutil.copy(STANDIN / "adb.awk", self.root / "usr/lib/procd-standin")

    def apk(self, *arguments, code=0):
        done = subprocess.run(["chroot", self.root, "/sbin/apk", *arguments], env={"PATH": "/sbin:/bin"}, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def package(self, version, default):
        scripts = {n: f"#!/bin/sh\necho {n} {version} >>/said\n" for n in ("post-install", "post-upgrade", "pre-deinstall")}
        info = {"name": "sample", "version": version, "description": "x", "arch": "noarch", "license": "MIT"}
        files = {"etc/sample.conf": (0o600, default), "usr/sbin/tool": (0o755, bytes(range(256)) * 300), "etc/empty": (0o644, b"")}
        path = self.root / f"tmp/sample-{version}.apk"
        path.write_bytes(apk.build(apk.Package(info, ["libc"], files, {"var/spool": 0o755}, scripts), 0))
        return f"/tmp/{path.name}"

    def test_add_upgrade_and_del(self):
        self.apk("add", self.package("1-r1", b"one\n"))
        tool = self.root / "usr/sbin/tool"
        self.assertEqual((tool.read_bytes(), tool.stat().st_mode & 0o777), (bytes(range(256)) * 300, 0o755))
        self.assertEqual((self.root / "etc/sample.conf").stat().st_mode & 0o777, 0o600)
        self.assertTrue((self.root / "var/spool").is_dir() and (self.root / "etc/empty").exists())
        # Unedited: replaced. Edited: kept, the new one beside it.
        self.apk("add", self.package("1-r2", b"two\n"))
        self.assertEqual((self.root / "etc/sample.conf").read_text(), "two\n")
        (self.root / "etc/sample.conf").write_text("mine\n")
        self.apk("add", self.package("1-r3", b"three\n"))
        self.assertEqual((self.root / "etc/sample.conf").read_text(), "mine\n")
        self.assertEqual((self.root / "etc/sample.conf.apk-new").read_text(), "three\n")
        self.apk("del", "sample")
        self.assertFalse(tool.exists())
        self.assertEqual((self.root / "etc/sample.conf").read_text(), "mine\n")
        said = (self.root / "said").read_text().splitlines()
        self.assertEqual(said, ["post-install 1-r1", "post-upgrade 1-r2", "post-upgrade 1-r3", "pre-deinstall 1-r3"])

    def test_what_is_damaged_is_refused(self):
        path = self.root / self.package("1-r1", b"one\n").lstrip("/")
        good = path.read_bytes()
        for bad in (b"", good[:200], b"junk" + good[4:]):
            path.write_bytes(bad)
            self.apk("add", f"/tmp/{path.name}", code=1)
        self.assertFalse((self.root / "usr/sbin/tool").exists())


if __name__ == "__main__":
    unittest.main()
