"""The crates' own tests as another architecture.

The test programs have the optimisation of the released ones (opt-level z, size-optimised standard
library), for a debug build proves nothing about them, and differ in three ways: no link-time
optimisation, since each of some thirty programs would take a minute; unwinding panics, which the test
harness wants and OpenWrt's own build uses; source positions and whole `Debug` texts, so that a
failure can be read. Agent and executor themselves are the released files, to the byte.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import time

import bench
from bench import Failed

CRATES = ("ctrl-exec-protocol", "ctrl-exec-host", "ctrl-exec-reactor", "ctrl-exec-exec", "ctrl-exec-agent")
LIMIT = 1200  # seconds for one test program

# What QEMU's emulation of system calls cannot show, and why: (crate, test program, test). All of it
# runs natively in `cargo test`, and on a booted big-endian MIPS machine in qemu-tests/executor.
_MOUNT = "QEMU knows no mount_setattr"
_SO_ERROR = "QEMU 7.2 hands SO_ERROR on in the host's numbers"
_Y2038 = "Rust's library for 32 bits sets no file time beyond 2038"
NOT_EMULATED = {
    ("ctrl-exec-agent", "pairing", "failures_say_what_to_do"): _SO_ERROR,
    ("ctrl-exec-agent", "trust", "no_time_of_a_file_makes_valid_certificates_look_expired"): _Y2038,
    ("ctrl-exec-agent", "trust", "the_clock_in_use_is_told"): _Y2038,
    ("ctrl-exec-reactor", "client", "connect_errors"): _SO_ERROR,
    ("ctrl-exec-exec", "root", "a_root_script_cannot_use_the_executors_socket"): _MOUNT,
    ("ctrl-exec-exec", "root", "writable_is_all_that_can_be_written"): _MOUNT,
    ("ctrl-exec-exec", "root", "before_linux_5_12_control_directories_are_closed_and_writable_is_refused"): "QEMU refuses seccomp filters",
    ("ctrl-exec-exec", "root", "no_network_and_resource_limits"): "QEMU does not set RLIMIT_AS, which would bind itself",
}

# Whole programs that are about what it does not emulate: QEMU has threads of its own, so there are no
# process namespaces; it refuses seccomp filters; and its own memory counts. They run natively only.
PROGRAMS_NOT_EMULATED = {("ctrl-exec-exec", "containment"), ("ctrl-exec-exec", "runs"), ("ctrl-exec-agent", "restrictions")}


def run(checks, label, target, programs, recipe):
    """One check for each crate. `recipe` is what `released` or its like returns."""
    built = {}
    if not checks.run(f"{label}: the test programs build", lambda: built.update(build(target, *recipe)) or f"{count(built)} programs"):
        return
    for crate in CRATES:
        checks.run(f"{label}: tests of {crate}", crate_tests, target, crate, built[crate], environment(target, programs))


def count(built):
    return sum(len(found) for found in built.values())


def released(target, cross):
    """Environment and arguments with which cargo builds the tests as said above."""
    env = cross.environment(target, cross.install_tools())
    env["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags(cross.rustflags(target)))
    profile = {"inherits": '"embedded"', "lto": '"off"', "codegen-units": "16", "panic": '"unwind"'}
    arguments = [word for key, value in profile.items() for word in ("--config", f"profile.suites.{key}={value}")]
    arguments += ["--profile", "suites", "-Z", "build-std=std,panic_unwind,test", "-Z", "build-std-features=optimize_for_size"]
    return env, arguments


def flags(released):
    """Compiler flags of the released programs, but for those that a test harness cannot live with."""
    unwanted = ("-Cpanic", "-Cforce-unwind-tables", "-Zlocation-detail", "-Zfmt-debug")
    return [f for f in released if not f.startswith(unwanted)]


def build(target, env, arguments):
    """Test programs by crate: [(name, path, directory of the crate)]."""
    command = ["cargo", "zigbuild", "--locked", "--tests", "--target", target["rust"], *arguments]
    command += [word for crate in CRATES for word in ("--package", crate)]
    command += ["--features", ",".join(f"ctrl-exec-protocol/{f}" for f in ("json", "http", "tls12", "ed25519", "rsa-keygen"))]
    command += ["--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=bench.REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(done.stderr[-6000:])
    return test_programs(done.stdout)


def test_programs(messages):
    found = {crate: [] for crate in CRATES}
    for line in messages.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            directory = os.path.dirname(message["manifest_path"])
            crate = next(c for c in CRATES if f"/{os.path.basename(directory)}#{c}@" in message["package_id"] or f"/{c}#" in message["package_id"])
            kind = "unit" if message["target"]["kind"][0] in ("lib", "bin") else message["target"]["name"]
            found[crate].append((kind, message["executable"], directory))
    return found


def environment(target, programs):
    env = dict(os.environ)
    env["CTRL_EXEC_AGENT_BIN"] = str(programs / "ctrl-exec-agent")
    env["CTRL_EXEC_EXEC_BIN"] = str(programs / "ctrl-exec-exec")
    env["CTRL_EXEC_AGENT_HAS_NO_TLS12"] = "1"
    env["PROPTEST_CASES"] = "64"
    if target["qemu"]:
        env["CTRL_EXEC_EMULATED"] = "1"  # the emulator's own memory counts in /proc
        env["CTRL_EXEC_NO_MOUNT_SETATTR"] = "1"  # one of the frames in the executor's replay
    return env


def crate_tests(target, crate, built, env):
    """Runs every test program of a crate, to the end; fails with the texts of those that failed."""
    passed = skipped = 0
    failures, remarks = [], set()
    for kind, program, directory in sorted(built):
        if target["qemu"] and (crate, kind) in PROGRAMS_NOT_EMULATED:
            print(f"      not emulated: {crate} {kind}", flush=True)
            continue
        left_out = {test: why for (c, k, test), why in NOT_EMULATED.items() if target["qemu"] and (c, k) == (crate, kind)}
        for test, why in sorted(left_out.items()):
            print(f"      not emulated: {crate} {kind}::{test}: {why}", flush=True)
        command = [program, "--test-threads", "2", "--show-output", "--exact"]
        command += [word for test in left_out for word in ("--skip", test)]
        begin = time.monotonic()
        code, text = supervised(command, {**env, "CARGO_MANIFEST_DIR": directory}, directory)
        results = re.findall(r"^test result: .* (\d+) passed; .* (\d+) filtered out", text, re.M)
        remarks |= set(re.findall(r"SKIPPED.*", text))
        passed += sum(int(r[0]) for r in results)
        skipped += len(left_out)
        if code or not results:
            failures.append(f"{kind} ({code}, {time.monotonic() - begin:.0f} s):\n{failed_part(text)}")
        elif sum(int(r[1]) for r in results) != len(left_out):
            failures.append(f"{kind}: NOT_EMULATED names a test that is not there")
    for remark in sorted(remarks):
        print(f"      {remark}", flush=True)
    if failures:
        raise Failed("\n".join(failures))
    return f"{passed} passed, {skipped} not emulated"


def failed_part(text):
    at = text.find("\nfailures:\n")
    return (text[at:] if at >= 0 else text)[-4000:]


def supervised(command, env, directory):
    """Exit code and output; the whole process group is ended with it, and after LIMIT."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = f"still running after {LIMIT} s"
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")
