"""Both kinds of package from the one Makefile, as build-feed makes them, with stand-ins for the
programs: the same files, each kind's own lists and scripts."""

import hashlib
import importlib.machinery
import importlib.util
import pathlib
import subprocess
import tempfile
import unittest

import apk
import ipk
import keys

FEED = pathlib.Path(__file__).resolve().parents[1]
ARCH = "mips_24kc"
EPOCH = 1_700_000_000


def build_feed():
    loader = importlib.machinery.SourceFileLoader("build_feed", str(FEED / "build-feed"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("build_feed", loader))
    loader.exec_module(module)
    return module


class Kinds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.module = build_feed()
        cls.key = keys.generate()
        with tempfile.TemporaryDirectory() as tmp:
            for name in ("ctrl-exec-agent", "ctrl-exec-exec"):
                pathlib.Path(tmp, name).write_bytes(b"\x7fELF " + name.encode())
            made = [x for m in cls.module.MAKEFILES for x in cls.module.packages(m, ARCH, pathlib.Path(tmp), EPOCH, "7", cls.key)]
        cls.faults = [f for _, _, faults, _ in made for f in faults]
        cls.made = {name: content for name, content, _, _ in made}

    def old(self, package):
        (name,) = [n for n in self.made if n.startswith(package + "_")]
        control, data = ipk.unpack(self.made[name])
        return {m.name[2:]: m.content for m in control if m.kind == "0"}, {m.name[2:]: (m.mode, m.content) for m in data if m.kind == "0"}

    def new(self, package):
        (name,) = [n for n in self.made if n.startswith(package + "-") and n.endswith(".apk")]
        return apk.read(self.made[name], keys.public_of(self.key))

    def names(self):
        return sorted(n.split("_")[0] for n in self.made if n.endswith(".ipk"))

    def test_no_faults_and_each_package_in_both_kinds(self):
        self.assertEqual(self.faults, [])
        self.assertEqual(self.names(), ["ctrl-exec-agent", "ctrl-exec-exec", "luci-app-ctrl-exec-agent"])
        self.assertEqual(len(self.made), 2 * len(self.names()))

    def test_the_same_files_in_both(self):
        for package in self.names():
            _, old = self.old(package)
            new = {p: f for p, f in self.new(package).files.items() if not p.startswith("lib/apk/")}
            self.assertEqual(new, old)

    def test_the_lists_that_openwrt_reads(self):
        found = self.new("ctrl-exec-agent")
        lists = {p.rpartition(".")[2]: c.decode() for p, (_, c) in found.files.items() if p.startswith("lib/apk/packages/ctrl-exec-agent.")}
        self.assertEqual(set(lists), {"list", "rusers", "conffiles", "conffiles_static"})
        self.assertEqual(lists["rusers"], "ctrl-exec-agent=9443:ctrl-exec-agent=9443\n")
        self.assertIn("/etc/init.d/ctrl-exec-agent\n", lists["list"])
        self.assertIn("/etc/uci-defaults/95_ctrl-exec-agent\n", lists["list"])
        for line in lists["conffiles_static"].splitlines():
            path, digest = line.split(" ")
            self.assertEqual(hashlib.sha256(found.files[path[1:]][1]).hexdigest(), digest)
        # A directory is kept as a whole; only a file that is named has its sum.
        self.assertEqual(lists["conffiles_static"].split(" ")[0], "/etc/config/ctrl-exec-agent")
        self.assertIn("/etc/ctrl-exec-agent/\n", lists["conffiles"])
        self.assertIn("/etc/ctrl-exec-agent/\n", found.files["lib/upgrade/keep.d/ctrl-exec-agent"][1].decode())

    def test_conffiles_name_each_file_once(self):
        for package in self.names():
            control, data = self.old(package)
            lines = control.get("conffiles", b"").decode().split()
            self.assertEqual(len(lines), len(set(lines)))
            self.assertLessEqual({x[1:] for x in lines}, set(data))
        control, _ = self.old("ctrl-exec-agent")
        for path in ("/etc/ctrl-exec-agent/agent.conf", "/etc/ctrl-exec-agent/scripts.conf", "/etc/config/ctrl-exec-agent"):
            self.assertIn(path, control["conffiles"].decode().split())

    def test_what_is_outside_etc_is_nobodys_configuration(self):
        """apk protects nothing outside /etc: no package may hold a file there that an owner edits."""
        for package in self.names():
            for path in self.new(package).files:
                self.assertNotRegex(path, r"^opt/")

    def test_the_luci_package(self):
        found = self.new("luci-app-ctrl-exec-agent")
        self.assertEqual((found.info["arch"], found.info["depends"]), ("noarch", ["ctrl-exec-agent", "libc", "luci-base", "rpcd-mod-ucode"]))
        self.assertTrue([n for n in self.made if n.startswith("luci-app-ctrl-exec-agent_") and n.endswith("_all.ipk")])
        for path in ("www/luci-static/resources/view/ctrl-exec-agent/status.js", "usr/share/rpcd/ucode/ctrl-exec-agent.uc", "usr/share/luci/menu.d/luci-app-ctrl-exec-agent.json"):
            self.assertIn(path, found.files)
        self.assertIn("/etc/init.d/rpcd reload", found.scripts["post-install"])

    def test_scripts_of_apk(self):
        found = self.new("ctrl-exec-agent").scripts
        self.assertEqual(set(found), {"post-install", "post-upgrade", "pre-deinstall"})
        self.assertIn("add_group_and_user\ndefault_postinst\n", found["post-install"])
        self.assertNotIn("PKG_UPGRADE", found["post-install"])
        self.assertTrue(found["post-upgrade"].startswith("#!/bin/sh\nexport PKG_UPGRADE=1\n"))
        self.assertIn('export pkgname="ctrl-exec-agent"\ndefault_prerm\n', found["pre-deinstall"])
        self.assertIn("/etc/crontabs/root", found["pre-deinstall"])
        for text in found.values():
            self.assertEqual(text.count("#!"), 1)
            self.assertEqual(subprocess.run(["sh", "-n"], input=text, text=True).returncode, 0)

    def test_twice_the_same_adb(self):
        for name, content in self.made.items():
            if name.endswith(".apk"):
                self.assertEqual(apk.read(content).info["version"].split("-r")[1], "7")
        (name,) = [n for n in self.made if n.startswith("ctrl-exec-exec-")]
        self.assertEqual(self.new("ctrl-exec-exec").info["depends"], ["ctrl-exec-agent", "libc"])


if __name__ == "__main__":
    unittest.main()
