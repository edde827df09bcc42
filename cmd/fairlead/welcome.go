// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/admin"
)

// welcome is what "run" prints once everything is in force: what to try.
func (a *app) welcome(s admin.Status, services []admin.Service, runDir string) {
	p := a.paint
	verdict := p.green
	if !s.Ready {
		verdict = p.yellow
	}
	fmt.Fprintf(a.out, "\n%s\n\n", verdict(s.Verdict))
	t := &table{}
	for _, svc := range services {
		for i, port := range svc.Ports {
			glyph, name := p.health(svc.Ready(), svc.Wanted), p.bold(svc.Name)
			if i > 0 {
				glyph, name = "", ""
			}
			t.add(glyph, name, address(svc, port), "→ "+replicasLeft(svc), p.dim(try(svc, port)))
		}
	}
	t.write(a.out, p, "  ")
	if len(services) == 0 {
		fmt.Fprintf(a.out, "  no services: add one under \"services:\" in %s; it is served as soon as the file is saved\n", s.Config.Path)
	}
	if where := reach(s.Interfaces); where != "" && len(services) > 0 {
		fmt.Fprintln(a.out, "\n  "+where)
	}
	a.printTrouble(s)
	fmt.Fprintf(a.out, "\nlook with  %s\nstop with  Ctrl-C or kill %d\n\n", hint("fairlead status", runDir), s.PID)
}

// reach says for whom the addresses answer, if not for the network.
func reach(interfaces []admin.Interface) string {
	others := 0 // interfaces that fairlead did not make
	for _, i := range interfaces {
		if i.Role == "nic" {
			return ""
		}
		if !strings.HasPrefix(i.Name, "fl-") {
			others++
		}
	}
	if others > 0 {
		return "the addresses answer on this host and in its replicas, not for the network: name the interface of its clients in node.interfaces"
	}
	return "the addresses answer on this host and in its replicas; no interface of this host is touched (node.interfaces is empty)"
}

// replicasLeft is the count in words.
func replicasLeft(s admin.Service) string {
	if len(s.Replicas) == 0 && s.Wanted == 0 {
		return "no replica yet"
	}
	if n := s.Ready(); n == max(s.Wanted, len(s.Replicas)) {
		return plural(n, "replica")
	}
	return replicasOf(s) + " replicas"
}

// try is a command line that talks to a port; "" when there is nobody to
// answer.
func try(s admin.Service, p admin.Port) string {
	vip := s.VIP
	if !vip.IsValid() {
		vip = s.VIP6
	}
	if !vip.IsValid() || s.Ready() == 0 {
		return ""
	}
	if p.Protocol == "udp" {
		return fmt.Sprintf("echo hello | nc -u -w1 %s %d", vip, p.Service)
	}
	switch p.Service {
	case 22:
		return fmt.Sprintf("ssh %s", vip)
	case 5432:
		return fmt.Sprintf("psql -h %s -U postgres", vip)
	case 6379:
		return fmt.Sprintf("redis-cli -h %s ping", vip)
	case 27017:
		return fmt.Sprintf("mongosh mongodb://%s/", netip.AddrPortFrom(vip, p.Service))
	case 443, 8443:
		return fmt.Sprintf("curl -k https://%s/", netip.AddrPortFrom(vip, p.Service))
	case 7:
		return fmt.Sprintf("echo hello | nc -w1 %s %d", vip, p.Service)
	}
	return fmt.Sprintf("curl http://%s/", netip.AddrPortFrom(vip, p.Service))
}
