# Shared by the init scripts and the package's scripts.
#
# Root works only where nobody else can change a name: below a directory of a lesser user, a link or
# a directory swapped in would turn root's own command against it. So nothing here recurses, and
# every path is checked from the root down before anything is made or given away in it.

# Whether only the caller (root) can change the entries of directory $1. In a sticky directory
# others can add names, but not replace those of root, which the next component is asked about.
own_dir() {
	local mode links owner rest
	read -r mode links owner rest <<-LIST
		$(ls -ldn "$1/." 2>/dev/null)
	LIST
	[ "$owner" = "$(id -u)" ] || return 1
	case "$mode" in
	d????????[tT]* | d????-??-*) return 0 ;;
	esac
	return 1
}

# Whether that holds for directory $1 and every directory named above it.
own_path() {
	local dir="$1"
	while [ -n "$dir" ] && [ "$dir" != / ]; do
		own_dir "$dir" || return 1
		dir="${dir%/*}"
	done
	own_dir /
}

# Prints the path of directory $1 without links, if root alone can change it and all above it, both
# as it is written and as it is.
safe_dir() {
	local path
	own_path "$1" && path="$(cd -P "$1" 2>/dev/null && pwd -P)" && own_path "$path" && printf '%s\n' "$path"
}

# Makes directory $1 with mode $2 and, if given, owner $3. One that is there stays as it is.
make_dir() {
	local parent name="${1##*/}"
	parent="${1%/*}"
	parent="$(safe_dir "${parent:-/}")" || return 1
	if [ -L "$parent/$name" ] || [ ! -d "$parent/$name" ]; then
		mkdir -m "$2" "$parent/$name" || return 1
		[ -z "$3" ] || chown -h "$3" "$parent/$name"
	fi
}

# Gives $1, as a package installs it (root:root), to group $2 with mode $3. What has another group
# was changed by the owner of the machine and stays; a directory of a lesser user is taken back.
share_with() {
	local parent mode links owner group rest
	parent="$(safe_dir "${1%/*}")" || return 1
	set -- "$parent/${1##*/}" "$2" "$3"
	[ ! -L "$1" ] && [ -e "$1" ] || return 0
	read -r mode links owner group rest <<-LIST
		$(ls -ldn "$1")
	LIST
	if [ "$owner" = "$(id -u)" ] && [ "$group" != "$(id -g)" ]; then return 0; fi
	chown -h "root:$2" "$1" && chmod "$3" "$1"
}

# The last value of key $1 in the first part of agent.conf; nothing if it is not set.
setting() {
	sed -n "/^[[:space:]]*\[/q; s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" /etc/ctrl-exec-agent/agent.conf 2>/dev/null |
		sed -n 's/[[:space:]]*$//; $p'
}
