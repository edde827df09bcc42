// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

func reason(t *testing.T, name string) bpf.Reason {
	t.Helper()
	i := slices.IndexFunc(bpf.Reasons[:], func(r bpf.Reason) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("no reason %q", name)
	}
	return bpf.Reasons[i]
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// tracedState is two services that share a replica; one has a node port.
func tracedState() *model.State {
	ports := []model.Port{{Service: 90, Container: 8090, Protocol: model.TCP}}
	shared := model.Backend{Addr4: netip.MustParseAddr("10.1.0.2"), Addr6: netip.MustParseAddr("fd00:1::2"), Weight: 1}
	return &model.State{Services: []*model.Service{
		{Name: name("a"), VIP4: netip.MustParseAddr("198.18.0.1"), Ports: ports, Backends: []model.Backend{shared}, NodePorts: []model.NodePort{{Port: 9000, ServicePort: 90}}},
		{Name: name("b"), VIP4: netip.MustParseAddr("198.18.0.2"), VIP6: netip.MustParseAddr("fd00:198:18::2"), Ports: ports, Backends: []model.Backend{shared}},
	}}
}

func TestWhosePacketItIs(t *testing.T) {
	o := ownersOf(tracedState(), []netip.Addr{netip.MustParseAddr("203.0.113.1")})
	const tcp, udp = uint8(model.TCP), uint8(model.UDP)
	for _, c := range []struct {
		name          string
		src, dst, was string // was: the source it leaves with
		proto         uint8
		prefer, want  string
	}{
		{"to a VIP", "192.0.2.9:1", "198.18.0.2:90", "", tcp, "", "b/u"},
		{"to a VIP's other port", "192.0.2.9:1", "198.18.0.2:91", "", tcp, "", "b/u"},
		{"ping", "[2001:db8::9]:0", "[fd00:198:18::2]:0", "", protoICMP6, "", "b/u"},
		{"to a node port", "192.0.2.9:1", "203.0.113.1:9000", "", tcp, "", "a/u"},
		{"to another port of the node", "192.0.2.9:1", "203.0.113.1:9001", "", tcp, "", ""},
		{"a reply", "10.1.0.2:8090", "192.0.2.9:1", "198.18.0.2:90", tcp, "a/u", "b/u"},
		{"a reply from the node port", "10.1.0.2:8090", "192.0.2.9:1", "203.0.113.1:9000", tcp, "", "a/u"},
		{"a reply that was dropped", "10.1.0.2:8090", "192.0.2.9:1", "", tcp, "", "a/u"},
		{"the same, b is watched", "10.1.0.2:8090", "192.0.2.9:1", "", tcp, "b/u", "b/u"},
		{"to the replica itself", "192.0.2.9:1", "[fd00:1::2]:8090", "", tcp, "", "a/u"},
		{"another protocol", "10.1.0.2:8090", "192.0.2.9:1", "", udp, "", ""},
		{"nobody's", "192.0.2.9:1", "192.0.2.8:90", "", tcp, "", ""},
	} {
		e := bpf.TraceEvent{Key: bpf.FlowKey{Src: at(c.src), Dst: at(c.dst), Proto: c.proto}}
		if c.was != "" {
			e.Src = at(c.was)
		}
		prefer, _ := model.ParseServiceName(cmp.Or(c.prefer, "none/at-all"))
		want, _ := model.ParseServiceName(c.want)
		if got := o.of(&e, prefer); got != want {
			t.Errorf("%s: %s, want %s", c.name, got, want)
		}
	}
}

func TestEndsOfAService(t *testing.T) {
	o := ownersOf(tracedState(), []netip.Addr{netip.MustParseAddr("203.0.113.1")})
	got := o.endsOf(name("b"))
	slices.SortFunc(got, func(a, b bpf.ServiceKey) int { return cmp.Or(a.VIP.Compare(b.VIP), cmp.Compare(a.Port, b.Port)) })
	const tcp = uint8(model.TCP)
	key := func(addr string, port uint16, proto uint8) bpf.ServiceKey {
		return bpf.ServiceKey{VIP: netip.MustParseAddr(addr), Port: port, Proto: proto}
	}
	want := []bpf.ServiceKey{
		key("10.1.0.2", 8090, tcp), key("198.18.0.2", 0, 0), key("198.18.0.2", 90, tcp),
		key("fd00:1::2", 8090, tcp), key("fd00:198:18::2", 0, 0), key("fd00:198:18::2", 90, tcp),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := len(o.endsOf(name("a"))); n != 5 { // VIP, its port, node port, two replica addresses
		t.Errorf("%d ends of a, want 5", n)
	}
}

func TestWhichReasonsAreWanted(t *testing.T) {
	client := netip.MustParseAddr("192.0.2.9")
	for _, c := range []struct {
		q        admin.TraceQuery
		yes, not []string
	}{
		{admin.TraceQuery{}, []string{"forwarded", "handed_to_tc", "martian"}, []string{"not_ours", "not_ip", "malformed"}},
		{admin.TraceQuery{All: true}, []string{"forwarded", "not_ours", "not_ip"}, nil},
		{admin.TraceQuery{Client: client}, []string{"forwarded", "not_ours"}, nil},
		{admin.TraceQuery{Service: "a/u"}, []string{"forwarded", "not_ours"}, nil},
		{admin.TraceQuery{Client: client, Drops: true}, []string{"martian", "no_backend"}, []string{"forwarded", "not_ours", "echo_answered"}},
	} {
		for _, r := range c.yes {
			if !wanted(c.q, reason(t, r)) {
				t.Errorf("%+v leaves out %s", c.q, r)
			}
		}
		for _, r := range c.not {
			if wanted(c.q, reason(t, r)) {
				t.Errorf("%+v lets %s through", c.q, r)
			}
		}
	}
}

// What the programs tell reaches a client of the socket in words.
func TestTraceInWords(t *testing.T) {
	when := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	vip, client := netip.MustParseAddr("198.18.0.1"), at("192.0.2.9:40000")
	events := []bpf.TraceEvent{
		{
			Time: when, IfIndex: 1, Reason: reason(t, "forwarded"), Key: bpf.FlowKey{Src: client, Dst: netip.AddrPortFrom(vip, 90), Proto: protoTCP},
			Src: client, Dst: at("10.1.0.2:8090"), TCPFlags: 0x12, Bytes: 74,
		},
		{Time: when, IfIndex: 1, TC: true, Reason: reason(t, "bad_packet"), Key: bpf.FlowKey{Src: at("192.0.2.9:0"), Dst: netip.AddrPortFrom(vip, 0)}, Bytes: 34},
		{
			Time: when, IfIndex: 1 << 20, Reason: reason(t, "not_ours"), ICMPType: 135, Bytes: 86,
			Key: bpf.FlowKey{Dst: at("[ff02::1:ff00:7]:0"), Proto: protoICMP6}, // from ::, no address in these structures
		},
		{Time: when, IfIndex: 1, Reason: reason(t, "not_ip"), Bytes: 60},
	}
	var asked bpf.TraceFilter
	busy := false
	h := newHarness(t, func(p *parts) {
		p.trace = func(_ context.Context, f bpf.TraceFilter, yield func([]bpf.TraceEvent, uint64) bool) error {
			if asked = f; busy {
				return bpf.ErrTracing
			}
			_ = yield(nil, 0) && yield(events, 3)
			return errors.New("that is all")
		}
	})
	h.run(t)
	wait(t, "start", h.started)
	c := admin.NewClient(h.cfg.RunDir)
	defer c.Close()
	look := func(q admin.TraceQuery) (got []admin.TraceEvent, lost uint64) {
		err := c.Trace(t.Context(), q, func(e *admin.TraceEvent, n uint64) bool {
			if lost = n; e != nil {
				got = append(got, *e)
			}
			return true
		})
		if err == nil || err.Error() != "that is all" {
			t.Errorf("trace ended with %v", err)
		}
		return got, lost
	}
	got, lost := look(admin.TraceQuery{All: true})
	want := []admin.TraceEvent{
		{
			Time: when, Interface: "lo", Hook: "xdp", Verdict: "forward", Reason: "forwarded", Help: reason(t, "forwarded").Help, Protocol: "tcp",
			Src: client, Dst: netip.AddrPortFrom(vip, 90), Became: &admin.Tuple{Src: client, Dst: at("10.1.0.2:8090")}, Flags: "SYN ACK", Length: 74,
		},
		{
			Time: when, Interface: "lo", Hook: "tc", Verdict: "drop", Reason: "bad_packet", Help: reason(t, "bad_packet").Help,
			Src: at("192.0.2.9:0"), Dst: netip.AddrPortFrom(vip, 0), Length: 34,
		},
		{
			Time: when, Interface: "if1048576", Hook: "xdp", Verdict: "pass", Reason: "not_ours", Help: reason(t, "not_ours").Help, Protocol: "icmp6",
			Src: at("[::]:0"), Dst: at("[ff02::1:ff00:7]:0"), Flags: "neighbour solicitation", Length: 86,
		},
		{Time: when, Interface: "lo", Hook: "xdp", Verdict: "pass", Reason: "not_ip", Help: reason(t, "not_ip").Help, Length: 60},
	}
	same := gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := gocmp.Diff(want, got, same); diff != "" || lost != 3 {
		t.Errorf("%d lost, want 3; events (-want +got)\n%s", lost, diff)
	}
	if asked.Ends != nil || asked.Client.IsValid() {
		t.Errorf("asked for %+v, want everything", asked)
	}

	busy = true
	err := c.Trace(t.Context(), admin.TraceQuery{}, func(*admin.TraceEvent, uint64) bool { return true })
	if err == nil || err.Error() != admin.ErrTracing.Error() {
		t.Errorf("a second trace: %v", err)
	}
	h.Stop()
	if err := wait(t, "end", h.done); err != nil {
		t.Error(err)
	}
}

// A trace of one service shows its packets alone, also those of a replica it shares.
func TestTraceOfAService(t *testing.T) {
	events := []bpf.TraceEvent{
		{Reason: reason(t, "no_route"), Key: bpf.FlowKey{Src: netip.AddrPortFrom(workload, 8090), Dst: at("192.0.2.9:1"), Proto: protoTCP}},
		{Reason: reason(t, "no_route"), Key: bpf.FlowKey{Src: netip.AddrPortFrom(fixed, 8090), Dst: at("192.0.2.9:1"), Proto: protoTCP}},
		{Reason: reason(t, "not_ours"), Key: bpf.FlowKey{Src: at("192.0.2.8:8090"), Dst: at("192.0.2.9:1"), Proto: protoTCP}},
	}
	var ends []bpf.ServiceKey
	h := newHarness(t, func(p *parts) {
		p.trace = func(_ context.Context, f bpf.TraceFilter, yield func([]bpf.TraceEvent, uint64) bool) error {
			ends = f.Ends()
			_ = yield(nil, 0) && yield(events, 0)
			return errors.New("that is all")
		}
	})
	h.run(t)
	wait(t, "start", h.started)
	c := admin.NewClient(h.cfg.RunDir)
	defer c.Close()
	var got []string
	_ = c.Trace(t.Context(), admin.TraceQuery{Service: "c/u"}, func(e *admin.TraceEvent, _ uint64) bool {
		if e != nil {
			got = append(got, e.Service+" "+e.Src.String())
		}
		return true
	})
	if want := []string{"c/u " + fixed.String() + ":8090"}; !slices.Equal(got, want) {
		t.Errorf("saw %q, want %q", got, want)
	}
	if want := []bpf.ServiceKey{{VIP: fixed, Port: 8090, Proto: protoTCP}}; !slices.Equal(ends, want) {
		t.Errorf("watched %v, want %v", ends, want)
	}
	h.Stop()
	if err := wait(t, "end", h.done); err != nil {
		t.Error(err)
	}
}
