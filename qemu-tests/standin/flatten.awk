# JSON text on stdin, one line per leaf: path TAB value. Path elements are joined by "/"; array
# elements are numbered from 1 with leading zeros, so that sorting keeps their order. An empty
# object or array prints its path with the value {} or [].
{ text = text $0 "\n" }
END {
	at = 1
	value("")
	blanks()
	if (at <= length(text)) fail("something follows the value")
}
function fail(why) { print "bad JSON at " at ": " why > "/dev/stderr"; exit 1 }
function blanks() { while (substr(text, at, 1) ~ /[ \t\r\n]/ && at <= length(text)) at++ }
function peek() { blanks(); return substr(text, at, 1) }
function value(path,   c, n, key, word) {
	c = peek()
	if (c == "{") {
		at++
		if (peek() == "}") { at++; print path "\t{}"; return }
		for (;;) {
			if (peek() != "\"") fail("no member name")
			key = string()
			if (peek() != ":") fail("no colon")
			at++
			value(path == "" ? key : path "/" key)
			c = peek(); at++
			if (c == "}") return
			if (c != ",") fail("no comma")
		}
	} else if (c == "[") {
		at++
		if (peek() == "]") { at++; print path "\t[]"; return }
		for (n = 1; ; n++) {
			value(path "/" sprintf("%03d", n))
			c = peek(); at++
			if (c == "]") return
			if (c != ",") fail("no comma")
		}
	} else if (c == "\"") {
		print path "\t" string()
	} else {
		word = ""
		while ((c = substr(text, at, 1)) ~ /[-+.0-9a-zA-Z]/) { word = word c; at++ }
		if (word == "") fail("no value")
		print path "\t" word
	}
}
function string(   s, c) {
	at++
	s = ""
	while ((c = substr(text, at, 1)) != "\"") {
		if (c == "") fail("open string")
		if (c == "\\") {
			at++
			c = substr(text, at, 1)
			if (c == "n") c = "\n"
			else if (c == "t") c = "\t"
		}
		s = s c
		at++
	}
	at++
	return s
}
