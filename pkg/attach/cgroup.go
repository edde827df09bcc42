// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// cgroup is the subtree whose processes get connect-time balancing.
type cgroup struct {
	path    string // "": none
	links   map[ebpf.AttachType][]*pinned
	refused map[ebpf.AttachType]refusal
	note    string
}

// refusal remembers what the kernel refused, so that it is not asked all the
// time.
type refusal struct {
	id    uint64
	at    time.Time
	words string
}

// ensureCgroup attaches the connect-time hooks. path is node.cgroup: nil for
// the root, "" for none.
func (t *Target) ensureCgroup(path *string) error {
	dir, id, err := t.cgroupDir(path)
	if err != nil {
		return err
	}
	t.cgroup.path = dir
	if dir == "" {
		clear(t.cgroup.refused)
	}
	var errs []error
	for _, at := range slices.Sorted(maps.Keys(t.cfg.Cgroup)) {
		if prog := t.cfg.Cgroup[at]; dir != "" && prog != nil {
			errs = append(errs, t.ensureHook(at, prog, dir, id))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return t.dropHooks(func(at ebpf.AttachType, on uint64) bool {
		return dir != "" && on == id && t.cfg.Cgroup[at] != nil
	})
}

// cgroupDir finds the directory and its cgroup id; "" if there is none.
func (t *Target) cgroupDir(path *string) (dir string, id uint64, err error) {
	t.cgroup.note = ""
	switch {
	case path == nil:
		if dir, err = t.cfg.CgroupRoot(); err != nil {
			t.cgroup.note = fmt.Sprintf("clients on this host get no connect-time balancing: %s", err)
			return "", 0, nil
		}
	case *path == "":
		t.cgroup.note = "turned off by node.cgroup"
		return "", 0, nil
	default:
		dir = *path
	}
	id, err = cgroupID(dir)
	return dir, id, err
}

func (t *Target) ensureHook(at ebpf.AttachType, prog *ebpf.Program, dir string, id uint64) error {
	for _, p := range t.cgroup.links[at] {
		if on, err := p.cgroup(); err == nil && on == id {
			return p.update(prog)
		}
	}
	if r, ok := t.cgroup.refused[at]; ok && r.id == id && time.Since(r.at) < refusedFor {
		return nil
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: at, Program: prog})
	if err != nil {
		words := fmt.Sprintf("%s is not attached: %s", hookName(at), hookReason(at, err))
		t.cgroup.refused[at] = refusal{id: id, at: time.Now(), words: words}
		t.cfg.Log.Warn("cgroup hook not attached", "hook", hookName(at), "cgroup", dir, "error", err)
		return nil
	}
	p, err := pin(l, t.cfg.PinDir, linkPrefix+"cg_"+hookName(at)+"_"+strconv.FormatUint(id, 10))
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", hookName(at), dir, err)
	}
	delete(t.cgroup.refused, at)
	t.cgroup.links[at] = append(t.cgroup.links[at], p)
	t.cfg.Log.Info("attached cgroup hook", "hook", hookName(at), "cgroup", dir)
	return nil
}

// dropHooks detaches the hooks that keep does not want.
func (t *Target) dropHooks(keep func(at ebpf.AttachType, on uint64) bool) error {
	for at, links := range t.cgroup.links {
		var stay []*pinned
		var errs []error
		for _, p := range links {
			if on, err := p.cgroup(); err == nil && keep(at, on) {
				stay = append(stay, p)
				continue
			}
			if err := p.remove(); err != nil {
				stay = append(stay, p)
				errs = append(errs, fmt.Errorf("detach %s: %w", hookName(at), err))
			}
		}
		t.cgroup.links[at] = stay
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// cgroup is the id of the cgroup the link is attached to; 0: none any more.
func (p *pinned) cgroup() (uint64, error) {
	info, err := p.link.Info()
	if err != nil {
		return 0, err
	}
	if info.Cgroup() == nil {
		return 0, fmt.Errorf("%s is a link of type %d, not of a cgroup", filepath.Base(p.path), info.Type)
	}
	return info.Cgroup().CgroupId, nil
}

// cgroupID is the id of a cgroup2 directory: its inode number.
func cgroupID(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("open cgroup %s (node.cgroup): %w", dir, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		hint := ""
		if root, err := CgroupRoot(); err == nil {
			hint = "; the cgroup2 tree of this host is at " + root
		}
		return 0, fmt.Errorf("open cgroup %s (node.cgroup): not a directory of a cgroup2 tree%s", dir, hint)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("open cgroup %s (node.cgroup): %w", dir, err)
	}
	return st.Ino, nil
}

// CgroupRoot finds where the cgroup2 tree is mounted. On hybrid hosts that is
// beside the version 1 controllers.
func CgroupRoot() (string, error) {
	mounts, err := mountPoints("cgroup2")
	if err != nil {
		return "", err
	}
	if len(mounts) == 0 {
		return "", errors.New("no cgroup2 tree is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)")
	}
	for _, usual := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if slices.Contains(mounts, usual) {
			return usual, nil
		}
	}
	return mounts[0], nil
}

// hookNames are the words for attach types, as in the section names of BPF
// objects.
var hookNames = map[ebpf.AttachType]string{
	ebpf.AttachCGroupInet4Connect:     "connect4",
	ebpf.AttachCGroupInet6Connect:     "connect6",
	ebpf.AttachCGroupUDP4Sendmsg:      "sendmsg4",
	ebpf.AttachCGroupUDP6Sendmsg:      "sendmsg6",
	ebpf.AttachCGroupUDP4Recvmsg:      "recvmsg4",
	ebpf.AttachCGroupUDP6Recvmsg:      "recvmsg6",
	ebpf.AttachCgroupInet4GetPeername: "getpeername4",
	ebpf.AttachCgroupInet6GetPeername: "getpeername6",
	ebpf.AttachCgroupInetSockRelease:  "sock_release",
	ebpf.AttachCGroupSockOps:          "sock_ops",
}

func hookName(at ebpf.AttachType) string {
	if n, ok := hookNames[at]; ok {
		return n
	}
	return fmt.Sprintf("type%d", at)
}

func hookReason(at ebpf.AttachType, err error) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return "the kernel does not permit it: CAP_NET_ADMIN and CAP_BPF are needed, and no program on this cgroup or above may be attached exclusively"
	case errors.Is(err, link.ErrNotSupported), errors.Is(err, unix.EINVAL):
		switch at {
		case ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername:
			return "this kernel has no such hook (Linux 5.8 brought it); programs that ask for their peer see the replica instead of the service"
		}
		return "this kernel has no such hook"
	}
	return err.Error()
}
