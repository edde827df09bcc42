// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"os"
	"path/filepath"

	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// place is where a daemon's containers are put.
type place struct {
	known     bool
	parent    string // their cgroup's parent, as the daemon wants it; empty: its own choice
	limitLogs bool   // the daemon keeps logs in files without a limit
	stop      func() // no longer hears of listens
}

// jsonFile is the daemon's log driver that writes files.
const jsonFile = "json-file"

// settle finds out once where containers can be put, so that the first listen()
// of each is heard of: below a cgroup that is watched before there is one.
func (r *Runner) settle(ctx context.Context) {
	r.mu.Lock()
	known := r.place.known
	r.mu.Unlock()
	if known {
		return
	}
	about, err := r.daemon.About(ctx)
	if err != nil {
		r.cfg.Log.Warn("ask the Docker daemon how it works: replicas that start are polled", "error", r.daemon.Explain(err))
		return // the next connection tries again
	}
	p := place{known: true, limitLogs: about.LogDriver == jsonFile, stop: func() {}}
	dir, parent := "", ""
	if r.daemon.Local() {
		dir, parent, err = r.cgroup(about.CgroupDriver)
	}
	if dir != "" && err == nil {
		if p.stop, err = r.ear.Open(dir, r.cfg.Listens); err == nil {
			p.parent = parent
		}
	}
	if err != nil {
		r.cfg.Log.Warn("replicas that start are polled", "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.place = p
}

// cgroup is the directory above the containers' cgroups and its name for the
// daemon: a path for cgroupfs, a slice for systemd.
func (r *Runner) cgroup(driver string) (dir, parent string, err error) {
	root, err := listen.Cgroup2()
	if err != nil {
		return "", "", err
	}
	if driver == "systemd" {
		slice := r.owner + "_docker.slice" // a "-" would nest it
		if r.owner != "fairlead" {
			slice = "fairlead_docker" + r.owner[len("fairlead-"):] + ".slice"
		}
		return filepath.Join(root, slice), slice, nil
	}
	above := r.cfg.Cgroup
	if above == "" {
		above = root
	}
	dir = filepath.Join(above, r.owner+"-docker")
	rel, err := filepath.Rel(root, dir)
	return dir, "/" + rel, err
}

// removeCgroup removes the empty cgroups that the daemon made its containers'
// in, also beside cgroup2: it never does.
func (r *Runner) removeCgroup() {
	dir, parent, err := r.cgroup("cgroupfs")
	if err != nil {
		return
	}
	_ = os.Remove(dir) // not empty: another daemon's containers
	beside, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", parent))
	for _, d := range beside {
		_ = os.Remove(d)
	}
}
