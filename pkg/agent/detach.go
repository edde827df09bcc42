// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/runner/docker"
	"github.com/fairlead-lb/fairlead/pkg/runner/process"
)

// Detach removes all that fairlead has on this host: links, programs, maps and
// pins, workloads with their namespaces and cgroups, and the run directory. It
// refuses with a *HeldError while an agent runs. removed says in words what
// was there; everything is tried, and the errors are joined. Twice does no
// harm.
func Detach(runDir string) (removed []string, err error) { return detach(runDir, abstractName) }

func detach(runDir, name string) (removed []string, err error) {
	if runDir, err = filepath.Abs(runDir); err != nil {
		return nil, err
	}
	_, statErr := os.Stat(runDir)
	fresh := errors.Is(statErr, os.ErrNotExist)
	lock, _, err := acquireSoon(runDir, name, 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer lock.release()

	links, err := attach.Detach(linkPins(runDir))
	errs := []error{err}
	removed = append(removed, links...)
	workloads, err := process.Cleanup(workloadsRun(runDir), "")
	errs = append(errs, err)
	removed = append(removed, workloads...)
	containers, err := docker.Cleanup(context.Background(), workloadsRun(runDir))
	errs = append(errs, err)
	removed = append(removed, containers...)
	addresses, err := disown()
	errs = append(errs, err)
	removed = append(removed, addresses...)
	objects, err := bpf.Remove(objectPins(runDir))
	errs = append(errs, err)
	removed = append(removed, objects...)
	if err := errors.Join(errs...); err != nil {
		return removed, err // what is left is needed for the next try
	}
	for _, dir := range []string{linkPins(runDir), objectPins(runDir)} {
		_ = os.Remove(dir) // UnmountBPFFS says what is in the way
	}
	if err := attach.UnmountBPFFS(pinDir(runDir)); err != nil {
		return removed, err
	}
	if err := removeRun(runDir); err != nil {
		return removed, err
	}
	if !fresh {
		removed = append(removed, "run directory "+runDir)
	}
	return removed, nil
}

// removeRun removes what fairlead puts into the run directory, and the
// directory if nothing of somebody else's is in it. Never recursive where a
// file system could still be mounted.
func removeRun(runDir string) error {
	errs := []error{os.RemoveAll(tokensRun(runDir))} // plain files: nothing is mounted there
	for _, name := range []string{"fairlead.sock", "takeover.sock", "workloads", "bpf", "fairlead.lock"} {
		if err := os.Remove(filepath.Join(runDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_ = os.Remove(runDir) // not empty: it is not ours alone
	return nil
}

// disown takes from this host the addresses that were made local: the name
// server's, and those of services that may sleep.
func disown() (removed []string, err error) {
	links, err := nexthop.OpenLinks()
	if err != nil {
		return nil, err
	}
	defer links.Close()
	var errs []error
	for _, why := range []nexthop.Purpose{nexthop.ForNames, nexthop.ForHolding} {
		addrs, err := links.Own(why, nil)
		errs = append(errs, err)
		for _, a := range addrs {
			removed = append(removed, "local address "+a.String())
		}
	}
	return removed, errors.Join(errs...)
}
