'use strict';
'require poll';
'require rpc';
'require view';

var callLog = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'log',
	params: [ 'count' ],
	expect: { 'lines': [] }
});

return view.extend({
	load: function() {
		return callLog(200);
	},

	render: function(lines) {
		var area = E('textarea', {
			'id': 'log', 'readonly': '', 'wrap': 'off', 'rows': 25, 'style': 'width:100%; font-family:monospace'
		}, [ lines.join('\n') ]);

		poll.add(function() {
			return callLog(200).then(function(now) {
				area.value = now.join('\n');
			});
		}, 5);

		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ _('Log') ]),
			E('div', { 'class': 'cbi-map-descr' }, [ _('The last lines of agent and executor in the system log.') ]),
			E('div', { 'class': 'cbi-section' }, [ area ])
		]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
