// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) certificates() *cobra.Command {
	c := &cobra.Command{
		Use:   "certificates [HOST]",
		Short: "The certificates and when they end",
		Args:  cobra.MaximumNArgs(1),
	}
	run, asJSON := runFlag(c), outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			d, err := client.Certificates(c.Context())
			if err != nil {
				return err
			}
			if host := first(args); host != "" {
				d.Certificates = slices.DeleteFunc(d.Certificates, func(x admin.Certificate) bool { return x.Host != host })
			}
			if asJSON() {
				return printJSON(a.out, d.Certificates)
			}
			if len(d.Certificates) == 0 {
				fmt.Fprintf(a.out, "no certificates: %s\n", d.Note)
				return nil
			}
			t := &table{head: []string{"HOST", "STATE", "EXPIRES"}}
			for _, x := range d.Certificates {
				t.add(x.Host, x.State, "in "+human(time.Until(x.Expires)))
			}
			t.write(a.out, a.paint, "")
			return nil
		})
	}
	return c
}
