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
			a.printDomains(d.Domains)
			return nil
		})
	}
	return c
}

func (a *app) printDomains(list []admin.Domain) {
	p := a.paint
	t := &table{head: []string{"", "HOST", "SERVICE", "KIND", "STATE", "CERTIFICATE"}}
	for _, x := range list {
		glyph := p.green("●")
		switch {
		case x.State == "off":
			glyph = p.dim("○")
		case x.State == "unconfirmed" || x.State == "on" && x.Certificate != "" && x.Certificate != "valid":
			glyph = p.yellow("◐")
		case x.State != "on":
			glyph = p.red("✗")
		}
		t.add(glyph, x.Host, x.Service, x.Kind, x.State, dash(x.Certificate))
	}
	t.write(a.out, p, "")
	blank := true
	for _, x := range list {
		if x.Note == "" {
			continue
		}
		if blank {
			fmt.Fprintln(a.out)
			blank = false
		}
		fmt.Fprintf(a.out, "%s: %s\n", x.Host, x.Note)
	}
}
