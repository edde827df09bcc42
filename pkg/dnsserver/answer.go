// SPDX-License-Identifier: Apache-2.0

package dnsserver

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
)

// udpSize bounds answers over UDP whatever the client offers: more would be
// cut into fragments on some path (DNS flag day 2020).
const udpSize = 1232

// counts are by what became of a question.
type counts struct {
	internal, forwarded, refused, failed, busy atomic.Uint64
}

// Count is how many questions ended in one way.
type Count struct {
	// Result is "internal" (answered here), "forwarded", "refused" (not
	// allowed, or not understood), "failed" (no upstream answered) or "busy" (too
	// many wait for upstreams).
	Result string
	Count  uint64
}

// Counts are the questions so far.
func (t *Target) Counts() []Count {
	c := &t.counts
	return []Count{
		{"internal", c.internal.Load()},
		{"forwarded", c.forwarded.Load()},
		{"refused", c.refused.Load()},
		{"failed", c.failed.Load()},
		{"busy", c.busy.Load()},
	}
}

// ServeDNS answers one question. It is called from many goroutines at once.
func (t *Target) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, network := source(w.RemoteAddr())
	m := t.answer(q, from, network)
	if m == nil {
		return
	}
	size := udpSize
	if network == "tcp" {
		size = dns.MaxMsgSize
	} else if opt := q.IsEdns0(); opt == nil {
		size = dns.MinMsgSize
	} else {
		size = min(size, max(int(opt.UDPSize()), dns.MinMsgSize))
	}
	m.Truncate(size)
	_ = w.WriteMsg(m) // a client that is gone needs none
}

func source(a net.Addr) (from netip.Addr, network string) {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap(), "udp"
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap(), "tcp"
	}
	return netip.Addr{}, "udp"
}

// answer makes the answer to a question.
func (t *Target) answer(q *dns.Msg, from netip.Addr, network string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	opt := q.IsEdns0()
	if opt != nil {
		m.SetEdns0(udpSize, opt.Do())
	}
	refuse := func(rcode int) *dns.Msg {
		t.counts.refused.Add(1)
		m.Rcode = rcode
		return m
	}
	switch {
	case q.Response:
		return nil
	case q.Opcode != dns.OpcodeQuery:
		return refuse(dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return refuse(dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		return refuse(dns.RcodeBadVers)
	case q.Question[0].Qclass != dns.ClassINET:
		return refuse(dns.RcodeRefused)
	}
	z, question := t.zone.Load(), q.Question[0]
	if t.internal(z, m, question) {
		t.counts.internal.Add(1)
		return m
	}
	switch {
	case !z.trusts(from), question.Qtype == dns.TypeAXFR, question.Qtype == dns.TypeIXFR, question.Qtype == dns.TypeANY:
		return refuse(dns.RcodeRefused)
	}
	return t.forward(z, q, m, network)
}

// internal fills in the answer to a question about an internal name or a
// virtual IP; false: it is about something else.
func (t *Target) internal(z *zone, m *dns.Msg, q dns.Question) bool {
	name := strings.ToLower(q.Name)
	head := dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Ttl: ttl}
	if target, ours := z.pointer(name); ours {
		m.Authoritative = true
		head.Rrtype = dns.TypePTR
		switch {
		case target == "":
			m.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY:
			m.Answer = []dns.RR{&dns.PTR{Hdr: head, Ptr: target}}
		}
		negative(m, name)
		return true
	}
	addrs, ours := z.find(name)
	if !ours {
		return false
	}
	m.Authoritative = true
	if addrs.v4.IsValid() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY) {
		head.Rrtype = dns.TypeA
		m.Answer = append(m.Answer, &dns.A{Hdr: head, A: addrs.v4.AsSlice()})
	}
	if addrs.v6.IsValid() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY) {
		head.Rrtype = dns.TypeAAAA
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: addrs.v6.AsSlice()})
	}
	negative(m, name)
	return true
}

// negative says how long an answer without records may be kept (RFC 2308
// section 5). Each internal name is a zone of its own.
func negative(m *dns.Msg, name string) {
	if len(m.Answer) > 0 {
		return
	}
	m.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "localhost.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}}
}
