// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

// here is the file that says which daemon may have containers of this agent.
func (r *Runner) here() string { return filepath.Join(r.cfg.RunDir, "docker-host") }

// leftHere tells whether an agent of this run directory has made containers.
func (r *Runner) leftHere() bool {
	_, err := os.Stat(r.here())
	return err == nil
}

// noteHere writes the file before the first container is made.
func (r *Runner) noteHere() error {
	if r.leftHere() {
		return nil
	}
	err := os.MkdirAll(r.cfg.RunDir, 0o700)
	if err == nil {
		err = os.WriteFile(r.here(), []byte(r.daemon.Host()+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note where containers are: %w", err)
	}
	return nil
}

// forgetHere is for when all containers are gone.
func (r *Runner) forgetHere() error {
	r.removeCgroup()
	if err := os.Remove(r.here()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Cleanup removes the containers that an agent that is gone left, and what it
// noted of them in runDir. It must not be called while an agent runs. removed
// tells of each in words.
func Cleanup(ctx context.Context, runDir string) (removed []string, err error) {
	if runDir, err = filepath.Abs(runDir); err != nil {
		return nil, err
	}
	r := &Runner{cfg: Config{RunDir: runDir, Log: slog.Default()}, owner: rollout.Owner(runDir)}
	host, err := os.ReadFile(r.here())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if removed, err = removeAll(ctx, strings.TrimSpace(string(host)), r); err != nil {
		return removed, err
	}
	return removed, r.forgetHere()
}
