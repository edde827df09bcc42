// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) services() *cobra.Command {
	c := &cobra.Command{
		Use:               "services [PROJECT/USER]",
		Aliases:           []string{"service"},
		Short:             "The services: virtual IPs, ports, replicas, traffic",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: serviceNames,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			if name := first(args); name != "" {
				s, err := client.Service(c.Context(), name)
				if err != nil {
					return err
				}
				if asJSON() {
					return printJSON(a.out, s)
				}
				a.printService(s)
				return nil
			}
			services, err := client.Services(c.Context())
			if err != nil {
				return err
			}
			if asJSON() {
				return printJSON(a.out, services)
			}
			a.printServices(services)
			return nil
		})
	}
	return c
}

func (a *app) printServices(services []admin.Service) {
	if len(services) == 0 {
		fmt.Fprintln(a.out, "no services: add one under \"services:\" in the config file; it is served as soon as the file is saved")
		return
	}
	p := a.paint
	t := &table{head: []string{"", "SERVICE", "ADDRESS", "REPLICAS", "CONNECTIONS", "ACTIVE", "IN", "OUT"}}
	for _, s := range services {
		for i, port := range s.Ports {
			glyph, name, replicas := p.health(s.Ready(), s.Wanted), s.Name, replicasOf(s)
			if i > 0 {
				glyph, name, replicas = "", "", ""
			}
			t.add(glyph, name, address(s, port), replicas, fmt.Sprint(port.Connections), fmt.Sprint(port.Active),
				bytesOf(port.BytesIn), bytesOf(port.BytesOut))
		}
	}
	t.write(a.out, p, "")
	var lines []string
	for _, s := range services {
		for _, l := range problemsOf(s) {
			lines = append(lines, s.Name+": "+l)
		}
	}
	a.printProblems(lines)
}

// condition is what a replica is: one that takes connections and loses them is
// not ready.
func condition(r admin.Replica) string {
	if r.Unreachable {
		return "unreachable"
	}
	return r.Condition
}

// check is the verdict on a replica, or what there is to say of it while it is
// good; why it is bad is told below the table.
func check(r admin.Replica) string {
	if r.Check == "passing" {
		return cmp.Or(r.Reason, r.Check)
	}
	return r.Check
}

// problemsOf says what is wrong with a service's replicas, one by one.
func problemsOf(s admin.Service) []string {
	var lines []string
	for _, n := range s.Names {
		if n.Problem != "" {
			lines = append(lines, fmt.Sprintf("name %s: %s", n.Host, n.Problem))
		}
	}
	for _, r := range s.Replicas {
		if r.Problem != "" {
			lines = append(lines, fmt.Sprintf("replica %s: %s", replicaAddress(r), r.Problem))
		}
		if r.Check == "failing" {
			lines = append(lines, fmt.Sprintf("replica %s: fails its health check: %s", replicaAddress(r), r.Reason))
		}
	}
	return lines
}

// printProblems lists the first of what may be thousands.
func (a *app) printProblems(lines []string) {
	const most = 20
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(a.out, "\n%s\n", a.paint.red("problems"))
	for _, l := range lines[:min(most, len(lines))] {
		fmt.Fprintln(a.out, "  "+l)
	}
	if more := len(lines) - most; more > 0 {
		fmt.Fprintf(a.out, "  and %d more\n", more)
	}
}

func (a *app) printService(s admin.Service) {
	p := a.paint
	fmt.Fprintf(a.out, "%s %s\n\n", p.health(s.Ready(), s.Wanted), p.bold(s.Name))
	t := &table{}
	add := func(key, value string) {
		if value != "" {
			t.add(p.dim(key), value)
		}
	}
	if s.Title != s.Name {
		add("written", s.Title)
	}
	var vips []string
	for _, v := range []netip.Addr{s.VIP, s.VIP6} {
		if v.IsValid() {
			vips = append(vips, v.String())
		}
	}
	add("addresses", strings.Join(vips, "  "))
	add("name", s.Internal)
	add("mode", s.Mode)
	add("drain", s.Drain)
	add("runs on", s.Workload)
	add("replicas", replicasOf(s))
	if s.Sleep != nil {
		add("sleep", s.Sleep.String())
	}
	add("checks", s.LastResort)
	add("not yet", strings.Join(s.NotServedYet, ", "))
	t.write(a.out, p, "")

	fmt.Fprintln(a.out)
	t = &table{head: []string{"PORT", "REACHES", "CONNECTIONS", "ACTIVE", "IN", "OUT"}}
	for _, port := range s.Ports {
		t.add(fmt.Sprintf("%d/%s", port.Service, port.Protocol), fmt.Sprint(port.Container), fmt.Sprint(port.Connections),
			fmt.Sprint(port.Active), bytesOf(port.BytesIn), bytesOf(port.BytesOut))
	}
	t.write(a.out, p, "")

	if len(s.Names) > 0 {
		fmt.Fprintln(a.out)
		t = &table{head: []string{"SERVER NAME", "KIND", "TLS", "CONNECTIONS", "ACTIVE", "IN", "OUT"}}
		for _, n := range s.Names {
			t.add(n.Host, n.Kind, n.TLS, fmt.Sprint(n.Connections), fmt.Sprint(n.Active), bytesOf(n.BytesIn), bytesOf(n.BytesOut))
		}
		t.write(a.out, p, "")
	}
	a.printHosts(s.Hosts)
	a.printUses(s.Uses, s.MoreUses)
	fmt.Fprintln(a.out)
	if len(s.Replicas) == 0 && s.Sleep != nil && s.Sleep.Stage != "stopped" {
		fmt.Fprintln(a.out, "no replica runs: the first connection or request starts one and is answered by it")
		return
	}
	if len(s.Replicas) == 0 {
		fmt.Fprintln(a.out, "no replicas: connections are refused; look at \"fairlead workloads\", or list addresses under \"replicas:\"")
		return
	}
	t = &table{head: []string{"", "REPLICA", "ADDRESS", "CONDITION", "WEIGHT", "CHECK"}}
	if !slices.ContainsFunc(s.Replicas, func(r admin.Replica) bool { return r.Check != "" }) {
		t.head = t.head[:5]
	}
	for _, r := range s.Replicas {
		weight := fmt.Sprint(r.Weight)
		if r.Backup {
			weight += " backup"
		}
		t.add(p.mark(r.Ready()), dash(r.ID), replicaAddress(r), condition(r), weight, check(r))
	}
	t.write(a.out, p, "")
	a.printProblems(problemsOf(s))
}

// printHosts lists what of the HTTP front leads to a service.
func (a *app) printHosts(hosts []admin.Host) {
	if len(hosts) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := &table{head: []string{"HOST", "PATH", "PORT", "TLS", "WEBSOCKET"}}
	for _, h := range hosts {
		for _, p := range h.Paths {
			t.add(h.Host, p.Path, fmt.Sprint(p.ServicePort), onOff(h.TLS), onOff(p.WebSocket))
		}
	}
	t.write(a.out, a.paint, "")
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func replicaAddress(r admin.Replica) string {
	var out []string
	for _, a := range []netip.Addr{r.Addr4, r.Addr6} {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, " ")
}

// replicasOf is "3" when all are ready, else "2 of 3".
func replicasOf(s admin.Service) string {
	ready, all := s.Ready(), max(s.Wanted, len(s.Replicas))
	if ready == all {
		return fmt.Sprint(ready)
	}
	return fmt.Sprintf("%d of %d", ready, all)
}

// address is where clients connect.
func address(s admin.Service, p admin.Port) string {
	vip := s.VIP
	if !vip.IsValid() {
		vip = s.VIP6
	}
	if !vip.IsValid() {
		return fmt.Sprintf("no address:%d/%s", p.Service, p.Protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(vip, p.Service), p.Protocol)
}
