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

// inNetns calls fn on a thread for which enter changed the network namespace.
// fn must not start goroutines that rely on it. The thread goes back to the
// agent's namespace after; if that fails it ends, so that no goroutine ever
// runs in a wrong one.
func inNetns(enter func() error, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			runtime.LockOSThread()
			home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				runtime.UnlockOSThread()
				return fmt.Errorf("open the agent's network namespace: %w", err)
			}
			defer func() { _ = unix.Close(home) }()
			if err := enter(); err != nil {
				runtime.UnlockOSThread()
				return explain(err)
			}
			err = fn()
			if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
				return errors.Join(err, fmt.Errorf("return to the agent's network namespace: %w", back))
			}
			runtime.UnlockOSThread()
			return err
		}()
	}()
	return <-done
}

// within calls fn on a thread in the namespace of path; see inNetns.
func within(path string, fn func() error) error {
	return inNetns(func() error { return enterNetns(path) }, fn)
}

// enterNetns moves the calling thread.
func enterNetns(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// makeNetns makes a network namespace that lives, without a process in it, as
// long as path is mounted.
func makeNetns(path string) error {
	enter := func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		return nil
	}
	return inNetns(enter, func() error { return pinNetns("/proc/thread-self/ns/net", path) })
}

// pinNetns mounts the namespace at path.
func pinNetns(ns, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return explain(fmt.Errorf("pin network namespace: %w", err))
	}
	_ = f.Close()
	if err := unix.Mount(ns, path, "", unix.MS_BIND, ""); err != nil {
		return explain(fmt.Errorf("pin network namespace at %s: %w", path, errors.Join(err, removeFile(path))))
	}
	return nil
}

// pinned tells whether a network namespace is mounted at path.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// sameNetns tells whether the process is in the namespace pinned at path.
func sameNetns(pid int, path string) bool {
	a, err := os.Stat(filepath.Join("/proc", fmt.Sprint(pid), "ns/net"))
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// unpinNetns lets the namespace go: it ends with the last process in it.
func unpinNetns(path string) error {
	for pinned(path) { // as often as it was mounted
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return explain(fmt.Errorf("unpin network namespace %s: %w", path, err))
		}
	}
	return removeFile(path)
}
