// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/fairlead-lb/fairlead/bench/harness"

// kase is one kind of traffic through fairlead's programs.
type kase struct {
	name    string
	traffic harness.Traffic
	// warm is sent once before the first measurement of a phase: what makes
	// flows known, or fills a table so far that new entries evict old ones.
	warm    harness.Traffic
	live    harness.Traffic // the flows that must be known before; zero: none
	reason  string          // the counter every packet must move
	aim     float64         // ns per packet gross, issue 3; 0: none is set
	against string          // the subject to compare with
}

// The subjects' names in rows and tables.
const (
	subjectXDP  = "fairlead xdp"
	subjectTC   = "fairlead tc"
	subjectBare = "bare XDP_TX"
	subjectHash = "parse + hash lookup"
	subjectLRU  = "LRU hash"

	subjectBareTC = "bare TC redirect"
	subjectLRUNew = "LRU hash, new flow"
)

const reasonForwarded = "forwarded"

// knownAims are the aims of issue 3 for a known TCP/IPv4 flow, by live flows.
func knownAims(flows int) float64 {
	if flows > 65536 {
		return 60
	}
	return 35
}

// requests are the cases of a world of IPv4 services.
func requests(services, flows int) []kase {
	to := func(k harness.Kind, tuples uint64, frames ...[]byte) harness.Traffic {
		return harness.Traffic{Kind: k, Frames: frames, Tuples: tuples, Clients: clients4, VIP: vips4, Services: services}
	}
	n := uint64(flows)
	foreign := to(harness.Request4, n, tcp4(ack))
	foreign.VIP, foreign.Services = foreign4, 1
	known := to(harness.Request4, n, tcp4(ack))
	fresh := to(harness.Request4, harness.Endless, tcp4(syn))
	return []kase{
		{
			name: "known TCP/IPv4 flow", traffic: known, live: known,
			reason: reasonForwarded, aim: knownAims(flows), against: subjectLRU,
		},
		{name: "new TCP/IPv4 flow", traffic: fresh, warm: fresh, reason: reasonForwarded, aim: 60, against: subjectLRUNew},
		{name: "not ours", traffic: foreign, reason: "not_ours", aim: 15, against: subjectBare},
		{name: "refused port (RST)", traffic: to(harness.Request4, n, refused4()), reason: "port_refused", against: subjectBare},
		{name: "echo of a VIP", traffic: to(harness.Echo4, n, echo4()), reason: "echo_answered", against: subjectBare},
	}
}

// requests6 are the cases of a world of IPv6 services.
func requests6(services, flows int) []kase {
	t := harness.Traffic{Kind: harness.Request6, Tuples: uint64(flows), Clients: clients6, VIP: vips6, Services: services}
	t.Frames = [][]byte{tcp6(ack)}
	return []kase{{
		name: "known TCP/IPv6 flow", traffic: t, live: t, reason: reasonForwarded, aim: 45, against: subjectBare,
	}}
}

// replies are the other direction of known flows, from the one backend.
func replies(_, flows int) []kase {
	t := harness.Traffic{Kind: harness.Request4, Tuples: uint64(flows), Clients: clients4, VIP: vips4, Services: 1}
	open := t
	open.Frames = [][]byte{tcp4(ack)}
	t.Kind, t.Frames = harness.Reply4, [][]byte{reply4(backend4(0))}
	return []kase{{name: "reply to a known flow", traffic: t, live: open, reason: "replied", against: subjectBare}}
}

// affinity are the cases in which a client's address decides.
func affinity(services, flows int) []kase {
	cases := requests(services, flows)[:2]
	cases[0].aim, cases[1].aim = 180, 180
	return cases
}

// churn are whole connections in a table that is full: every one that comes
// takes the place of another.
func churn(services, _ int) []kase {
	t := harness.Traffic{
		Kind: harness.Request4, Tuples: harness.Endless, Clients: clients4, VIP: vips4, Services: services,
		Frames: [][]byte{tcp4(syn), tcp4(ack), tcp4(ack), tcp4(fin)},
	}
	return []kase{{name: "SYN, ACK, data, FIN", traffic: t, warm: t, reason: reasonForwarded, against: subjectBare}}
}

// peers are the programs of the harness itself, as subjects of every phase.
func peers(h *harness.Harness, services, flows int, tables bool) []*subject {
	p := h.Peers()
	known := harness.Traffic{
		Kind: harness.Request4, Frames: [][]byte{tcp4(ack)}, Tuples: uint64(flows), Clients: clients4, VIP: vips4, Services: services,
	}
	fresh := known
	fresh.Tuples = harness.Endless
	out := []*subject{
		{name: subjectBare, prog: p.BareXDP, traffic: known},
		{name: subjectBareTC, prog: p.BareTC, traffic: known},
	}
	if !tables {
		return out
	}
	return append(out,
		&subject{name: "XDP_TX of a frame cut short", prog: p.TrimXDP, traffic: known},
		&subject{name: "TC redirect of a frame cut short", prog: p.TrimTC, traffic: known},
		&subject{name: subjectHash, prog: p.Hash, traffic: known, warm: known},
		&subject{name: subjectLRU, prog: p.LRU, traffic: known, warm: known},
		&subject{name: subjectLRUNew, prog: p.LRUNew, traffic: fresh, warm: fresh},
	)
}
