// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// hostResolvConf is the file that replicas see another one in place of.
const hostResolvConf = "/etc/resolv.conf"

// resolvConf is the file that replicas get in its place: one for all, written
// in place, so that running ones see what changes.
func (r *Runner) resolvConf() string { return filepath.Join(r.cfg.RunDir, "resolv.conf") }

// writeResolver keeps the file as it should be. Without a name server of
// fairlead's nobody new gets it, and who has it sees the host's.
func (r *Runner) writeResolver(text string) error {
	path := r.resolvConf()
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && text == "":
		return nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	if text == "" {
		host, err := os.ReadFile(hostResolvConf)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		text = string(host)
	}
	if err == nil && string(old) == text {
		return nil
	}
	if err := os.MkdirAll(r.cfg.RunDir, 0o700); err != nil {
		return err
	}
	// Written over, not replaced: replicas hold this file, not its name.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// withFile calls fn on a thread with a mount namespace of its own, in which
// file is mounted over the file at; what fn starts lives there. The thread is
// in network namespace netns, too, and ends with fn: it cannot go back.
func withFile(file, at, netns string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end, and is what /proc/PID shows of the
			// agent: it waits while another one does this.
			done <- withFile(file, at, netns, fn)
			runtime.UnlockOSThread()
			return
		}
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return explain(fmt.Errorf("make mount namespace: %w", err))
			}
			// What the host mounts later is seen, nothing goes the other way.
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return explain(fmt.Errorf("separate mount namespace: %w", err))
			}
			if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
				return explain(fmt.Errorf("mount %s over %s: %w", file, at, err))
			}
			if err := enterNetns(netns); err != nil {
				return err
			}
			return fn()
		}()
	}()
	return <-done
}
