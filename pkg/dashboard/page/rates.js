// SPDX-License-Identifier: Apache-2.0

// Rates are differences of counters between two snapshots, by the agent's clock.

export const kept = 120; // samples of a history

const kinds = ["packetsIn", "packetsOut", "bytesIn", "bytesOut", "connections", "requests", "errors"];

// History is the last samples of each kind, oldest first; NaN where the rate is
// not known.
class History {
	constructor() {
		this.samples = Object.fromEntries(kinds.map((k) => [k, new Float32Array(kept).fill(NaN)]));
		this.now = Object.fromEntries(kinds.map((k) => [k, NaN]));
	}

	push(rates) {
		for (const k of kinds) {
			const s = this.samples[k];
			s.copyWithin(0, 1);
			s[kept - 1] = this.now[k] = rates ? rates[k] : NaN;
		}
	}
}

// Rates turns snapshots into histories of every service and of all together.
export class Rates {
	constructor() {
		this.total = new History();
		this.services = new Map(); // name → {history, counters}
		this.reasons = new Map(); // cell → {rate, count}
		this.at = 0;
	}

	// add takes a snapshot in; one that is not newer changes nothing.
	add(view) {
		if (view.at === this.at) return false;
		const seconds = this.at && view.at > this.at ? (view.at - this.at) / 1000 : 0;
		this.at = view.at;
		const requests = new Map((view.requests || []).map((r) => [r.service, answered(r.codes)]));
		const sum = Object.fromEntries(kinds.map((k) => [k, 0]));
		const seen = new Map();
		for (const s of view.services || []) {
			const counters = count(s, requests.get(s.name));
			const old = this.services.get(s.name) || {history: new History()};
			const rates = old.counters && seconds ? between(old.counters, counters, seconds) : null;
			old.history.push(rates);
			old.counters = counters;
			seen.set(s.name, old);
			if (rates) for (const k of kinds) sum[k] += rates[k];
		}
		this.services = seen; // those that are gone are forgotten
		this.addNone(requests.get("none"), seconds, sum);
		this.total.push(seconds ? sum : null);
		this.addReasons(view.status.packets || [], seconds);
		return true;
	}

	// addNone counts the requests that led to no service in the sum.
	addNone(now, seconds, sum) {
		if (now && this.none && seconds) {
			sum.requests += Math.max(0, now.requests - this.none.requests) / seconds;
			sum.errors += Math.max(0, now.errors - this.none.errors) / seconds;
		}
		this.none = now;
	}

	addReasons(cells, seconds) {
		const next = new Map();
		for (const c of cells) {
			const key = [c.verdict, c.reason].join(" ");
			const n = next.get(key) || {verdict: c.verdict, reason: c.reason, count: 0, rate: NaN};
			n.count += c.count;
			next.set(key, n);
		}
		for (const [key, n] of next) {
			const old = this.reasons.get(key);
			if (old && seconds && n.count >= old.count) n.rate = (n.count - old.count) / seconds;
		}
		this.reasons = next;
	}

	of(name) {
		return this.services.get(name).history;
	}
}

function answered(codes) {
	const a = {requests: 0, errors: 0};
	for (const [code, n] of Object.entries(codes || {})) {
		a.requests += n;
		if (code >= 500) a.errors += n;
	}
	return a;
}

function count(s, http) {
	const c = {packetsIn: 0, packetsOut: 0, bytesIn: 0, bytesOut: 0, connections: 0, requests: 0, errors: 0, ...http};
	for (const p of s.ports || []) for (const k of kinds) if (k in p) c[k] += p[k];
	return c;
}

// between is null when a counter has gone back: the maps are new ones.
function between(old, now, seconds) {
	const rates = {};
	for (const k of kinds) {
		if (now[k] < old[k]) return null;
		rates[k] = (now[k] - old[k]) / seconds;
	}
	return rates;
}
