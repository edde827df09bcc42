// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

// withAgent calls f with a client of the agent of runDir and says what to do
// when there is none.
func withAgent(runDir string, f func(*admin.Client) error) error {
	c := admin.NewClient(runDir)
	defer c.Close()
	err := f(c)
	if !errors.Is(err, admin.ErrNoAgent) {
		return err
	}
	msg := fmt.Sprintf("%s: start one with %q", err, hint("fairlead run", runDir))
	if pins := filepath.Join(runDir, "bpf"); pinned(pins) {
		msg += fmt.Sprintf("\nprograms and maps are pinned in %s: L4 forwarding goes on, and the next agent takes it over (%q ends it)",
			pins, hint("fairlead detach", runDir))
	}
	return errors.New(msg)
}

// hint is a command line that works for this run directory.
func hint(command, runDir string) string {
	if runDir == defaultRun {
		return command
	}
	return command + " --run " + runDir
}

// pinned tells whether an earlier agent left pins.
func pinned(dir string) bool {
	found := false
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		// A bpffs itself has maps.debug and progs.debug.
		if err == nil && !d.IsDir() && filepath.Ext(path) != ".debug" {
			found = true
			return fs.SkipAll
		}
		return nil
	})
	return found
}

// serviceNames completes PROJECT/USER from the agent, if one answers.
func serviceNames(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	dir, _ := c.Flags().GetString("run")
	if len(args) > 0 || dir == "" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client := admin.NewClient(dir)
	defer client.Close()
	services, err := client.Services(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range services {
		if strings.HasPrefix(s.Name, prefix) {
			names = append(names, s.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// since is how long ago, in words.
func since(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return human(time.Since(t))
}

// first is the only argument, or "".
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// readable turns "no such file" into advice; other errors pass.
func readable(path string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return usageError{fmt.Errorf("read config %s: there is no such file: write one, or name another with --config", path)}
	}
	return err
}
