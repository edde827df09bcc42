// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) domains() *cobra.Command {
	c := &cobra.Command{
		Use:   "domains [HOST]",
		Short: "The host names and what each waits for",
		Args:  cobra.MaximumNArgs(1),
	}
	run, asJSON := runFlag(c), outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			d, err := client.Domains(c.Context())
			if err != nil {
				return err
			}
			if host := first(args); host != "" {
				d.Domains = slices.DeleteFunc(d.Domains, func(x admin.Domain) bool { return x.Host != host })
			}
			if asJSON() {
				return printJSON(a.out, d.Domains)
			}
			if len(d.Domains) == 0 {
				fmt.Fprintf(a.out, "no domains: %s\n", d.Note)
				return nil
			}
			t := &table{head: []string{"HOST", "SERVICE", "STATE"}}
			for _, x := range d.Domains {
				t.add(x.Host, x.Service, x.State)
			}
			t.write(a.out, a.paint, "")
			return nil
		})
	}
	return c
}
