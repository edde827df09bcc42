// SPDX-License-Identifier: Apache-2.0

import {el, plain} from "./dom.js";
import {lines} from "./lines.js";
import {Plot} from "./plot.js";
import {addresses, nap, replica, span, whole} from "./words.js";

// Detail is everything of one service, in a panel at the side.
export class Detail {
	constructor(root, close) {
		this.root = root;
		this.close = close;
	}

	// show draws the service called name; undefined hides the panel.
	show(name, item, history, view) {
		this.root.hidden = name === undefined;
		if (name === undefined || !item) {
			this.name = undefined;
			if (name !== undefined) this.root.replaceChildren(this.button(), el("h2", {}, name), el("p", {}, "There is no service of this name now."));
			return;
		}
		if (this.name !== name) this.begin(name, item.service);
		this.plots.forEach((p) => p.show(history));
		this.tables(item, view);
	}

	button() {
		return el("button", {type: "button", class: "close", "aria-label": "Close", onclick: this.close}, "×");
	}

	begin(name, s) {
		this.name = name;
		this.plots = lines.map((l) => new Plot(l.title, l.lines, "h3"));
		this.part = {};
		const section = (key, title) => {
			this.part[key] = el("section", {}, el("h3", {}, title));
			return this.part[key];
		};
		this.root.replaceChildren(this.button(), el("h2", {}, s.title && s.title !== name ? `${name} (${s.title})` : name),
			el("div", {class: "plots"}, ...this.plots.map((p) => p.root)),
			section("replicas", "Replicas"), section("ports", "Ports"), section("names", "Reached by"), section("workloads", "Workloads"),
			section("facts", "Settings"));
		this.root.scrollTop = 0;
	}

	tables({service: s}, view) {
		const put = (key, titles, rows, none) => plain(this.part[key], JSON.stringify(rows), titles, rows, none);
		const put2 = (key, titles, rows, none, colour) => {
			plain(this.part[key], JSON.stringify(rows), titles, rows, none);
			this.part[key].querySelectorAll("tbody tr").forEach((tr, i) => { tr.cells[1].className = colour[i]; });
		};
		const replicas = (s.replicas || []).map((r) => ({r, is: replica(r)}));
		put2("replicas", ["Address", "Condition", "Why"], replicas.map(({r, is}) => [
			addresses(r) + (r.backup ? " (backup)" : "") + (r.weight === 1 ? "" : `, weight ${r.weight}`), is.word, is.why || (r.check ? "check " + r.check : ""),
		]), "It has none.", replicas.map(({is}) => is.look));
		put("ports", ["Port", "Connections", "Active", "Packets in / out"], (s.ports || []).map((p) => [
			`${p.service} → ${p.container} ${p.protocol}`, whole(p.connections), whole(p.active), `${whole(p.packetsIn)} / ${whole(p.packetsOut)}`,
		]), "It has none.");
		put("names", ["Name", "Leads to", "Note"], [
			...[s.vip, s.vip6, s.internal].filter(Boolean).map((a) => [a, "every port", "virtual address"]),
			...(s.hosts || []).flatMap((h) => (h.paths || []).map((p) => [(h.tls ? "https://" : "http://") + h.host + p.path, "port " + p.servicePort, p.websocket ? "WebSocket" : ""])),
			...(s.names || []).map((n) => [n.host, n.kind, n.problem || n.tls]),
		], "Nothing leads to it.");
		const mine = (view.workloads || []).filter((w) => w.service === s.name);
		this.part.workloads.hidden = !s.workload && mine.length === 0;
		put("workloads", ["Replica", "Phase", "Why"], mine.map((w) => [
			`${w.id} (${w.driver})`, w.phase, [w.reason, w.restarts ? `started again ${w.restarts} times` : "", w.next ? `next start in ${span((Date.parse(w.next) - view.at) / 1000)}` : ""].filter(Boolean).join("; "),
		]), "None runs now.");
		put("facts", ["Setting", "Value"], [
			["mode", s.mode], ["drain", s.drain], ["replicas wanted", String(s.wanted)],
			...(s.sleep ? [["sleep", nap(s.sleep, view.at)]] : []),
			...(s.lastResort ? [["last resort", s.lastResort]] : []),
			...((s.notServedYet || []).length ? [["not served yet", s.notServedYet.join(", ")]] : []),
		], "");
	}
}
