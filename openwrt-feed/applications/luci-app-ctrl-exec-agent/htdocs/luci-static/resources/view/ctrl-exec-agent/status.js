'use strict';
'require poll';
'require rpc';
'require ui';
'require view';

var callStatus = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'status',
	expect: { '': {} }
});

var callService = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'service',
	params: [ 'action' ],
	expect: { '': {} }
});

/* Days until the end of the certificate, or null if it names no date. */
function daysLeft(certificate) {
	var found = /^expires (.*)$/.exec(certificate || ''),
	    end = found ? Date.parse(found[1].replace(/ +/g, ' ')) : NaN;

	return isNaN(end) ? null : Math.floor((end - Date.now()) / 86400000);
}

function certificate(status) {
	var days = daysLeft(status.certificate);

	if (days === null)
		return status.certificate || '-';

	return '%s (%s)'.format(status.certificate, days < 0
		? _('expired; the dispatcher can no longer reach this agent')
		: _('%d days left').format(days));
}

function row(title, value) {
	return E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td left', 'width': '33%' }, [ title ]),
		E('td', { 'class': 'td left' }, [ value ])
	]);
}

return view.extend({
	load: function() {
		return callStatus();
	},

	render: function(status) {
		var body = E('div', {}, this.content(status));

		poll.add(L.bind(function() {
			return callStatus().then(L.bind(function(now) {
				var content = this.content(now);

				while (body.firstChild)
					body.removeChild(body.firstChild);

				content.forEach(function(node) { body.appendChild(node); });
			}, this));
		}, this), 10);

		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ _('Remote Execution') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Runs the scripts that this router allows, and no others, for the dispatcher it is paired with.')
			]),
			body
		]);
	},

	content: function(status) {
		var notes = (status.notes || []).map(function(note) {
			return E('div', { 'class': 'alert-message ' + (status.ok ? 'notice' : 'warning') }, [ note ]);
		});

		var dispatchers = (status.dispatchers || []).map(function(name) {
			return E('div', {}, [ name ]);
		});

		var calls = (status.calls || []).slice().reverse().map(function(line) {
			return E('tr', { 'class': 'tr' }, [ E('td', { 'class': 'td left' }, [ E('code', {}, [ line ]) ]) ]);
		});

		return (status.ok ? [] : notes).concat([
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Agent') ]),
				E('table', { 'class': 'table' }, [
					row(_('Service'), status.running
						? _('running, port %s').format(status.port || '?')
						: (status.paired ? _('not running') : _('not running: not paired'))),
					row(_('Paired with'), dispatchers.length ? E('div', {}, dispatchers) : E('em', {}, [ _('nobody') ])),
					row(_('Certificate'), certificate(status)),
					row(_('Scripts run'), status.executor
						? _('by the executor, under their profiles')
						: _('as the agent\'s own user')),
					row(_('Version'), status.version || '-')
				]),
				E('div', { 'class': 'cbi-page-actions' }, [
					E('button', {
						'class': 'btn cbi-button cbi-button-action',
						'disabled': status.paired ? null : '',
						'click': ui.createHandlerFn(this, this.handleReload)
					}, [ status.running ? _('Reload') : _('Start') ])
				])
			]),
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Last calls') ]),
				calls.length
					? E('table', { 'class': 'table' }, calls)
					: E('em', {}, [ _('The log has no calls.') ])
			])
		], status.ok ? notes : []);
	},

	handleReload: function() {
		return callService('reload').then(function(answer) {
			if (answer.code !== 0)
				ui.addNotification(null, E('p', {}, [ _('The service could not be reloaded; see the log.') ]), 'error');
		});
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
