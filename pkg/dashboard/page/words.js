// SPDX-License-Identifier: Apache-2.0

// Numbers and conditions in words.

const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// short writes a number in four characters or so: 950, 1.2 k, 34 M.
export function short(n, unit = "") {
	if (n === null || n === undefined || Number.isNaN(n)) return "–";
	let i = 0;
	while (n >= 999.5 && i < 4) {
		n /= 1000;
		i++;
	}
	const digits = n >= 99.5 || n === 0 || (i === 0 && Number.isInteger(n)) ? 0 : 1;
	const suffix = ["", "k", "M", "G", "T"][i] + unit;
	return n.toFixed(digits) + (suffix ? " " + suffix : "");
}

// whole writes a whole number with its digits grouped.
export const whole = (n) => Math.round(n || 0).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");

// span writes a time in seconds.
export function span(s) {
	if (s < 0) return span(-s) + " ago";
	if (s < 90) return Math.round(s) + " s";
	if (s < 5400) return Math.round(s / 60) + " min";
	if (s < 172800) return Math.round(s / 3600) + " h";
	return Math.round(s / 86400) + " days";
}

// until writes the time from now (ms) to an RFC 3339 moment.
export const until = (moment, now) => span((Date.parse(moment) - now) / 1000);

export const addresses = (r) => [r.addr4, r.addr6].filter(Boolean).join(" ");

// replica tells how one is: ready, draining, down or unreachable, and why.
export function replica(r) {
	const why = r.problem || r.reason || "";
	if (r.condition === "down") return {look: "bad", word: "down", why};
	if (r.unreachable) return {look: "bad", word: "unreachable", why};
	if (r.condition === "draining") return {look: "warn", word: "draining", why: why || "no new connections"};
	// At the last resort one that fails its check takes connections.
	if (r.check === "failing" || r.problem) return {look: "warn", word: r.condition, why};
	return {look: "ok", word: r.condition, why: ""};
}

// nap says whether a workload runs, and why.
export function nap(n, now) {
	return [
		n.stage + (n.since ? " for " + span((now - Date.parse(n.since)) / 1000) : "") + (n.cause ? " because of: " + n.cause : ""),
		n.waiting ? plural(n.waiting, "connection") + " waiting for it" : "",
		n.until && Date.parse(n.until) > now ? `falls asleep in ${until(n.until, now)} if nobody uses it` : "",
		n.note,
	].filter(Boolean).join("; ");
}

// service tells how one is, as {kind, look, words}. kind is what can be
// filtered by: "ready", "draining", "down", "asleep", "stopped", "starting".
export function service(s, workloads, now) {
	const stage = s.sleep && s.sleep.stage;
	if (stage === "asleep" || stage === "stopped") return {kind: stage, look: "idle", words: nap(s.sleep, now)};
	const all = (s.replicas || []).map((r) => ({...replica(r), at: addresses(r)}));
	const bad = all.filter((r) => r.look === "bad");
	const ready = all.filter((r) => r.word === "ready").length;
	const say = (r) => `${r.at} ${r.word}${r.why ? ": " + r.why : ""}`;
	if (all.length === 0 || (ready === 0 && bad.length === 0)) {
		const late = workloads.find((w) => w.phase === "backoff") || workloads.find((w) => w.phase === "starting");
		if (late) return {kind: late.phase === "backoff" ? "down" : "starting", look: late.phase === "backoff" ? "bad" : "warn",
			words: late.phase + (late.reason ? ": " + late.reason : "")};
	}
	if (all.length === 0) {
		if (stage === "waking") return {kind: "starting", look: "warn", words: nap(s.sleep, now)};
		if (!s.workload) return {kind: "down", look: "warn", words: "it has no replica"};
		if (s.wanted === 0) return {kind: "stopped", look: "idle", words: "no replica is wanted now"};
		return {kind: "starting", look: "warn", words: "no replica yet"};
	}
	if (ready === 0) {
		const first = bad[0] || all[0];
		return {kind: bad.length ? "down" : "draining", look: bad.length ? "bad" : "warn",
			words: (all.length > 1 ? `none of ${all.length} is ready; ` : "") + say(first)};
	}
	if (s.lastResort) return {kind: "down", look: "bad", words: s.lastResort};
	if (bad.length) return {kind: "down", look: "bad", words: say(bad[0]) + (bad.length > 1 ? `, and ${bad.length - 1} more` : "")};
	const warned = all.filter((r) => r.look === "warn");
	if (warned.length) return {kind: "draining", look: "warn", words: say(warned[0]) + (warned.length > 1 ? `, and ${warned.length - 1} more` : "")};
	if (ready < s.wanted) return {kind: "starting", look: "warn", words: `${plural(s.wanted - ready, "replica")} to come`};
	return {kind: "ready", look: "ok", words: "ready"};
}

// certificate says what one waits for.
export function certificate(c, now) {
	const next = c.nextTry ? `; tried again in ${until(c.nextTry, now)}` : "";
	const error = c.error ? c.error + (Date.parse(c.nextTry) > now ? next : "") : "";
	switch (c.state) {
	case "valid": {
		const renewal = c.nextTry && Date.parse(c.nextTry) > now ? `renewal in ${until(c.nextTry, now)}` : "";
		return {look: c.error ? "warn" : "ok", words: error || c.awaiting || renewal};
	}
	case "waiting":
		return {look: "warn", words: [c.awaiting, error].filter(Boolean).join("; ") || "the order has not begun"};
	default:
		return {look: "bad", words: error || c.awaiting || ""};
	}
}
