// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/agent"
	"github.com/spf13/cobra"
)

// lastWait bounds a stop at once: what hangs then is left to the kernel.
const lastWait = 2 * time.Second

func (a *app) run() *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Start the load balancer",
		Long: `Runs the agent in the foreground. SIGHUP and any change of the config file reload
it. SIGTERM and Ctrl-C stop the workloads and end the agent; a second one ends it
at once and leaves the workloads to the next agent. Forwarding to fixed replicas
goes on without an agent, until "fairlead detach".

With --takeover it takes the place of the agent that runs with the same --run and
--state directories: that one's listening sockets are handed over, and it ends when
its connections have, or after its --drain-timeout; SIGTERM shortens that to half of
--stop-timeout. "fairlead upgrade" does the same from outside.`,
		Args: cobra.NoArgs,
	}
	path, run := configFlag(c), runFlag(c)
	state := c.Flags().String("state", defaultState, "directory of what must outlive a reboot: virtual IPs, drains, logs")
	_ = c.MarkFlagDirname("state")
	budget := c.Flags().Duration("stop-timeout", 10*time.Second, "how long a stop may take")
	drain := c.Flags().Duration("drain-timeout", time.Hour, "how long connections may go on here once another agent has taken the place")
	takeover := c.Flags().Bool("takeover", false, "take the place of the agent that runs, if there is one: no connection is refused or cut")
	again := restart(os.Args)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *drain <= 0 {
			return usageError{errors.New("--drain-timeout: want more than 0s")}
		}
		if *budget <= 0 {
			return usageError{errors.New("--stop-timeout: want more than 0s")}
		}
		// One more, for what is beside the busy workers of conn.Pump, of which
		// there are as many as CPUs.
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
		ag, err := agent.New(agent.Config{
			ConfigPath: *path, StateDir: *state, RunDir: *run, Build: build(), Log: a.logger(), Budget: *budget,
			Takeover: *takeover, Drain: *drain, Successor: again,
			// Replicas are children of the agent that started them. Whoever owns
			// them now is told of their end in another way.
			Superseded: func() { signal.Ignore(syscall.SIGCHLD) },
			Started:    func(s admin.Status, services []admin.Service) { a.welcome(s, services, *run) },
		})
		if err != nil {
			return err
		}
		return readable(*path, serve(c.Context(), ag))
	}
	return c
}

// serve runs the agent and turns signals into calls.
func serve(ctx context.Context, ag *agent.Agent) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	// A reader of stdout that went away must not end a load balancer.
	signal.Ignore(syscall.SIGPIPE)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- ag.Run(ctx) }()
	stops := 0
	var late <-chan time.Time
	for {
		select {
		case err := <-done:
			return err
		case <-late:
			return errors.New("stop at once: something still hung after " + lastWait.String())
		case s := <-signals:
			if s == syscall.SIGHUP {
				ag.Reload()
				continue
			}
			if stops++; stops == 1 {
				ag.Stop()
				continue
			}
			cancel()
			if late == nil {
				late = time.After(lastWait)
			}
		}
	}
}
