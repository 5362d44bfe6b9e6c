"""The LuCI pages: their files agree with each other; the rpcd methods run in a real ucode against
programs that answer; the views are rendered in headless Chromium with LuCI's basic classes and rpcd
stubbed. SCREENSHOTS=DIR keeps a picture of each.

ucode is looked for in $UCODE and PATH: Debian has none. Chromium is Debian's. Without one of them its
tests are skipped, and say so."""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
APP = HERE.parent / "applications/luci-app-ctrl-exec-agent"
VIEWS = APP / "htdocs/luci-static/resources/view/ctrl-exec-agent"
METHODS = APP / "root/usr/share/rpcd/ucode/ctrl-exec-agent.uc"
OBJECT = "luci.ctrl-exec-agent"
UCODE = os.environ.get("UCODE") or shutil.which("ucode")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SELF_CHECK = """ctrl-exec-agent 0.13.0
Port:        7443
Overrides:   /var/run/ctrl-exec-agent/uci.conf (in force)
Scripts:     2
Certificate: expires Jan  1 00:00:00 2100 GMT
Clock:       the system's
Dispatcher:  bench (serial 0aff)
Warning:     agent.conf: line 2: frob: unknown key, ignored
  router-status = /opt/ctrl-exec-scripts/router-status profile=default [ok]
  gone = /opt/a = b profile=ops [NOT EXECUTABLE]
"""


def declared():
    """{method: parameters} of every rpc.declare in the views."""
    found = {}
    for path in VIEWS.glob("*.js"):
        for body in re.findall(r"rpc\.declare\(\{(.*?)\}\)", path.read_text(), re.S):
            object_, method = re.search(r"object: '([^']+)'", body)[1], re.search(r"method: '([^']+)'", body)[1]
            assert object_ == OBJECT, object_
            params = re.search(r"params: \[([^\]]*)\]", body)
            found[method] = re.findall(r"'(\w+)'", params[1]) if params else []
    return found


class Files(unittest.TestCase):
    def setUp(self):
        (self.menu,) = [json.loads(p.read_text()) for p in (APP / "root/usr/share/luci/menu.d").iterdir()]
        (acl,) = [json.loads(p.read_text()) for p in (APP / "root/usr/share/rpcd/acl.d").iterdir()]
        self.name, self.acl = next(iter(acl.items()))

    def test_each_menu_entry_has_its_view_and_each_view_its_entry(self):
        views = {e["action"]["path"] for e in self.menu.values() if e["action"]["type"] == "view"}
        self.assertEqual(views, {f"ctrl-exec-agent/{p.stem}" for p in VIEWS.glob("*.js")})
        (root,) = [e for e in self.menu.values() if e["action"]["type"] == "alias"]
        self.assertIn(root["action"]["path"], self.menu)
        self.assertEqual(root["depends"]["acl"], [self.name])

    def test_the_acl_grants_exactly_what_the_views_call(self):
        granted = [m for part in ("read", "write") for m in self.acl[part]["ubus"][OBJECT]]
        self.assertEqual(sorted(granted), sorted(declared()))
        # What changes something needs the right to write.
        self.assertEqual(set(self.acl["write"]["ubus"][OBJECT]), {"pair_start", "pair_cancel", "service"})
        self.assertEqual(set(self.acl["read"]), {"ubus", "uci"})

    def test_rpcd_has_the_methods_and_parameters_that_the_views_use(self):
        text = METHODS.read_text()
        body = text[text.index("const methods = {") :]
        for method, params in declared().items():
            found = re.search(rf"^\t{method}: \{{\n(?:\t\targs: \{{ (.*) \}},\n)?\t\tcall: function", body, re.M)
            self.assertTrue(found, method)
            self.assertEqual(re.findall(r"(\w+):", found[1] or ""), params, method)

    def test_views_never_make_markup_of_text(self):
        for path in VIEWS.glob("*.js"):
            self.assertNotRegex(path.read_text(), r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", path.name)
            self.assertTrue(path.read_text().startswith("'use strict';\n'require "), path.name)


@unittest.skipUnless(UCODE, "no ucode: Debian has none; set UCODE to one")
class Methods(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.root.chmod(0o755)
        for d in ("bin", "usr/bin", "etc/init.d", "etc/ctrl-exec-agent", "var/run/ctrl-exec-agent"):
            (self.root / d).mkdir(parents=True)
        text = METHODS.read_text()
        for path in ("/usr/bin/", "/etc/", "/var/run/"):
            text = text.replace(f"'{path}", f"'{self.root}{path}")
        (self.root / "methods.uc").write_text(text)
        (self.root / "call.uc").write_text(
            f"const api = loadfile('{self.root}/methods.uc', {{ raw_mode: true }})();\n"
            f"print(api['{OBJECT}'][ARGV[0]].call({{ args: json(ARGV[1]) }}), '\\n');\n"
        )
        self.program("usr/bin/ctrl-exec-agent", f"case $1 in self-check) cat <<'X'\n{SELF_CHECK}X\n;; esac")
        self.program("etc/init.d/ctrl-exec-agent", f'echo "$1" >>{self.root}/service')
        self.program("etc/init.d/ctrl-exec-exec", "exit 1")
        self.program("bin/logread", f'echo "$@" >{self.root}/logread; printf \'ctrl-exec-agent: ACTION=ping PEER=x\\nctrl-exec-agent: \\033[2J ACTION=start\\n\'')

    def program(self, path, body):
        (self.root / path).write_text(f"#!/bin/sh\n{body}\n")
        (self.root / path).chmod(0o755)

    def call(self, method, **args):
        env = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        command = [UCODE, *os.environ.get("UCODE_ARGS", "").split(), str(self.root / "call.uc"), method, json.dumps(args)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def test_status(self):
        found = self.call("status")
        self.assertEqual((found["ok"], found["running"], found["paired"], found["executor"], found["port"]), (True, True, True, False, 7443))
        self.assertEqual((found["version"], found["certificate"]), ("0.13.0", "expires Jan  1 00:00:00 2100 GMT"))
        self.assertEqual(found["dispatchers"], ["bench (serial 0aff)"])
        self.assertEqual([s["state"] for s in found["scripts"]], ["ok", "NOT EXECUTABLE"])
        self.assertEqual(found["notes"], ["Clock:       the system's", "Warning:     agent.conf: line 2: frob: unknown key, ignored"])
        self.assertEqual(found["calls"], ["ctrl-exec-agent: ACTION=ping PEER=x"])
        self.program("usr/bin/ctrl-exec-agent", "echo 'configuration error' >&2; exit 1")
        found = self.call("status")
        self.assertEqual((found["ok"], found["paired"], found["notes"]), (False, False, ["configuration error"]))

    def test_scripts_and_profiles(self):
        (self.root / "etc/ctrl-exec-agent/scripts.conf").write_text("a = /b\x1b[0m\n")
        (self.root / "etc/ctrl-exec-agent/agent.conf").write_text("port = 1\n[profile default]\nrun_as = nobody\n# x\n[tags]\na = b\n[ Profile ops ]\ncaps = \n")
        found = self.call("scripts")
        self.assertEqual(found["allowlist"], "a = /b?[0m\n")
        self.assertEqual(found["profiles"], [{"name": "default", "settings": ["run_as = nobody"]}, {"name": "ops", "settings": ["caps ="]}])

    def test_log_is_bounded_and_harmless(self):
        found = self.call("log", count=100_000)
        self.assertEqual(found["lines"][1], "ctrl-exec-agent: ?[2J ACTION=start")
        self.assertEqual((self.root / "logread").read_text(), "-e ctrl-exec- -l 500\n")

    def test_only_known_actions(self):
        self.assertEqual(self.call("service", action="reload"), {"code": 0})
        for action in ("enable", "reload; id", "", None):
            self.assertIn("error", self.call("service", action=action))
        self.assertEqual((self.root / "service").read_text().split(), ["reload"])

    def test_pairing_is_refused_what_is_no_host(self):
        for host in ("-x", "a b", "a;id", "$(id)", "", "a'b", "x" * 300, 7, None):
            self.assertIn("error", self.call("pair_start", dispatcher=host, port=7444), host)
        for port in (0, 65536, "x", -1):
            self.assertIn("error", self.call("pair_start", dispatcher="d", port=port), port)
        self.assertEqual(list((self.root / "var/run/ctrl-exec-agent").iterdir()), [])

    def wait(self, state):
        deadline = time.monotonic() + 10
        while True:
            found = self.call("pair_state")
            if found["state"] == state:
                return found
            self.assertLess(time.monotonic(), deadline, found)
            time.sleep(0.05)

    def test_pairing_shows_its_code_and_how_it_ended(self):
        self.assertEqual(self.call("pair_state")["state"], "none")
        self.program("usr/bin/ctrl-exec-agent", f'echo "$@" >>{self.root}/asked; echo "Pairing code: 123456"; while [ ! -e {self.root}/decided ]; do sleep 0.1; done; echo "Paired with \'bench\'"')
        self.assertEqual(self.call("pair_start", dispatcher="d.example", port=7445), {})
        self.wait("waiting")
        deadline = time.monotonic() + 10
        while (found := self.call("pair_state"))["code"] != "123456":
            self.assertLess(time.monotonic(), deadline, found)
        self.assertIn("under way", self.call("pair_start", dispatcher="other", port=7444)["error"])
        (self.root / "decided").touch()
        found = self.wait("paired")
        self.assertIn("Paired with 'bench'", found["lines"])
        self.assertEqual((self.root / "asked").read_text(), "request-pairing --dispatcher d.example --port 7445\n")
        for path in (self.root / "var/run/ctrl-exec-agent").iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)

    def test_pairing_can_be_cancelled_and_fail(self):
        self.program("usr/bin/ctrl-exec-agent", "while :; do sleep 0.1; done")
        self.call("pair_start", dispatcher="d", port=7444)
        self.wait("waiting")
        self.call("pair_cancel")
        self.wait("failed")
        self.program("usr/bin/ctrl-exec-agent", "echo 'Pairing failed: refused' >&2; exit 3")
        self.call("pair_start", dispatcher="d", port=7444)
        self.assertEqual(self.wait("failed")["lines"], ["Pairing failed: refused"])

    @unittest.skipIf(os.geteuid() != 0, "needs root: there is no lesser user otherwise")
    def test_nothing_is_written_below_a_lesser_users_directory(self):
        run = self.root / "var/run/ctrl-exec-agent"
        os.chown(run, 4711, 4711)
        self.assertIn("not a directory of root alone", self.call("pair_start", dispatcher="d", port=7444)["error"])
        run.rmdir()
        run.symlink_to("/tmp")
        self.assertIn("not a directory of root alone", self.call("pair_start", dispatcher="d", port=7444)["error"])


STYLE = """body { font: 14px sans-serif; margin: 1em 2em; } td, th { padding: .3em .8em; text-align: left; vertical-align: top; border-top: 1px solid #ddd; }
.cbi-section { margin: 1em 0; } .cbi-value { display: flex; margin: .5em 0; } .cbi-value-title { width: 12em; text-align: right; margin-right: 1em; }
.cbi-value-description, .cbi-map-descr { color: #666; } .alert-message { padding: .6em; background: #ffe9c4; margin: .5em 0; } .success { background: #d9f2d9; } pre { background: #f4f4f4; padding: .5em; }"""
STATUS = {
    "ok": True, "running": True, "paired": True, "executor": True, "version": "0.13.0", "port": 7443, "dispatchers": ["bench (serial 0aff)"],
    "certificate": "expires Jan  1 00:00:00 2100 GMT", "notes": ["Warning: <b>frob</b>: unknown key"],
    "calls": ["ACTION=ping PEER=192.0.2.1", "ACTION=run SCRIPT=router-status EXIT=0"],
}  # fmt: skip


@unittest.skipUnless(CHROMIUM, "no chromium; apt-get install chromium")
class Rendered(unittest.TestCase):
    def render(self, view, answers, after="null", name=None):
        """(text, calls, DOM) of a view."""
        source = json.dumps((VIEWS / f"{view}.js").read_text()).replace("</", "<\\/")
        page = (
            f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><body><div id=view></div><script>var ANSWERS = {answers if isinstance(answers, str) else json.dumps(answers).replace('</', '<' + chr(92) + '/')};</script>"
            f"<script>{(HERE / 'luci/stub.js').read_text()}</script><script>show({source}, {after});</script>"
        )
        with tempfile.TemporaryDirectory() as tmp:
            path = pathlib.Path(tmp, "page.html")
            path.write_text(page)
            base = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp}/profile", "--virtual-time-budget=2000", "--window-size=1000,900"]
            done = subprocess.run([*base, "--dump-dom", f"file://{path}"], capture_output=True, text=True, timeout=120)
            if os.environ.get("SCREENSHOTS"):
                picture = pathlib.Path(os.environ["SCREENSHOTS"], f"{name or view}.png")
                subprocess.run([*base, "--hide-scrollbars", f"--screenshot={picture}", f"file://{path}"], capture_output=True, timeout=120)
        dom = done.stdout
        self.assertNotIn("data-error", dom.split("<script", 1)[0])
        self.assertIn('data-done="yes"', dom)
        calls = json.loads(html.unescape(re.search(r'data-calls="([^"]*)"', dom)[1]))
        shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", dom, flags=re.S)
        return html.unescape(re.sub(r"<[^>]*>", " ", shown)), calls, shown

    def test_status(self):
        text, calls, dom = self.render("status", {"status": STATUS, "service": {"code": 0}}, "function() { document.querySelector('button').click(); }")
        for part in ("running, port 7443", "bench (serial 0aff)", "days left", "by the executor", "ACTION=run SCRIPT=router-status"):
            self.assertIn(part, text)
        self.assertIn("&lt;b&gt;frob", dom)
        self.assertIn([OBJECT, "service", ["reload"]], calls)
        self.assertLess(text.index("ACTION=run"), text.index("ACTION=ping"))

    def test_status_of_an_agent_that_is_not_paired(self):
        answer = {"ok": False, "running": False, "paired": False, "executor": False, "notes": ["configuration error"], "dispatchers": [], "calls": []}
        text, _, dom = self.render("status", {"status": answer}, name="status-unpaired")
        for part in ("not running: not paired", "nobody", "configuration error", "The log has no calls"):
            self.assertIn(part, text)
        self.assertRegex(dom, r"<button[^>]*disabled")

    def test_pairing_asks_then_shows_the_code_and_confirms(self):
        after = "function() { document.getElementById('dispatcher').value = ' d.example '; document.querySelector('button').click(); return new Promise(function(done) { setTimeout(done, 100); }); }"
        states = "{ pair_state: function() { return CALLS.some(function(c) { return c[1] === 'pair_start'; }) ? { state: 'waiting', code: '123456', lines: [] } : { state: 'none', lines: [] }; }, pair_start: {} }"
        text, calls, _ = self.render("pairing", states, after, "pairing-code")
        self.assertIn([OBJECT, "pair_start", ["d.example", 7444]], calls)
        self.assertIn("123456", text)
        self.assertIn("They differ", text)
        text, calls, _ = self.render("pairing", {"pair_state": {"state": "paired", "lines": ["Paired with 'bench'"]}}, name="pairing-done")
        self.assertIn("Start the agent", text)
        text, calls, _ = self.render("pairing", {"pair_state": {"state": "failed", "lines": ["Pairing failed: <i>no</i>"]}}, name="pairing-failed")
        self.assertIn("Pairing failed: <i>no</i>", text)
        self.assertIn("Request pairing", text)

    def test_pairing_says_what_was_refused_and_can_be_cancelled(self):
        after = "function() { document.querySelector('button').click(); return new Promise(function(done) { setTimeout(done, 100); }); }"
        text, _, _ = self.render("pairing", {"pair_state": {"state": "none"}, "pair_start": {"error": "The dispatcher must be a host name"}}, after, "pairing-refused")
        self.assertIn("must be a host name", text)
        _, calls, _ = self.render("pairing", {"pair_state": {"state": "waiting", "code": "000001"}, "pair_cancel": {}}, after, "pairing-cancel")
        self.assertIn([OBJECT, "pair_cancel", []], calls)

    def test_scripts(self):
        answer = {
            "scripts": [{"name": "a", "path": "/opt/a", "profile": "default", "state": "ok"}, {"name": "<u>", "path": "/b", "profile": "ops", "state": "NOT EXECUTABLE"}],
            "profiles": [{"name": "default", "settings": ["run_as = nobody"]}], "allowlist": "a = /opt/a\n",
        }  # fmt: skip
        text, _, dom = self.render("scripts", {"scripts": answer})
        for part in ("<u>", "NOT EXECUTABLE", "run_as = nobody", "Edit them over SSH"):
            self.assertIn(part, text)
        text, _, _ = self.render("scripts", {"scripts": {}}, name="scripts-none")
        self.assertIn("the dispatcher can run nothing", text)

    def test_log(self):
        text, calls, _ = self.render("log", {"log": {"lines": ["one </textarea><b>x", "two"]}})
        self.assertIn("one </textarea><b>x\ntwo", text)
        self.assertEqual(calls, [[OBJECT, "log", [200]]])

    def test_settings_have_every_option_of_uci(self):
        _, _, dom = self.render("settings", {})
        shown = set(re.findall(r'data-name="(\w+)"', dom))
        config = (HERE.parent / "net/ctrl-exec/files/ctrl-exec-agent.config").read_text()
        self.assertEqual(shown, set(re.findall(r"(?:option|list) (\w+)", config)))


if __name__ == "__main__":
    unittest.main()
