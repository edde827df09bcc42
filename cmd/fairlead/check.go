// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/agent"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
	"github.com/spf13/cobra"
)

func (a *app) check() *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Validate a config file; every error is FILE:LINE:COL: field: problem",
		Args:  cobra.NoArgs,
	}
	path := configFlag(c)
	schema := c.Flags().Bool("schema", false, "print the JSON Schema of the config file instead")
	c.RunE = func(*cobra.Command, []string) error {
		if *schema {
			_, err := a.out.Write(file.Schema())
			return err
		}
		checked, err := agent.Check(*path)
		if err != nil {
			return readable(*path, err)
		}
		part, replicas := checked.Part, 0
		for i := range part.Services {
			replicas += len(part.Services[i].Backends)
			if w := part.Services[i].Workload; w != nil {
				replicas += w.Scale.Min
			}
		}
		fmt.Fprintf(a.out, "%s is valid: %s, %s\n", *path, plural(len(part.Services), "service"), plural(replicas, "replica"))
		return nil
	}
	return c
}
