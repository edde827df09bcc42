// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/agent"
	"github.com/spf13/cobra"
)

func (a *app) detach() *cobra.Command {
	c := &cobra.Command{
		Use:   "detach",
		Short: "Remove every program, map, pin and workload this host still has",
		Long: `Ends the forwarding that goes on without an agent and leaves the host as it was.
It refuses while an agent runs. The state directory (virtual IPs, drains, logs)
is kept: the next start gives the same addresses.`,
		Args: cobra.NoArgs,
	}
	run := runFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		removed, err := agent.Detach(*run)
		for _, what := range removed {
			fmt.Fprintf(a.out, "removed %s\n", what)
		}
		if err != nil {
			return err
		}
		if len(removed) == 0 {
			fmt.Fprintln(a.out, "nothing to remove: this host has nothing of fairlead's")
		}
		return nil
	}
	return c
}
