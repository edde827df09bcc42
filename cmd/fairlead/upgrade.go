// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

// upgradeTime bounds the wait for a successor.
const upgradeTime = 2 * time.Minute

func (a *app) upgrade() *cobra.Command {
	c := &cobra.Command{
		Use:   "upgrade",
		Short: "Have the agent replaced by the program that is installed now, without a gap",
		Long: `The agent starts its own program file again, with its own arguments: install the
new version in its place first. The new agent takes over the listening sockets, the
maps and the replicas; the old one goes on until its connections have ended. If the
new one cannot start, or is not ready in time, the old one goes on as before.`,
		Args: cobra.NoArgs,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withAgent(*run, func(client *admin.Client) error {
			before, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			up, err := client.Upgrade(c.Context())
			if err != nil {
				return err
			}
			now, err := replaced(c.Context(), client, up.PID)
			if err != nil {
				return err
			}
			if asJSON() {
				return printJSON(a.out, now)
			}
			fmt.Fprintf(a.out, "%s runs as pid %d, in place of %s as pid %d\n", now.Version, now.PID, before.Version, before.PID)
			for _, o := range now.Older {
				fmt.Fprintln(a.out, olderLine(o))
			}
			return nil
		})
	}
	return c
}

// replaced waits until the agent of the pid owns the host.
func replaced(ctx context.Context, client *admin.Client, pid int) (admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	for {
		s, err := client.Status(ctx)
		switch {
		case err == nil && s.PID == pid && !s.Entering:
			return s, nil
		case err == nil && s.Upgrade != nil && s.Upgrade.PID == pid && s.Upgrade.Error != "":
			return s, fmt.Errorf("the new agent, pid %d, did not take the place; pid %d goes on: %s", pid, s.PID, s.Upgrade.Error)
		case ctx.Err() != nil:
			return s, fmt.Errorf("the new agent, pid %d, has not taken the place within %s: look at \"fairlead status\" and the log", pid, upgradeTime)
		}
		// No answer: the socket changes hands.
		time.Sleep(50 * time.Millisecond)
	}
}

// olderLine says in words what an older agent still holds.
func olderLine(o admin.OlderAgent) string {
	line := fmt.Sprintf("pid %d still has %d connections", o.PID, o.Connections)
	if o.Until.IsZero() {
		return line
	}
	return line + ", until " + o.Until.Local().Format(time.TimeOnly) + " at most"
}

// restart returns how to start this command again with --takeover: by the path
// it was started by, so that what is installed there later is what starts.
func restart(args []string) func(env []string) (*exec.Cmd, error) {
	path, err := exec.LookPath(args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, err = os.Executable()
	}
	if err != nil {
		return nil
	}
	rest := slices.DeleteFunc(slices.Clone(args[1:]), func(a string) bool { return a == takeoverFlag })
	return func(env []string) (*exec.Cmd, error) {
		if _, err := os.Stat(path); err != nil {
			return nil, errors.New("no program at " + path + ": install the new version there")
		}
		cmd := exec.Command(path, append(rest, takeoverFlag)...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd, cmd.Start()
	}
}

const takeoverFlag = "--takeover"
