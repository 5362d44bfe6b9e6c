# The ADB block of an .apk on stdin, as decimal bytes, one a line. Prints what the package holds:
#   N name version | D number mode path | F directory file mode size sha256 path | S name offset length
{ b[n++] = $1 }
function u32(o) { return b[o] + 256 * (b[o + 1] + 256 * (b[o + 2] + 256 * b[o + 3])) }
function kind(w) { return int(w / 268435456) }
function at(w) { return w % 268435456 }
function number(w) { return kind(w) == 2 ? u32(at(w)) : at(w) }
# Where a blob's bytes begin, and in `len` how many they are.
function blob(w,   o) {
	o = at(w)
	if (w == 0) { len = 0; return 0 }
	if (kind(w) == 8) { len = b[o]; return o + 1 }
	if (kind(w) == 9) { len = b[o] + 256 * b[o + 1]; return o + 2 }
	len = u32(o); return o + 4
}
function text(w,   o, i, s) { o = blob(w); s = ""; for (i = 0; i < len; i++) s = s sprintf("%c", b[o + i]); return s }
function hex(w,   o, i, s) { o = blob(w); s = ""; for (i = 0; i < len; i++) s = s sprintf("%02x", b[o + i]); return s }
# Field i (from 1) of an object, 0 if it has none.
function item(w, i) { return w == 0 || i >= u32(at(w)) ? 0 : u32(at(w) + 4 * i) }
function items(w) { return w == 0 ? 0 : u32(at(w)) - 1 }
END {
	root = u32(4)
	info = item(root, 1); paths = item(root, 2); scripts = item(root, 3)
	print "N", text(item(info, 1)), text(item(info, 2))
	for (d = 1; d <= items(paths); d++) {
		dir = item(paths, d); path = text(item(dir, 1)); files = item(dir, 3)
		printf "D %d %o /%s\n", d, number(item(item(dir, 2), 1)), path
		for (f = 1; f <= items(files); f++) {
			file = item(files, f)
			printf "F %d %d %o %d %s /%s%s\n", d, f, number(item(item(file, 2), 1)), number(item(file, 3)), hex(item(file, 5)), path == "" ? "" : path "/", text(item(file, 1))
		}
	}
	split("trigger pre-install post-install pre-deinstall post-deinstall pre-upgrade post-upgrade", name, " ")
	for (s = 1; s <= items(scripts); s++) if (item(scripts, s)) { o = blob(item(scripts, s)); print "S", name[s], o, len }
}
