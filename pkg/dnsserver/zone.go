// SPDX-License-Identifier: Apache-2.0

package dnsserver

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/miekg/dns"
)

// ttl is how long an answer may be kept, in seconds. Virtual IPs stay, but a
// service that comes or goes should be noticed.
const ttl = 5

// zone is all that answers follow from; it is replaced whole.
type zone struct {
	names     map[string]addresses  // absolute, lower case → its virtual IPs
	pointers  map[netip.Addr]string // virtual IP → absolute name
	suffixes  []string              // of the search list, each beginning with a dot
	virtual   []netip.Prefix        // virtual IPs come from these
	trusted   []netip.Prefix        // whose questions are forwarded
	upstreams []netip.AddrPort
}

type addresses struct{ v4, v6 netip.Addr }

// newZone reads a state.
func newZone(s *model.State, host *hostFile, listen netip.AddrPort) *zone {
	z := &zone{names: map[string]addresses{}, pointers: map[netip.Addr]string{}, upstreams: s.Settings.DNS.Upstream}
	for i := range s.Services {
		svc := s.Services[i]
		if svc.Internal == "" {
			continue
		}
		name := dns.Fqdn(strings.ToLower(svc.Internal))
		if _, taken := z.names[name]; taken {
			continue // the config refuses a second one; other sources may not
		}
		z.names[name] = addresses{svc.VIP4, svc.VIP6}
		for _, a := range svc.VIPs() {
			z.pointers[a] = name
		}
	}
	n := s.Settings.Network
	for _, p := range []netip.Prefix{n.Services, n.Services6} {
		if p.IsValid() {
			z.virtual = append(z.virtual, p.Masked())
		}
	}
	z.trusted = slices.Clone(z.virtual)
	for _, p := range []netip.Prefix{n.Workloads, n.Workloads6} {
		if p.IsValid() {
			z.trusted = append(z.trusted, p.Masked())
		}
	}
	for _, domain := range host.search {
		if suffix := "." + dns.Fqdn(strings.ToLower(strings.TrimPrefix(domain, "."))); suffix != ".." && suffix != "." {
			z.suffixes = append(z.suffixes, suffix)
		}
	}
	if z.upstreams == nil {
		z.upstreams = host.servers
	}
	// To forward to itself would be to forward for ever.
	z.upstreams = slices.DeleteFunc(slices.Clone(z.upstreams), func(u netip.AddrPort) bool {
		return u.Port() == listen.Port() && (u.Addr().Unmap() == listen.Addr() || !listen.Addr().IsValid() && u.Addr().IsLoopback())
	})
	return z
}

// find looks a name up as it is, and below each domain of the search list.
func (z *zone) find(name string) (addresses, bool) {
	if a, ok := z.names[name]; ok {
		return a, true
	}
	for _, suffix := range z.suffixes {
		if bare, ok := strings.CutSuffix(name, suffix); ok {
			if a, ok := z.names[bare+"."]; ok {
				return a, true
			}
		}
	}
	return addresses{}, false
}

// pointer answers for the reverse name of a virtual IP; ours is false for
// every other name. target is empty where no service has the address.
func (z *zone) pointer(name string) (target string, ours bool) {
	addr, ok := reverse(name)
	if !ok {
		return "", false
	}
	target, known := z.pointers[addr]
	return target, known || slices.ContainsFunc(z.virtual, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// reverse reads a name below in-addr.arpa (RFC 1035 section 3.5) or ip6.arpa
// (RFC 3596 section 2.5).
func reverse(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(digits, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	digits, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(digits) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := 31; i >= 0; i-- {
		if i > 0 && digits[2*i-1] != '.' || strings.IndexByte("0123456789abcdef", digits[2*i]) < 0 {
			return netip.Addr{}, false
		}
		text.WriteByte(digits[2*i])
		if i%4 == 0 && i > 0 {
			text.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil && a.Is6()
}

// trusts tells whether questions from an address are forwarded: those of this
// host, of its workloads and of private networks. Whoever else could ask would
// use this host against others (open resolvers amplify).
func (z *zone) trusts(from netip.Addr) bool {
	from = from.Unmap().WithZone("")
	return from.IsLoopback() || from.IsPrivate() || from.IsLinkLocalUnicast() ||
		slices.ContainsFunc(z.trusted, func(p netip.Prefix) bool { return p.Contains(from) })
}
