#!/bin/sh
# Run by the feed's CI inside a root file system of the target, after installation.
# Arguments: package name, version. No procd runs there, and often no way to switch users.
set -e

case "$1" in
ctrl-exec-agent)
	ctrl-exec-agent --version | grep -F "$2"
	tmp=$(mktemp -d)
	mkdir -p "$tmp/etc/ctrl-exec-agent" "$tmp/scripts"
	printf '#!/bin/sh\necho hello\n' >"$tmp/scripts/hello"
	chmod 0755 "$tmp/scripts/hello"
	{
		echo "port = 17443"
		echo "cert = $tmp/agent.crt"
		echo "key = $tmp/agent.key"
		echo "ca = $tmp/ca.crt"
		echo "script_dirs = $tmp/scripts"
		echo "[profile default]"
		echo "run_as = nobody"
	} >"$tmp/etc/ctrl-exec-agent/agent.conf"
	echo "hello = $tmp/scripts/hello" >"$tmp/etc/ctrl-exec-agent/scripts.conf"

	echo "not paired: must say so and exit 78"
	code=0
	ctrl-exec-agent --root "$tmp" serve 2>"$tmp/err" || code=$?
	cat "$tmp/err"
	[ "$code" = 78 ]
	grep "not been paired" "$tmp/err" >/dev/null
	! ctrl-exec-agent --root "$tmp" paired

	echo "a bad configuration: must name the fault and exit 78"
	echo "this is no setting" >"$tmp/etc/ctrl-exec-agent/agent.conf"
	code=0
	ctrl-exec-agent --root "$tmp" serve 2>"$tmp/err" || code=$?
	cat "$tmp/err"
	[ "$code" = 78 ]
	grep "configuration error" "$tmp/err" >/dev/null
	rm -rf "$tmp"
	;;
ctrl-exec-exec)
	ctrl-exec-exec --version | grep -F "$2"
	tmp=$(mktemp -d)
	printf 'port = 1\ncert = /c\nkey = /k\nca = /a\n[profile default]\nrun_as = nobody\n' >"$tmp/agent.conf"
	echo "yes = /bin/true" >"$tmp/scripts.conf"
	ctrl-exec-exec resolve "$tmp/agent.conf" "$tmp/scripts.conf" yes
	rm -rf "$tmp"
	;;
esac
