// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) status() *cobra.Command {
	c := &cobra.Command{
		Use:               "status [PROJECT/USER]",
		Short:             "How the agent is: sources, targets, interfaces, problems; or how one service is",
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
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if asJSON() {
				return printJSON(a.out, s)
			}
			a.printStatus(s)
			return nil
		})
	}
	return c
}

func (a *app) printStatus(s admin.Status) {
	p := a.paint
	verdict := p.green
	if !s.Ready {
		verdict = p.yellow
	}
	fmt.Fprintf(a.out, "%s\n\n", verdict(s.Verdict))
	t := &table{}
	up := time.Duration(s.UptimeSeconds * float64(time.Second))
	t.add(p.dim("agent"), fmt.Sprintf("%s · pid %d · up %s", s.Version, s.PID, human(up)))
	for _, o := range s.Older {
		t.add(p.dim("before"), olderLine(o))
	}
	t.add(p.dim("config"), fmt.Sprintf("%s · generation %d", s.Config.Path, s.Config.Generation))
	t.add(p.dim("replicas"), fmt.Sprintf("%d of %d take new connections", s.Counts.Ready, s.Counts.Replicas))
	flows := fmt.Sprintf("%d tracked", s.Counts.Flows)
	if s.Counts.FlowLimit > 0 {
		flows = fmt.Sprintf("%d of %d tracked · %d evicted", s.Counts.Flows, s.Counts.FlowLimit, s.Counts.Evictions)
	}
	t.add(p.dim("flows"), flows)
	if f := s.Front; f.Hosts > 0 {
		open := strings.Join(slices.DeleteFunc([]string{f.HTTP, f.HTTPS}, func(a string) bool { return a == "" }), " and ")
		t.add(p.dim("http"), fmt.Sprintf("%d host names on %s", f.Hosts, cmp.Or(open, "no port yet")))
	}
	var cells []string
	for _, src := range s.Sources {
		cells = append(cells, p.mark(src.Synced && src.Error == "")+" "+src.Name)
	}
	t.add(p.dim("sources"), strings.Join(cells, "  "))
	cells = nil
	for _, tg := range s.Targets {
		ok := tg.Error == "" && tg.Generation == s.Config.Generation
		cells = append(cells, fmt.Sprintf("%s %s %d", p.mark(ok), tg.Target, tg.Generation))
	}
	t.add(p.dim("targets"), strings.Join(cells, "  "))
	if len(s.Interfaces) == 0 {
		t.add(p.dim("interfaces"), "none: only clients on this host are served")
	}
	if why, none := noCgroup(s); none {
		t.add(p.dim("cgroups"), "none: clients on this host are not balanced at connect time"+why)
	}
	if len(s.Drains) > 0 {
		t.add(p.dim("drained"), strings.Join(s.Drains, ", "))
	}
	t.write(a.out, p, "")
	a.printAttached(s)
	a.printTrouble(s)
}

func (a *app) printAttached(s admin.Status) {
	p := a.paint
	if len(s.Interfaces) > 0 {
		fmt.Fprintf(a.out, "\n%s\n", p.bold("interfaces"))
		t := &table{}
		for _, i := range s.Interfaces {
			t.add(p.mark(i.Error == ""), i.Name, i.Role, carries(i), cmp.Or(p.red(i.Error), p.dim(i.Note)))
		}
		t.write(a.out, p, "  ")
	}
	if _, none := noCgroup(s); !none {
		fmt.Fprintf(a.out, "\n%s\n", p.bold("cgroups"))
		t := &table{}
		for _, g := range s.Cgroups {
			t.add(p.mark(len(g.Hooks) > 0), g.Path, strings.Join(g.Hooks, " "), p.dim(g.Note))
		}
		t.write(a.out, p, "  ")
	}
}

// noCgroup tells that no cgroup carries hooks, and why if that is known.
func noCgroup(s admin.Status) (why string, none bool) {
	for _, g := range s.Cgroups {
		if g.Path != "" {
			return "", false
		}
		if g.Note != "" {
			why += " (" + g.Note + ")"
		}
	}
	return why, true
}

// carries names the programs of an interface.
func carries(i admin.Interface) string {
	var on []string
	if i.XDP != "" {
		on = append(on, "XDP "+i.XDP)
	}
	if i.TC != "" {
		on = append(on, "TC "+i.TC)
	}
	return dash(strings.Join(on, " + "))
}

// printTrouble prints what a person should do something about.
func (a *app) printTrouble(s admin.Status) {
	p := a.paint
	var lines []string
	if s.Config.Error != "" {
		lines = append(lines, "the config file is invalid; generation "+fmt.Sprint(s.Config.Generation)+" stays in force:")
		for l := range strings.Lines(s.Config.Error) {
			lines = append(lines, "  "+strings.TrimRight(l, "\n"))
		}
	}
	for _, src := range s.Sources {
		if src.Error != "" {
			lines = append(lines, "source "+src.Name+": "+src.Error)
		}
	}
	for _, t := range s.Targets {
		if t.Error != "" {
			lines = append(lines, fmt.Sprintf("target %s, for %s: %s", t.Target, since(t.Since), t.Error))
		}
	}
	if u := s.Upgrade; u != nil && u.Error != "" {
		lines = append(lines, fmt.Sprintf("upgrade: pid %d did not take this agent's place: %s", u.PID, u.Error))
	}
	lines = append(lines, s.Problems...)
	if len(lines) > 0 {
		fmt.Fprintf(a.out, "\n%s\n", p.red("problems"))
		for _, l := range lines {
			fmt.Fprintln(a.out, "  "+strings.ReplaceAll(l, "\n", "\n  "))
		}
	}
	a.printNotServed(s.NotServedYet)
}

func (a *app) printNotServed(missing []admin.NotServed) {
	if len(missing) == 0 {
		return
	}
	fmt.Fprintf(a.out, "\n%s\n", a.paint.yellow("not served yet: the config asks for it, this version does not do it"))
	t := &table{}
	for _, n := range missing {
		t.add(n.Feature, shorten(n.Services, 4))
	}
	t.write(a.out, a.paint, "  ")
}

// shorten joins at most n names.
func shorten(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
