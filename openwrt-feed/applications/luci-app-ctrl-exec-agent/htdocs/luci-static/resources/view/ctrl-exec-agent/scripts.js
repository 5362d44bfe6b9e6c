'use strict';
'require rpc';
'require view';

var callScripts = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'scripts',
	expect: { '': {} }
});

function table(titles, rows, none) {
	if (!rows.length)
		return E('em', {}, [ none ]);

	return E('table', { 'class': 'table' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(function(title) {
			return E('th', { 'class': 'th' }, [ title ]);
		}))
	].concat(rows.map(function(cells) {
		return E('tr', { 'class': 'tr' }, cells.map(function(cell) {
			return E('td', { 'class': 'td left' }, [ cell ]);
		}));
	})));
}

return view.extend({
	load: function() {
		return callScripts();
	},

	render: function(answer) {
		var scripts = (answer.scripts || []).map(function(script) {
			return [
				script.name,
				E('code', {}, [ script.path ]),
				script.profile,
				script.state === 'ok' ? _('ok') : E('strong', {}, [ script.state ])
			];
		});

		var profiles = (answer.profiles || []).map(function(profile) {
			return [ profile.name, E('pre', { 'style': 'margin:0' }, [ (profile.settings || []).join('\n') || '-' ]) ];
		});

		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ _('Scripts') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('What the dispatcher may run is said in files on this router, and nowhere else: /etc/ctrl-exec-agent/scripts.conf names the scripts, /etc/ctrl-exec-agent/agent.conf has the profiles. Edit them over SSH, then reload the agent.')
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Allowed scripts') ]),
				table([ _('Name'), _('File'), _('Profile'), _('State') ], scripts, _('None: the dispatcher can run nothing.'))
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Profiles') ]),
				table([ _('Name'), _('Settings') ], profiles, _('None.'))
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ 'scripts.conf' ]),
				E('pre', {}, [ answer.allowlist || '' ])
			])
		]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
