// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/dockerd"
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// workTime bounds what the daemon does for one container: making, starting,
// stopping, removing. An image may take longer to pull.
const workTime = 2 * time.Minute

// learn takes over what is wanted. The caller holds the lock.
func (rep *replica) learn(w want) {
	rep.drain, rep.timeout = w.spec.Drain, w.spec.Workload.Scale.StartTimeout
	if rep.want == nil {
		close(rep.known)
	}
	rep.want = &w
}

// start makes the replica's container and starts it.
func (r *Runner) start(ctx context.Context, rep *replica) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a replica that is to go need not wait for an image
		select {
		case <-rep.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := r.noteHere(); err != nil {
		return err
	}
	r.mu.Lock()
	w := *rep.want
	r.mu.Unlock()
	id, err := r.create(ctx, rep, w)
	if err != nil {
		return err
	}
	err = r.work(ctx, func(ctx context.Context) (err error) {
		_, err = r.daemon.ContainerStart(ctx, id, client.ContainerStartOptions{})
		return err
	})
	if err != nil {
		return err
	}
	b, err := r.inspect(ctx, id)
	if err != nil {
		return err
	}
	r.update(func() {
		rep.box, rep.ports, rep.any = b, listen.PortsOf(w.spec.Ports), w.spec.AnyPort
		if !stopped(rep) {
			r.enter(rep, activator.Starting, "started just now")
		}
	})
	rep.touch() // it may have ended before anybody looked
	return nil
}

// work has the daemon do something, with a bound on its time and on how much
// it does at once.
func (r *Runner) work(ctx context.Context, f func(context.Context) error) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.slots }()
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	return f(ctx)
}

// create makes the container, with its image pulled if the daemon has it not,
// in place of an earlier one of the same replica.
func (r *Runner) create(ctx context.Context, rep *replica, w want) (id string, err error) {
	options, err := r.optionsOf(rep, w)
	if err != nil {
		return "", err
	}
	pulled, removed := false, false
	for {
		var made client.ContainerCreateResult
		err := r.work(ctx, func(ctx context.Context) (err error) {
			made, err = r.daemon.ContainerCreate(ctx, options)
			return err
		})
		switch {
		case err == nil:
			return made.ID, nil
		case dockerd.Conflict(err) && !removed:
			removed = true
			if err := r.removeContainer(ctx, rep.id); err != nil {
				return "", err
			}
		case dockerd.Missing(err) && !pulled:
			pulled = true
			if err := r.pull(ctx, rep, w.spec.Workload.Image); err != nil {
				return "", err
			}
		default:
			return "", err
		}
	}
}

func (r *Runner) optionsOf(rep *replica, w want) (client.ContainerCreateOptions, error) {
	r.mu.Lock()
	p := r.place
	r.mu.Unlock()
	env, dir, err := r.cfg.Environment(w.spec, rep.id, r.daemon.Local())
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	host := &container.HostConfig{DNS: w.dns, Resources: container.Resources{CgroupParent: p.parent}}
	if dir != "" {
		host.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: FilesAt, ReadOnly: true}}
	}
	if p.limitLogs {
		host.LogConfig = container.LogConfig{Type: jsonFile, Config: map[string]string{"max-size": "10m", "max-file": "2"}}
	}
	return client.ContainerCreateOptions{
		Name: nameOf(r.owner, rep.id),
		Config: &container.Config{
			Image: w.spec.Workload.Image, Cmd: environment.Expand(w.spec.Workload.Command, env), Env: environment.List(env), Labels: labelsOf(r.owner, rep.id, w),
		},
		HostConfig: host,
	}, nil
}

// inspect looks at a container that runs. Of one that has ended only the id is
// known.
func (r *Runner) inspect(ctx context.Context, id string) (box, error) {
	got, err := dockerd.Ask(ctx, func(ctx context.Context) (client.ContainerInspectResult, error) {
		return r.daemon.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	})
	if err != nil {
		return box{}, err
	}
	b := box{id: got.Container.ID}
	if s := got.Container.State; s != nil {
		b.started = startedAt(s)
		if s.Running && visible(s.Pid, b.id) {
			b.pid = s.Pid
		}
	}
	if n := got.Container.NetworkSettings; n != nil {
		for _, e := range n.Networks {
			if e != nil && (e.IPAddress.IsValid() || e.GlobalIPv6Address.IsValid()) {
				b.addr4, b.addr6 = e.IPAddress, e.GlobalIPv6Address
			}
		}
	}
	return b, nil
}

// visible tells whether a process of the daemon's is the same one here: the
// daemon may run in another PID namespace, or on another machine.
func visible(pid int, id string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return pid > 0 && err == nil && strings.Contains(string(text), id)
}

// startedAt is when the container was started, by the daemon's clock.
func startedAt(s *container.State) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, s.StartedAt)
	return t
}

// epitaph says how a container ended, with the last line of its output.
func (r *Runner) epitaph(ctx context.Context, c container.InspectResponse) string {
	how := fmt.Sprintf("exit status %d", c.State.ExitCode)
	switch {
	case c.State.OOMKilled:
		how = "killed: it took more memory than it may"
	case c.State.Error != "":
		how = r.daemon.Explain(errors.New(c.State.Error))
	case c.State.ExitCode > 128 && c.State.ExitCode < 192:
		how = fmt.Sprintf("killed by signal %d", c.State.ExitCode-128)
	}
	last, err := dockerd.Ask(ctx, func(ctx context.Context) (string, error) { return r.lastLine(ctx, c) })
	if err == nil && last != "" {
		how += ": " + last
	}
	return how
}

// lastLine is the last line of a container's output, with what is not text
// left out.
func (r *Runner) lastLine(ctx context.Context, c container.InspectResponse) (string, error) {
	out, err := r.daemon.ContainerLogs(ctx, c.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: "1"})
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Close() }()
	var text bytes.Buffer
	limited := io.LimitReader(out, 64<<10)
	if c.Config != nil && c.Config.Tty {
		_, err = io.Copy(&text, limited)
	} else {
		_, err = stdcopy.StdCopy(&text, &text, limited)
	}
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	line := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, strings.ToValidUTF8(lines[len(lines)-1], "·")))
	if len(line) > 200 {
		line = append(line[:200], '…')
	}
	return string(line), err
}
