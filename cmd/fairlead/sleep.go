// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

// sleepVerbs are the commands that say whether a workload runs.
func (a *app) sleepVerbs() []*cobra.Command {
	return []*cobra.Command{
		a.sleepVerb("wake", "Start a sleeping service now, and wait until a replica is ready", ""),
		a.sleepVerb("sleep", "Put a service that nobody uses to sleep now", `The next connection or request starts it again. A service with open
connections is left alone.`),
		a.sleepVerb("stop", "Stop a workload until \"fairlead start\"", `Its replicas are ended, after the service's drain time at most. Connections
are refused and requests answered with 503: nobody wakes it. It is kept over
restarts of the agent and of the machine.`),
		a.sleepVerb("start", "Take a \"fairlead stop\" back", `A service that may sleep goes on sleeping until somebody connects.`),
	}
}

func (a *app) sleepVerb(verb, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: verb + " PROJECT/USER", Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: serviceNames,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	dryRun := new(bool)
	if verb == "sleep" || verb == "stop" {
		c.Flags().BoolVar(dryRun, "dry-run", false, "only say what would be cut or held")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			res, err := client.Sleep(c.Context(), admin.SleepRequest{Service: args[0], Verb: verb, DryRun: *dryRun})
			if err != nil {
				return err
			}
			if asJSON() {
				return printJSON(a.out, res)
			}
			if *dryRun {
				fmt.Fprintf(a.out, "%s is %s\n%s would: %s\n", res.Service, res.Sleep, verb, res.Would)
				a.printUses(res.Uses, res.More)
				return nil
			}
			_, err = fmt.Fprintf(a.out, "%s is %s\n", res.Service, res.Sleep)
			return err
		})
	}
	return c
}

// printUses lists what keeps a service awake, or waits for it.
func (a *app) printUses(uses []admin.Use, more int) {
	if len(uses) == 0 && more == 0 {
		return
	}
	fmt.Fprintf(a.out, "\n%s\n", a.paint.bold("in use by"))
	t := &table{}
	for _, u := range uses {
		since := "–"
		if u.Seconds > 0 {
			since = human(time.Duration(u.Seconds * float64(time.Second)))
		}
		t.add(u.Kind, u.Client, since, u.Detail)
	}
	t.write(a.out, a.paint, "  ")
	if more > 0 {
		fmt.Fprintf(a.out, "  and %d more, those of programs on this host among them\n", more)
	}
}
