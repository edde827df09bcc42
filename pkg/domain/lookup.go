// SPDX-License-Identifier: Apache-2.0

package domain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	queryTries = 3
	udpSize    = 1232 // bytes that fit any path (DNS flag day 2020)
	mostValues = 64   // of one record that are looked at
)

// answer is what a resolver said of one name and type.
type answer struct {
	values []string
	alias  string // the last name that the host's CNAME leads to; empty: none
	none   string // why there are no values, in words
}

// question is what ask needs besides the name.
type question struct {
	resolver netip.AddrPort
	timeout  time.Duration // of one try
}

// ask asks the resolver, by UDP and, for a long answer, TCP.
func (o question) ask(ctx context.Context, name string, qtype uint16) (answer, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(udpSize, false)
	var last error
	for range queryTries {
		m, err := o.exchange(ctx, "udp", q)
		if err == nil && m.Truncated {
			m, err = o.exchange(ctx, "tcp", q)
		}
		switch {
		case ctx.Err() != nil:
			return answer{}, fmt.Errorf("ask %s: %w", o.resolver, ctx.Err())
		case err != nil:
			last = err
		case m.Rcode == dns.RcodeSuccess, m.Rcode == dns.RcodeNameError:
			return read(m, name, qtype), nil
		default:
			last = fmt.Errorf("it answers %s", dns.RcodeToString[m.Rcode])
			if m.Rcode != dns.RcodeServerFailure {
				return answer{}, fmt.Errorf("ask %s: %w", o.resolver, last)
			}
		}
	}
	return answer{}, fmt.Errorf("ask %s, %d times: %w", o.resolver, queryTries, o.explain(last))
}

func (o question) explain(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("no answer within %s; is domains.resolver right, and may this node ask it?", o.timeout)
	}
	return err
}

// exchange is one question; the answer is to it and to no other.
func (o question) exchange(ctx context.Context, network string, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	q = q.Copy()
	q.Id = dns.Id()
	c := dns.Client{Net: network, Timeout: o.timeout, UDPSize: udpSize}
	m, _, err := c.ExchangeContext(ctx, q, o.resolver.String())
	if err != nil {
		return nil, err
	}
	if !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype ||
		!strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
		return nil, errors.New("the answer is to another question")
	}
	return m, nil
}

// read takes the values of a name out of an answer, along its aliases.
func read(m *dns.Msg, name string, qtype uint16) answer {
	var a answer
	at := dns.Fqdn(name)
	for range mostValues { // a chain of aliases, in whatever order
		next := ""
		for _, rr := range m.Answer {
			if c, ok := rr.(*dns.CNAME); ok && strings.EqualFold(c.Hdr.Name, at) {
				next = c.Target
			}
		}
		if next == "" {
			break
		}
		at, a.alias = next, strings.TrimSuffix(next, ".")
	}
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Rrtype != qtype || !strings.EqualFold(h.Name, at) || len(a.values) == mostValues {
			continue
		}
		switch v := rr.(type) {
		case *dns.A:
			if addr, ok := netip.AddrFromSlice(v.A.To4()); ok {
				a.values = append(a.values, addr.String())
			}
		case *dns.AAAA:
			if addr, ok := netip.AddrFromSlice(v.AAAA.To16()); ok {
				a.values = append(a.values, addr.String())
			}
		case *dns.TXT:
			a.values = append(a.values, strings.Join(v.Txt, ""))
		}
	}
	switch {
	case len(a.values) > 0:
	case m.Rcode == dns.RcodeNameError:
		a.none = "there is no such name (NXDOMAIN)"
	default:
		a.none = "the name has no record of this type"
	}
	return a
}
