// SPDX-License-Identifier: Apache-2.0

import {el, text, look} from "./dom.js";

const rowHeight = 35; // of style.css: 34 and the line below
const spare = 6; // rows above and below those in view

// Table shows any number of rows in a box of its own and has only those in
// view in the document.
//
// columns: {title, width, num, make(cell), show(cell, item), order(a, b)}; show
// without make sets the text it returns. onpick gets the item of a row.
export class Table {
	constructor(columns, {none, onpick} = {}) {
		this.columns = columns;
		this.onpick = onpick;
		this.items = [];
		this.rows = [];
		this.sort = {column: 0, down: false};
		this.heads = columns.map((c, i) => el("th", {class: c.num && "num", scope: "col"},
			c.order ? el("button", {type: "button", onclick: () => this.by(i)}, c.title) : c.title));
		this.above = el("tr", {class: "gap", "aria-hidden": "true"}, el("td", {colspan: columns.length}));
		this.below = this.above.cloneNode(true);
		this.body = el("tbody", {}, this.above, this.below);
		const widths = el("colgroup", {}, ...columns.map((c) => {
			const col = el("col");
			col.style.width = c.width;
			return col;
		}));
		this.table = el("table", {}, widths, el("thead", {}, el("tr", {}, ...this.heads)), this.body);
		this.box = el("div", {class: "scroll"}, this.table);
		this.none = el("p", {class: "none", hidden: ""}, none);
		this.root = el("div", {}, this.box, this.none);
		let asked = false;
		const later = () => {
			if (asked) return;
			asked = true;
			requestAnimationFrame(() => {
				asked = false;
				this.draw();
			});
		};
		this.box.addEventListener("scroll", later, {passive: true});
		new ResizeObserver(later).observe(this.box);
		this.mark();
	}

	by(i) {
		this.sort = {column: i, down: this.sort.column === i ? !this.sort.down : !!this.columns[i].num};
		this.mark();
		this.show(this.items, this.none.textContent);
	}

	mark() {
		this.heads.forEach((h, i) => {
			if (!this.columns[i].order) return;
			if (i !== this.sort.column) h.removeAttribute("aria-sort");
			else h.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
		});
	}

	// show replaces the items and draws those in view.
	show(items, none) {
		const order = this.columns[this.sort.column].order;
		this.items = order ? items.slice().sort(this.sort.down ? (a, b) => order(b, a) : order) : items;
		text(this.none, none || "");
		this.none.hidden = items.length > 0;
		this.box.hidden = items.length === 0;
		this.draw();
	}

	draw() {
		const first = Math.max(0, Math.floor(this.box.scrollTop / rowHeight) - spare);
		const fits = Math.ceil(this.box.clientHeight / rowHeight) + 2 * spare;
		const start = Math.min(first, Math.max(0, this.items.length - fits));
		const shown = this.items.slice(start, start + fits);
		this.gap(this.above, start);
		this.gap(this.below, this.items.length - start - shown.length);
		while (this.rows.length > shown.length) this.rows.pop().row.remove();
		while (this.rows.length < shown.length) this.rows.push(this.make());
		shown.forEach((item, i) => this.fill(this.rows[i], item));
	}

	gap(row, rows) {
		row.firstChild.style.height = rows * rowHeight + "px";
	}

	make() {
		const cells = this.columns.map((c) => el("td", {class: c.num && "num"}));
		const r = {row: el("tr", {}, ...cells), cells};
		if (this.onpick) {
			r.row.tabIndex = 0;
			r.row.addEventListener("click", () => this.onpick(r.item));
			r.row.addEventListener("keydown", (e) => e.key === "Enter" && this.onpick(r.item));
		}
		this.columns.forEach((c, i) => c.make && c.make(cells[i]));
		this.below.before(r.row);
		return r;
	}

	fill(r, item) {
		r.item = item;
		look(r.row, (this.onpick ? "pick" : "") + (item.chosen ? " chosen" : ""));
		this.columns.forEach((c, i) => {
			const words = c.show(r.cells[i], item);
			if (!c.make) {
				text(r.cells[i], words);
				if (r.cells[i].title !== words) r.cells[i].title = words;
			}
		});
	}
}
