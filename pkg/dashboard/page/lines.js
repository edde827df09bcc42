// SPDX-License-Identifier: Apache-2.0

import {short} from "./words.js";

const count = (n) => short(n);
const bytes = (n) => short(n, "B");

// lines are the plots there are: of everything, and of each service.
export const lines = [
	{title: "Packets per second", lines: [{kind: "packetsIn", label: "in", words: count}, {kind: "packetsOut", label: "out", words: count}]},
	{title: "Bytes per second", lines: [{kind: "bytesIn", label: "in", words: bytes}, {kind: "bytesOut", label: "out", words: bytes}]},
	{title: "New connections per second", lines: [{kind: "connections", label: "", words: count}]},
	{title: "HTTP requests per second", lines: [{kind: "requests", label: "", words: count}, {kind: "errors", label: "with status 5xx", words: count}]},
];
