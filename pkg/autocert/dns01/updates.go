// SPDX-License-Identifier: Apache-2.0

package dns01

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// ttl of a challenge's record, in seconds: no resolver keeps it for long.
	ttl = 60
	// exchangeTimeout bounds one question and its answer, and so how long the end
	// of the agent may have to wait.
	exchangeTimeout = 5 * time.Second
	// fudge is how far the clocks of both sides may differ, in seconds (RFC 8945
	// section 10).
	fudge = 300
)

// updates writes records by dynamic updates (RFC 2136).
type updates struct{ cfg Config }

func (u *updates) add(ctx context.Context, name, value string) error {
	return u.update(ctx, name, func(m *dns.Msg) { m.Insert([]dns.RR{txt(name, value)}) })
}

func (u *updates) remove(ctx context.Context, name, value string) error {
	return u.update(ctx, name, func(m *dns.Msg) { m.Remove([]dns.RR{txt(name, value)}) })
}

// probe removes a record that is not there: the server checks the key, the
// zone and its policy as for any update, and its zone stays as it is.
func (u *updates) probe(ctx context.Context, name string) error {
	return u.remove(ctx, name, "fairlead: may this be updated?")
}

func txt(name, value string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}, Txt: []string{value}}
}

func (u *updates) update(ctx context.Context, name string, fill func(*dns.Msg)) error {
	zone, err := u.zone(ctx, name)
	if err != nil {
		return err
	}
	m := new(dns.Msg).SetUpdate(zone)
	fill(m)
	r, k, err := u.exchange(ctx, m)
	if err != nil {
		return err
	}
	switch r.Rcode {
	case dns.RcodeSuccess:
		return nil
	case dns.RcodeRefused:
		return problem("the name server %s refuses to update %s%s: its zone %s must allow it (allow-update or update-policy)", u.cfg.Server, name, with(k), zone)
	}
	return problem("the name server %s answers an update of %s in the zone %s with %s", u.cfg.Server, name, zone, rcode(r))
}

// zone is the one that holds a name: the configured one, or what the server
// says in its answer's SOA.
func (u *updates) zone(ctx context.Context, name string) (string, error) {
	if u.cfg.Zone != "" {
		return dns.CanonicalName(u.cfg.Zone), nil
	}
	r, _, err := u.exchange(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeSOA))
	if err != nil {
		return "", err
	}
	if r.Authoritative && (r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError) {
		for _, rr := range slices.Concat(r.Answer, r.Ns) {
			if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, dns.Fqdn(name)) {
				return soa.Hdr.Name, nil
			}
		}
	}
	return "", problem("the name server %s has no zone that holds %s (it answers %s): acme.dns01.server must be the primary of that zone", u.cfg.Server, name, rcode(r))
}

// nameServers are those of the zone, at port 53.
func (u *updates) nameServers(ctx context.Context, name string) ([]netip.AddrPort, error) {
	zone, err := u.zone(ctx, name)
	if err != nil {
		return nil, err
	}
	r, _, err := u.exchange(ctx, new(dns.Msg).SetQuestion(zone, dns.TypeNS))
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	var missing error
	for _, rr := range r.Answer {
		ns, ok := rr.(*dns.NS)
		if !ok {
			continue
		}
		addrs, err := u.addresses(ctx, ns.Ns, r.Extra)
		if err != nil {
			missing = err
		}
		for _, a := range addrs {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	switch {
	case len(out) > 0:
		slices.SortFunc(out, netip.AddrPort.Compare)
		return out, nil
	case missing != nil:
		return nil, problem("no name server of the zone %s has an address (%v): name them in acme.dns01.nameServers", zone, missing)
	}
	return nil, problem("the name server %s lists no name servers of the zone %s (it answers %s): name them in acme.dns01.nameServers", u.cfg.Server, zone, rcode(r))
}

// addresses of a name server: those that came with its name, else what the
// machine's resolver says.
func (u *updates) addresses(ctx context.Context, host string, glue []dns.RR) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, rr := range glue {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok && dns.CanonicalName(rr.Header().Name) == dns.CanonicalName(host) {
			out = append(out, a.Unmap())
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// exchange asks the server, signed if there is a key. What comes back without
// an error is signed with the same key.
func (u *updates) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, *key, error) {
	c := &dns.Client{Net: "tcp", Timeout: exchangeTimeout}
	var k *key
	if u.cfg.KeyFile != "" {
		read, err := readKey(u.cfg.KeyFile)
		if err != nil {
			return nil, nil, &Problem{err.Error()}
		}
		k = &read
		c.TsigSecret = map[string]string{k.name: k.secret}
		m.SetTsig(k.name, k.algorithm+".", fudge, time.Now().Unix())
	}
	r, _, err := c.ExchangeContext(ctx, m, u.cfg.Server.String())
	switch {
	case ctx.Err() != nil:
		return nil, k, fmt.Errorf("ask the name server %s: %w", u.cfg.Server, ctx.Err())
	case r != nil && k != nil && r.Rcode != dns.RcodeSuccess:
		if why := distrust(r, k); why != "" {
			return nil, k, problem("the name server %s %s", u.cfg.Server, why)
		}
	}
	// The library does not look at the signature of NOTAUTH: it is a refusal in
	// any case.
	if err != nil && !errors.Is(err, dns.ErrAuth) {
		return nil, k, problem("the name server %s does not answer: %s", u.cfg.Server, short(err))
	}
	if k != nil && r.Rcode == dns.RcodeSuccess && r.IsTsig() == nil {
		return nil, k, problem("the name server %s does not sign its answer%s", u.cfg.Server, with(k))
	}
	return r, k, nil
}

// distrust says why a server does not accept a key; empty: it does. Such an
// answer is not signed, so crypto cannot tell whether it is true.
func distrust(r *dns.Msg, k *key) string {
	t := r.IsTsig()
	if t == nil {
		return ""
	}
	switch t.Error {
	case dns.RcodeBadSig:
		return fmt.Sprintf("does not accept the signature of the key %s (BADSIG): the secret in acme.dns01.keyFile is another one there", k.name)
	case dns.RcodeBadKey:
		return fmt.Sprintf("does not know the key %s with %s (BADKEY)", k.name, k.algorithm)
	case dns.RcodeBadTime:
		return fmt.Sprintf("finds the time of this machine wrong (BADTIME): the clocks may differ by %d s", fudge)
	}
	return ""
}

func with(k *key) string {
	if k == nil {
		return " without a key"
	}
	return " with the key " + k.name
}

func rcode(m *dns.Msg) string {
	if s, ok := dns.RcodeToString[m.Rcode]; ok {
		return s
	}
	return fmt.Sprintf("code %d", m.Rcode)
}

// short is a network error without the addresses that stand before it.
func short(err error) string {
	var no syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &no):
		return no.Error()
	}
	return err.Error()
}
