"""One architecture in QEMU user mode: the real agent and executor against the host's dispatcher."""

import json
import os
import pwd
import subprocess
import time

import bench
import binfmt
from bench import Failed, Process, expect

SCRIPTS = {
    "show-args": '#!/bin/sh\nprintf "%s" "$#"\nfor a in "$@"; do printf "[%s]" "$a"; done\n',
    "context": "#!/bin/sh\ncat\n",
    "big": "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' o &\nhead -c 100000 /dev/zero | tr '\\0' e >&2\nwait\n",
    "fails": "#!/bin/sh\necho no space left >&2\nexit 3\n",
    "env": "#!/bin/sh\nenv\n",
    "slow": "#!/bin/sh\nsleep 1\necho done\n",
    "whoami": "#!/bin/sh\nid -u\n",
}
ARGUMENTS = ["", "two words", "it's \"quoted\"", "$HOME;id", "żółw ☃", "-n"]


class Agent:
    """A foreign agent in a root of its own."""

    def __init__(self, programs, directory, name):
        self.name, self.program, self.root = name, str(programs / "ctrl-exec-agent"), directory / name
        self.executor = str(programs / "ctrl-exec-exec")
        self.port = bench.free_port()
        self.process = self.executor_process = None
        self.scripts = self.root / "opt/ctrl-exec-scripts"
        etc = self.root / "etc/ctrl-exec-agent"
        for d in (etc, self.root / "var/lib/ctrl-exec-agent", self.scripts):
            d.mkdir(parents=True)
        self.conf, self.allowlist = etc / "agent.conf", etc / "scripts.conf"
        self.base = (
            f"port = {self.port}\nbind = 127.0.0.1\nhostname = {name}\nallow_root = yes\n"
            f"cert = {etc}/agent.crt\nkey = {etc}/agent.key\nca = {etc}/ca.crt\n"
            f"script_dirs = {self.scripts}\nrate_limit_volume = 1000/60/60\n"
        )
        self.write_conf("")
        for script, text in SCRIPTS.items():
            path = self.scripts / f"{script}.sh"
            path.write_text(text)
            path.chmod(0o755)
        self.allowlist.write_text("".join(f"{s} = {self.scripts}/{s}.sh\n" for s in SCRIPTS))

    def write_conf(self, extra):
        self.conf.write_text(f"{self.base}{extra}[tags]\narch = {self.name}\n[profile default]\nrun_as = nobody\n")

    def call(self, *arguments):
        return subprocess.run([self.program, "--root", self.root, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=bench.PATIENCE)

    def start(self):
        self.process = Process([self.program, "--root", self.root, "serve"])
        bench.wait_for_port(self.port, self.process)

    def stop(self):
        for p in (self.process, self.executor_process):
            if p:
                p.stop()
        self.process = self.executor_process = None


def scenario(checks, target, programs, dispatcher_program):
    directory = bench.temporary(f"user-{target['name']}")
    directory.chmod(0o755)  # scripts run as nobody must reach it
    dispatcher = bench.Dispatcher(dispatcher_program, directory)
    agent = Agent(programs, directory, f"{target['name']}-router")
    try:
        _scenario(checks, target, dispatcher, agent)
    finally:
        agent.stop()


def _scenario(checks, target, dispatcher, agent):
    label = target["name"]
    name = agent.name

    def version():
        for program in (agent.program, agent.executor):
            done = subprocess.run([program, "--version"], capture_output=True, text=True)
            expect(done.returncode == 0 and done.stdout.split()[1] == workspace_version(), done)
        return done.stdout.strip()

    def unpaired():
        done = agent.call("serve")
        expect(done.returncode == 78 and "not been paired" in done.stderr, done)
        expect(agent.call("paired").returncode == 1, "paired")

    def pair():
        dispatcher.set_up()
        listener = dispatcher.pairing_mode()
        try:
            client = Process(
                [agent.program, "--root", agent.root, "request-pairing", "--dispatcher", "127.0.0.1", "--port", str(dispatcher.pairing_port), "--lookup-by", "ip"]
            )
            try:
                client.wait_for(r"(?<![0-9A-Za-z])[0-9]{6}(?![0-9A-Za-z])")
                code = bench.six_digits(client.text())
                dispatcher.approve(code)
                if client.wait():
                    raise Failed(client.text())
            finally:
                client.stop()
        finally:
            listener.stop()
        expect(agent.call("paired").returncode == 0, "not paired")
        return f"code {code} on both sides"

    def serve():
        begin = time.monotonic()
        agent.start()
        return f"listening after {time.monotonic() - begin:.1f} s"

    def ping():
        result = dispatcher.ping(name)
        expect(result["status"] == "ok" and result["version"] == workspace_version(), result)
        return f"rtt {result['rtt']}"

    def arguments():
        result = dispatcher.run(name, "show-args", *ARGUMENTS)
        expect(result["stdout"] == str(len(ARGUMENTS)) + "".join(f"[{a}]" for a in ARGUMENTS), result)

    def context():
        result = dispatcher.run(name, "context", options=("--username", "ann"))
        expect(json.loads(result["stdout"])["username"] == "ann", result)

    def exit_code():
        result = dispatcher.run(name, "fails", code=1)
        expect((result["exit"], result["stderr"]) == (3, "no space left\n"), result)

    def big():
        result = dispatcher.run(name, "big")
        expect(result["stdout"] == "o" * 100_000 and result["stderr"] == "e" * 100_000, len(result["stdout"]), len(result["stderr"]))

    def environment():
        result = dispatcher.run(name, "env")
        names = {line.split("=")[0] for line in result["stdout"].splitlines()}
        expect(names <= {"PATH", "PWD", "SHLVL", "_", "OLDPWD", "HOME", "LANG", "TERM", "CTRL_EXEC_RUN"}, names)

    def refused():
        result = dispatcher.run(name, "rm-rf", code=None)
        expect(result["exit"] == -1 and "not permitted" in result["error"], result)

    def asynchronous():
        result = run_async(dispatcher, name, "slow")
        record = wait_done(dispatcher, name, result["reqid"])
        expect(record["exit"] == 0 and record["stdout"] == "done\n", record)

    def reload():
        agent.allowlist.write_text(agent.allowlist.read_text() + f"added = {agent.scripts}/show-args.sh\n")
        agent.process.child.send_signal(1)
        deadline = time.monotonic() + 30
        while True:
            result = dispatcher.run(name, "added", code=None)
            if result["exit"] == 0:
                return
            if time.monotonic() > deadline:
                raise Failed(str(result))
            time.sleep(0.2)

    def self_ping():
        done = agent.call("self-ping")
        expect(done.returncode == 0, done)

    def executor():
        agent.stop()
        socket = agent.root / "exec.sock"
        agent.write_conf(f"executor_socket = {socket}\n")
        # QEMU knows no mount_setattr, with which /proc/sys and /sys become read-only.
        emulated = "kernel_settings = host\n" if target["qemu"] else ""
        agent.conf.write_text(agent.conf.read_text() + "run_as = nobody\n" + emulated)
        # Everything lies below /tmp, where everybody may write.
        user = pwd.getpwuid(os.geteuid()).pw_name
        agent.executor_process = Process([agent.executor, "--unsafe-paths", "serve", socket, agent.conf, agent.allowlist, user])
        deadline = time.monotonic() + 30
        while not socket.exists():
            expect(time.monotonic() < deadline and agent.executor_process.child.poll() is None, agent.executor_process.text())
            time.sleep(0.05)
        agent.start()
        result = dispatcher.run(name, "whoami")
        expect(result["stdout"].strip() == str(pwd.getpwnam("nobody").pw_uid), result)
        result = dispatcher.run(name, "show-args", *ARGUMENTS)
        expect(result["stdout"] == str(len(ARGUMENTS)) + "".join(f"[{a}]" for a in ARGUMENTS), result)
        return "a script ran as nobody"

    checks.run(f"{label}: both programs say their version", version)
    checks.run(f"{label}: unpaired, serve says so and exits 78", unpaired)
    if not checks.run(f"{label}: pairs with the host's dispatcher", pair):
        return
    if not checks.run(f"{label}: serves", serve):
        return
    for text, function in (
        ("answers ping", ping),
        ("passes arguments as typed", arguments),
        ("gives the script its context on stdin", context),
        ("reports exit code and stderr", exit_code),
        ("returns 100,000 bytes of both streams", big),
        ("gives a script a clean environment", environment),
        ("refuses what is not allowlisted", refused),
        ("runs asynchronously", asynchronous),
        ("takes in a changed allowlist on HUP", reload),
        ("pings itself", self_ping),
    ):
        checks.run(f"{label}: {text}", function)
    if os.geteuid() == 0:
        checks.run(f"{label}: runs scripts through the executor", executor)
    else:
        checks.skip(f"{label}: runs scripts through the executor", "needs root")


def run_async(dispatcher, host, script, *arguments):
    return dispatcher.results("run", "--async", host, script, "--", *arguments, code=None)[0]


def wait_done(dispatcher, host, reqid):
    """The host's entry of an asynchronous run once it is done."""
    record = json.loads(dispatcher.call("wait", "--json", "--timeout", str(bench.PATIENCE), reqid, code=None))
    entry = record["hosts"][host]
    expect(entry["status"] == "done", record)
    return entry


def workspace_version():
    import tomllib

    with open(bench.REPO / "Cargo.toml", "rb") as f:
        return tomllib.load(f)["workspace"]["package"]["version"]
