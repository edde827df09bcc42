// SPDX-License-Identifier: Apache-2.0

// The columns of the three long tables.

import {el, look, text} from "./dom.js";
import {draw} from "./plot.js";
import {kept} from "./rates.js";
import {short} from "./words.js";

const byName = (get) => (a, b) => (get(a) < get(b) ? -1 : get(a) > get(b) ? 1 : 0);
const byNumber = (get) => (a, b) => (get(a) || 0) - (get(b) || 0) || byName((i) => i.name)(a, b);
const worst = {bad: 3, warn: 2, idle: 1, ok: 0};
const mostDots = 8;

const rate = (title, get, unit) => ({
	title, width: "84px", num: true, order: byNumber(get),
	show: (_, item) => short(get(item), unit),
});

// coloured has a word in the colour of the item's look.
const coloured = (title, width, get) => ({
	title, width, order: (a, b) => worst[b.look] - worst[a.look] || byName(get)(a, b),
	make() {},
	show(cell, item) {
		text(cell, get(item));
		look(cell, item.look);
		if (cell.title !== get(item)) cell.title = get(item);
	},
});

const dots = {
	title: "Replicas", width: "128px", order: byNumber((i) => i.ready),
	make(cell) {
		cell.append(...Array.from({length: mostDots}, () => el("span", {class: "dot", "aria-hidden": "true"})), el("span"));
	},
	show(cell, item) {
		for (let i = 0; i < mostDots; i++) {
			const dot = cell.children[i], is = item.replicas[i];
			dot.hidden = !is;
			if (is) look(dot, "dot " + is.look);
		}
		text(cell.lastChild, ` ${item.ready}/${Math.max(item.replicas.length, item.service.wanted)}`);
		const all = item.replicas.slice(0, 30).map((r) => `${r.at} ${r.word}${r.why ? ": " + r.why : ""}`).join("\n");
		if (cell.title !== all) cell.title = all;
	},
};

const plot = {
	title: "Bytes, 1 min", width: "130px",
	make: (cell) => cell.append(el("canvas", {"aria-hidden": "true"})),
	show: (cell, item) => draw(cell.firstChild, [item.history.samples.bytesIn, item.history.samples.bytesOut].map((s) => s.subarray(kept / 2))),
};

const named = {
	title: "Service", width: "24%", order: byName((i) => i.name),
	make: (cell) => cell.append(el("span"), " ", el("span", {class: "soft"})),
	show(cell, {service: s}) {
		const to = [s.vip || s.vip6, (s.ports || []).map((p) => p.service).join(",")].filter(Boolean).join(" : ");
		text(cell.firstChild, s.name);
		text(cell.lastChild, to);
		const title = [s.title, to].filter(Boolean).join("\n");
		if (cell.title !== title) cell.title = title;
	},
};

export const services = [
	named, dots, coloured("Health", "auto", (i) => i.words),
	rate("Conn/s", (i) => i.history.now.connections), rate("Active", (i) => i.active),
	rate("Packets/s", (i) => i.history.now.packetsIn + i.history.now.packetsOut),
	rate("Bytes/s", (i) => i.history.now.bytesIn + i.history.now.bytesOut, "B"),
	rate("HTTP/s", (i) => i.http ? i.history.now.requests : undefined), plot,
];

const word = (title, width, get) => ({title, width, order: byName(get), show: (_, item) => get(item)});

export const domains = [
	word("Host", "30%", (d) => d.host), word("Service", "18%", (d) => d.service), word("Kind", "80px", (d) => d.kind),
	coloured("State", "110px", (d) => d.state), word("Certificate", "100px", (d) => d.certificate || "none"), word("What to do", "auto", (d) => d.note || ""),
];

export const certificates = [
	word("Host", "30%", (c) => c.host), coloured("State", "90px", (c) => c.state), word("Issuer", "18%", (c) => c.issuer || ""),
	word("Expires", "100px", (c) => c.left), word("Waits for", "auto", (c) => c.words),
];
