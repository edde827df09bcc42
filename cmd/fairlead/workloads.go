// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) workloads() *cobra.Command {
	c := &cobra.Command{
		Use:               "workloads [PROJECT/USER]",
		Short:             "The replicas that fairlead runs itself, and where their logs are",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: serviceNames,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			list, err := client.Workloads(c.Context())
			if err != nil {
				return err
			}
			if name := first(args); name != "" {
				s, err := client.Service(c.Context(), name)
				if err != nil {
					return err
				}
				list = slices.DeleteFunc(list, func(w admin.Workload) bool { return w.Service != s.Name })
			}
			if asJSON() {
				return printJSON(a.out, list)
			}
			a.printWorkloads(list)
			return nil
		})
	}
	return c
}

func (a *app) printWorkloads(list []admin.Workload) {
	if len(list) == 0 {
		fmt.Fprintln(a.out, "no workloads: give a service a \"workload:\" with a driver and a command, and fairlead runs its replicas")
		return
	}
	p := a.paint
	t := &table{head: []string{"", "WORKLOAD", "SERVICE", "PHASE", "FOR", "ADDRESS", "PID", "RESTARTS", "LOG"}}
	for _, w := range list {
		pid := "–"
		if w.PID != 0 {
			pid = fmt.Sprint(w.PID)
		}
		addr := replicaAddress(admin.Replica{Addr4: w.Addr4, Addr6: w.Addr6})
		t.add(phaseGlyph(p, w.Phase), w.ID, w.Service, w.Phase, since(w.Since), dash(addr), pid, fmt.Sprint(w.Restarts), dash(w.Log))
	}
	t.write(a.out, p, "")
	for _, w := range list {
		if w.Reason == "" {
			continue
		}
		next := ""
		if !w.Next.IsZero() {
			next = ", next start in " + human(time.Until(w.Next))
		}
		fmt.Fprintf(a.out, "\n%s: %s%s", w.ID, strings.TrimSpace(w.Reason), next)
	}
	if slices.ContainsFunc(list, func(w admin.Workload) bool { return w.Reason != "" }) {
		fmt.Fprintln(a.out)
	}
}

func phaseGlyph(p paint, phase string) string {
	switch phase {
	case "ready":
		return p.green("●")
	case "backoff":
		return p.red("✗")
	}
	return p.yellow("◐")
}
