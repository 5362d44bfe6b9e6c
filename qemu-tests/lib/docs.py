"""The commands in docs/OPENWRT.md, taken out of it and run."""

import re

import bench
from bench import expect

PAGE = bench.REPO / "docs/OPENWRT.md"
# What the page says for some router, and what it is here.
MEANT = {"203.0.113.7": "10.0.2.2"}


def blocks(mark):
    """Texts of the code blocks with this mark, in order."""
    return re.findall(rf"^```sh {mark}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def walk(router, dispatcher):
    """Runs every `router` block on a fresh machine; pairing is answered by the dispatcher."""
    for package in ("ctrl-exec-agent", "ctrl-exec-exec"):
        bench.fetch(router, "1", package)
    listener = dispatcher.pairing_mode()
    done = 0
    try:
        for text in blocks("router"):
            for word, here in {**MEANT, "router-17": router.name}.items():
                text = text.replace(word, here)
            if "request-pairing" in text:
                pair(router, dispatcher, text)
            else:
                # Each command must succeed; "status" of a service without instances does.
                before, self_ping, after = text.partition("ctrl-exec-agent self-ping\n")
                router.run("set -e\n" + before)
                if self_ping:
                    # Typed by a person, it comes later than from here.
                    router.wait_until(self_ping.strip(), "self-ping")
                router.run("set -e\n" + after)
                if "keep.d" in text:
                    bench.answer(dispatcher, router.name)
            done += 1
    finally:
        listener.stop()
    expect(done >= 9, f"only {done} blocks")
    expect("firewall" in router.run("cat /tmp/procd-events"), "the firewall was told")
    router.run("[ ! -e /etc/ctrl-exec-agent ] && [ ! -e /usr/bin/ctrl-exec-agent ]")
    return f"{done} blocks"


def pair(router, dispatcher, text):
    router.run(f"export DISPATCHER='10.0.2.2 --port {dispatcher.pairing_port}'\n" + "{ " + text.replace('"$DISPATCHER"', "$DISPATCHER").strip() + "; } >/tmp/pair.out 2>&1 </dev/null & echo $! >/tmp/pair.pid")
    router.wait_until("grep -E '[0-9]{6}' /tmp/pair.out", "a pairing code")
    code = bench.six_digits(router.run("cat /tmp/pair.out"))
    dispatcher.approve(code, "--lookup-by", "ip", "--ip", "127.0.0.1", "--agent-port", str(router.port))
    router.wait_until("! kill -0 $(cat /tmp/pair.pid)", "the end of pairing")
