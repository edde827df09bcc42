// SPDX-License-Identifier: Apache-2.0

package process

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes everything an agent that is gone left of its replicas:
// processes, links, network namespaces, cgroups and files of runDir. Logs
// stay. It must not be called while an agent runs. cgroupParent is as in
// Config.Cgroup. removed tells of each thing in words.
func Cleanup(runDir, cgroupParent string) (removed []string, err error) {
	if runDir, err = filepath.Abs(runDir); err != nil {
		return nil, err
	}
	if cgroupParent == "" {
		if cgroupParent, err = listen.Cgroup2(); err != nil {
			return nil, err
		}
	}
	records, _, err := loadRecords(runDir, cgroupParent)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	errs := []error{err}
	for _, rec := range records {
		done, err := teardown(pathsOf(runDir, rec.Cgroup, rec.ID))
		removed = append(removed, done...)
		errs = append(errs, err)
		removeEmpty([]string{cgroupsIn(rec.Cgroup, runDir)})
	}
	// Namespaces whose record was lost.
	pins, err := os.ReadDir(filepath.Join(runDir, "netns"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, pin := range pins {
		done, err := teardown(paths{link: pin.Name(), netns: filepath.Join(runDir, "netns", pin.Name())})
		removed = append(removed, done...)
		errs = append(errs, err)
	}
	errs = append(errs, removeFile(filepath.Join(runDir, "resolv.conf")))
	removeEmpty(append(runDirs(runDir), cgroupsIn(cgroupParent, runDir)))
	return removed, errors.Join(errs...)
}

// teardown kills and removes all that belongs to one replica, whatever of it
// there is, and its record only when nothing else is left.
func teardown(p paths) (removed []string, err error) {
	note := func(there bool, err error, format string, args ...any) error {
		if there && err == nil {
			removed = append(removed, fmt.Sprintf(format, args...))
		}
		return err
	}
	var errs []error
	if p.cgroup != "" {
		pids := cgroupPIDs(p.cgroup)
		errs = append(errs, note(len(pids) > 0, killCgroup(p.cgroup), "processes %d", pids))
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return removed, err
	}
	defer h.Close()
	_, found := h.LinkByName(p.link)
	errs = append(errs, note(found == nil, removeLink(h, p.link), "link %s", p.link))
	_, found = os.Lstat(p.netns)
	errs = append(errs, note(found == nil, unpinNetns(p.netns), "network namespace %s", p.netns))
	if p.cgroup != "" {
		_, found = os.Lstat(p.cgroup)
		errs = append(errs, note(found == nil, removeCgroup(p.cgroup), "cgroup %s", p.cgroup))
	}
	if p.work != "" {
		errs = append(errs, os.RemoveAll(p.work))
	}
	if err := errors.Join(errs...); err != nil || p.record == "" {
		return removed, err
	}
	return removed, cmp.Or(removeFile(p.record+".tmp"), removeFile(p.record))
}

// removeEmpty removes those of the directories that are empty.
func removeEmpty(dirs []string) {
	for _, dir := range dirs {
		_ = os.Remove(dir) // not empty: somebody else's
	}
}
