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
	and     string          // or this one
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

const reasonForwarded, reasonReplied = "forwarded", "replied"

// knownAims are the aims of issue 3 for a known TCP/IPv4 flow, by live flows.
func knownAims(flows int) float64 {
	if flows > 65536 {
		return 60
	}
	return 35
}

// to is IPv4 traffic for n services.
func to(n int, tuples uint64, frames ...harness.Frame) harness.Traffic {
	return harness.Traffic{Frames: frames, Tuples: tuples, Clients: clients4, VIP: vips4, Services: n}
}

// known is what every world of IPv4 services is measured by first.
func known(services, flows int) kase {
	t := to(services, uint64(flows), tcp4(ack))
	return kase{name: "known TCP/IPv4 flow", traffic: t, live: t, reason: reasonForwarded, aim: knownAims(flows), against: subjectLRU}
}

// requests are the cases of a world of IPv4 services in which no new flow
// comes.
func requests(services, flows int) []kase {
	n := uint64(flows)
	foreign := to(1, n, tcp4(ack))
	foreign.VIP = foreign4
	return []kase{
		known(services, flows),
		{name: "not ours", traffic: foreign, reason: "not_ours", aim: 15, against: subjectBare},
		{name: "refused port (RST)", traffic: to(services, n, refused4()), reason: "port_refused", against: subjectBare},
		{name: "echo of a VIP", traffic: to(services, n, echo4()), reason: "echo_answered", against: subjectBare},
	}
}

// flood are the cases in a flood of new flows that nobody answers.
func flood(services, flows int) []kase {
	fresh := to(services, harness.Endless, tcp4(syn))
	among := known(services, flows)
	among.name, among.aim = among.name+", meanwhile", 0
	return []kase{
		{name: "new TCP/IPv4 flow", traffic: fresh, warm: fresh, reason: reasonForwarded, aim: 60, against: subjectLRUNew},
		among,
	}
}

// requests6 are the cases of a world of IPv6 services.
func requests6(services, flows int) []kase {
	t := harness.Traffic{
		Frames: []harness.Frame{tcp6(ack)}, Tuples: uint64(flows), Clients: clients6, VIP: vips6, Services: services,
	}
	return []kase{{name: "known TCP/IPv6 flow", traffic: t, live: t, reason: reasonForwarded, aim: 45, against: subjectBare}}
}

// replies are the other direction of known flows, from the one backend.
func replies(_, flows int) []kase {
	return []kase{{
		name: "reply to a known flow", traffic: to(1, uint64(flows), reply4(backend4(0), ack)), live: to(1, uint64(flows), tcp4(ack)),
		reason: reasonReplied, against: subjectBare,
	}}
}

// affinity are the cases in which a client's address decides.
func affinity(services, flows int) []kase {
	k := known(services, flows)
	k.aim = 180
	return []kase{k}
}

// fullNAT are both directions of flows whose replicas see a source of the node;
// of the replies, what comes from the one backend.
func fullNAT(services, flows int) []kase {
	k := known(services, flows)
	k.aim = 180
	back := to(1, uint64(flows), reply4(backend4(0), ack))
	back.Clients = sources4
	return []kase{k, {name: "reply to a known flow", traffic: back, reason: reasonReplied, against: subjectBare}}
}

// connections are whole ones, both directions, to the one backend in a table
// that is full: every one that comes takes the place of another.
func connections(_, _ int) []kase {
	back := backend4(0)
	t := to(1, harness.Endless, tcp4(syn), reply4(back, syn), tcp4(ack), tcp4(ack), reply4(back, ack), tcp4(fin), reply4(back, fin), tcp4(ack))
	return []kase{{name: "packet of a connection of 8", traffic: t, warm: t, reason: reasonForwarded, and: reasonReplied, against: subjectBare}}
}

// datagrams are the cases of a world of IPv4 services over UDP in which no new
// flow comes: one is answered, the other has a place of its own where flows wait
// for their first answer.
func datagrams(services, flows int) []kase {
	t := to(services, uint64(flows), udp4())
	silent := t
	silent.Clients = silent4
	return []kase{
		{name: "known UDP/IPv4 flow", traffic: t, live: t, reason: reasonForwarded, against: subjectBare},
		{name: "UDP/IPv4 flow nobody answers", traffic: silent, warm: silent, reason: reasonForwarded, against: subjectBare},
	}
}

// questions are new flows over UDP: nobody answers, or the one backend does.
func questions(services, _ int) []kase {
	fresh := to(services, harness.Endless, udp4())
	asked := to(services, harness.Endless, udp4(), answer4(backend4(0)))
	return []kase{
		{name: "new UDP/IPv4 flow", traffic: fresh, warm: fresh, reason: reasonForwarded, against: subjectLRUNew},
		{name: "packet of a question and its answer", traffic: asked, warm: asked, reason: reasonForwarded, and: reasonReplied, against: subjectLRUNew},
	}
}

// peers are the programs of the harness itself, as subjects of every phase.
func peers(h *harness.Harness, services, flows int, tables bool) []*subject {
	p := h.Peers()
	known, fresh := to(services, uint64(flows), tcp4(ack)), to(services, harness.Endless, tcp4(ack))
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
