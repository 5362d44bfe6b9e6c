"""The packages themselves: what is in them, and that everything that states the same fact agrees."""

import hashlib
import io
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
import unittest

import feedmake
import rules

REPO = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPO / "openwrt-feed/net/ctrl-exec"


class Makefile(unittest.TestCase):
    def setUp(self):
        self.variables, self.sections = feedmake.read(PACKAGE / "Makefile")

    def test_version_is_that_of_the_workspace(self):
        with open(REPO / "Cargo.toml", "rb") as f:
            version = tomllib.load(f)["workspace"]["package"]["version"]
        self.assertEqual(self.variables["PKG_VERSION"], version)
        luci, _ = feedmake.read(REPO / "openwrt-feed/applications/luci-app-ctrl-exec-agent/Makefile")
        for name in ("PKG_VERSION", "PKG_MAINTAINER", "PKG_LICENSE"):
            self.assertEqual(luci[name], self.variables[name])

    def test_every_file_is_installed_and_every_installed_file_is_there(self):
        named = {s for section in self.sections.values() for _, s, _ in section.installs if s.startswith("./files/")}
        there = {f"./files/{p.name}" for p in (PACKAGE / "files").iterdir()}
        self.assertEqual(named, there)

    def test_every_destination_has_its_directory(self):
        for section in self.sections.values():
            for _, _, destination in section.installs:
                self.assertIn(destination.rsplit("/", 1)[0], section.dirs)

    def test_configuration_survives_upgrade_and_sysupgrade(self):
        agent = self.sections["ctrl-exec-agent"]
        for path in ("/etc/ctrl-exec-agent/", "/opt/ctrl-exec-scripts/"):
            self.assertIn(path, agent.conffiles)
        for mode, _, destination in agent.installs:
            if mode == 0o600:
                self.assertTrue(any(f"/{destination}" == c or c.endswith("/") and f"/{destination}".startswith(c) for c in agent.conffiles), destination)

    def test_the_service_user_is_the_same_everywhere(self):
        user = self.sections["ctrl-exec-agent"].user
        self.assertEqual(user, "ctrl-exec-agent=9443:ctrl-exec-agent=9443")
        init = (PACKAGE / "files/ctrl-exec-agent.init").read_text()
        self.assertIn("SERVICE_USER=ctrl-exec-agent\nSERVICE_ID=9443\n", init)

    def test_an_unknown_form_is_refused(self):
        text = (PACKAGE / "Makefile").read_text().replace("\t$(INSTALL_BIN) ./files/router-status", "\t$(CP) ./files/router-status")
        with tempfile.TemporaryDirectory() as tmp:
            path = pathlib.Path(tmp, "Makefile")
            path.write_text(text)
            with self.assertRaises(feedmake.Unknown):
                feedmake.read(path)

    def test_indentation_is_that_of_the_feeds(self):
        for number, line in enumerate((PACKAGE / "Makefile").read_text().splitlines(), 1):
            self.assertNotRegex(line, r"\s+$", f"line {number}")
            self.assertNotRegex(line, r"^ (?! )|^   ", f"line {number}")


class Rules(unittest.TestCase):
    """What the packages feed would send back."""

    def faults(self, *changes, release=False):
        text = (PACKAGE / "Makefile").read_text()
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new)
        with tempfile.TemporaryDirectory() as tmp:
            tree = pathlib.Path(tmp, "net/ctrl-exec")
            shutil.copytree(PACKAGE, tree)
            (tree / "Makefile").write_text(text)
            return rules.faults(tree / "Makefile", REPO, release)

    def test_the_makefile_has_none_but_the_hash_of_a_release_to_come(self):
        self.assertEqual(self.faults(), [])
        self.assertEqual(self.faults(("PKG_HASH:=skip", "PKG_HASH:=" + "0a" * 32), release=True), [])
        self.assertEqual(len(self.faults(release=True)), 1)

    def test_each_deviation_is_found(self):
        for old, new, fault in (
            ("PKG_LICENSE:=Apache-2.0 MIT", "PKG_LICENSE:=Apache-2.0 OR MIT", "not one: OR"),
            ("  SUBMENU:=Remote Management\n", "", "SUBMENU is missing"),
            ("PKG_HASH:=skip", "PKG_HASH:=12", "no SHA-256"),
            ("PKG_HASH:=skip\n", "", "PKG_HASH is missing"),
            ("PKG_LICENSE_FILES:=LICENSE-APACHE", "PKG_LICENSE_FILES:=COPYING", "there is no COPYING"),
            ("include ../../lang/rust/rust-package.mk", "include $(TOPDIR)/feeds/packages/lang/rust/rust-package.mk", "Rust rules"),
            (".example>", ".invalid>", "PKG_MAINTAINER"),
            ("/etc/ctrl-exec-agent/\n", "/etc/ctrl-exec-agent/\n/etc/ctrl-exec-agent/agent.conf\n", "named again by its directory"),
            ("PKG_RELEASE:=1\n", "PKG_RELEASE:=1 \n", "ends in blanks"),
            ("PKG_VERSION:=0.13.0", "PKG_VERSION:=0.13.0-rc1", "PKG_VERSION"),
            ("TITLE:=Privileged executor for ctrl-exec-agent", "TITLE:=privileged executor.", "TITLE"),
            ("9443\n", "9444\n", "USERID"),
        ):
            with self.subTest(fault):
                self.assertTrue(any(fault in x for x in self.faults((old, new))), self.faults((old, new)))

    def test_the_archive_of_a_release_is_the_same_twice_and_its_hash_is_written(self):
        with tempfile.TemporaryDirectory() as tmp:
            tree = pathlib.Path(tmp, "tree")
            (tree / "openwrt-feed/net/ctrl-exec").mkdir(parents=True)
            shutil.copy(REPO / "openwrt-feed/release", tree / "openwrt-feed")
            shutil.copy(PACKAGE / "Makefile", tree / "openwrt-feed/net/ctrl-exec")
            (tree / "Cargo.toml").write_text("[workspace]\n")
            git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
            for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
                subprocess.run([*git, *command], check=True)
            made = []
            for out in ("a", "b"):
                subprocess.run([str(tree / "openwrt-feed/release"), "HEAD", f"{tmp}/{out}"], check=True, capture_output=True)
                made.append(pathlib.Path(tmp, out, "ctrl-exec-0.13.0.tar.gz").read_bytes())
            self.assertEqual(made[0], made[1])
            self.assertIn(f"PKG_HASH:={hashlib.sha256(made[0]).hexdigest()}\n", (tree / "openwrt-feed/net/ctrl-exec/Makefile").read_text())
            with tarfile.open(fileobj=io.BytesIO(made[0])) as tar:
                self.assertEqual(tar.getnames(), ["ctrl-exec-0.13.0", "ctrl-exec-0.13.0/Cargo.toml"])


class Scripts(unittest.TestCase):
    def test_shells_parse_them(self):
        for name in ("ctrl-exec-agent.init", "ctrl-exec-exec.init", "ctrl-exec-agent.defaults", "router-status", "../test.sh"):
            done = subprocess.run(["sh", "-n", str(PACKAGE / "files" / name)], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_nothing_that_a_router_lacks(self):
        for path in (PACKAGE / "files").iterdir():
            self.assertNotRegex(path.read_text(), r"^[^#]*\btr [^|]*\[:(print|graph)", path.name)
            self.assertNotRegex(path.read_text(), r"/usr/local|\[\[ |\bbash\b|grep -q", path.name)

    def test_respawn_for_ever(self):
        for name in ("ctrl-exec-agent.init", "ctrl-exec-exec.init"):
            self.assertRegex((PACKAGE / "files" / name).read_text(), r"procd_set_param respawn 3600 \d+ 0\n")

    def test_stdout_is_not_captured(self):
        for path in (PACKAGE / "files").glob("*.init"):
            self.assertFalse(re.search(r"procd_set_param stdout", path.read_text()), path.name)


if __name__ == "__main__":
    unittest.main()
