# Debian packages for the scripts here. Sourced; needs bash.

# need_packages PACKAGE... : installs what is missing, as root; otherwise says what to install.
# A package that the release itself cannot give (qemu beside newer qemu-utils) is taken from its backports.
need_packages() {
	local missing=() p
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -x 'install ok installed' >/dev/null || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	if [ "$(id -u)" != 0 ]; then
		echo "needs Debian packages; as root: apt-get install ${missing[*]}" >&2
		return 1
	fi
	echo "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt_update_once || return 1
	if apt-get install -y -qq --no-install-recommends "${missing[@]}" >"${TMPDIR:-/tmp}/apt.log" 2>&1; then
		return 0
	fi
	add_backports || { tail -n 20 "${TMPDIR:-/tmp}/apt.log" >&2; return 1; }
	if ! apt-get install -y -qq --no-install-recommends -t "$(release)-backports" "${missing[@]}" >"${TMPDIR:-/tmp}/apt.log" 2>&1; then
		tail -n 20 "${TMPDIR:-/tmp}/apt.log" >&2
		echo "cannot install ${missing[*]}" >&2
		return 1
	fi
}

apt_update_once() {
	[ -n "${APT_UPDATED:-}" ] && return 0
	apt-get update -qq >/dev/null || { sleep 5; apt-get update -qq; } || return 1
	APT_UPDATED=1
}

release() { (. /etc/os-release && echo "$VERSION_CODENAME"); }

# The release's backports, from the same mirror as the release itself.
add_backports() {
	local mirror list=/etc/apt/sources.list.d/ctrl-exec-backports.list
	apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -x "$(release)-backports" >/dev/null && return 0
	mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
		awk -v r="$(release)" '$1 == r { print $2; exit }')
	[ -n "$mirror" ] || { echo "apt knows no mirror of $(release)" >&2; return 1; }
	echo "deb $mirror $(release)-backports main" >"$list"
	apt-get update -qq
}
