"""The packages themselves: what is in them, and that everything that states the same fact agrees."""

import pathlib
import re
import subprocess
import tomllib
import unittest

import feedmake

REPO = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPO / "openwrt-feed/net/ctrl-exec"


class Makefile(unittest.TestCase):
    def setUp(self):
        self.variables, self.sections = feedmake.read(PACKAGE / "Makefile")

    def test_version_is_that_of_the_workspace(self):
        with open(REPO / "Cargo.toml", "rb") as f:
            self.assertEqual(self.variables["PKG_VERSION"], tomllib.load(f)["workspace"]["package"]["version"])

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
        confs = {"/" + d for mode, _, d in agent.installs if mode == 0o600}
        self.assertLessEqual(confs, set(agent.conffiles))

    def test_the_service_user_is_the_same_everywhere(self):
        user = self.sections["ctrl-exec-agent"].user
        self.assertEqual(user, "ctrl-exec-agent=9443:ctrl-exec-agent=9443")
        init = (PACKAGE / "files/ctrl-exec-agent.init").read_text()
        self.assertIn("SERVICE_USER=ctrl-exec-agent\nSERVICE_ID=9443\n", init)

    def test_an_unknown_form_is_refused(self):
        import tempfile

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


class Scripts(unittest.TestCase):
    def test_shells_parse_them(self):
        for name in ("ctrl-exec-agent.init", "ctrl-exec-exec.init", "ctrl-exec-agent.defaults", "router-status", "../test.sh"):
            done = subprocess.run(["sh", "-n", str(PACKAGE / "files" / name)], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_nothing_that_a_router_lacks(self):
        for path in (PACKAGE / "files").iterdir():
            self.assertNotRegex(path.read_text(), r"/usr/local|\[\[ |\bbash\b|grep -q", path.name)

    def test_respawn_for_ever(self):
        for name in ("ctrl-exec-agent.init", "ctrl-exec-exec.init"):
            self.assertRegex((PACKAGE / "files" / name).read_text(), r"procd_set_param respawn 3600 \d+ 0\n")

    def test_stdout_is_not_captured(self):
        for path in (PACKAGE / "files").glob("*.init"):
            self.assertFalse(re.search(r"procd_set_param stdout", path.read_text()), path.name)


if __name__ == "__main__":
    unittest.main()
