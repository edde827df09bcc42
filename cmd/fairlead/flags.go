// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// choice is a flag with a fixed set of values; another one is wrong use.
type choice struct {
	value   string
	allowed []string
}

// String is the value.
func (c *choice) String() string { return c.value }

// Set takes an allowed value.
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("want %s", strings.Join(c.allowed, " or "))
	}
	c.value = s
	return nil
}

// Type is shown in the help.
func (c *choice) Type() string { return strings.Join(c.allowed, "|") }

// runFlag adds --run to a verb.
func runFlag(c *cobra.Command) *string {
	dir := c.Flags().String("run", defaultRun, "directory of the agent's socket, lock and pins")
	_ = c.MarkFlagDirname("run")
	return dir
}

// configFlag adds --config to a verb.
func configFlag(c *cobra.Command) *string {
	path := c.Flags().String("config", defaultConfig, "the config file")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	return path
}

// outputFlag adds -o to a verb; asJSON tells what was chosen.
func outputFlag(c *cobra.Command) (asJSON func() bool) {
	o := &choice{value: "table", allowed: []string{"table", "json"}}
	c.Flags().VarP(o, "output", "o", "what is printed")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(o.allowed, cobra.ShellCompDirectiveNoFileComp))
	return func() bool { return o.value == "json" }
}
