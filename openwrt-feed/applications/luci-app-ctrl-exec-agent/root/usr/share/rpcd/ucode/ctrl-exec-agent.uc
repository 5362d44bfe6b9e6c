// Methods behind the LuCI pages of ctrl-exec-agent. rpcd runs them as root, so they open nothing
// below the directories of the agent's user: what is in there, the agent's own commands tell.

'use strict';

import { lstat, mkdir, popen, readfile, unlink } from 'fs';

const AGENT = '/usr/bin/ctrl-exec-agent';
const INIT = '/etc/init.d/ctrl-exec-agent';
const CONF = '/etc/ctrl-exec-agent';
// Made by root, and nobody else can write to it.
const RUN = '/var/run/ctrl-exec-agent';
const PAIRING = RUN + '/pairing';
const MOST = 65536;

function quoted(word) {
	return "'" + replace(word, "'", "'\\''") + "'";
}

// Output (at most MOST bytes, both streams) and exit code of a command.
function run(...words) {
	const pipe = popen(join(' ', map(words, quoted)) + ' </dev/null 2>&1', 'r');

	if (!pipe)
		return { code: -1, text: '' };

	const text = pipe.read(MOST) ?? '';

	return { text, code: pipe.close() };
}

// What others said may stand in a line: only what can be shown stays.
function shown(text) {
	return replace(text ?? '', /[^\t\x20-\x7e\x80-\xff]/g, '?');
}

function lines(text) {
	return map(filter(split(text, '\n'), line => length(trim(line))), shown);
}

function check() {
	const done = run(AGENT, 'self-check');
	const found = { ok: done.code == 0, dispatchers: [], scripts: [], notes: [] };

	if (done.code != 0) {
		found.notes = lines(done.text);
		return found;
	}

	for (let line in lines(done.text)) {
		let m = match(line, /^ctrl-exec-agent ([0-9.]+)$/);

		if (m) {
			found.version = m[1];
			continue;
		}

		m = match(line, /^  (.+) = (.+) profile=([^ ]+) \[(.+)\]$/);

		if (m) {
			push(found.scripts, { name: m[1], path: m[2], profile: m[3], state: m[4] });
			continue;
		}

		m = match(line, /^([A-Z][a-z ]+): +(.*)$/);

		if (!m) {
			push(found.notes, line);
			continue;
		}

		switch (m[1]) {
		case 'Port': found.port = +m[2]; break;
		case 'Certificate': found.certificate = m[2]; break;
		case 'Dispatcher': push(found.dispatchers, m[2]); break;
		case 'Scripts': break;
		case 'Overrides': found.overrides = m[2]; break;
		default: push(found.notes, line);
		}
	}

	return found;
}

function log_lines(count) {
	const done = run('logread', '-e', 'ctrl-exec-', '-l', '' + count);

	return done.code == 0 ? lines(done.text) : [];
}

// The process that waits for a pairing, if it lives and is the agent.
function pairing_process() {
	const pid = trim(readfile(PAIRING + '.pid', 16) ?? '');

	if (!match(pid, /^[0-9]+$/))
		return null;

	const words = readfile('/proc/' + pid + '/cmdline', 256);

	return words && index(words, 'request-pairing') >= 0 ? pid : null;
}

function own_directory(path) {
	const at = lstat(path);

	return at?.type == 'directory' && at.uid == 0 && !at.perm.group_write && !at.perm.other_write;
}

function shown_file(path) {
	return join('\n', map(split(readfile(path, MOST) ?? '', '\n'), shown));
}

// The sections [profile NAME] of agent.conf with their lines.
function profiles() {
	const found = [];
	let lines_of;

	for (let line in split(shown_file(CONF + '/agent.conf'), '\n')) {
		const section = match(line, /^[ \t]*\[[ \t]*([A-Za-z]+)[ \t]*([^] \t]*)[ \t]*\]/);

		if (section) {
			lines_of = null;
			if (lc(section[1]) == 'profile') {
				lines_of = [];
				push(found, { name: section[2], settings: lines_of });
			}
		} else if (lines_of && match(line, /^[ \t]*[A-Za-z0-9_]/)) {
			push(lines_of, trim(line));
		}
	}

	return found;
}

const methods = {
	status: {
		call: function() {
			const found = check();

			found.running = run(INIT, 'running').code == 0;
			found.paired = run(AGENT, 'paired').code == 0;
			found.executor = run('/etc/init.d/ctrl-exec-exec', 'running').code == 0;
			found.calls = [];
			for (let line in log_lines(200)) {
				const m = match(line, /ACTION=(run|ping|capabilities|renew|deny) .*$/);

				if (m)
					push(found.calls, line);
			}
			found.calls = slice(found.calls, -10);

			return found;
		}
	},

	scripts: {
		call: function() {
			return {
				scripts: check().scripts,
				allowlist: shown_file(CONF + '/scripts.conf'),
				profiles: profiles()
			};
		}
	},

	log: {
		args: { count: 100 },
		call: function(request) {
			return { lines: log_lines(min(max(int(request.args?.count) || 100, 1), 500)) };
		}
	},

	pair_start: {
		args: { dispatcher: 'host', port: 7444 },
		call: function(request) {
			const host = request.args?.dispatcher;
			const port = int(request.args?.port ?? 7444);

			if (type(host) != 'string' || length(host) > 255 || !match(host, /^[A-Za-z0-9][A-Za-z0-9.:_-]*$/))
				return { error: 'The dispatcher must be a host name or an address' };

			if (!(port >= 1 && port <= 65535))
				return { error: 'The port must be 1 to 65535' };

			if (pairing_process())
				return { error: 'A pairing is under way' };

			mkdir(RUN, 0755);
			if (!own_directory(RUN))
				return { error: RUN + ' is not a directory of root alone' };

			for (let name in [ '.out', '.pid', '.code' ])
				unlink(PAIRING + name);

			// In a session of its own, so that it outlives rpcd's call; its end is written down.
			const inner = `umask 077; ${AGENT} request-pairing --dispatcher ${quoted(host)} --port ${port} </dev/null >${PAIRING}.out 2>&1 & echo $! >${PAIRING}.pid; wait $!; echo $? >${PAIRING}.code`;
			const pipe = popen(`setsid sh -c ${quoted(inner)} </dev/null >/dev/null 2>&1 &`, 'r');

			pipe?.close();

			return {};
		}
	},

	pair_state: {
		call: function() {
			const text = readfile(PAIRING + '.out', MOST) ?? '';
			const code = match(text, /Pairing code: ([0-9]{6})/)?.[1];
			const ended = readfile(PAIRING + '.code', 8);

			return {
				code,
				state: pairing_process() ? 'waiting' : ended == null ? 'none' : trim(ended) == '0' ? 'paired' : 'failed',
				lines: lines(text)
			};
		}
	},

	pair_cancel: {
		call: function() {
			const pid = pairing_process();

			if (pid)
				run('kill', pid);

			return {};
		}
	},

	service: {
		args: { action: 'reload' },
		call: function(request) {
			const action = request.args?.action;

			if (!(action in [ 'start', 'stop', 'reload', 'restart' ]))
				return { error: 'Unknown action' };

			return { code: run(INIT, action).code };
		}
	}
};

return { 'luci.ctrl-exec-agent': methods };
