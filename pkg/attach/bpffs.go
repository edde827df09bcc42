// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// systemBPFFS is where distributions mount theirs; it is never unmounted.
const systemBPFFS = "/sys/fs/bpf"

// EnsureBPFFS makes dir a directory on a bpffs: if it is not, it is made and
// one is mounted there, for root only. mounted tells whether that was needed.
func EnsureBPFFS(dir string) (mounted bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("make directory for pins: %w", err)
	}
	on, err := onBPFFS(dir)
	if err != nil || on {
		return false, err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		if errors.Is(err, unix.EPERM) {
			return false, fmt.Errorf("mount bpffs at %s: %w; run as root with CAP_SYS_ADMIN, or mount one there before (mount -t bpf bpf %s)", dir, err, dir)
		}
		return false, fmt.Errorf("mount bpffs at %s: %w", dir, err)
	}
	return true, nil
}

// UnmountBPFFS undoes EnsureBPFFS: a bpffs mounted at dir itself is unmounted,
// with every pin on it, and the empty directory removed. A directory inside a
// bpffs of somebody else is only removed, if it is empty.
func UnmountBPFFS(dir string) error {
	mounts, err := mountPoints("bpf")
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if dir == systemBPFFS {
		return nil
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if slices.Contains(mounts, dir) {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmount bpffs at %s: %w", dir, err)
		}
	}
	err = os.Remove(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove directory of pins: %w", err)
	}
	return nil
}

func onBPFFS(dir string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	return fs.Type == unix.BPF_FS_MAGIC, nil
}

// mountPoints lists where file systems of a type are mounted, as
// /proc/self/mountinfo has it (proc_pid_mountinfo(5)), oldest first.
func mountPoints(fstype string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(string(b), fstype), nil
}

func parseMounts(mountinfo, fstype string) []string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(types) == 0 || types[0] != fstype {
			continue
		}
		found = append(found, unescape.Replace(fields[4]))
	}
	return found
}

// unescape reads the octal escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
