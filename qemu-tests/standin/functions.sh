# Stand-in for OpenWrt's /lib/functions.sh: users, and what every package's scripts call.

group_exists() { grep "^$1:" "$IPKG_INSTROOT/etc/group" >/dev/null 2>&1; }
user_exists() { grep "^$1:" "$IPKG_INSTROOT/etc/passwd" >/dev/null 2>&1; }
group_add() { echo "$1:x:$2:" >>"$IPKG_INSTROOT/etc/group"; }
user_add() {
	echo "$1:x:$2:$3:$1:/var/run/$1:/bin/false" >>"$IPKG_INSTROOT/etc/passwd"
	echo "$1:x:0:0:99999:7:::" >>"$IPKG_INSTROOT/etc/shadow"
}

# "name=uid:group=gid ..." of the control file's Require-User
_add_users() {
	local item user group
	for item in $1; do
		user="${item%%:*}" group="${item#*:}"
		group_exists "${group%%=*}" || group_add "${group%%=*}" "${group##*=}"
		user_exists "${user%%=*}" || user_add "${user%%=*}" "${user##*=}" "${group##*=}"
	done
}

# The configuration of uci: lines "config type 'name'", "option key 'value'", "list key 'value'".
# Kept as lines SECTION.KEY=VALUE, a list's items one by one.
config_load() {
	_uci="$(sed -n "s/^config  *[^ ]*  *'\{0,1\}\([^' ]*\)'\{0,1\}.*/=\1/p; s/^[[:space:]]*\(option\|list\)[[:space:]]*\([a-z_]*\)[[:space:]]*'\(.*\)'[[:space:]]*\$/\2=\3/p" "$IPKG_INSTROOT/etc/config/$1" 2>/dev/null |
		awk '/^=/ { section = substr($0, 2); next } { print section "." $0 }')"
}

config_get() {
	local found
	found="$(printf '%s\n' "$_uci" | sed -n "s/^$2\.$3=//p" | tr '\n' ' ' | sed 's/ $//')"
	eval "$1=\${found:-\$4}"
}

config_get_bool() {
	config_get "$@"
	eval "case \"\$$1\" in 1 | on | true | yes | enabled) $1=1 ;; 0 | off | false | no | disabled) $1=0 ;; *) $1=\$4 ;; esac"
}

config_list_foreach() {
	local item
	while read -r item; do
		[ -z "$item" ] || "$3" "$item"
	done <<-ITEMS
		$(printf '%s\n' "$_uci" | sed -n "s/^$1\.$2=//p")
	ITEMS
}

# Of apk's packages: users as lib/apk/packages has them, the name in $pkgname.
add_group_and_user() {
	_add_users "$(cat "$IPKG_INSTROOT/lib/apk/packages/$pkgname.rusers" 2>/dev/null)"
}

# The package's name in _name, the list of its files in _list.
_package() {
	local info="$IPKG_INSTROOT/usr/lib/opkg/info"
	if [ -n "$pkgname" ]; then
		_name="$pkgname" _list="$IPKG_INSTROOT/lib/apk/packages/$pkgname.list"
	else
		_name="${1##*/}"
		_name="${_name%.*}" _list="$info/$_name.list"
	fi
}

default_postinst() {
	local info="$IPKG_INSTROOT/usr/lib/opkg/info" f failed=0
	_package "$1"
	[ -n "$pkgname" ] || _add_users "$(sed -n 's/^Require-User: //p' "$info/$_name.control")"
	if [ -z "$IPKG_INSTROOT" ]; then
		for f in $(grep '^/etc/uci-defaults/' "$_list"); do
			[ -f "$f" ] && (cd /etc/uci-defaults && . "$f") && rm -f "$f"
		done
	fi
	if [ -f "$info/$_name.postinst-pkg" ]; then
		(. "$info/$_name.postinst-pkg") || failed=1
	fi
	for f in $(grep '^/etc/init.d/' "$_list"); do
		[ "$PKG_UPGRADE" = 1 ] || "$IPKG_INSTROOT$f" enable
		[ -n "$IPKG_INSTROOT" ] || "$f" start
	done
	return $failed
}

default_prerm() {
	local info="$IPKG_INSTROOT/usr/lib/opkg/info" f failed=0
	_package "$1"
	if [ -f "$info/$_name.prerm-pkg" ]; then
		(. "$info/$_name.prerm-pkg") || failed=1
	fi
	for f in $(grep '^/etc/init.d/' "$_list"); do
		[ "$PKG_UPGRADE" = 1 ] || "$f" disable
		[ -n "$IPKG_INSTROOT" ] || "$f" stop
	done
	return $failed
}
