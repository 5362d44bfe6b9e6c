/* LuCI's basic classes, as far as the views here use them, for a page without LuCI. `require`d classes
   become arguments of a view's function, as luci.js does it; rpcd answers from ANSWERS. */
'use strict';

String.prototype.format = function() {
	var args = arguments, at = 0;

	return this.replace(/%[sd]/g, function() { return String(args[at++]); });
};

function _(text) { return text; }

function E(tag, attributes, children) {
	var node = document.createElement(tag);

	Object.keys(attributes || {}).forEach(function(name) {
		var value = attributes[name];

		if (value === null || value === undefined)
			return;
		if (typeof value === 'function')
			node.addEventListener(name, value);
		else
			node.setAttribute(name, value);
	});

	(Array.isArray(children) ? children : children === undefined ? [] : [ children ]).forEach(function(child) {
		if (child === null || child === undefined)
			return;
		node.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
	});

	return node;
}

var L = {
	bind: function(f, self) {
		var args = Array.prototype.slice.call(arguments, 2);

		return function() { return f.apply(self, args.concat(Array.prototype.slice.call(arguments))); };
	},
	url: function(path) { return '/cgi-bin/luci/' + path; }
};

var CALLS = [];

var CLASSES = {
	rpc: {
		declare: function(options) {
			return function() {
				var args = Array.prototype.slice.call(arguments),
				    answer = ANSWERS[options.method];

				CALLS.push([ options.object, options.method, args ]);

				if (typeof answer === 'function')
					answer = answer.apply(null, args);

				var key = Object.keys(options.expect)[0];

				answer = key ? (answer || {})[key] : answer;
				return Promise.resolve(answer === undefined ? options.expect[key] : answer);
			};
		}
	},
	poll: { tasks: [], add: function(task) { CLASSES.poll.tasks.push(task); } },
	ui: {
		createHandlerFn: function(self, f) { return function(ev) { return f.call(self, ev); }; },
		addNotification: function(title, node, kind) {
			node.setAttribute('class', 'alert-message ' + kind);
			document.getElementById('view').prepend(node);
		}
	},
	view: { extend: function(members) { return members; } },
	form: {}
};

function Section(map) { this.map = map; this.options = []; }
Section.prototype.option = function(kind, name, title, description) {
	var option = { kind: kind, name: name, title: title, description: description, values: [], value: function(key, text) { option.values.push(text); } };

	this.options.push(option);
	return option;
};

CLASSES.form.Map = function(config, title, description) { this.config = config; this.title = title; this.description = description; this.sections = []; };
CLASSES.form.Map.prototype.section = function() {
	var section = new Section(this);

	this.sections.push(section);
	return section;
};
CLASSES.form.Map.prototype.render = function() {
	var field = {
		Flag: function() { return E('input', { type: 'checkbox' }); },
		ListValue: function(o) { return E('select', {}, o.values.map(function(text) { return E('option', {}, [ text ]); })); },
		Value: function(o) { return E('input', { 'class': 'cbi-input-text', placeholder: o.placeholder }); },
		DynamicList: function(o) { return E('input', { 'class': 'cbi-input-text' }); }
	};

	return Promise.resolve(E('div', { 'class': 'cbi-map' }, [ E('h2', {}, [ this.title ]), E('div', { 'class': 'cbi-map-descr' }, [ this.description ]) ].concat(
		this.sections.map(function(section) {
			return E('div', { 'class': 'cbi-section' }, section.options.map(function(o) {
				return E('div', { 'class': 'cbi-value', 'data-name': o.name }, [
					E('label', { 'class': 'cbi-value-title' }, [ o.title ]),
					E('div', { 'class': 'cbi-value-field' }, [ field[o.kind](o), o.description ? E('div', { 'class': 'cbi-value-description' }, [ o.description ]) : null ])
				]);
			}));
		})
	)));
};
[ 'Flag', 'Value', 'ListValue', 'DynamicList', 'NamedSection' ].forEach(function(kind) { CLASSES.form[kind] = kind; });

/* Runs the view's source and puts what it renders into the page; then `after` may click. */
function show(source, after) {
	var names = [], pattern = /^'require ([a-z]+)';$/gm, found;

	while ((found = pattern.exec(source)))
		names.push(found[1]);

	var view = new Function(names.join(','), 'E', '_', 'L', source).apply(null, names.map(function(name) {
		if (!CLASSES[name])
			throw new Error('the stub has no class ' + name);
		return CLASSES[name];
	}).concat([ E, _, L ]));

	return Promise.resolve(view.load ? view.load() : null)
		.then(function(data) { return view.render(data); })
		.then(function(node) { document.getElementById('view').appendChild(node); return after ? after(view) : null; })
		.then(function() { document.body.setAttribute('data-calls', JSON.stringify(CALLS)); document.body.setAttribute('data-done', 'yes'); })
		.catch(function(error) { document.body.setAttribute('data-error', String(error.stack || error)); });
}
