// SPDX-License-Identifier: Apache-2.0

// Command fairlead is the load balancer: the agent, and the verbs that speak
// to it. One file holds one verb; nouns read, verbs write. Exit 0 done, 1 it
// failed, 2 wrong use or invalid config.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/agent"
	"github.com/spf13/cobra"
)

// Where everything lives unless a flag says otherwise.
const (
	defaultConfig = "/etc/fairlead/fairlead.yaml"
	defaultState  = "/var/lib/fairlead"
	defaultRun    = "/run/fairlead"
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// usageError is wrong use: exit 2.
type usageError struct{ error }

// app is what the verbs share.
type app struct {
	out       io.Writer // the answer
	err       io.Writer // the rest
	paint     paint
	logFormat choice
	logLevel  choice
	begun     bool // arguments and flags were fine
}

func execute(args []string, stdout, stderr io.Writer) int {
	a := &app{
		out: stdout, err: stderr, paint: newPaint(stdout, os.Getenv),
		logFormat: choice{value: "text", allowed: []string{"text", "json"}},
		logLevel:  choice{value: "info", allowed: []string{"debug", "info", "warn", "error"}},
	}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	return a.exit(cmd, err)
}

func (a *app) exit(cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	var config *agent.ConfigError
	if errors.As(err, &config) {
		fmt.Fprintln(a.err, strings.TrimRight(config.Error(), "\n")) // FILE:LINE:COL first, for editors
		return 2
	}
	fmt.Fprintf(a.err, "fairlead: %s\n", err)
	var usage usageError
	if !a.begun || errors.As(err, &usage) {
		fmt.Fprintf(a.err, "see \"%s --help\"\n", cmd.CommandPath())
		return 2
	}
	return 1
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "A load balancer for the edge of a machine or of every node of a cluster",
		Long: `fairlead balances TCP and UDP in the kernel: clients connect to a service's
virtual IP, programs in XDP, TC and cgroup hooks carry them to a replica.

Start it with "fairlead run"; then look with "fairlead status".`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRun:  func(*cobra.Command, []string) { a.begun = true },
		Args:              cobra.NoArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.PersistentFlags().Var(&a.logFormat, "log-format", "how the log is written to stderr: text or json")
	root.PersistentFlags().Var(&a.logLevel, "log-level", "least level that is logged: debug, info, warn or error")
	root.AddCommand(
		a.run(), a.check(), a.doctor(), a.status(), a.services(), a.flows(), a.domains(), a.certificates(),
		a.workloads(), a.top(), a.trace(), a.drain(), a.domain(), a.upgrade(), a.detach(), a.echo(), a.completion(), a.version(),
	)
	root.AddCommand(a.sleepVerbs()...)
	return root
}

// logger writes to stderr as the global flags ask.
func (a *app) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(a.logLevel.value)) // the flag allows only good ones
	opts := &slog.HandlerOptions{Level: level}
	if a.logFormat.value == "json" {
		return slog.New(slog.NewJSONHandler(a.err, opts))
	}
	return slog.New(slog.NewTextHandler(a.err, opts))
}
