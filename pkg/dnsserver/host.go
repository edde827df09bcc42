// SPDX-License-Identifier: Apache-2.0

package dnsserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/miekg/dns"
)

const (
	maxFile   = 64 << 10
	maxSearch = 32 // glibc's own bound since 2.26 is none; this one keeps lookups short
)

// hostFile is what the host's resolv.conf(5) says.
type hostFile struct {
	servers []netip.AddrPort
	search  []string
}

// read reads it anew. What was read before stays in force with an error.
func (h *hostFile) read(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		*h = hostFile{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the host's name servers: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return fmt.Errorf("read the host's name servers: %w", err)
	}
	c, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("read the host's name servers in %s: %w", path, err)
	}
	next := hostFile{search: c.Search[:min(len(c.Search), maxSearch)]}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			next.servers = append(next.servers, netip.AddrPortFrom(a, 53))
		}
	}
	*h = next
	return nil
}

// ResolvConf is the resolv.conf(5) by which a workload of this host uses the
// name server of the state, with the search list of the host's own file; empty
// if workloads cannot reach it: it is off, on loopback, or not on port 53.
func ResolvConf(s *model.State, path string) string {
	address, err := parse(s.Settings.Listen.DNS)
	if err != nil || address.Port() != 53 {
		return ""
	}
	if path == "" {
		path = "/etc/resolv.conf"
	}
	addr := address.Addr()
	switch n := s.Settings.Network; {
	case !addr.IsValid(), addr.IsUnspecified():
		// On every address: their gateway is one of them.
		prefix := n.Workloads
		if !prefix.IsValid() {
			prefix = n.Workloads6
		}
		if !prefix.IsValid() {
			return ""
		}
		addr = prefix.Masked().Addr().Next()
	case addr.IsLoopback():
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by fairlead for its workloads (listen.dns).\nnameserver %s\n", addr)
	var host hostFile
	if host.read(path) == nil && len(host.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(host.search, " "))
	}
	return b.String()
}
