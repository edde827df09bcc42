// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// nameServer answers with what zone has for a name and type.
func nameServer(t *testing.T, zone *sync.Map) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun, done := make(chan struct{}), make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(begun) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if text, ok := zone.Load(q.Question[0].Name + dns.TypeToString[q.Question[0].Qtype]); ok {
			if rr, err := dns.NewRR(text.(string)); err == nil {
				m.Answer = append(m.Answer, rr)
			}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe(); close(done) }()
	<-begun
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// A domain of one's own, from the socket to the targets and back out.
func TestA17A18A19OwnDomain(t *testing.T) {
	var zone sync.Map
	part := testPart()
	part.Settings.Domains = model.Domains{Resolver: nameServer(t, &zone), TXTName: "_fairlead.{host}"}
	part.Settings.Node.Addresses = []netip.Addr{netip.MustParseAddr("203.0.113.10")}
	h := newHarness(t, func(p *parts) { p.sources[0] = fakeSource{part} })
	h.run(t)
	wait(t, "start", h.started)
	c := admin.NewClient(h.cfg.RunDir)
	defer c.Close()
	const host = "shop.example.com"
	do := func(verb string) (admin.DomainResult, error) {
		return c.Domain(t.Context(), admin.DomainRequest{Verb: verb, Host: host, Service: "a/u"})
	}
	// served waits until the targets have the host, or have it no more.
	served := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			svc, ok := h.plane.last().Service(name("a"))
			if ok && len(svc.HTTP) == 1 == want {
				if want && (svc.HTTP[0].Host != host || svc.HTTP[0].Paths[0].ServicePort != 90) {
					t.Errorf("hosts: %+v", svc.HTTP)
				}
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("host is with the targets: %t, want %t", !want, want)
			}
		}
	}
	listed := func(state string) {
		t.Helper()
		d, err := c.Domains(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range d.Domains {
			if x.Host == host {
				if x.State != state || x.Kind != "own" || x.Service != "a/u" {
					t.Errorf("listed as %+v, want state %s", x, state)
				}
				return
			}
		}
		if state != "" {
			t.Errorf("not listed, want state %s: %+v", state, d.Domains)
		}
	}

	added, err := do("add")
	if err != nil || len(added.Records) != 3 {
		t.Fatalf("add: %+v, %v", added, err)
	}
	listed("unconfirmed")
	if res, err := do("confirm"); err != nil || res.OK || res.Confirmed {
		t.Fatalf("confirm without records: %+v, %v", res, err)
	}
	zone.Store(host+".A", host+". 60 IN A 203.0.113.10")
	for _, r := range added.Records {
		if r.Type == "TXT" {
			zone.Store(r.Name+".TXT", fmt.Sprintf("%s. 60 IN TXT %q", r.Name, r.Want[0]))
		}
	}
	served(false)
	if res, err := do("confirm"); err != nil || !res.OK || !res.Confirmed || !res.Changed {
		t.Fatalf("confirm: %+v, %v", res, err)
	}
	served(true)
	listed("on")
	for _, step := range []struct {
		verb, state string
		served      bool
	}{{"off", "off", false}, {"on", "on", true}, {"remove", "", false}} {
		if _, err := do(step.verb); err != nil {
			t.Fatalf("%s: %v", step.verb, err)
		}
		served(step.served)
		listed(step.state)
	}
	for request, want := range map[admin.DomainRequest]string{
		{Verb: "add", Host: "x", Service: "a/u"}:          "no dot",
		{Verb: "add", Host: host, Service: "no/body"}:     "no service",
		{Verb: "add", Host: "x.example.com", Service: ""}: "no service",
		{Verb: "off", Host: host}:                         "was not added",
		{Verb: "dance", Host: host}:                       "want add, check",
	} {
		if _, err := c.Domain(t.Context(), request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", request, err, want)
		}
	}
	h.Stop()
	if err := wait(t, "end", h.done); err != nil {
		t.Error(err)
	}
	h.cancel()
}
