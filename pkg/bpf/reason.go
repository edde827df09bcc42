// SPDX-License-Identifier: Apache-2.0

package bpf

// Verdict is what became of a packet.
type Verdict string

// Verdicts of the label of fairlead_packets_total.
const (
	Forward Verdict = "forward" // translated and sent on
	Pass    Verdict = "pass"    // left to the kernel, unchanged
	Drop    Verdict = "drop"
	Answer  Verdict = "answer" // answered by the balancer itself
)

// Reason is how a packet left the program: enum reason of bpf/lib/types.h.
type Reason struct {
	Name    string // metric label
	Verdict Verdict
	Help    string // for a person
}

// Reasons is indexed by enum reason; a test compares the names.
var Reasons = [...]Reason{
	lbReasonREASON_NOT_OURS:       {"not_ours", Pass, "addressed to nothing fairlead serves"},
	lbReasonREASON_NOT_IP:         {"not_ip", Pass, "neither IPv4 nor IPv6"},
	lbReasonREASON_MALFORMED:      {"malformed", Pass, "broken headers, not addressed to a VIP"},
	lbReasonREASON_HANDED_TO_TC:   {"handed_to_tc", Pass, "XDP cannot send it: the TC program does"},
	lbReasonREASON_FORWARDED:      {"forwarded", Forward, "client to backend"},
	lbReasonREASON_REPLIED:        {"replied", Forward, "backend to client"},
	lbReasonREASON_ICMP_FORWARDED: {"icmp_forwarded", Forward, "ICMP error about a flow, translated"},
	lbReasonREASON_ECHO_ANSWERED:  {"echo_answered", Answer, "echo request to a VIP"},
	lbReasonREASON_PORT_REFUSED:   {"port_refused", Answer, "VIP, but no such port"},
	lbReasonREASON_NO_BACKEND:     {"no_backend", Answer, "the service has no backend that takes connections"},
	lbReasonREASON_TTL_EXCEEDED:   {"ttl_exceeded", Answer, "the time to live ended here"},
	lbReasonREASON_BAD_PACKET:     {"bad_packet", Drop, "broken headers, addressed to a VIP"},
	lbReasonREASON_FRAGMENT:       {"fragment", Drop, "IP fragment to a VIP before the first one of its datagram"},
	lbReasonREASON_PROTOCOL:       {"protocol", Drop, "not TCP, UDP or ICMP, to a VIP"},
	lbReasonREASON_NO_ROUTE:       {"no_route", Drop, "no route to the backend or back to the client"},
	lbReasonREASON_COLLISION:      {"collision", Drop, "no free source port towards the backend"},
	lbReasonREASON_TABLE_FULL:     {"table_full", Drop, "the flow table refused an entry"},
	lbReasonREASON_UNANSWERABLE:   {"unanswerable", Drop, "an answer that must not or cannot be sent"},
	lbReasonREASON_REWRITE:        {"rewrite", Drop, "the packet could not be changed"},
	lbReasonREASON_MARTIAN:        {"martian", Drop, "a source that cannot be answered, to a VIP"},
	lbReasonREASON_NOT_ALLOWED:    {"not_allowed", Drop, "the source is not in the service's allow list"},
	lbReasonREASON_RATE_LIMITED:   {"rate_limited", Drop, "the client opens connections faster than the service allows"},
	lbReasonREASON_NO_SOURCE_PORT: {"no_source_port", Drop, "mode full-nat: every port of every source is in use"},
	lbReasonREASON_HELD:           {"held", Pass, "to a service that sleeps, or slept when the connection was opened"},
	lbReasonREASON_SYN_AGAIN:      {"syn_again", Drop, "a SYN sent again, while a replica takes the connection though its service falls asleep"},
	lbReasonREASON_TOO_BIG:        {"too_big", Answer, "does not fit the link it must leave by"},
}
