// SPDX-License-Identifier: Apache-2.0

import {el, text} from "./dom.js";

let colors;
const dark = matchMedia("(prefers-color-scheme: dark)");
const forget = () => { colors = undefined; };
dark.addEventListener("change", forget);

// palette reads the style sheet's colours, once for each colour scheme.
function palette() {
	if (!colors) {
		const style = getComputedStyle(document.documentElement);
		colors = ["--a", "--b", "--line"].map((name) => style.getPropertyValue(name).trim());
	}
	return colors;
}

// highest is the largest known sample, 0 if there is none.
export function highest(series) {
	let top = 0;
	for (const s of series) for (const v of s) if (v > top) top = v;
	return top;
}

// draw plots up to two histories over each other, from zero to their common
// maximum; the first one is filled. Unknown samples are gaps.
export function draw(canvas, series) {
	const ratio = devicePixelRatio || 1;
	const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
	if (!width || !height) return;
	if (canvas.width !== width || canvas.height !== height) {
		canvas.width = width;
		canvas.height = height;
	}
	const ink = palette(), g = canvas.getContext("2d");
	g.clearRect(0, 0, width, height);
	const top = highest(series);
	const base = height - ratio, step = width / (series[0].length - 1);
	const y = (v) => base - v / top * (height - 3 * ratio);
	g.lineWidth = ratio;
	g.strokeStyle = ink[2];
	g.beginPath();
	g.moveTo(0, base);
	g.lineTo(width, base);
	g.stroke();
	if (top === 0) return;
	g.lineWidth = 1.4 * ratio;
	g.lineJoin = "round";
	series.forEach((s, n) => {
		g.strokeStyle = g.fillStyle = ink[n];
		for (let i = 0; i < s.length; i++) {
			if (Number.isNaN(s[i])) continue;
			const from = i;
			g.beginPath();
			g.moveTo(i * step, y(s[i]));
			if (!(s[i + 1] >= 0)) g.lineTo((i - 1) * step, y(s[i])); // a lone one is seen too
			while (i + 1 < s.length && !Number.isNaN(s[i + 1])) {
				i++;
				g.lineTo(i * step, y(s[i]));
			}
			g.stroke();
			if (n > 0) continue;
			g.lineTo(i * step, base);
			g.lineTo(from * step, base);
			g.globalAlpha = .16;
			g.fill();
			g.globalAlpha = 1;
		}
	});
}

// Plot is a card with a title, the rates of now and their history. lines are
// {kind, label, unit} with the kinds of a History.
export class Plot {
	constructor(title, lines, heading = "h2") {
		this.lines = lines;
		this.values = lines.map((_, i) => el("b", {class: "ab"[i]}));
		this.canvas = el("canvas", {role: "img", "aria-label": title + ", the last two minutes"});
		this.note = el("p");
		this.root = el("div", {class: "plot"}, el(heading, {}, title),
			el("div", {class: "now"}, ...lines.map((l, i) => el("span", {}, this.values[i], " ", el("small", {}, l.label)))),
			this.canvas, this.note);
	}

	show(history) {
		const series = this.lines.map((l) => history.samples[l.kind]);
		this.lines.forEach((l, i) => text(this.values[i], l.words(history.now[l.kind])));
		text(this.note, `at most ${this.lines[0].words(highest(series))} in two minutes`);
		draw(this.canvas, series);
	}
}
