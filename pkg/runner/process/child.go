// SPDX-License-Identifier: Apache-2.0

package process

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/environment"
)

// start makes what the replica needs and starts its process.
func (r *Runner) start(rep *replica) error {
	_, rec := r.look(rep)
	if !rep.made {
		if err := r.assign(&rec); err != nil {
			return err
		}
		if pids := cgroupPIDs(rep.paths.cgroup); len(pids) > 0 {
			return fmt.Errorf("cgroup %s already has processes %d: another agent runs this service, or one was lost; "+
				"stop it, or end them with `echo 1 > %[1]s/cgroup.kill`", rep.paths.cgroup, pids)
		}
	}
	rec.PID, rec.Start, rec.Ready, rec.Port, rec.Since = 0, "", false, 0, r.cfg.Now()
	if err := rec.save(rep.paths.record); err != nil {
		return err
	}
	r.adoptRecord(rep, rec)
	rep.made = true
	if err := errors.Join(makeCgroup(rep.paths), killCgroup(rep.paths.cgroup), connect(rec, rep.paths)); err != nil {
		return err
	}
	p, err := r.launch(rep, &rec)
	if err != nil {
		return err
	}
	rec.PID = p.pid
	if rec.Start, err = startOf(p.pid); err == nil {
		err = rec.save(rep.paths.record)
	}
	if err != nil {
		// No next agent would know this process: better not to have it.
		defer p.close()
		return errors.Join(err, killCgroup(rep.paths.cgroup))
	}
	r.adoptRecord(rep, rec)
	r.update(func() {
		rep.proc = p
		if !stopped(rep) {
			r.enter(rep, activator.Starting, "started just now")
		}
	})
	return nil
}

// adoptRecord replaces the replica's record but for what Apply decides.
func (r *Runner) adoptRecord(rep *replica, rec record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.Stopping, rec.Drain, rec.Timeout = rep.rec.Stopping, rep.rec.Drain, rep.rec.Timeout
	rep.rec = rec
}

// assign gives a new replica its addresses.
func (r *Runner) assign(rec *record) (err error) {
	v4, v6 := r.network()
	r.assigning.Lock()
	defer r.assigning.Unlock()
	for _, f := range []struct {
		prefix        netip.Prefix
		addr, gateway *netip.Addr
	}{{v4, &rec.Addr4, &rec.Gateway4}, {v6, &rec.Addr6, &rec.Gateway6}} {
		if !f.prefix.IsValid() {
			continue
		}
		if *f.addr, err = r.cfg.IPAM.Allocate(f.prefix, rec.ID); err != nil {
			return fmt.Errorf("allocate address: %w", err)
		}
		*f.gateway = f.prefix.Masked().Addr().Next()
	}
	if !rec.Addr4.IsValid() && !rec.Addr6.IsValid() {
		return errors.New("no address for the replica: set network.workloads (IPv6 alone needs IPv6 on the host)")
	}
	return nil
}

// network is the prefixes, without IPv6 where the host has none.
func (r *Runner) network() (v4, v6 netip.Prefix) {
	v4, v6 = r.cfg.Network()
	if !hasIPv6() {
		v6 = netip.Prefix{}
	}
	return v4, v6
}

// launch starts the process, in its namespace and cgroup from the first
// instruction on. Its output goes straight to a file, not through the agent,
// so that it can outlive the agent.
func (r *Runner) launch(rep *replica, rec *record) (*proc, error) {
	log, err := openLog(rep.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	if st, err := log.Stat(); err == nil {
		rec.LogStart = st.Size()
	}
	if err := os.MkdirAll(rep.paths.work, 0o700); err != nil {
		return nil, err
	}
	told, err := r.cfg.Environment(*rep.spec, rec.ID)
	if err != nil {
		return nil, err
	}
	env := variables(told, rep.paths.work)
	program, err := findProgram(rep.spec.Workload.Command[0], env["PATH"])
	if err != nil {
		return nil, err
	}
	cgroup, err := os.Open(rep.paths.cgroup)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cgroup.Close() }()
	fd := -1
	cmd := &exec.Cmd{
		Path: program, Args: environment.Expand(rep.spec.Workload.Command, env), Env: environment.List(env),
		Dir: rep.paths.work, Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), PidFD: &fd},
	}
	if err := r.launchIn(rep.paths.netns, cmd); err != nil {
		return nil, explain(fmt.Errorf("start %s: %w", program, err))
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // proc waits for it
	if fd < 0 {
		if fd, err = unix.PidfdOpen(pid, 0); err != nil {
			return nil, errors.Join(fmt.Errorf("watch process %d: %w", pid, err), killCgroup(rep.paths.cgroup))
		}
	}
	return newProc(pid, fd)
}

// launchIn starts the command in a network namespace, and with fairlead's name
// server in its resolv.conf if there is one. A host without that file has
// nothing to mount over.
func (r *Runner) launchIn(netns string, cmd *exec.Cmd) error {
	if r.cfg.Resolver() != "" {
		if _, err := os.Stat(hostResolvConf); err == nil {
			return withFile(r.resolvConf(), hostResolvConf, netns, cmd.Start)
		}
		r.cfg.Log.Warn("a replica cannot resolve internal names: the host has no "+hostResolvConf+", an empty one suffices", "program", cmd.Path)
	}
	return within(netns, cmd.Start)
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// variables is all of a replica's environment; nothing comes from the agent's
// own.
func variables(told map[string]string, home string) map[string]string {
	env := map[string]string{"PATH": defaultPath, "HOME": home}
	maps.Copy(env, told)
	return env
}

var errNoProgram = errors.New("no such program")

// findProgram finds the file to run. "fairlead" is the agent's own program,
// wherever it is installed.
func findProgram(name, path string) (string, error) {
	if name == "fairlead" || name == "{self}" {
		self, err := os.Executable()
		if _, gone := os.Stat(self); err != nil || gone != nil {
			return "/proc/self/exe", nil // replaced on disk: run what runs
		}
		return self, nil
	}
	if strings.Contains(name, "/") {
		if _, err := os.Stat(name); filepath.IsAbs(name) && errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("start %s: %w", name, errNoProgram)
		}
		return name, nil
	}
	for _, dir := range filepath.SplitList(cmp.Or(path, defaultPath)) {
		full := filepath.Join(dir, name)
		if st, err := os.Stat(full); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("start %s: %w in %s; give its full path in workload.command", name, errNoProgram, path)
}
