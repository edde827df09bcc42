// SPDX-License-Identifier: Apache-2.0

package dnsserver

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// forward asks the upstreams, one after the other, twice if there is one only,
// and returns the first answer that is one. m is the answer to be, for a
// question that none of them answered.
func (t *Target) forward(z *zone, q, m *dns.Msg, network string) *dns.Msg {
	select {
	case t.forwards <- struct{}{}:
		defer func() { <-t.forwards }()
	default:
		t.counts.busy.Add(1)
		m.Rcode = dns.RcodeServerFailure
		return m
	}
	tries := z.upstreams
	if len(tries) == 1 {
		tries = []netip.AddrPort{tries[0], tries[0]}
	}
	const most = 3 // a client waits 5 s
	for i, u := range tries {
		if i == most {
			break
		}
		answer, err := t.exchange(q, u, network)
		if err != nil {
			t.cfg.Log.Debug("upstream name server", "server", u, "error", err)
			continue
		}
		// Another one may know more than one that fails or refuses.
		if (answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused) && i < len(tries)-1 && u != tries[i+1] {
			continue
		}
		t.counts.forwarded.Add(1)
		answer.Id = q.Id
		return answer
	}
	t.counts.failed.Add(1)
	m.Rcode = dns.RcodeServerFailure
	return m
}

// exchange asks one upstream by the client's own transport: an answer too long
// for UDP makes the client itself come again by TCP. Each question has a socket
// and a number of its own, so that nobody else can answer in time.
func (t *Target) exchange(q *dns.Msg, upstream netip.AddrPort, network string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.cfg.Timeout)
	defer cancel()
	ask := q.Copy()
	ask.Id = dns.Id()
	c := dns.Client{Net: network, Timeout: t.cfg.Timeout, UDPSize: dns.MaxMsgSize}
	m, _, err := c.ExchangeContext(ctx, ask, upstream.String())
	if err != nil {
		return nil, err
	}
	if !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype ||
		m.Question[0].Qclass != q.Question[0].Qclass || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
		return nil, errors.New("the answer is to another question")
	}
	m.Question = q.Question // with the client's own letters
	return m, nil
}
