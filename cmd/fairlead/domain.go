// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) domain() *cobra.Command {
	c := &cobra.Command{
		Use:   "domain",
		Short: "Bind a domain of your own to a service",
		Long: `A domain of your own is served once its address records lead to this node and a
TXT record holds a token: "add" tells the records to set, "check" looks whether they
are visible, "confirm" looks and then serves the domain, with a certificate.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		a.domainVerb("add", "Begin to bind a host to a service, and tell the DNS records to set"),
		a.domainVerb("check", "Look whether its DNS records are as wanted; changes nothing"),
		a.domainVerb("confirm", "Look at its DNS records and, if they are as wanted, serve it"),
		a.domainVerb("on", "Serve it again, without another look at its records"),
		a.domainVerb("off", "Serve it no more, until it is switched on"),
		a.domainVerb("remove", "Forget it: its routes and its certificate are withdrawn at once"),
	)
	return c
}

func (a *app) domainVerb(verb, short string) *cobra.Command {
	c := &cobra.Command{Use: verb + " HOST", Short: short, Args: cobra.ExactArgs(1)}
	run, asJSON := runFlag(c), outputFlag(c)
	service := ""
	if verb == "add" {
		c.Flags().StringVar(&service, "service", "", "PROJECT/USER that the host leads to")
		_ = c.RegisterFlagCompletionFunc("service", func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return serviceNames(c, nil, prefix)
		})
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if verb == "add" && service == "" {
			return usageError{errors.New("--service: want the PROJECT/USER that the host leads to")}
		}
		return withAgent(*run, func(client *admin.Client) error {
			res, err := client.Domain(c.Context(), admin.DomainRequest{Verb: verb, Host: args[0], Service: service})
			if err != nil {
				return err
			}
			if asJSON() {
				err = printJSON(a.out, res)
			} else {
				a.printDomain(verb, res, *run)
			}
			if err == nil && (verb == "check" || verb == "confirm") && !res.OK && !(verb == "confirm" && res.Confirmed) {
				return unready(verb, res)
			}
			return err
		})
	}
	return c
}

// unready is why check and confirm end with exit 1.
func unready(verb string, r admin.DomainResult) error {
	var bad []string
	for _, x := range r.Records {
		if !x.OK {
			bad = append(bad, x.Type)
		}
	}
	what := fmt.Sprintf("%s: the %s record is not as wanted", r.Host, bad[0])
	if len(bad) > 1 {
		what = fmt.Sprintf("%s: the records %s are not as wanted", r.Host, strings.Join(bad, ", "))
	}
	if verb == "confirm" {
		what += ", so nothing is bound"
	}
	return errors.New(what)
}

func (a *app) printDomain(verb string, r admin.DomainResult, runDir string) {
	switch {
	case verb == "add":
		fmt.Fprintf(a.out, "set these records where %s is kept:\n\n", r.Host)
		a.printRecordsToSet(r.Records)
		fmt.Fprintf(a.out, "\nthen serve it with %q\n", hint("fairlead domain confirm "+r.Host, runDir))
		return
	case verb == "check", verb == "confirm":
		a.printRecordsSeen(r)
	}
	leads := fmt.Sprintf("%s leads to %s", r.Host, r.Service)
	switch {
	case verb == "remove":
		fmt.Fprintf(a.out, "%s is removed: its routes and its certificate are withdrawn\n", r.Host)
	case verb == "off" && r.Changed:
		fmt.Fprintf(a.out, "%s is off; %q serves it again\n", r.Host, hint("fairlead domain on "+r.Host, runDir))
	case verb == "off":
		fmt.Fprintf(a.out, "%s was off already\n", r.Host)
	case verb == "on" && r.Changed, verb == "confirm" && r.Changed:
		fmt.Fprintf(a.out, "%s; %q tells of its certificate\n", leads, hint("fairlead certificates "+r.Host, runDir))
	case verb == "on", verb == "confirm" && r.Confirmed:
		fmt.Fprintf(a.out, "%s already\n", leads)
	case verb == "check" && r.OK && !r.Confirmed:
		fmt.Fprintf(a.out, "all is as wanted; serve it with %q\n", hint("fairlead domain confirm "+r.Host, runDir))
	}
}

func (a *app) printRecordsToSet(records []admin.DomainRecord) {
	t := &table{head: []string{"TYPE", "NAME", "VALUE"}}
	for _, x := range records {
		switch {
		case len(x.Want) == 0:
		case x.Optional:
			t.add(x.Type, x.Name, strings.Join(x.Want, " or ")+"  "+a.paint.dim("(if it is to be reached by IPv6)"))
		default:
			t.add(x.Type, x.Name, strings.Join(x.Want, " or "))
		}
	}
	t.write(a.out, a.paint, "  ")
}

func (a *app) printRecordsSeen(r admin.DomainResult) {
	p := a.paint
	t := &table{head: []string{"", "TYPE", "NAME", "WANTED", "FOUND"}}
	for _, x := range r.Records {
		want := strings.Join(x.Want, " or ")
		if want == "" {
			want = "none"
		}
		found := strings.Join(x.Found, ", ")
		if found == "" {
			found = "none"
		}
		t.add(p.mark(x.OK), x.Type, x.Name, want, found)
	}
	t.write(a.out, p, "")
	fmt.Fprintf(a.out, "\nasked %s\n", r.Resolver)
	for _, x := range r.Records {
		if x.Note != "" && !(x.OK && x.Optional && len(x.Found) == 0) {
			fmt.Fprintf(a.out, "%s %s: %s\n", x.Type, x.Name, x.Note)
		}
	}
}
