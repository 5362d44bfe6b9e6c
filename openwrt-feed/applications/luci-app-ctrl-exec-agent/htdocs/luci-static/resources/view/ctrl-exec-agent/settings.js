'use strict';
'require form';
'require view';

return view.extend({
	render: function() {
		var m, s, o;

		m = new form.Map('ctrl-exec-agent', _('Settings'),
			_('What is set here takes the place of the same key in /etc/ctrl-exec-agent/agent.conf, which has all settings.'));

		s = m.section(form.NamedSection, 'main', 'agent');

		o = s.option(form.Flag, 'enabled', _('Enabled'));
		o.default = '1';
		o.rmempty = false;

		o = s.option(form.Value, 'hostname', _('Name'), _('The name to pair and to answer under. Change it before pairing.'));
		o.datatype = 'hostname';
		o.placeholder = _('the system\'s');
		o.optional = true;

		o = s.option(form.Value, 'port', _('Port'));
		o.datatype = 'port';
		o.placeholder = '7443';
		o.optional = true;

		o = s.option(form.Value, 'bind', _('Address'), _('The address to listen on.'));
		o.datatype = 'ipaddr("nomask")';
		o.placeholder = _('all');
		o.optional = true;

		o = s.option(form.DynamicList, 'allowed_ip', _('Dispatchers'), _('Addresses that may connect: an address, or a network of /8, /16 or /24. None: all.'));
		o.datatype = 'or(ip4addr, ip6addr)';
		o.optional = true;

		o = s.option(form.Flag, 'wan', _('Open on WAN'), _('Opens the port in the firewall for the dispatchers above, or for everybody if there are none.'));

		o = s.option(form.ListValue, 'log_level', _('Log'));
		o.value('', _('as in agent.conf'));
		o.value('info', _('everything'));
		o.value('warning', _('warnings and errors'));
		o.value('err', _('errors'));
		o.optional = true;

		o = s.option(form.Flag, 'jail', _('Jail'), _('Only with the executor: the agent gets a file system of its own and no capabilities (needs procd-ujail).'));

		return m.render();
	}
});
