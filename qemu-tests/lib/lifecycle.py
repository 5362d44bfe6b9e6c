"""What a router goes through, from installation to removal."""

import os
import re
import ssl
import time

import bench
from bench import Failed, answer, expect, fetch

CONF = "/etc/ctrl-exec-agent"
INIT = "/etc/init.d/ctrl-exec-agent"
SCRIPTS = {
    "show-args": '#!/bin/sh\nprintf "%s" "$#"\nfor a in "$@"; do printf "[%s]" "$a"; done\n',
    "whoami": "#!/bin/sh\nid -u\n",
    "slow": "#!/bin/sh\nsleep 2\necho done\n",
    "big": "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\000' o\n",
    "try-write": "#!/bin/sh\necho x >/etc/ctrl-exec-agent/state/x && echo written\n",
}
ARGUMENTS = ["", "two words", "it's \"quoted\"", "$HOME;id", "żółw ☃"]
REQUESTS = int(os.environ.get("REQUESTS", "2000"))  # of the memory check


def run(checks, target, router, dispatcher):
    label, name = target["name"], router.name

    def step(text, function):
        return checks.run(f"{label}: {'with apk, ' if router.packages == 'apk' else ''}{text}", function)

    def boot():
        begin = time.monotonic()
        seconds = router.boot()
        return f"user space and services after {seconds:.1f} s of machine time, {time.monotonic() - begin:.0f} s here; {memory(router)}"

    def install():
        fetch(router, "1", "ctrl-exec-agent")
        router.install("ctrl-exec-agent")
        listing = router.run(f"ls -ld {CONF} {CONF}/state {CONF}/agent.conf; id ctrl-exec-agent; cat /etc/crontabs/root; ls /etc/rc.d /etc/uci-defaults")
        expect("drwxr-x---    3 root     ctrl-exe" in listing or "drwxr-x---" in listing, listing)
        expect("uid=9443" in listing and "gid=9443" in listing and "adopt" in listing and "S95ctrl-exec-agent" in listing, listing)
        expect("95_ctrl-exec-agent" not in listing, listing)

    def unpaired():
        log = router.run("logread | grep -c 'not starting: not paired'", code=None).strip()
        expect(log == "1", f"{log} lines; of its log:", router.run("logread | grep ctrl-exec", code=None))
        expect("no instances" in router.run(f"{INIT} status"), "status")
        expect("serve" not in router.run("ps"), router.run("ps"))
        router.run("ctrl-exec-agent paired", code=1)

    def pair():
        dispatcher.set_up()
        set_conf(router, "rate_limit_volume", "1000/60/5")
        listener = dispatcher.pairing_mode()
        try:
            router.run(
                f"ctrl-exec-agent request-pairing --dispatcher 10.0.2.2 --port {dispatcher.pairing_port} >/tmp/pair.out 2>&1 </dev/null & echo $! >/tmp/pair.pid"
            )
            router.wait_until("grep -E '[0-9]{6}' /tmp/pair.out", "a pairing code")
            code = bench.six_digits(router.run("cat /tmp/pair.out"))
            dispatcher.approve(code, "--lookup-by", "ip", "--ip", "127.0.0.1", "--agent-port", str(router.port))
            router.wait_until("! kill -0 $(cat /tmp/pair.pid)", "the end of pairing")
        finally:
            listener.stop()
        router.run("ctrl-exec-agent paired")
        return f"code {code} on both sides"

    def start():
        begin = time.monotonic()
        router.run(f"{INIT} reload")
        answer(dispatcher, name)
        ps = router.run("cat /proc/$(cat /var/run/ctrl-exec-agent.pid)/status")
        expect(re.search(r"^Uid:\s+9443\s+9443", ps, re.M), ps)
        return f"first answer {time.monotonic() - begin:.1f} s after start"

    def scripts():
        install_scripts(router)
        expect(dispatcher.run(name, "router-status")["stdout"].startswith("test machine") or "uptime" in dispatcher.run(name, "router-status")["stdout"], "status")
        result = dispatcher.run(name, "show-args", *ARGUMENTS)
        expect(result["stdout"] == str(len(ARGUMENTS)) + "".join(f"[{a}]" for a in ARGUMENTS), result)
        expect(dispatcher.run(name, "whoami")["stdout"].strip() == "9443", "uid")
        expect(len(dispatcher.run(name, "big")["stdout"]) == 100_000, "big")

    def asynchronous():
        import user

        record = user.wait_done(dispatcher, name, user.run_async(dispatcher, name, "slow")["reqid"])
        expect(record["stdout"] == "done\n", record)

    def idle_memory():
        idle = memory(router)
        for _ in range(20):
            dispatcher.ping(name)
        # Only what is in use once everything has been used can tell of growth.
        dispatcher.pings_on_one_connection(router.port, 200)
        before = resident(router)
        dispatcher.pings_on_one_connection(router.port, REQUESTS)
        growth = resident(router) - before
        expect(growth <= 64, f"{growth} KiB more after {REQUESTS} requests")
        return f"{idle}; after {REQUESTS} requests {growth} KiB more"

    def executor():
        fetch(router, "1", "ctrl-exec-exec")
        router.install("ctrl-exec-exec")
        expect("no executor_socket" in router.run("logread"), router.log())
        router.run(f"sed -i 's,^#executor_socket,executor_socket,' {CONF}/agent.conf && /etc/init.d/ctrl-exec-exec start && {INIT} reload")
        router.wait_until("[ -S /var/run/ctrl-exec-agent/exec.sock ]", "the executor's socket")
        router.run(f"{INIT} restart")
        answer(dispatcher, name)
        result = dispatcher.run(name, "whoami")
        expect(result["stdout"].strip() == "65534", result, router.log())
        result = dispatcher.run(name, "try-write", code=None)
        expect("written" not in result["stdout"], result)
        return f"scripts run as nobody; {memory(router, 'ctrl-exec-exec')}"

    def rate_limit():
        set_conf(router, "rate_limit_volume", "3/60/3")
        router.run(f"{INIT} reload")
        seen = []
        for _ in range(6):
            seen.append(dispatcher.ping(name, code=None)["status"])
            time.sleep(0.2)
        # Who proves a trusted serial is never locked out; others have no address of their own here.
        expect(set(seen) == {"ok"}, seen)
        expect("rate-block" not in router.run("logread"), router.log())
        set_conf(router, "rate_limit_volume", "1000/60/5")
        router.run(f"{INIT} reload")
        answer(dispatcher, name)

    def crash():
        old = router.run("cat /var/run/ctrl-exec-agent.pid").strip()
        # As docs/OPENWRT.md says: the kernel then logs where a program was when it crashed.
        router.run(f"echo 1 >/proc/sys/kernel/print-fatal-signals; dmesg -c >/dev/null; kill -TRAP {old}")
        router.wait_until(f"[ \"$(cat /var/run/ctrl-exec-agent.pid)\" != {old} ]", "a new process")
        answer(dispatcher, name)
        log = router.run("dmesg")
        expect("fatal signal 5" in log, log)
        counter = re.search(r"\b(?:epc|pc) *: \[?<?([0-9a-f]{8,})", log)
        expect(counter, log)
        return f"the kernel logs the program counter, {counter[1]}"

    def renew():
        before = router.run(f"sha256sum {CONF}/agent.crt")
        dispatcher.call("renew", name, code=None)
        router.wait_until("ctrl-exec-agent cert-staged", "a staged certificate")
        router.run(f"{INIT} adopt")
        answer(dispatcher, name)
        expect(router.run(f"sha256sum {CONF}/agent.crt") != before, "the same certificate")
        router.run("ctrl-exec-agent cert-staged", code=1)

    def reboot():
        seconds = router.reboot()
        begin = time.monotonic()
        answer(dispatcher, name)
        expect(dispatcher.run(name, "whoami")["stdout"].strip() == "65534", "executor after reboot")
        return f"services after {seconds:.1f} s, answered {time.monotonic() - begin:.1f} s later"

    def clock_1970():
        router.reboot(clock=60)
        expect(router.run("date -u +%Y").strip() == "1970", "clock")
        answer(dispatcher, name)
        expect(dispatcher.run(name, "whoami")["exit"] == 0, "run")

    def clock_2037():
        router.reboot(clock=2_140_000_000)  # a 32-bit busybox cannot go past January 2038
        year = router.run("date -u +%Y").strip()
        # The certificate has expired by then: refused in words, and alive again once the clock is right.
        result = dispatcher.ping(name, code=None)
        router.run(f"date -s @{int(time.time())} >/dev/null")
        answer(dispatcher, name)
        return f"in {year}: {result['status']}; in order after the clock was set"

    def broken_conf():
        router.run(f"cp {CONF}/agent.conf /tmp/agent.conf; echo nonsense >>{CONF}/agent.conf; {INIT} reload")
        answer(dispatcher, name)  # the old configuration stays in force
        router.run(f"cp /tmp/agent.conf {CONF}/agent.conf; {INIT} reload")
        answer(dispatcher, name)

    def no_network():
        address = router.run("ifconfig eth0 | sed -n 's/.*inet addr:\\([0-9.]*\\).*/\\1/p'").strip()
        gateway = router.run("route -n | awk '$1 == \"0.0.0.0\" { print $2 }'").strip()
        route = f"; route add default gw {gateway}" if gateway else ""
        router.run(f"ifconfig eth0 down; {INIT} restart; sleep 1; ifconfig eth0 {address} netmask 255.255.255.0 up{route}")
        answer(dispatcher, name)

    def read_only_etc():
        router.run(f"mount -o bind /etc /etc && mount -o remount,bind,ro /etc && {INIT} restart")
        try:
            answer(dispatcher, name)
            router.run("touch /etc/x", code=1)
        finally:
            # Lazily: who started under it keeps it in use.
            router.run("mount -o remount,bind,rw /etc && umount -l /etc")
        router.run(f"{INIT} restart")
        answer(dispatcher, name)

    def full_flash():
        # An overlay with no room: state cannot be set up, the agent still starts.
        router.run(
            f"{INIT} stop; sleep 1; mkdir -p /tmp/small && mount -t tmpfs -o size=64k tmpfs /tmp/small && cp -a {CONF}/. /tmp/small/ && mount --bind /tmp/small {CONF}"
            f" && (dd if=/dev/zero of={CONF}/fill bs=4096 2>/dev/null; true); {INIT} start"
        )
        try:
            answer(dispatcher, name)
            expect(dispatcher.run(name, "show-args", "a")["stdout"] == "1[a]", "run")
        finally:
            router.run(f"{INIT} stop; sleep 1; umount {CONF}; umount /tmp/small; {INIT} start")
        answer(dispatcher, name)

    def lost_user():
        router.run("cp /etc/passwd /tmp/passwd; cp /etc/group /tmp/group; sed -i /ctrl-exec-agent/d /etc/passwd /etc/group")
        router.run(f"{INIT} restart")
        answer(dispatcher, name)
        expect(re.search(r"^Uid:\s+9443", router.run("cat /proc/$(cat /var/run/ctrl-exec-agent.pid)/status"), re.M), "root?")

    def upgrade():
        edited = router.run(f"sha256sum {CONF}/agent.conf")
        old = router.run("cat /var/run/ctrl-exec-agent.pid").strip()
        for package in ("ctrl-exec-agent", "ctrl-exec-exec"):
            fetch(router, "2", package)
        said = router.install("ctrl-exec-agent", "ctrl-exec-exec")
        expect(said.count("Upgrading") == 2, said)
        expect(router.run(f"sha256sum {CONF}/agent.conf") == edited, "agent.conf was replaced")
        router.wait_until(f"[ \"$(cat /var/run/ctrl-exec-agent.pid)\" != {old} ]", "a new process")
        answer(dispatcher, name)
        expect(dispatcher.run(name, "whoami")["stdout"].strip() == "65534", "executor after upgrade")

    def interrupted_upgrade():
        # Power cut with half of the new program on flash: installing again puts it right.
        router.run("dd if=/usr/bin/ctrl-exec-agent of=/tmp/half bs=4096 count=50 2>/dev/null; rm /usr/bin/ctrl-exec-agent; cp /tmp/half /usr/bin/ctrl-exec-agent; chmod 755 /usr/bin/ctrl-exec-agent")
        router.reboot()
        expect("not starting" in router.run("logread"), router.log())
        fetch(router, "2", "ctrl-exec-agent")
        router.install("ctrl-exec-agent")
        answer(dispatcher, name)

    def remove():
        word = "opkg remove" if router.packages == "ipk" else "apk del"
        said = router.run(f"{word} ctrl-exec-exec ctrl-exec-agent")
        expect("ing ctrl-exec-agent" in said, said)
        left = router.run(f"ls /usr/bin/ctrl-exec-agent /usr/sbin/ctrl-exec-exec /etc/rc.d/*ctrl-exec* 2>/dev/null; cat /etc/crontabs/root; ls {CONF}", code=None)
        expect("/usr/" not in left and "rc.d" not in left and "adopt" not in left, left)
        expect("agent.key" in left and "agent.conf" in left, "the identity is gone:", left)
        router.wait_until("! ps | grep -v grep | grep 'ctrl-exec-[ae]' | grep serve", "the end of both services")

    def documented():
        import docs

        # A new router: nothing of the one before is on flash.
        router.flash = []
        router.process.stop()
        router.boot()
        dispatcher.call("unpair", name, code=None)
        return docs.walk(router, dispatcher)

    def planted():
        # As the agent's user, in its own directories; root's next start must not touch what they point at.
        router.run(
            f"for d in {CONF}/state /var/run/ctrl-exec-agent/runs; do for c in 'ln -s /etc/shadow x' 'ln -s /etc/init.d y' 'mkfifo z'; do"
            " start-stop-daemon -S -q -p /tmp/none -c ctrl-exec-agent:ctrl-exec-agent -x /bin/busybox -- sh -c \"cd $d && $c\"; done; done"
        )
        before = router.run("ls -lnd /etc/shadow /etc/init.d /etc/init.d/*")
        for word in ("restart", "adopt", "reload"):
            router.run(f"{INIT} {word}")
        answer(dispatcher, name)
        expect(router.run("ls -lnd /etc/shadow /etc/init.d /etc/init.d/*") == before, before)
        router.run(f"rm -f {CONF}/state/[xyz] /var/run/ctrl-exec-agent/runs/[xyz]")

    def start_with_staged():
        before, pid = dispatcher.served(router.port), router.run("cat /var/run/ctrl-exec-agent.pid")
        dispatcher.call("renew", name, code=None)
        router.wait_until("ctrl-exec-agent cert-staged", "a staged certificate")
        router.run(f"{INIT} start")
        router.run("ctrl-exec-agent cert-staged", code=1)
        deadline = time.monotonic() + 60
        while (now := dispatcher.served(router.port)) == before and time.monotonic() < deadline:
            time.sleep(0.5)
        expect(now != before and now == ssl.PEM_cert_to_DER_cert(router.run(f"cat {CONF}/agent.crt")), "the certificate that is served is not the one in the file")
        expect(router.run("cat /var/run/ctrl-exec-agent.pid") == pid, "started anew")
        return "served by the same process"

    def programs():
        return router.run("cat /var/run/ctrl-exec-agent.pid; pidof ctrl-exec-exec; for p in $(pidof ctrl-exec-agent ctrl-exec-exec); do ls -l /proc/$p/exe; done")

    def apk_upgrade():
        # The same programs in a newer package: nothing is started anew. An edited file stays.
        edited, before = router.run(f"sha256sum {CONF}/agent.conf"), programs()
        for package in ("ctrl-exec-agent", "ctrl-exec-exec"):
            fetch(router, "2", package)
        said = router.install("ctrl-exec-agent", "ctrl-exec-exec")
        expect(said.count("Upgrading") == 2, said)
        expect(router.run(f"sha256sum {CONF}/agent.conf") == edited, "agent.conf was replaced")
        router.run(f"[ -f {CONF}/agent.conf.apk-new ]")
        expect(router.run("cat /var/run/ctrl-exec-agent.pid").strip() in before, "started anew for nothing")
        answer(dispatcher, name)

    def apk_upgrade_of_programs():
        # post-upgrade is `start`: a changed program must be running after it.
        before = router.run("cat /var/run/ctrl-exec-agent.pid; pidof ctrl-exec-exec").split()
        for package in ("ctrl-exec-agent", "ctrl-exec-exec"):
            fetch(router, "3", package)
        router.install("ctrl-exec-agent", "ctrl-exec-exec")
        router.wait_until(f'[ "$(cat /var/run/ctrl-exec-agent.pid)" != {before[0]} ]', "a new process")
        router.wait_until("! ls -l /proc/[0-9]*/exe 2>/dev/null | grep 'ctrl-exec.*deleted'", "the end of the old programs")
        # procd starts the new one when the old one has ended, and taken its socket with it.
        router.wait_until("[ -S /var/run/ctrl-exec-agent/exec.sock ]", "the new executor's socket")
        answer(dispatcher, name)
        expect(dispatcher.run(name, "whoami")["stdout"].strip() == "65534", programs())

    if not step("boots", boot):
        return
    apk_life = (
        ("installs the package", install, True),
        ("unpaired, stays down and says so once", unpaired, False),
        ("pairs with the host's dispatcher", pair, True),
        ("starts and answers", start, True),
        ("runs scripts as its own user", scripts, False),
        ("runs scripts under profiles through the executor", executor, False),
        ("keeps its processes and configuration when only the package is new", apk_upgrade, False),
        ("runs the new programs after an upgrade", apk_upgrade_of_programs, False),
        ("serves a certificate that start put in place", start_with_staged, False),
        ("comes back after a power cut", reboot, False),
        ("is removed and keeps its identity", remove, False),
    )
    opkg_life = (
        ("installs the package", install, True),
        ("unpaired, stays down and says so once", unpaired, False),
        ("pairs with the host's dispatcher", pair, True),
        ("starts and answers", start, True),
        ("runs scripts as its own user", scripts, False),
        ("runs asynchronously", asynchronous, False),
        ("keeps its memory", idle_memory, False),
        ("runs scripts under profiles through the executor", executor, False),
        ("never locks out the dispatcher it trusts", rate_limit, False),
        ("is restarted after a crash", crash, False),
        ("takes a renewed certificate and adopts it", renew, False),
        ("serves a certificate that start put in place", start_with_staged, False),
        ("leaves alone what the agent's user plants", planted, False),
        ("keeps the old configuration when the new one is broken", broken_conf, False),
        ("comes back after a power cut", reboot, False),
        ("is reachable with its clock in 1970", clock_1970, False),
        ("survives a clock in 2037", clock_2037, False),
        ("is reached after a start without network", no_network, False),
        ("starts with a read-only /etc", read_only_etc, False),
        ("starts with a full flash", full_flash, False),
        ("starts after its user was lost", lost_user, False),
        ("is upgraded and keeps its configuration", upgrade, False),
        ("is mended after an interrupted upgrade", interrupted_upgrade, False),
        ("is removed and keeps its identity", remove, False),
        ("every command of docs/OPENWRT.md works", documented, False),
    )
    for text, function, needed in apk_life if router.packages == "apk" else opkg_life:
        if not step(text, function) and needed:
            return


def set_conf(router, key, value):
    router.run(f"sed -i '/^#*{key} *=/d' {CONF}/agent.conf && sed -i '1i {key} = {value}' {CONF}/agent.conf")


def install_scripts(router):
    lines = []
    for script, text in SCRIPTS.items():
        path = f"/opt/ctrl-exec-scripts/{script}"
        lines += [f"cat >{path} <<'SCRIPT'", text.rstrip("\n"), "SCRIPT", f"chmod 755 {path}"]
        lines.append(f"grep '^{script} ' {CONF}/scripts.conf || echo '{script} = {path}' >>{CONF}/scripts.conf")
    lines += ["chmod 755 /opt/ctrl-exec-scripts", f"{INIT} reload"]
    router.run("\n".join(lines))


def resident(router, program="ctrl-exec-agent"):
    """Resident memory of a service in KiB."""
    return int(re.search(r"\d+", router.run(f"grep VmRSS /proc/$(pidof {program})/status"))[0])


def memory(router, program="ctrl-exec-agent"):
    """Resident memory of a service, in KiB; of the machine where the service does not run."""
    text = router.run(
        f"for p in $(pidof {program}); do sed -n 's/^VmRSS: *//p; s/^RssAnon: *//p' /proc/$p/status; sed -n 's/^Pss: *//p' /proc/$p/smaps_rollup 2>/dev/null; done;"
        " sed -n 's/^MemAvailable: */free /p' /proc/meminfo",
        code=None,
    )
    values = re.findall(r"(\d+) kB", text)
    if len(values) < 2:
        return f"{values[-1]} KiB free"
    return f"{program} RSS {values[0]} KiB" + (f" (anonymous {values[1]}, PSS {values[2]})" if len(values) > 3 else "")
