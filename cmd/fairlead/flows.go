// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

// flowLine has fixed widths: flows are printed as they arrive, however many.
const flowLine = "%-5s  %-28s  %-24s  %-24s  %-11s  %-6s  %s\n"

func (a *app) flows() *cobra.Command {
	c := &cobra.Command{
		Use:               "flows [PROJECT/USER]",
		Short:             "The tracked connections: client, virtual IP, replica",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: serviceNames,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	var q admin.FlowQuery
	c.Flags().TextVar(&q.Client, "client", netip.Addr{}, "only flows of this client address")
	c.Flags().TextVar(&q.Backend, "backend", netip.Addr{}, "only flows to this replica address")
	c.Flags().StringVar(&q.Service, "service", "", "only flows of this service; the same as the argument")
	c.Flags().IntVar(&q.Limit, "limit", 0, "print at most so many; 0: all")
	c.RunE = func(c *cobra.Command, args []string) error {
		if name := first(args); name != "" {
			q.Service = name
		}
		if q.Limit < 0 {
			return usageError{fmt.Errorf("--limit %d: want 0 or more", q.Limit)}
		}
		return withAgent(*run, func(client *admin.Client) error {
			if asJSON() {
				return a.flowsJSON(c, client, q)
			}
			return a.flowsTable(c, client, q)
		})
	}
	return c
}

func (a *app) flowsTable(c *cobra.Command, client *admin.Client, q admin.FlowQuery) error {
	w := bufio.NewWriter(a.out)
	n := 0
	err := client.Flows(c.Context(), q, func(f admin.Flow) bool {
		if n++; n == 1 {
			fmt.Fprintf(w, flowLine, "PROTO", "CLIENT", "ADDRESS", "REPLICA", "STATE", "IDLE", "SERVICE")
		}
		_, err := fmt.Fprintf(w, flowLine, f.Protocol, f.Client, f.VIP, f.Backend, f.State,
			human(time.Duration(f.IdleSeconds*float64(time.Second))), f.Service)
		return err == nil
	})
	if err != nil {
		_ = w.Flush()
		return err
	}
	if n == 0 {
		fmt.Fprintln(w, "no flows: connect to a service's address first (\"fairlead services\" lists them); "+
			"clients on this host are balanced when they connect and leave no flow")
	}
	return w.Flush()
}

// flowsJSON prints an array, one flow a line, without holding it in memory.
func (a *app) flowsJSON(c *cobra.Command, client *admin.Client, q admin.FlowQuery) error {
	w := bufio.NewWriter(a.out)
	sep := "[\n  "
	err := client.Flows(c.Context(), q, func(f admin.Flow) bool {
		b, err := json.Marshal(f)
		if err != nil {
			return false
		}
		_, err = fmt.Fprintf(w, "%s%s", sep, b)
		sep = ",\n  "
		return err == nil
	})
	if sep == "[\n  " {
		if err != nil { // nothing was printed: stdout stays empty
			return err
		}
		fmt.Fprintln(w, "[]")
	} else {
		fmt.Fprintln(w, "\n]")
	}
	if flush := w.Flush(); err == nil {
		err = flush
	}
	return err
}
