// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/agent"
	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/spf13/cobra"
)

// essential are the facts without which nothing is balanced.
var essential = []string{"kernel", "CAP_NET_ADMIN", "CAP_BPF", "TC programs"}

func (a *app) doctor() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "What this host offers, and what is lost without what it lacks",
		Args:  cobra.NoArgs,
	}
	asJSON := outputFlag(c)
	host := c.Flags().String("docker", "unix:///var/run/docker.sock", "the Docker daemon to look for, as docker.host in the config")
	c.RunE = func(*cobra.Command, []string) error {
		facts := append(attach.Probe(), agent.ProbeSends(), agent.ProbeDocker(c.Context(), *host))
		if asJSON() {
			if err := printJSON(a.out, facts); err != nil {
				return err
			}
		} else {
			a.printFacts(facts)
		}
		if missing := missingFacts(facts); len(missing) > 0 {
			return fmt.Errorf("fairlead cannot work on this host: missing %s", strings.Join(missing, ", "))
		}
		return nil
	}
	return c
}

func missingFacts(facts []attach.Fact) []string {
	var missing []string
	for _, f := range facts {
		if !f.OK && !f.Unknown && slices.Contains(essential, f.Name) {
			missing = append(missing, f.Name)
		}
	}
	return missing
}

func (a *app) printFacts(facts []attach.Fact) {
	p := a.paint
	t := &table{}
	lacking := 0
	for _, f := range facts {
		mark := p.green("✓")
		switch {
		case f.Unknown:
			mark = p.yellow("?")
		case !f.OK && slices.Contains(essential, f.Name):
			mark = p.red("✗")
		case !f.OK:
			mark = p.yellow("!")
		}
		t.add(mark, f.Name, f.Value)
		if f.OK {
			continue
		}
		lacking++
		if f.Lost != "" {
			t.add("", "", p.dim("lost: ")+f.Lost)
		}
		if f.Fix != "" {
			t.add("", "", p.dim("do:   ")+f.Fix)
		}
	}
	t.write(a.out, p, "")
	if lacking == 0 {
		fmt.Fprintln(a.out, "\n"+p.green("this host offers everything fairlead can use"))
	}
}
