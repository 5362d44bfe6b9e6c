"""rc.common's stand-in makes the calls that the real one was recorded to make, and our own init
scripts make the ones they should."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
STANDIN = HERE.parent / "standin"
PACKAGE = HERE.parents[1] / "openwrt-feed/net/ctrl-exec/files"
RECORDED = json.loads((HERE / "procd-calls.json").read_text())
FURTHER = {
    "s2": 'start_service() { procd_open_instance; procd_set_param command /bin/x; procd_set_param reload_signal %s; procd_close_instance; }\n'
    "reload_service() { procd_send_signal s2 '*' %s; }\n",
    "s3": "start_service() { procd_open_instance; procd_set_param command /bin/x; procd_close_instance; }\n"
    "reload_service() { procd_send_signal s3; procd_send_signal s3 instance1 TERM; procd_send_signal s3 '*' 12; stop; start; }\n",
    "s4": "start_service() {\n"
    "procd_open_instance; procd_set_param command /bin/x; procd_set_param respawn; procd_close_instance\n"
    "procd_open_instance; procd_set_param command /bin/x; procd_set_param respawn 60; procd_close_instance\n"
    "procd_open_instance; procd_set_param command /bin/x; procd_set_param respawn 3600 5 5; procd_set_param stdout 0\n"
    "procd_set_param no_new_privs; procd_set_param term_timeout; procd_set_param nonsense 1; procd_close_instance; }\n",
    "s5": "start_service() { return 1; }\n",
    "s6": "start_service() { exit 3; }\n",
}
STUB = """#!/bin/sh
for a in "$@"; do printf '%s\\n' "$a"; done >>"$CALLS"
echo >>"$CALLS"
[ "$3" = list ] && [ -n "$LIST_ANSWER" ] && printf '%s\\n' "$LIST_ANSWER"
exit 0
"""
SHELL = ["dash"] if shutil.which("dash") else ["sh"]  # busybox would take its own logger


class Bench:
    """A directory with the stand-in, a stub ubus and init scripts."""

    def __init__(self, case):
        self.root = pathlib.Path(tempfile.mkdtemp())
        case.addCleanup(shutil.rmtree, self.root)
        for d in ("lib", "etc/init.d", "etc/rc.d", "bin"):
            (self.root / d).mkdir(parents=True)
        shutil.copy(STANDIN / "functions.sh", self.root / "lib")
        self.write("bin/ubus", STUB)
        self.answer = ""

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        (self.root / path).chmod(0o755)

    def rooted(self, text):
        """A script of the package that works below this directory."""
        for path in ("/usr/bin/", "/usr/sbin/", "/usr/share/", "/etc/ctrl-exec-agent", "/etc/crontabs", "/var/", "/opt"):
            text = re.sub(rf"(?<![\w/]){re.escape(path)}", f"{self.root}{path}", text)
        return text

    def run(self, service, *arguments):
        """(exit code, printed lines, ubus calls with the last element decoded)"""
        calls = self.root / "calls"
        calls.write_text("")
        env = {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "IPKG_INSTROOT": str(self.root),
            "CALLS": str(calls),
            "LIST_ANSWER": self.answer,
        }
        script = f"{self.root}/etc/init.d/{service}"
        done = subprocess.run([*SHELL, str(STANDIN / "rc.common"), script, *arguments], env=env, capture_output=True, text=True)
        made = []
        for block in calls.read_text().replace(str(self.root), "").split("\n\n"):
            if words := block.strip("\n").split("\n"):
                if words != [""]:
                    made.append([*words[:-1], json.loads(words[-1])])
        printed = (done.stdout + done.stderr).replace(str(self.root), "")
        return done.returncode, [x for x in printed.split("\n") if x], made


class Recorded(unittest.TestCase):
    def setUp(self):
        self.bench = Bench(self)
        for name, text in RECORDED["sample_init_scripts_of_our_own"].items():
            self.bench.write(f"etc/init.d/{name}", text)

    def test_calls(self):
        self.assertEqual(len(RECORDED["calls"]), 28)
        for call in RECORDED["calls"]:
            with self.subTest(call["run"]):
                code, printed, made = self.bench.run(*call["run"].split(" "))
                self.assertEqual(made, call["ubus"])
                self.assertEqual(code, call["exit"])
                # The real one's JSON reader complains of the stub's empty answer.
                want = [x for x in call.get("printed", []) if not x.startswith("Failed to parse json")]
                self.assertEqual([x.strip() for x in printed], [x.strip() for x in want])

    def test_further_calls(self):
        tried = 0
        for call in RECORDED["further_calls"]:
            run = call["run"]
            if run.startswith("reload_signal "):
                name, text, commands = "s2", FURTHER["s2"].replace("%s", run.split(" ")[1]), [["start"], ["reload"]]
            elif run in ("s3 reload", "respawn forms", "s5 start with failing start_service", "start arg", "s6 exit 3 in start_service"):
                name, commands = {
                    "s3 reload": ("s3", [["reload"]]),
                    "respawn forms": ("s4", [["start"]]),
                    "s5 start with failing start_service": ("s5", [["start"]]),
                    "start arg": ("s5", [["start", "foo"]]),
                    "s6 exit 3 in start_service": ("s6", [["start"], ["restart"]]),
                }[run]
                text = FURTHER[name]
            else:
                continue  # parameters that our packages do not use
            tried += 1
            with self.subTest(run):
                self.bench.write(f"etc/init.d/{name}", "#!/bin/sh /etc/rc.common\nUSE_PROCD=1\n" + text)
                made, codes = [], []
                for command in commands:
                    code, _, calls = self.bench.run(name, *command)
                    made += calls
                    codes.append(code)
                self.assertEqual(made, call["ubus"])
                want = call["exit"] if isinstance(call["exit"], list) else [call["exit"]] * len(codes)
                self.assertEqual(codes, want)
        self.assertEqual(tried, 11)

    def test_answers_to_list(self):
        for state in RECORDED["real_procd_list_answers"]:
            said = state["what_status_prints"]
            if said == "not recorded":
                continue
            with self.subTest(state["state"]):
                answer = state["answer_of_ubus_call_service_list"]
                self.bench.answer = json.dumps(answer, separators=(",", ":"))
                code, printed, _ = self.bench.run("plaind", "status")
                text, want = said.split(", exit ")
                self.assertEqual((printed, code), ([text], int(want.split()[0])))


class OurScripts(unittest.TestCase):
    """The packages' init scripts, with programs that only answer."""

    def setUp(self):
        self.bench = Bench(self)
        root = self.bench.root
        for name in ("ctrl-exec-agent", "ctrl-exec-exec"):
            text = (PACKAGE / f"{name}.init").read_text()
            self.bench.write(f"etc/init.d/{name}", self.bench.rooted(text))
        self.bench.write("usr/lib/ctrl-exec-agent/functions.sh", self.bench.rooted((PACKAGE / "functions.sh").read_text()))
        for path in ("etc/passwd", "etc/group", "etc/shadow"):
            (root / path).write_text("ctrl-exec-agent:x:9443:9443::/:/bin/false\n")
        self.bench.write("bin/logger", f'#!/bin/sh\necho "$@" >>{root}/log\n')
        self.bench.write("bin/chown", "#!/bin/sh\nexit 0\n")
        self.agent("exit 0")
        shutil.copytree(PACKAGE, root / "etc/ctrl-exec-agent", dirs_exist_ok=True)
        self.conf = root / "etc/ctrl-exec-agent/agent.conf"
        self.conf.write_text(self.conf.read_text().replace("overrides = ", f"overrides = {root}"))
        (root / "var/run").mkdir(parents=True)

    def agent(self, body):
        """What the agent's verbs answer."""
        self.bench.write("usr/bin/ctrl-exec-agent", f'#!/bin/sh\necho "$1" >>{self.bench.root}/verbs\n{body}\n')

    def log(self):
        path = self.bench.root / "log"
        return path.read_text() if path.exists() else ""

    def verbs(self):
        path = self.bench.root / "verbs"
        return path.read_text().split() if path.exists() else []

    def test_paired_agent_is_registered(self):
        code, printed, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertEqual((code, printed), (0, []))
        self.assertEqual(self.verbs(), ["paired", "cert-staged", "promote-cert"])
        self.assertEqual(
            made[0][3]["instances"],
            {
                "instance1": {
                    "command": ["/usr/bin/ctrl-exec-agent", "serve", "--wait-for-port"],
                    "file": ["/usr/bin/ctrl-exec-agent"],
                    "user": "ctrl-exec-agent",
                    "group": "ctrl-exec-agent",
                    "pidfile": "/var/run/ctrl-exec-agent.pid",
                    "respawn": ["3600", "10", "0"],
                    "limits": {"core": "0", "nofile": "512 512"},
                    "term_timeout": 10,
                    "stderr": True,
                    "data": {"listen": "7443 ", "firewall": []},
                }
            },
        )
        self.assertEqual(made[0][3]["triggers"][0][1][1], ["eq", "package", "ctrl-exec-agent"])

    def test_unpaired_agent_is_not_registered_and_says_so_once(self):
        self.agent('[ "$1" = pairing-status ] && echo "Not paired. Reason: /etc/agent.crt is missing"\n[ "$1" = self-check ]')
        code, printed, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertEqual((code, printed), (0, []))
        self.assertEqual(made[0][3]["instances"], {})
        self.assertIn("not starting: not paired: /etc/agent.crt is missing (ctrl-exec-agent request-pairing", self.log())
        self.assertEqual(len(self.log().splitlines()), 1)

    def test_a_start_that_fails_says_why_in_one_line(self):
        for body, why in (
            ('[ "$1" = self-check ] && { printf "configuration error\\n  agent.conf:3: port\\033[2J\\n" >&2; }; exit 1', "configuration error agent.conf:3: port[2J"),
            ("kill -SEGV $$", "was killed by signal 11; is the file damaged?"),
            ("exit 3", "ended with exit code 3"),
        ):
            self.agent(body)
            (self.bench.root / "log").unlink(missing_ok=True)
            _, printed, made = self.bench.run("ctrl-exec-agent", "start")
            self.assertEqual(made[0][3]["instances"], {})
            self.assertEqual(len(self.log().splitlines()), 1, self.log())
            self.assertIn(why, self.log())
            self.assertNotIn("not paired", self.log())
            self.assertNotIn("\033", self.log())
        (self.bench.root / "usr/bin/ctrl-exec-agent").write_bytes(b"\x7fELF")
        (self.bench.root / "log").unlink()
        self.bench.run("ctrl-exec-agent", "start")
        self.assertIn("cannot be run (exit code 12", self.log())

    def test_missing_user_is_made(self):
        for path in ("etc/passwd", "etc/group"):
            (self.bench.root / path).write_text("root:x:0:0::/:/bin/sh\n")
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertIn("instance1", made[0][3]["instances"])
        self.assertIn("ctrl-exec-agent:x:9443:9443:", (self.bench.root / "etc/passwd").read_text())
        self.assertIn("ctrl-exec-agent:x:9443:", (self.bench.root / "etc/group").read_text())

    def test_missing_user_that_cannot_be_made_keeps_the_agent_down(self):
        (self.bench.root / "etc/passwd").unlink()
        (self.bench.root / "etc/passwd").mkdir()
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertEqual(made[0][3]["instances"], {})
        self.assertIn("no user ctrl-exec-agent", self.log())

    def test_state_that_cannot_be_set_up_does_not_keep_the_agent_down(self):
        (self.bench.root / "etc/ctrl-exec-agent/state").write_text("in the way\n")
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertIn("instance1", made[0][3]["instances"])
        self.assertIn("cannot set up", self.log())

    def test_failed_promotion_does_not_keep_the_agent_down(self):
        self.agent('[ "$1" != promote-cert ]')
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertIn("instance1", made[0][3]["instances"])

    def test_reload_registers_a_running_agent_anew_and_starts_one_that_is_not(self):
        self.bench.answer = '{"ctrl-exec-agent":{"instances":{"instance1":{"running":true,"pid":1}}}}'
        _, _, made = self.bench.run("ctrl-exec-agent", "reload")
        self.assertEqual([c[2] for c in made], ["list", "set"])
        self.bench.answer = "{}"
        _, _, made = self.bench.run("ctrl-exec-agent", "reload")
        self.assertEqual(made[-1][2], "set")
        self.assertIn("instance1", made[-1][3]["instances"])

    def test_start_tells_a_serving_agent_of_the_certificate_it_promotes(self):
        """apk's post-upgrade is `start`: procd keeps an unchanged process, which must not go on
        with a certificate that is no longer the one in the file."""
        for staged, pid_after in ((True, "same"), (True, "other"), (True, "none"), (False, "same")):
            with self.subTest(staged=staged, pid_after=pid_after):
                told = self.bench.root / "told"
                told.unlink(missing_ok=True)
                serving = subprocess.Popen(["sh", "-c", f"trap 'echo hup >{told}; exit' HUP; echo; while :; do sleep 0.05; done"], stdout=subprocess.PIPE)
                self.addCleanup(serving.stdout.close)
                self.addCleanup(serving.wait)
                self.addCleanup(serving.kill)
                serving.stdout.readline()
                pidfile = self.bench.root / "var/run/ctrl-exec-agent.pid"
                pidfile.write_text(f"{serving.pid}\n")
                self.bench.write("bin/readlink", f'#!/bin/sh\n[ "$1" = /proc/{serving.pid}/exe ] && echo "{self.bench.root}/usr/bin/ctrl-exec-agent (deleted)"\nexit 0\n')
                # procd may have begun to replace the process when its answer comes.
                after = {"same": "", "other": f"echo 1 >{pidfile}", "none": f"rm -f {pidfile}"}[pid_after]
                self.bench.write("bin/ubus", STUB.replace("exit 0", f'[ "$3" = set ] && {{ {after or ":"}; }}\nexit 0'))
                self.agent("exit 0" if staged else '[ "$1" != cert-staged ]')
                (self.bench.root / "verbs").unlink(missing_ok=True)
                self.bench.run("ctrl-exec-agent", "start")
                self.assertEqual("promote-cert" in self.verbs(), staged)
                if staged and pid_after == "same":
                    serving.wait(10)
                    self.assertEqual(told.read_text(), "hup\n")
                else:
                    self.assertIsNone(serving.poll())

    def uci(self, *lines):
        self.bench.write("etc/config/ctrl-exec-agent", "\n".join(["", "config agent 'main'", *(f"\t{x}" for x in lines)]) + "\n")

    def overrides(self):
        path = self.bench.root / "var/run/ctrl-exec-agent/uci.conf"
        return [x for x in path.read_text().splitlines() if not x.startswith("#")] if path.exists() else None

    def test_what_uci_sets_is_written_where_agent_conf_says(self):
        self.uci("option enabled '1'", "option port '8443'", "list allowed_ip '192.168.1.0/24'", "list allowed_ip '10.0.0.7'", "option hostname 'r-17'", "option log_level 'warning'")
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertEqual(self.overrides(), ["port = 8443", "allowed_ips = 192.168.1.0/24,10.0.0.7", "hostname = r-17", "log_level = warning"])
        self.assertEqual(made[0][3]["instances"]["instance1"]["data"], {"listen": "8443 ", "firewall": []})
        self.assertEqual(self.log(), "")
        # Nothing set, or no configuration in uci at all: nothing is overridden.
        for text in ("", None):
            self.uci("option enabled '1'")
            if text is None:
                (self.bench.root / "etc/config/ctrl-exec-agent").unlink()
            self.bench.run("ctrl-exec-agent", "start")
            self.assertIsNone(self.overrides())

    def test_uci_without_the_line_in_agent_conf_says_so(self):
        self.conf.write_text("port = 7443\n")
        self.uci("option port '8443'")
        self.bench.run("ctrl-exec-agent", "start")
        self.assertIn("uci settings have no effect", self.log())

    def test_a_value_of_uci_cannot_add_lines(self):
        self.uci("option hostname 'a\x01b'")
        self.bench.run("ctrl-exec-agent", "start")
        self.assertIsNone(self.overrides())
        self.assertIn("not plain text", self.log())

    def test_disabled_in_uci_is_stopped_by_a_reload(self):
        self.uci("option enabled '0'")
        self.bench.answer = '{"ctrl-exec-agent":{"instances":{"instance1":{"running":true,"pid":1}}}}'
        _, _, made = self.bench.run("ctrl-exec-agent", "reload")
        self.assertEqual((made[-1][2], made[-1][3]["instances"]), ("set", {}))
        self.assertEqual(made[-1][3]["triggers"][0][1][1][2], "ctrl-exec-agent")
        self.assertIn("disabled in /etc/config", self.log())

    def test_the_firewall_is_told_of_the_port_once_and_of_its_end(self):
        self.uci("option wan '1'", "list allowed_ip '203.0.113.7'", "list allowed_ip '198.51.100.0/24'")
        rule = {"type": "rule", "src": "wan", "proto": "tcp", "dest_port": "7443", "target": "ACCEPT"}
        event = ["call", "service", "event", {"type": "config.change", "data": {"package": "firewall"}}]
        (self.bench.root / "var/run").mkdir(exist_ok=True)
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        firewall = made[0][3]["instances"]["instance1"]["data"]["firewall"]
        self.assertEqual(firewall, [{**rule, "src_ip": "203.0.113.7"}, {**rule, "src_ip": "198.51.100.0/24"}])
        self.assertEqual(made.count(event), 1)
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertEqual(made.count(event), 0)
        self.uci("option wan '1'", "option port '8443'")
        _, _, made = self.bench.run("ctrl-exec-agent", "reload")
        self.assertEqual(made[1][3]["instances"]["instance1"]["data"]["firewall"], [{**rule, "dest_port": "8443"}])
        self.assertEqual(made.count(event), 1)
        _, _, made = self.bench.run("ctrl-exec-agent", "stop")
        self.assertEqual(made.count(event), 1)
        _, _, made = self.bench.run("ctrl-exec-agent", "stop")
        self.assertEqual(made.count(event), 0)

    def test_confined_only_with_the_executor(self):
        self.uci("option jail '1'")
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        instance = made[0][3]["instances"]["instance1"]
        self.assertFalse({"jail", "capabilities", "no_new_privs"} & set(instance))
        text = self.conf.read_text().replace("#executor_socket = ", "executor_socket = ")
        self.conf.write_text(text)
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        instance = made[0][3]["instances"]["instance1"]
        self.assertIs(instance["no_new_privs"], True)
        self.assertEqual(instance["capabilities"], "/etc/capabilities/ctrl-exec-agent.json")
        mounts = instance["jail"]["mount"]
        conf = "/etc/ctrl-exec-agent"
        self.assertEqual({p for p, rw in mounts.items() if rw == "1"}, {f"{conf}/state", "/var/run/ctrl-exec-agent"})
        self.assertEqual({p for p, rw in mounts.items() if rw == "0"}, {conf, "/etc/passwd", "/etc/group", "/opt/ctrl-exec-scripts"})
        self.conf.write_text("auth_hook = /x\n" + text)
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        self.assertNotIn("jail", made[0][3]["instances"]["instance1"])
        self.assertIn("auth_hook would have to run in it", self.log())
        self.conf.write_text(text)
        self.uci("option enabled '1'")
        _, _, made = self.bench.run("ctrl-exec-agent", "start")
        instance = made[0][3]["instances"]["instance1"]
        self.assertTrue(instance["no_new_privs"] and "jail" not in instance)

    def test_reload_never_stops_an_agent_whose_new_configuration_does_not_load(self):
        self.bench.answer = '{"ctrl-exec-agent":{"instances":{"instance1":{"running":true,"pid":1}}}}'
        self.agent('[ "$1" != paired ]')
        _, _, made = self.bench.run("ctrl-exec-agent", "reload")
        self.assertEqual(made[-1], ["call", "service", "signal", {"name": "ctrl-exec-agent", "signal": 1}])
        self.assertNotIn("set", [c[2] for c in made])

    def test_adopt_reloads_only_for_a_staged_certificate_and_a_running_agent(self):
        running = '{"ctrl-exec-agent":{"instances":{"instance1":{"running":true,"pid":1}}}}'
        for staged, answer, calls in (
            (False, running, []),
            (True, "{}", ["list"]),
            (True, running, ["list", "list", "set"]),
        ):
            self.agent("exit 0" if staged else '[ "$1" != cert-staged ]')
            self.bench.answer = answer
            code, _, made = self.bench.run("ctrl-exec-agent", "adopt")
            self.assertEqual((code, [c[2] for c in made]), (0, calls))

    def test_executor_stays_down_until_agent_conf_names_its_socket(self):
        _, _, made = self.bench.run("ctrl-exec-exec", "start")
        self.assertEqual(made[0][3]["instances"], {})
        self.assertIn("no executor_socket", self.log())
        text = self.conf.read_text().replace("#executor_socket = ", f"executor_socket = {self.bench.root}")
        self.conf.write_text(text)
        _, _, made = self.bench.run("ctrl-exec-exec", "start")
        conf = "/etc/ctrl-exec-agent"
        self.assertEqual(
            made[0][3]["instances"]["instance1"]["command"],
            ["/usr/sbin/ctrl-exec-exec", "serve", "/var/run/ctrl-exec-agent/exec.sock", f"{conf}/agent.conf", f"{conf}/scripts.conf", "ctrl-exec-agent"],
        )
        self.assertEqual(made[0][3]["instances"]["instance1"]["file"], ["/usr/sbin/ctrl-exec-exec"])
        self.assertTrue((self.bench.root / "var/run/ctrl-exec-agent").is_dir())

    def test_a_socket_without_a_directory_is_refused_in_words(self):
        for socket in ("exec.sock", "/exec.sock", "run/exec.sock"):
            self.conf.write_text(f"executor_socket = {socket}\n")
            _, _, made = self.bench.run("ctrl-exec-exec", "start")
            self.assertEqual(made[0][3]["instances"], {})
            self.assertIn(f"not '{socket}'", self.log())

    def test_a_socket_named_in_a_section_does_not_count(self):
        self.conf.write_text("port = 1\n[tags]\nexecutor_socket = /x\n")
        _, _, made = self.bench.run("ctrl-exec-exec", "start")
        self.assertEqual(made[0][3]["instances"], {})

    def test_enable_makes_the_links_for_boot(self):
        for name, links in (("ctrl-exec-agent", ["K15", "S95"]), ("ctrl-exec-exec", ["K16", "S94"])):
            self.assertEqual(self.bench.run(name, "enable")[0], 0)
            made = sorted(p.name for p in (self.bench.root / "etc/rc.d").iterdir() if p.name.endswith(name))
            self.assertEqual(made, [x + name for x in links])


if __name__ == "__main__":
    unittest.main()
