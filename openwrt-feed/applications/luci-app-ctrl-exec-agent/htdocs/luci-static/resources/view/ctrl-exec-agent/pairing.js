'use strict';
'require poll';
'require rpc';
'require ui';
'require view';

var callState = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'pair_state',
	expect: { '': {} }
});

var callStart = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'pair_start',
	params: [ 'dispatcher', 'port' ],
	expect: { '': {} }
});

var callCancel = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'pair_cancel',
	expect: { '': {} }
});

var callService = rpc.declare({
	object: 'luci.ctrl-exec-agent',
	method: 'service',
	params: [ 'action' ],
	expect: { '': {} }
});

return view.extend({
	load: function() {
		return callState();
	},

	render: function(state) {
		this.body = E('div', {});
		this.show(state);

		poll.add(L.bind(function() {
			return callState().then(L.bind(this.show, this));
		}, this), 3);

		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ _('Pairing') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('On the dispatcher run "ctrl-exec-dispatcher pairing-mode" first. Both sides then show six digits: approve there only if they are the same.')
			]),
			this.body
		]);
	},

	/* Nothing is drawn again while nothing changed: the form keeps what is being typed. */
	show: function(state) {
		var key = JSON.stringify(state);

		if (key === this.shown)
			return;

		this.shown = key;

		while (this.body.firstChild)
			this.body.removeChild(this.body.firstChild);

		this.content(state).forEach(L.bind(function(node) { this.body.appendChild(node); }, this));
	},

	content: function(state) {
		if (state.state === 'waiting')
			return this.waiting(state);

		var nodes = [];

		if (state.state === 'paired')
			nodes.push(E('div', { 'class': 'cbi-section' }, [
				E('div', { 'class': 'alert-message success' }, [ _('This router is paired. Start the agent to be reached.') ]),
				E('pre', {}, [ (state.lines || []).slice(-3).join('\n') ]),
				E('button', {
					'class': 'btn cbi-button cbi-button-action important',
					'click': ui.createHandlerFn(this, this.handleService)
				}, [ _('Start the agent') ])
			]));
		else if (state.state === 'failed')
			nodes.push(E('div', { 'class': 'alert-message warning' }, [
				E('h4', {}, [ _('The last attempt failed') ]),
				E('pre', {}, [ (state.lines || []).slice(-5).join('\n') ])
			]));

		nodes.push(E('div', { 'class': 'cbi-section' }, [
			E('div', { 'class': 'cbi-value' }, [
				E('label', { 'class': 'cbi-value-title', 'for': 'dispatcher' }, [ _('Dispatcher') ]),
				E('div', { 'class': 'cbi-value-field' }, [
					E('input', { 'id': 'dispatcher', 'class': 'cbi-input-text', 'placeholder': 'dispatcher.example.org' })
				])
			]),
			E('div', { 'class': 'cbi-value' }, [
				E('label', { 'class': 'cbi-value-title', 'for': 'port' }, [ _('Pairing port') ]),
				E('div', { 'class': 'cbi-value-field' }, [
					E('input', { 'id': 'port', 'class': 'cbi-input-text', 'value': '7444' })
				])
			]),
			E('div', { 'class': 'cbi-page-actions' }, [
				E('button', {
					'class': 'btn cbi-button cbi-button-action important',
					'click': ui.createHandlerFn(this, this.handleStart)
				}, [ _('Request pairing') ])
			])
		]));

		return nodes;
	},

	waiting: function(state) {
		return [
			E('div', { 'class': 'cbi-section' }, [
				E('h3', {}, [ _('Pairing code') ]),
				state.code
					? E('p', { 'id': 'code', 'style': 'font:bold 300% monospace; letter-spacing:.2em' }, [ state.code ])
					: E('p', { 'class': 'spinning' }, [ _('Making a key…') ]),
				E('p', {}, [
					_('Compare it with "ctrl-exec-dispatcher list-requests". If the digits differ, somebody is in between: cancel here, and do not approve there.')
				]),
				E('div', { 'class': 'cbi-page-actions' }, [
					E('button', {
						'class': 'btn cbi-button cbi-button-negative',
						'click': ui.createHandlerFn(this, this.handleCancel)
					}, [ _('They differ, or cancel') ])
				])
			])
		];
	},

	refresh: function() {
		return callState().then(L.bind(this.show, this));
	},

	handleStart: function() {
		var host = document.getElementById('dispatcher').value.trim(),
		    port = +document.getElementById('port').value;

		return callStart(host, port).then(L.bind(function(answer) {
			if (answer.error)
				ui.addNotification(null, E('p', {}, [ answer.error ]), 'error');

			return this.refresh();
		}, this));
	},

	handleCancel: function() {
		return callCancel().then(L.bind(this.refresh, this));
	},

	handleService: function() {
		return callService('reload').then(function() {
			window.location.href = L.url('admin/services/ctrl-exec-agent/status');
		});
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
