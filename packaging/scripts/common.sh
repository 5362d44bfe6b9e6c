# Shared by the maintainer scripts of both packages; packaging/build puts it at the top of each.
# Package managers tell first installation and upgrade apart in different ways; see `upgrading`.

say() { echo "ctrl-exec: $*"; }

# Debian: `configure OLD-VERSION`; rpm: the number of versions installed; Alpine and Arch call other
# scripts for an upgrade, which packaging/build makes from this one with UPGRADE=yes.
upgrading() {
	[ "${UPGRADE:-}" = yes ] && return 0
	case "${1:-}" in
		configure) [ -n "${2:-}" ] ;;
		'' | *[!0-9]*) return 1 ;;
		*) [ "$1" -ge 2 ] ;;
	esac
}

# Removed for good, not replaced by another version: Debian `remove`, rpm 0, elsewhere no argument that says so.
removing() {
	case "${1:-}" in
		remove) return 0 ;;
		upgrade | failed-upgrade | deconfigure | abort-*) return 1 ;;
		'' | *[!0-9]*) return 0 ;;
		*) [ "$1" -eq 0 ] ;;
	esac
}

systemd_runs() { [ -d /run/systemd/system ]; }
openrc_runs() { [ -d /run/openrc ] && command -v rc-service >/dev/null 2>&1; }

# make_user NAME COMMENT: a system user and group without home or shell, if they are not there.
make_user() {
	getent group "$1" >/dev/null 2>&1 || grep -q "^$1:" /etc/group ||
		groupadd --system "$1" 2>/dev/null || addgroup -S "$1"
	getent passwd "$1" >/dev/null 2>&1 || grep -q "^$1:" /etc/passwd ||
		useradd --system --gid "$1" --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin --comment "$2" "$1" 2>/dev/null ||
		adduser -S -D -H -h /nonexistent -s /sbin/nologin -G "$1" -g "$2" "$1"
}

# make_dir MODE OWNER GROUP PATH: made if missing. What is there stays as the administrator has it.
make_dir() {
	[ -d "$4" ] || install -d -m "$1" -o "$2" -g "$3" "$4"
}

# seed MODE OWNER GROUP EXAMPLE PATH: copied if there is no such file. Never replaced afterwards.
seed() {
	[ -e "$5" ] || [ -L "$5" ] || install -m "$1" -o "$2" -g "$3" "$4" "$5"
}

# restart_if_active SERVICE [CHECK...]: only what runs, and only when CHECK finds no fault in the
# configuration: a service that goes on with the old program is better than none.
restart_if_active() {
	service=$1
	shift
	if systemd_runs; then
		systemctl --quiet is-active "$service" || { say "$service is not running; nothing to restart."; return 0; }
	elif openrc_runs; then
		rc-service --quiet "$service" status >/dev/null 2>&1 || { say "$service is not running; nothing to restart."; return 0; }
	else
		return 0
	fi
	if [ $# -gt 0 ] && ! reason=$("$@" 2>&1); then
		say "$service was NOT restarted and goes on with the old version: '$*' says:"
		printf '%s\n' "$reason" | sed 's/^/    /'
		say "repair it, then restart $service."
		return 0
	fi
	if systemd_runs; then
		systemctl restart "$service" && restarted=yes
	else
		rc-service "$service" restart && restarted=yes
	fi
	if [ "${restarted:-no}" = yes ]; then
		say "$service was restarted to apply the upgrade."
	else
		say "$service could not be restarted; its log says why."
	fi
	restarted=no
	return 0
}

stop_and_disable() {
	for unit in "$@"; do
		if systemd_runs; then systemctl --quiet stop "$unit" 2>/dev/null || true; fi
		if command -v systemctl >/dev/null 2>&1; then systemctl --quiet disable "$unit" 2>/dev/null || true; fi
	done
}

# The timer does nothing before the program is configured, so it may run from the start.
enable_timer() {
	command -v systemctl >/dev/null 2>&1 || return 0
	systemctl --quiet enable "$1" 2>/dev/null || true
	if systemd_runs; then systemctl --quiet start "$1" || true; fi
}

reload_units() { if systemd_runs; then systemctl daemon-reload || true; fi; }
