"""What every test here uses: checks that print themselves, processes that end with the test, and a
dispatcher of its own in a temporary root."""

import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback

REPO = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds; emulation on a loaded machine is slow


class Failed(Exception):
    """A check that did not hold; its text says what was seen."""


class Checks:
    """Runs checks one by one, prints a line for each, and counts."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.outcomes = {}  # name: (passed, note)

    def run(self, name, function, *arguments):
        """True if the check held. A failure is printed with its text; the next check still runs."""
        begin = time.monotonic()
        try:
            note = function(*arguments)
        except Exception as error:  # noqa: BLE001: any fault in a check is a failed check
            self.failed += 1
            self.outcomes[name] = (False, "")
            text = str(error) if isinstance(error, Failed) else traceback.format_exc().strip()
            print(f"FAIL  {name} ({time.monotonic() - begin:.1f} s)", *("      " + x for x in text.splitlines()[-40:]), sep="\n", flush=True)
            return False
        self.passed += 1
        self.outcomes[name] = (True, note if isinstance(note, str) else "")
        print(f"ok    {name} ({time.monotonic() - begin:.1f} s){f': {note}' if isinstance(note, str) else ''}", flush=True)
        return True

    def skip(self, name, why):
        self.skipped += 1
        print(f"SKIP  {name}: {why}", flush=True)

    def close(self):
        """Prints the closing line; the exit code of the whole."""
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 0 if self.failed == 0 and self.passed > 0 else 1


class Process:
    """A child in a process group of its own, its output in a file, ended with `stop`."""

    def __init__(self, command, **kwargs):
        self.output = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True, **kwargs
        )

    def text(self):
        self.output.seek(0)
        return self.output.read().decode("utf-8", "replace")

    def wait_for(self, pattern, limit=PATIENCE):
        """The first match of `pattern` in the output."""
        deadline = time.monotonic() + limit
        while True:
            ended = self.child.poll() is not None
            if found := re.search(pattern, self.text(), re.M):
                return found
            if ended:
                raise Failed(f"ended with {self.child.returncode} before {pattern!r}:\n{self.text()}")
            if time.monotonic() > deadline:
                raise Failed(f"no {pattern!r} within {limit} s:\n{self.text()}")
            time.sleep(0.05)

    def wait(self, limit=PATIENCE):
        try:
            return self.child.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"still running after {limit} s:\n{self.text()}") from error

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


class Dispatcher:
    """The host's dispatcher with a root, CA and registry of its own."""

    def __init__(self, program, directory):
        self.program, self.root = program, directory / "server"
        self.pairing_port = free_port()
        etc = self.root / "etc/ctrl-exec"
        etc.mkdir(parents=True)
        (self.root / "var/lib/ctrl-exec").mkdir(parents=True)
        text = "".join(f"{k} = {etc}/{f}\n" for k, f in (("cert", "dispatcher.crt"), ("key", "dispatcher.key"), ("ca", "ca.crt")))
        (etc / "ctrl-exec.conf").write_text(f"{text}ca_dir = {etc}\ndispatcher_id = bench\nread_timeout = {PATIENCE}\n")

    def call(self, *arguments, code=0):
        """Standard output of a command that must exit with `code` (None: any)."""
        done = subprocess.run(
            [self.program, "--root", self.root, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3 * PATIENCE
        )
        if code is not None and done.returncode != code:
            raise Failed(f"{' '.join(arguments)}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}")
        return done.stdout

    def results(self, *arguments, code=0):
        """The `results` of a command with --json."""
        text = self.call(*arguments[:1], "--json", *arguments[1:], code=code)
        answer = json.loads(text)
        return answer["results"] if isinstance(answer, dict) else answer

    def set_up(self):
        self.call("setup-ca")
        self.call("setup-ctrl-exec")

    def pairing_mode(self):
        listener = Process([self.program, "--root", self.root, "pairing-mode", "--port", str(self.pairing_port)])
        wait_for_port(self.pairing_port, listener)
        return listener

    def approve(self, code, *options):
        """Waits for the request with this code, approves it, and returns its queue id."""
        deadline = time.monotonic() + PATIENCE
        while True:
            listed = self.call("list-requests", code=None)
            for line in listed.splitlines():
                if code in line.split():
                    reqid = line.split()[0]
                    self.call("approve", reqid, "--code", code, *options)
                    return reqid
            if time.monotonic() > deadline:
                raise Failed(f"no request with code {code}:\n{listed}")
            time.sleep(0.2)

    def run(self, host, script, *arguments, code=0, options=()):
        """The one result of a run."""
        return self.results("run", *options, host, script, "--", *arguments, code=code)[0]

    def ping(self, host, code=0):
        return self.results("ping", host, code=code)[0]

    def context(self):
        """For connections of our own to an agent."""
        etc = self.root / "etc/ctrl-exec"
        context = ssl.create_default_context(cafile=etc / "ca.crt")
        context.check_hostname = False  # the serial is the identity
        context.load_cert_chain(etc / "dispatcher.crt", etc / "dispatcher.key")
        return context

    def served(self, port):
        """The certificate that an agent serves, DER."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain, self.context().wrap_socket(plain) as stream:
            return stream.getpeercert(binary_form=True)

    def pings_on_one_connection(self, port, count):
        """As many pings as fit a kept connection, then the rest on the next."""
        context = self.context()
        done = 0
        while done < count:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain, context.wrap_socket(plain) as stream:
                answers = stream.makefile("rb")
                before = done
                while done < count and _ping(stream, answers):
                    done += 1
                if done == before:
                    raise Failed("a connection was closed before its first answer")


def _ping(stream, answers):
    """One ping; whether the connection is kept."""
    stream.sendall(b'POST /ping HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: 15\r\n\r\n{"reqid":"p-1"}')
    status, length, kept = answers.readline(), 0, False
    expect(b" 200 " in status, status)
    while (line := answers.readline()).strip():
        word, _, value = line.partition(b":")
        length = int(value) if word.lower() == b"content-length" else length
        kept |= word.lower() == b"connection" and value.strip().lower() == b"keep-alive"
    expect(b'"status":"ok"' in answers.read(length), "an answer that is not ok")
    return kept


def answer(dispatcher, name, limit=90):
    """Waits until the agent answers a ping."""
    deadline = time.monotonic() + limit
    while True:
        result = dispatcher.ping(name, code=None)
        if result["status"] == "ok":
            return result
        if time.monotonic() > deadline:
            raise Failed(f"no answer within {limit} s: {result}")
        time.sleep(0.5)


def fetch(router, release, package):
    """Puts a package of a release ("1" or "2") into the machine's /tmp, as a download would."""
    router.run(f"wget -q -O /tmp/{package}.{router.packages} {router.url(release, package)}")


def expect(holds, *seen):
    if not holds:
        raise Failed("saw " + " ".join(str(x) for x in seen))


_claims = []


def free_port():
    """A port that nobody else takes: outside the kernel's own range, and locked by a file until this
    process ends, as crates/testkit does."""
    low = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    directory = pathlib.Path(tempfile.gettempdir(), f"ctrl-exec-test-ports-{os.getuid()}")
    directory.mkdir(exist_ok=True)
    first, end = 10000, max(min(32000, low), 10100)
    for n in range(end - first):
        port = first + (os.getpid() * 61 + len(_claims) + n) % (end - first)
        claim = open(directory / str(port), "a")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.bind(("", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise Failed("no port is free")


def wait_for_port(port, process, limit=PATIENCE):
    deadline = time.monotonic() + limit
    while True:
        with socket.socket() as s:
            s.settimeout(1)
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.child.poll() is not None:
            raise Failed(f"ended with {process.child.returncode} before it listened:\n{process.text()}")
        if time.monotonic() > deadline:
            raise Failed(f"not listening on {port} within {limit} s:\n{process.text()}")
        time.sleep(0.1)


def six_digits(text):
    found = re.search(r"(?<![0-9A-Za-z])([0-9]{6})(?![0-9A-Za-z])", text)
    if not found:
        raise Failed(f"no code of six digits in:\n{text}")
    return found[1]


def target_dir():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target").resolve()


def native(program, package):
    """The host's build of a program; CTRL_EXEC_DISPATCHER and the like name another one."""
    named = os.environ.get(program.upper().replace("-", "_"))
    if program == "ctrl-exec-dispatcher":
        named = named or os.environ.get("CTRL_EXEC_DISPATCHER")
    if named:
        return named
    if subprocess.run(["cargo", "build", "--quiet", "--locked", "-p", package, "--bin", program], cwd=REPO).returncode:
        sys.exit(f"cannot build {program}")
    return str(target_dir() / "debug" / program)


def need_packages(*names):
    """Installs Debian packages if missing, as lib/debian.sh does."""
    script = f". {REPO}/qemu-tests/lib/debian.sh && need_packages {' '.join(names)}"
    if subprocess.run(["bash", "-c", script]).returncode:
        sys.exit(1)


def temporary(label):
    """A temporary directory, removed at exit unless KEEP is set."""
    import atexit

    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"ctrl-exec-{label}-"))
    if os.environ.get("KEEP"):
        atexit.register(lambda: print(f"kept {directory}"))
    else:
        atexit.register(shutil.rmtree, directory, True)
    return directory
