// SPDX-License-Identifier: Apache-2.0

// The page: polls view.json once a second while it is looked at, and draws it.

import {Detail} from "./detail.js";
import {el, look, plain, text} from "./dom.js";
import {lines} from "./lines.js";
import {Plot} from "./plot.js";
import {Rates} from "./rates.js";
import {Table} from "./table.js";
import * as columns from "./tables.js";
import * as words from "./words.js";

const every = 1000; // ms between two polls
const patience = 10000; // ms for one answer

const $ = (id) => document.getElementById(id);
const rates = new Rates();
let view, items = [];

const plots = lines.map((l) => new Plot(l.title, l.lines));
const meter = el("meter", {min: 0, max: 1, high: .9, "aria-label": "Flow table in use"});
const flows = el("b", {class: "a"}), flowNote = el("p");
$("plots").append(...plots.map((p) => p.root),
	el("div", {class: "plot"}, el("h2", {}, "Flow table"), el("div", {class: "now"}, flows), meter, flowNote));

const tables = {
	services: new Table(columns.services, {onpick: (i) => pick(i.name)}),
	domains: new Table(columns.domains),
	certificates: new Table(columns.certificates),
};
for (const [id, table] of Object.entries(tables)) $(id).append(table.root);
const detail = new Detail($("detail"), () => pick());

const kinds = ["down", "draining", "starting", "asleep", "stopped"];
const buttons = kinds.map((kind) => el("button", {type: "button", "aria-pressed": "false", onclick: () => only(kind)}, kind));
$("kinds").append(...buttons);
let kind; // that is shown alone

function only(k) {
	kind = kind === k ? undefined : k;
	draw();
}

// The picked service is in the address, so that it can be passed on.
const picked = () => location.hash.startsWith("#service=") ? decodeURIComponent(location.hash.slice(9)) : undefined;

function pick(name) {
	history.replaceState(null, "", name ? "#service=" + encodeURIComponent(name) : location.pathname);
	draw();
}

// terms has what every shown line must contain.
const terms = () => $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
const match = (hay, wanted) => wanted.every((t) => hay.includes(t));

function itemOf(service, workloads, asking) {
	const replicas = (service.replicas || []).map((r) => ({...words.replica(r), at: words.addresses(r)}));
	const is = words.service(service, workloads, view.at);
	const item = {
		...is, name: service.name, service, replicas, history: rates.of(service.name),
		ready: replicas.filter((r) => r.word === "ready").length,
		active: (service.ports || []).reduce((n, p) => n + p.active, 0), http: asking.has(service.name),
	};
	item.hay = [service.name, service.title, service.internal, service.vip, service.vip6, service.workload, is.kind, is.words,
		...replicas.map((r) => r.at + " " + r.word), ...(service.ports || []).map((p) => p.service + " " + p.protocol),
		...(service.hosts || []).map((h) => h.host), ...(service.names || []).map((n) => n.host)].join(" ").toLowerCase();
	return item;
}

// take turns a snapshot into what is drawn.
function take(next) {
	if (!rates.add(next)) return;
	view = next;
	const asking = new Set((view.requests || []).map((r) => r.service));
	const workloads = new Map();
	for (const w of view.workloads || []) workloads.set(w.service, [...(workloads.get(w.service) || []), w]);
	items = (view.services || []).map((s) => itemOf(s, workloads.get(s.name) || [], asking));
}

function draw() {
	if (!view) return;
	const s = view.status;
	text($("verdict"), s.verdict);
	look($("verdict"), s.ready ? "ok" : "bad");
	text($("about"), `version ${s.version}, up ${words.span(s.uptimeSeconds)}`);
	document.title = s.ready ? "fairlead" : "● fairlead";
	plots.forEach((p) => p.show(rates.total));
	drawFlows(s.counts);
	drawProblems(s);
	drawServices();
	drawNames();
	drawNode(s);
	const name = picked();
	const item = items.find((i) => i.name === name);
	detail.show(name, item, item && item.history, view);
}

function drawFlows(c) {
	text(flows, `${words.whole(c.flows)}`);
	meter.value = c.flowLimit ? c.flows / c.flowLimit : 0;
	const share = c.flowLimit ? (100 * meter.value).toFixed(1) : "0.0";
	text(flowNote, `${share} % of ${words.whole(c.flowLimit)} entries, ${words.whole(c.evictions)} evicted; ${words.whole(c.ready)} of ${words.whole(c.replicas)} replicas ready`);
}

function drawProblems(s) {
	const all = [
		...(s.config.error ? ["the config file was refused: " + s.config.error] : []),
		...(s.targets || []).filter((t) => t.error).map((t) => `${t.target}: ${t.error}`),
		...(s.sources || []).filter((x) => !x.synced).map((x) => `waiting for source ${x.name}`),
		...(s.problems || []),
		...(s.drains && s.drains.length ? [`drained by the operator: ${s.drains.join(", ")}`] : []),
		...(s.notServedYet || []).map((n) => `not served yet: ${n.feature}${n.services && n.services.length ? ` of ${few(n.services)}` : ""}`),
	];
	$("problems").hidden = all.length === 0;
	const list = $("problems").querySelector("ul"), key = all.join("\n");
	if (list.dataset.key === key) return;
	list.dataset.key = key;
	list.replaceChildren(...all.map((p) => el("li", {}, p)));
}

const few = (names) => names.slice(0, 5).join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");

function drawServices() {
	const wanted = terms(), name = picked();
	for (const i of items) i.chosen = i.name === name;
	const shown = items.filter((i) => (!kind || i.kind === kind) && match(i.hay, wanted));
	kinds.forEach((k, n) => {
		const many = items.filter((i) => i.kind === k).length;
		text(buttons[n], `${many} ${k}`);
		buttons[n].hidden = many === 0 && kind !== k;
		buttons[n].setAttribute("aria-pressed", String(kind === k));
	});
	counted("services", shown.length, items.length);
	tables.services.show(shown, items.length ? "No service matches." : "There is no service: add one to the config.");
}

function counted(id, shown, all) {
	text($(id).querySelector(".count"), shown === all ? `${all}` : `${shown} of ${all}`);
}

function drawNames() {
	const wanted = terms();
	const put = (id, all, none, hay) => {
		const shown = all.filter((x) => match(hay(x).toLowerCase(), wanted));
		counted(id, shown.length, all.length);
		tables[id].show(shown, all.length ? "None matches." : none);
	};
	put("domains", (view.domains.domains || []).map((d) => ({...d, name: d.host, look: {on: "ok", off: "idle"}[d.state] || "warn"})), view.domains.note,
		(d) => [d.host, d.service, d.kind, d.state, d.certificate].join(" "));
	put("certificates", (view.certificates.certificates || []).map((c) => ({
		...c, ...words.certificate(c, view.at), name: c.host, left: c.expires ? words.until(c.expires, view.at) : "none yet",
	})), view.certificates.note, (c) => [c.host, c.state, c.issuer, c.words].join(" "));
}

function drawNode(s) {
	const put = (id, titles, rows, none) => plain($(id), JSON.stringify(rows), titles, rows, none);
	put("interfaces", ["Name", "Role", "Programs", "Note"], [
		...(s.interfaces || []).map((i) => [i.name, i.role, [i.xdp && "XDP " + i.xdp, i.tc].filter(Boolean).join(", ") || "none", i.error || i.note || ""]),
		...(s.cgroups || []).map((c) => [c.path || "no cgroup", "clients here", (c.hooks || []).length + " hooks", c.note || ""]),
		...[["HTTP", s.front.http], ["HTTPS", s.front.https]].filter(([, at]) => at).map(([name, at]) => [at, name, "listener", `${s.front.hosts} host names`]),
	], "No interface carries a program: packets from elsewhere are not balanced.");
	const cells = [...rates.reasons.values()].filter((r) => r.count > 0).sort((a, b) => (b.rate || 0) - (a.rate || 0) || b.count - a.count);
	put("verdicts", ["Verdict", "Reason", "Per second", "In all"], cells.map((r) => [r.verdict, r.reason, words.short(r.rate), words.whole(r.count)]), "No packet yet.");
	put("targets", ["Part", "Generation", "State"], (s.targets || []).map((t) => [t.target, `${t.generation} of ${s.config.generation}`, t.error || (t.generation < s.config.generation ? "at work" : "done")]), "");
}

// poll waits longer where answers are slow, so that it never asks for more
// than a tenth of the agent's time.
async function poll() {
	let took = 0;
	if (!document.hidden) {
		const begun = performance.now();
		try {
			const answer = await fetch("view.json", {signal: AbortSignal.timeout(patience), cache: "no-store"});
			if (!answer.ok) throw new Error((await answer.text()).slice(0, 200) || answer.statusText);
			took = performance.now() - begun;
			take(await answer.json());
			stale();
		} catch (e) {
			stale(e);
		}
		draw();
	}
	setTimeout(poll, Math.max(every, 10 * took));
}

function stale(error) {
	document.body.classList.toggle("stale", !!error);
	$("stale").hidden = !error;
	if (error) text($("stale"), `The agent does not answer (${error.message}).` + (view ? ` What is shown is from ${new Date(view.at).toLocaleTimeString()}; forwarding goes on without it.` : ""));
}

$("filter").addEventListener("input", draw);
addEventListener("hashchange", draw);
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("keydown", (e) => {
	if (e.key === "/" && document.activeElement !== $("filter")) {
		e.preventDefault();
		$("filter").focus();
	} else if (e.key === "Escape") {
		if (picked()) pick();
		else if ($("filter").value) {
			$("filter").value = "";
			draw();
		}
	}
});
poll();
