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
		Short: "The certificates, when they end, and what those that are not there wait for",
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
				d.Certificates = slices.DeleteFunc(d.Certificates, func(x admin.Certificate) bool {
					return x.Host != host && !slices.Contains(x.Covers, host)
				})
				if len(d.Certificates) == 0 {
					return fmt.Errorf("no certificate is kept for %q: \"%s\" lists the names that one is kept for", host, hint("fairlead certificates", *run))
				}
			}
			if asJSON() {
				return printJSON(a.out, d.Certificates)
			}
			if len(d.Certificates) == 0 {
				fmt.Fprintf(a.out, "no certificates: %s\n", d.Note)
				return nil
			}
			a.printCertificates(d.Certificates)
			return nil
		})
	}
	return c
}

func (a *app) printCertificates(list []admin.Certificate) {
	p := a.paint
	t := &table{head: []string{"", "HOST", "STATE", "EXPIRES", "NEXT ORDER", "ISSUER"}}
	for _, x := range list {
		t.add(certificateGlyph(p, x), x.Host, x.State, in(x.Expires), in(x.NextTry), dash(x.Issuer))
	}
	t.write(a.out, p, "")
	blank := true
	for _, x := range list {
		for _, why := range []string{covered(x.Covers), x.Error, awaited(x.Awaiting)} {
			if why == "" {
				continue
			}
			if blank {
				fmt.Fprintln(a.out)
				blank = false
			}
			fmt.Fprintf(a.out, "%s: %s\n", x.Host, why)
		}
	}
}

// covered says whom a wildcard serves.
func covered(names []string) string {
	switch len(names) {
	case 0:
		return ""
	case 1:
		return "serves " + names[0]
	}
	return fmt.Sprintf("serves %d names, %s to %s", len(names), names[0], names[len(names)-1])
}

func awaited(what string) string {
	if what == "" {
		return ""
	}
	return "waits for " + what
}

// in is how far ahead a time is, in words.
func in(t time.Time) string {
	switch {
	case t.IsZero():
		return "–"
	case time.Until(t) < 0:
		return human(time.Since(t)) + " ago"
	}
	return "in " + human(time.Until(t))
}

func certificateGlyph(p paint, x admin.Certificate) string {
	switch {
	case x.State == "valid" && x.Error == "":
		return p.green("●")
	case x.State == "valid" || x.State == "waiting":
		return p.yellow("◐")
	}
	return p.red("✗")
}
