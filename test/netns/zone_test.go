// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// zone is what the world's name server says; it may change while it is asked.
type zone struct {
	mu      sync.Mutex
	records map[string][]string // "A host" → values
}

// set replaces the records of a type ("A" or "TXT") and name; none removes
// them.
func (z *zone) set(kind, name string, values ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[kind+" "+name] = values
}

func (z *zone) answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	if len(q.Question) == 1 {
		name, kind := q.Question[0].Name, q.Question[0].Qtype
		hdr := dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET}
		z.mu.Lock()
		values := z.records[dns.TypeToString[kind]+" "+strings.ToLower(strings.TrimSuffix(name, "."))]
		z.mu.Unlock()
		for _, v := range values {
			switch kind {
			case dns.TypeA:
				m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: net.ParseIP(v)})
			case dns.TypeTXT:
				m.Answer = append(m.Answer, &dns.TXT{Hdr: hdr, Txt: []string{v}})
			}
		}
	}
	_ = w.WriteMsg(m)
}

// serveZone answers by UDP and TCP at the client's address, until the test
// ends.
func serveZone(t *testing.T, l *lab.Lab) (*zone, netip.AddrPort) {
	t.Helper()
	at := netip.AddrPortFrom(lab.Client4, 53)
	var pc net.PacketConn
	var ln net.Listener
	must(t, l.Client.Do(func() (err error) {
		if pc, err = net.ListenPacket("udp", at.String()); err != nil {
			return err
		}
		ln, err = net.Listen("tcp", at.String())
		return err
	}))
	z := &zone{records: map[string][]string{}}
	for _, s := range []*dns.Server{{PacketConn: pc}, {Listener: ln}} {
		begun, done := make(chan struct{}), make(chan struct{})
		s.Handler, s.NotifyStartedFunc = dns.HandlerFunc(z.answer), func() { close(begun) }
		go func() { _ = s.ActivateAndServe(); close(done) }()
		<-begun
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return z, at
}
