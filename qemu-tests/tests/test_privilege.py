"""Root does nothing by name below a directory of a lesser user: what such a user plants (links,
FIFOs, directories swapped in) is never followed, walked or given away.

OpenWrt's busybox follows links in `chown -R`; GNU's and Debian's do not. So the scripts get a chown
that does, and one that knows the service's user without an entry in the host's /etc/passwd. Needs
root: without it there is no lesser user."""

import os
import pathlib
import shutil
import subprocess
import unittest

from test_standin import PACKAGE, SHELL, Bench

AGENT = 9443
OTHER = 4711
CHOWN = f"""#!/bin/sh
echo "chown $*" >>ACTS
follow=""
for a in "$@"; do case "$a" in -R | -*R*) follow=-L ;; esac; done
for a in "$@"; do
	shift
	set -- "$@" "$(echo "$a" | sed 's,ctrl-exec-agent:ctrl-exec-agent$,{AGENT}:{AGENT},; s,^root:ctrl-exec-agent$,0:{AGENT},')"
done
exec /bin/chown $follow "$@"
"""
RECORD = """#!/bin/sh
echo "{name} $*" >>ACTS
exec /bin/{name} "$@"
"""


@unittest.skipIf(os.geteuid() != 0, "needs root: there is no lesser user otherwise")
class Planted(unittest.TestCase):
    def setUp(self):
        self.bench = Bench(self)
        root = self.root = self.bench.root
        root.chmod(0o755)
        for name in ("ctrl-exec-agent", "ctrl-exec-exec"):
            self.bench.write(f"etc/init.d/{name}", self.bench.rooted((PACKAGE / f"{name}.init").read_text()))
        self.bench.write("usr/lib/ctrl-exec-agent/functions.sh", self.bench.rooted((PACKAGE / "functions.sh").read_text()))
        self.bench.write("defaults", self.bench.rooted((PACKAGE / "ctrl-exec-agent.defaults").read_text()))
        self.bench.write("usr/share/ctrl-exec-agent/router-status", (PACKAGE / "router-status").read_text())
        for path in ("etc/passwd", "etc/group", "etc/shadow"):
            (root / path).write_text("ctrl-exec-agent:x:9443:9443::/:/bin/false\n")
        self.bench.write("bin/logger", f'#!/bin/sh\necho "$@" >>{root}/log\n')
        self.acts = root / "acts"
        self.bench.write("bin/chown", CHOWN.replace("ACTS", str(self.acts)))
        for name in ("chmod", "mkdir", "ln", "cp"):
            self.bench.write(f"bin/{name}", RECORD.format(name=name).replace("ACTS", str(self.acts)))
        self.bench.write("usr/bin/ctrl-exec-agent", "#!/bin/sh\nexit 0\n")
        self.conf = root / "etc/ctrl-exec-agent"
        self.conf.mkdir()
        for name in ("agent.conf", "scripts.conf"):
            shutil.copy(PACKAGE / name, self.conf / name)
            (self.conf / name).chmod(0o600)
        (root / "var/run").mkdir(parents=True)
        # What an attacker would like to have.
        self.victim = root / "victim"
        self.victim.mkdir(mode=0o700)
        (self.victim / "shadow").write_text("secret\n")
        (self.victim / "shadow").chmod(0o600)
        self.before = self.seen()

    def seen(self):
        found = {}
        for path in [self.victim, *self.victim.rglob("*")]:
            at = path.lstat()
            found[str(path)] = (at.st_uid, at.st_gid, at.st_mode)
        return found

    def as_user(self, uid, command):
        done = subprocess.run(["sh", "-c", command], cwd=self.root, user=uid, group=uid, extra_groups=[], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def give(self, path, uid, mode=0o755):
        path.mkdir(exist_ok=True)
        os.lchown(path, uid, uid)
        path.chmod(mode)

    def life(self):
        """Everything that root runs: both init scripts, cron's call, and the first boot."""
        for service, word in (
            ("ctrl-exec-exec", "start"), ("ctrl-exec-agent", "start"), ("ctrl-exec-agent", "reload"), ("ctrl-exec-agent", "adopt"),
            ("ctrl-exec-agent", "restart"), ("ctrl-exec-exec", "restart"), ("ctrl-exec-agent", "stop"),
        ):  # fmt: skip
            code, _, _ = self.bench.run(service, word)
            self.assertEqual(code, 0)
        env = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "IPKG_INSTROOT": str(self.root)}
        return subprocess.run([*SHELL, str(self.root / "defaults")], env=env, capture_output=True, text=True, timeout=60).returncode

    def untouched(self):
        self.assertEqual(self.seen(), self.before)
        acts = self.acts.read_text() if self.acts.exists() else ""
        self.assertNotRegex(acts, r"chown .*-[a-zA-Z]*R|chmod .*-R")
        return acts

    def test_links_in_the_agents_directories(self):
        self.bench.run("ctrl-exec-agent", "start")
        state, runs = self.conf / "state", self.root / "var/run/ctrl-exec-agent/runs"
        for directory in (state, runs):
            self.assertEqual((directory.stat().st_uid, directory.stat().st_mode & 0o777), (AGENT, 0o750))
            self.as_user(AGENT, f"ln -s {self.victim}/shadow {directory}/a; ln -s {self.victim} {directory}/b; mkfifo {directory}/c; mkdir -p {directory}/d/e; ln -s {self.victim} {directory}/d/e/f")
        self.acts.unlink()
        self.assertEqual(self.life(), 0)
        acts = self.untouched()
        self.assertNotIn("/state/", acts)
        self.assertNotIn("/runs/", acts)

    def test_directories_that_are_links_already(self):
        """As if the agent had owned its configuration directory once."""
        (self.conf / "state").symlink_to(self.victim)
        (self.root / "var/run/ctrl-exec-agent").symlink_to(self.victim)
        self.life()
        self.untouched()
        self.assertIn("cannot set up", (self.root / "log").read_text())

    def test_a_configuration_directory_of_a_lesser_user_is_taken_back_first(self):
        (self.conf / "state").symlink_to(self.victim)
        (self.conf / "agent.conf").unlink()
        (self.conf / "agent.conf").symlink_to(self.victim / "shadow")
        self.give(self.conf, AGENT)
        self.life()
        self.untouched()
        self.assertEqual((self.conf.stat().st_uid, self.conf.stat().st_mode & 0o777), (0, 0o750))

    def test_directories_above_that_others_own_or_write(self):
        for uid, mode in ((OTHER, 0o755), (0, 0o777), (0, 0o775)):
            with self.subTest(uid=uid, mode=oct(mode)):
                shutil.rmtree(self.root / "var/lib", ignore_errors=True)
                self.give(self.root / "var/lib", uid, mode)
                self.give(self.root / "var/run", uid, mode)
                self.life()
                self.untouched()
                self.assertEqual(list((self.root / "var/lib").iterdir()), [])
                self.assertEqual(list((self.root / "var/run").iterdir()), [])

    def test_a_sticky_directory_is_fine_and_a_name_planted_in_it_is_not(self):
        self.give(self.root / "var/run", 0, 0o1777)
        self.as_user(OTHER, f"ln -s {self.victim} var/run/ctrl-exec-agent")
        self.life()
        self.untouched()
        (self.root / "var/run/ctrl-exec-agent").unlink()
        self.as_user(OTHER, "mkdir var/run/ctrl-exec-agent")
        self.life()
        self.untouched()
        self.assertEqual(list((self.root / "var/run/ctrl-exec-agent").iterdir()), [])
        (self.root / "var/run/ctrl-exec-agent").rmdir()
        self.life()
        self.assertTrue((self.root / "var/run/ctrl-exec-agent/runs").is_dir())

    def test_the_executors_socket_below_the_agents_directory(self):
        self.bench.run("ctrl-exec-agent", "start")
        for socket in (f"{self.conf}/state/exec.sock", f"{self.conf}/state/sub/exec.sock", f"{self.conf}/state/link/exec.sock"):
            self.as_user(AGENT, f"cd {self.conf}/state && ln -sfn {self.victim} link")
            (self.conf / "agent.conf").write_text(f"executor_socket = {socket}\n")
            _, _, made = self.bench.run("ctrl-exec-exec", "start")
            self.assertEqual(made[0][3]["instances"], {}, socket)
            self.untouched()
            self.assertFalse((self.conf / "state/sub").exists())
        self.assertIn("somebody other than root", (self.root / "log").read_text())

    def test_scripts_and_crontabs_of_others(self):
        for path in ("opt", "etc/crontabs"):
            with self.subTest(path):
                self.give(self.root / path, OTHER)
                self.as_user(OTHER, f"ln -sfn {self.victim} opt/ctrl-exec-scripts" if path == "opt" else f"ln -sf {self.victim}/shadow etc/crontabs/root")
                self.life()
                self.untouched()
                self.assertEqual((self.victim / "shadow").read_text(), "secret\n")
                shutil.rmtree(self.root / path)

    def test_the_owners_scripts_keep_owner_group_and_mode(self):
        self.assertEqual(self.life(), 0)
        scripts = self.root / "opt/ctrl-exec-scripts"
        self.assertEqual([p.name for p in scripts.iterdir()], ["router-status"])
        self.assertEqual((scripts / "router-status").stat().st_mode & 0o777, 0o755)
        (scripts / "router-status").write_text("mine\n")
        os.chown(scripts / "router-status", 1000, 65534)
        (scripts / "router-status").chmod(0o750)
        (scripts / "busybox").symlink_to(self.victim / "shadow")
        self.assertEqual(self.life(), 0)
        self.untouched()
        at = (scripts / "router-status").stat()
        self.assertEqual((at.st_uid, at.st_gid, at.st_mode & 0o777), (1000, 65534, 0o750))
        self.assertEqual((scripts / "router-status").read_text(), "mine\n")
        # A script that the owner deleted does not come back.
        (scripts / "router-status").unlink()
        self.assertEqual(self.life(), 0)
        self.assertFalse((scripts / "router-status").exists())

    def test_configuration_becomes_readable_for_the_agent_and_other_groups_stay(self):
        os.chown(self.conf / "scripts.conf", 0, OTHER)
        self.life()
        at = (self.conf / "agent.conf").stat()
        self.assertEqual((at.st_uid, at.st_gid, at.st_mode & 0o777), (0, AGENT, 0o640))
        at = (self.conf / "scripts.conf").stat()
        self.assertEqual((at.st_uid, at.st_gid, at.st_mode & 0o777), (0, OTHER, 0o600))

    def test_the_stand_in_chown_follows_links_as_openwrts_does(self):
        (self.root / "d").mkdir()
        (self.root / "d/a").symlink_to(self.victim / "shadow")
        subprocess.run([str(self.root / "bin/chown"), "-R", "ctrl-exec-agent:ctrl-exec-agent", str(self.root / "d")], check=True)
        self.assertEqual((self.victim / "shadow").stat().st_uid, AGENT)

    def test_no_script_of_the_package_recurses(self):
        for path in [*PACKAGE.iterdir(), PACKAGE.parent / "Makefile"]:
            if path.is_file():
                self.assertNotRegex(path.read_text(), r"\b(chown|chmod|chgrp) +-[a-zA-Z]*R", path.name)


if __name__ == "__main__":
    unittest.main()
