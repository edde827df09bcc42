// SPDX-License-Identifier: Apache-2.0

// el makes an element: el("td", {class: "num"}, "text", child, …). Strings are
// always text, never HTML: names in the view are other people's.
export function el(name, attributes = {}, ...children) {
	const e = document.createElement(name);
	for (const [key, value] of Object.entries(attributes)) {
		if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
		else if (value !== undefined && value !== false) e.setAttribute(key, value);
	}
	e.append(...children.filter((c) => c !== undefined && c !== ""));
	return e;
}

// text changes an element's text where it differs: an equal one costs no layout.
export function text(e, value) {
	if (e.textContent !== value) e.textContent = value;
}

// look sets the class of an element likewise.
export function look(e, value) {
	if (e.className !== value) e.className = value;
}

// plain fills a container with a short table; rows are arrays of strings or
// nodes. Nothing is touched while the key is the same as the last time.
export function plain(container, key, titles, rows, none) {
	if (container.dataset.key === key) return;
	container.dataset.key = key;
	container.querySelectorAll(":scope > table, :scope > .none").forEach((e) => e.remove());
	if (rows.length === 0) {
		container.append(el("p", {class: "none"}, none));
		return;
	}
	container.append(el("table", {},
		el("thead", {}, el("tr", {}, ...titles.map((t) => el("th", {}, t)))),
		el("tbody", {}, ...rows.map((r) => el("tr", {}, ...r.map((c) => el("td", {}, c)))))));
}
