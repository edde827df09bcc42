// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parsed is a string that parse turns into a T.
func parsed[T any](want, format string, parse func(string) (T, error), print func(T) string) codec[T] {
	return codec[T]{
		schema: func() schema {
			s := schema{"type": "string"}
			if format != "" {
				s["format"] = format
			}
			return s
		},
		decode: func(d *decoder, v value) (T, bool) {
			var zero T
			v, ok := d.resolve(v)
			if !ok {
				return zero, false
			}
			s, _, ok := scalar(v.node)
			if !ok {
				d.report(v.place, "%s", wantProblem(v.node, want))
				return zero, false
			}
			t, err := parse(s)
			if err != nil {
				d.report(v.place, "%s", err)
				return zero, false
			}
			return t, true
		},
		show: func(t T) (any, bool) {
			s := print(t)
			return s, s != "" && !strings.HasPrefix(s, "invalid ")
		},
	}
}

// address is an IP address; check may be nil.
func address(want string, check func(netip.Addr) error) codec[netip.Addr] {
	return parsed(want, "", func(s string) (netip.Addr, error) {
		a, err := parseAddr(s, want)
		if err == nil && check != nil {
			err = check(a)
		}
		return a, err
	}, netip.Addr.String)
}

func parseAddr(s, want string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("got %s, want %s", quote(s), want)
	case a.Is4In6():
		return a, fmt.Errorf("got %s, an IPv4 address inside IPv6; write %s", quote(s), a.Unmap().WithZone(""))
	case a.Zone() != "":
		return a, fmt.Errorf("got %s with a zone, want %s; leave out %q", quote(s), want, "%"+a.Zone())
	}
	return a, nil
}

// unicast refuses what no single host can have.
func unicast(a netip.Addr) error {
	switch {
	case a.IsUnspecified():
		return fmt.Errorf("%s is the unspecified address, want one of a host", a)
	case a.IsMulticast():
		return fmt.Errorf("%s is a multicast address, want one of a host", a)
	case a == broadcast:
		return fmt.Errorf("%s is the broadcast address, want one of a host", a)
	}
	return nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// virtual checks an address a service can be reached at.
func virtual(six bool) func(netip.Addr) error {
	return func(a netip.Addr) error {
		switch {
		case a.Is6() != six && six:
			return fmt.Errorf("%s is an IPv4 address, want an IPv6 one; write it as vip", a)
		case a.Is6() != six:
			return fmt.Errorf("%s is an IPv6 address, want an IPv4 one; write it as vip6", a)
		case a.IsLoopback():
			return fmt.Errorf("%s is a loopback address and never leaves its host; take one of network.services", a)
		case a.IsLinkLocalUnicast():
			return fmt.Errorf("%s is a link-local address and cannot be routed; take one of network.services", a)
		}
		return unicast(a)
	}
}

// cidr is an address range; a single address means itself.
func cidr() codec[netip.Prefix] {
	return parsed("a CIDR such as 10.0.0.0/8", "", parseCIDR, netip.Prefix.String)
}

func parseCIDR(s string) (netip.Prefix, error) {
	const want = "a CIDR such as 10.0.0.0/8 or fd00::/8"
	if !strings.Contains(s, "/") {
		a, err := parseAddr(s, want)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("got %s, want %s", quote(s), want)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("got %s, an IPv4 range inside IPv6; write it as IPv4", quote(s))
	case p != p.Masked():
		return p, fmt.Errorf("got %s, which has bits set after the first %d; write %s", quote(s), p.Bits(), p.Masked())
	}
	return p, nil
}

// pool is a range addresses are taken from, of one family, with room for two
// at least.
func pool(six bool) codec[netip.Prefix] {
	want := "an IPv4 range such as 198.18.0.0/16"
	if six {
		want = "an IPv6 range such as fd00:198:18::/112"
	}
	return checked(cidr(), func(p netip.Prefix) error {
		a := p.Addr()
		switch {
		case a.Is6() != six:
			return fmt.Errorf("got %s, want %s", p, want)
		case a.BitLen()-p.Bits() < 2:
			return fmt.Errorf("got %s with %d addresses, want %s; /%d is the smallest", p, 1<<(a.BitLen()-p.Bits()), want, a.BitLen()-2)
		case p.Bits() == 0 || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast():
			return fmt.Errorf("got %s, which hosts cannot have, want %s", p, want)
		}
		return nil
	}, nil)
}

// server is the address of a name server; port 53 unless given.
func server() codec[netip.AddrPort] {
	const want = "IP:PORT such as 1.1.1.1:53 or [2606:4700::1111]:53"
	return parsed(want, "", func(s string) (netip.AddrPort, error) {
		if a, err := netip.ParseAddr(s); err == nil {
			return netip.AddrPortFrom(a, 53), nil
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() {
			return ap, fmt.Errorf("got %s, want %s", quote(s), want)
		}
		return ap, nil
	}, netip.AddrPort.String)
}

// listener is a listen address: ":PORT", "IP:PORT", or "" for off. Port 0 is
// any free one.
func listener() codec[string] {
	const want = `":PORT" or "IP:PORT", or "" for off`
	return str(want, func(s string) error {
		if s == "" {
			return nil
		}
		host, port, ok := cutPort(s)
		if !ok {
			return fmt.Errorf("got %s, want %s", quote(s), want)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("got %s with the port %s, want one from 1 to 65535", quote(s), quote(port))
		}
		if _, err := netip.ParseAddr(host); host != "" && err != nil {
			return fmt.Errorf("got %s with the host %s, want %s", quote(s), quote(host), want)
		}
		return nil
	})
}

// cutPort splits HOST:PORT; an IPv6 host stands in brackets.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = s[:i], s[i+1:]
	if inner, bracket := strings.CutPrefix(host, "["); bracket {
		inner, closed := strings.CutSuffix(inner, "]")
		return inner, port, closed && strings.Contains(inner, ":")
	}
	return host, port, !strings.Contains(host, ":")
}
