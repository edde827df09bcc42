// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) drain() *cobra.Command {
	c := &cobra.Command{
		Use:   "drain ADDRESS[:PORT]",
		Short: "Take a replica out of service without breaking its connections, or back with --undo",
		Long: `New connections no longer go to the replica; established ones live on. The drain
is kept over restarts of the agent and of the machine, until --undo.`,
		Args: cobra.ExactArgs(1),
	}
	run, asJSON := runFlag(c), outputFlag(c)
	undo := c.Flags().Bool("undo", false, "let it take new connections again")
	c.RunE = func(c *cobra.Command, args []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			res, err := client.Drain(c.Context(), admin.DrainRequest{Address: args[0], Undo: *undo})
			if err != nil {
				return err
			}
			if asJSON() {
				return printJSON(a.out, res)
			}
			a.printDrain(res, *run)
			return nil
		})
	}
	return c
}

func (a *app) printDrain(r admin.DrainResult, runDir string) {
	flows := plural(r.Flows, "established flow")
	if r.Flows < 0 {
		flows = r.Note
	}
	switch {
	case r.Draining && r.Changed:
		fmt.Fprintf(a.out, "%s is draining: no new connections; %s to it now\n", r.Address, flows)
	case r.Draining:
		fmt.Fprintf(a.out, "%s was draining already; %s to it now\n", r.Address, flows)
	default:
		fmt.Fprintf(a.out, "%s takes new connections again\n", r.Address)
	}
	t := &table{}
	for _, s := range r.Services {
		left := plural(s.Left, "replica") + " for new connections"
		if s.Left == 0 {
			left = a.paint.red("no replica left: new connections are refused")
		}
		t.add(s.Service, left, plural(s.Flows, "flow"))
	}
	t.write(a.out, a.paint, "  ")
	if r.Draining {
		fmt.Fprintf(a.out, "take it back with %q\n", hint("fairlead drain "+r.Address+" --undo", runDir))
	}
}
