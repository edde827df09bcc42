// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/runner/docker"
	"github.com/fairlead-lb/fairlead/pkg/runner/runnertest"
)

// TestW06Restart: another agent finds the containers again: the same ones,
// ready from the first moment, none started twice; those that nobody wants any
// more are removed.
func TestW06Restart(t *testing.T) {
	w := newWorld(t)
	web, gone := app("web", 8080, "--http", ":8080"), app("gone", 8080, "--http", ":8080")
	web.Replicas = 2
	first := w.start(t)
	first.Want(web, gone)
	before := first.Await("three ready replicas", allReady(3))
	first.Abandon()

	r, err := docker.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	var adopted []activator.Replica // as it was when it was first told of
	told := false
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	seen := make(chan struct{}, 1)
	go func() {
		done <- r.Run(ctx, func() {
			if !told {
				told, adopted = true, r.Replicas()
				seen <- struct{}{}
			}
		})
	}()
	<-seen
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(adopted) != 3 || !allReady(3)(adopted) || !slices.EqualFunc(before, adopted, same) {
		t.Errorf("adopted %+v, want %+v", adopted, before)
	}

	second := w.start(t)
	second.Want(web)
	after := second.Await("two ready replicas", func(all []activator.Replica) bool { return allReady(2)(all) })
	if !slices.EqualFunc(before[1:], after, same) {
		t.Errorf("there is %+v, want %+v", after, before[1:])
	}
	if names := w.Names(t, true); len(names) != 2 {
		t.Errorf("containers %v, want two", names)
	}
}

func allReady(n int) func([]activator.Replica) bool {
	return func(all []activator.Replica) bool {
		return len(all) == n && !slices.ContainsFunc(all, func(rep activator.Replica) bool { return rep.Phase != activator.Ready })
	}
}

func same(a, b activator.Replica) bool { return a.ID == b.ID && a.PID == b.PID && a.Addr4 == b.Addr4 }

// TestDaemonRestarts: while the daemon is away its containers are taken to run
// on, and when it comes back those it took down with it are started again.
func TestDaemonRestarts(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	b.Want(app("web", 8080, "--http", ":8080"))
	before := b.One("ready replica", runnertest.IsReady)
	w.Kill(t) // the container runs on
	rep := b.One("word that the daemon is away", runnertest.Says("no Docker daemon answers at unix://"))
	if rep.Phase != activator.Ready || rep.Addr4 != before.Addr4 {
		t.Errorf("while the daemon is away: %+v, want it as it was: %+v", rep, before)
	}
	runnertest.Fetch(t, rep.Addr4, 8080)
	more := app("web", 8080, "--http", ":8080")
	more.Replicas = 2
	b.Want(more) // waits for the daemon
	b.Await("second replica that waits", func(all []activator.Replica) bool { return len(all) == 2 && all[1].Phase == activator.Starting })
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.Await("word of its end, though the daemon is away", func(all []activator.Replica) bool { return all[0].Phase == activator.Backoff })
	w.Up(t)
	for _, rep := range b.Await("both replicas", allReady(2)) {
		runnertest.Fetch(t, rep.Addr4, 8080)
	}
	w.Stop(t)
	b.Await("word that the daemon is away", func(all []activator.Replica) bool {
		return len(all) == 2 && runnertest.Says("no Docker daemon")(all[0])
	})
	w.Up(t)
	for _, rep := range b.Await("both replicas once more", func(all []activator.Replica) bool { return allReady(2)(all) && all[0].Reason == "" }) {
		runnertest.Fetch(t, rep.Addr4, 8080)
	}
	if names := w.Names(t, true); len(names) != 2 {
		t.Errorf("containers %v, want two", names)
	}
}

// TestReplaced: a changed workload gets a new container before the old one
// goes; what others do to a container is noticed.
func TestReplaced(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	web := app("web", 8080, "--http", ":8080")
	b.Want(web)
	old := b.One("ready replica", runnertest.IsReady)
	changed := web
	changed.Workload.Env = map[string]string{"NEW": "1"}
	b.Want(changed)
	b.Await("two replicas", func(all []activator.Replica) bool { return len(all) == 2 })
	now := b.One("new replica", func(rep activator.Replica) bool { return runnertest.IsReady(rep) && rep.ID != old.ID })
	for _, harm := range []func(name string) error{
		func(name string) error {
			_, err := w.ContainerKill(context.Background(), name, client.ContainerKillOptions{Signal: "KILL"})
			return err
		},
		func(name string) error {
			_, err := w.ContainerRemove(context.Background(), name, client.ContainerRemoveOptions{Force: true})
			return err
		},
		func(name string) error {
			seconds := 0
			_, err := w.ContainerRestart(context.Background(), name, client.ContainerRestartOptions{Timeout: &seconds})
			return err
		},
	} {
		if err := harm(w.Names(t, false)[0]); err != nil {
			t.Fatal(err)
		}
		now = b.One("replica started again", func(rep activator.Replica) bool { return runnertest.IsReady(rep) && rep.PID != now.PID })
	}
}

// TestCleanup removes what an agent that is gone has left, and nothing else.
func TestCleanup(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	b.Want(app("web", 8080, "--http", ":8080"))
	b.One("ready replica", runnertest.IsReady)
	b.Abandon()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	removed, err := docker.Cleanup(ctx, w.cfg.RunDir)
	if err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if names := w.Names(t, true); len(names) > 0 {
		t.Errorf("containers %v are left", names)
	}
	if removed, err := docker.Cleanup(ctx, w.cfg.RunDir); err != nil || len(removed) > 0 {
		t.Errorf("a second time: removed %v, %v", removed, err)
	}
}

// TestCleanupBesideARemoval: what the daemon is removing already, as the agent that
// was killed had asked for, is waited for.
func TestCleanupBesideARemoval(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	b.Want(app("a", 8080, "--http", ":8080"), app("b", 8080, "--http", ":8080"), app("c", 8080, "--http", ":8080"))
	b.Await("three ready replicas", allReady(3))
	b.Abandon()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, name := range w.Names(t, true) {
		for range 2 { // one of them is told of the other
			wg.Go(func() { _, _ = w.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true}) })
		}
	}
	_, err := docker.Cleanup(ctx, w.cfg.RunDir)
	if names := w.Names(t, true); err != nil || len(names) > 0 {
		t.Errorf("containers %v are left: %v", names, err)
	}
	wg.Wait()
}

// TestRestartWithoutDaemon: an agent that starts while the daemon is away knows
// the replicas that served, and does not take one that ended for alive.
func TestRestartWithoutDaemon(t *testing.T) {
	w := newWorld(t)
	web, ended := app("web", 8080, "--http", ":8080"), app("ended", 8080, "--http", ":8080")
	first := w.start(t)
	first.Want(web, ended)
	before := first.Await("two ready replicas", allReady(2))
	first.Abandon()
	w.Kill(t)
	if err := syscall.Kill(before[0].PID, syscall.SIGKILL); err != nil { // shop.ended.1
		t.Fatal(err)
	}
	second := w.start(t)
	all := second.Await("replica that serves, and no other", func(all []activator.Replica) bool { // the dead one may not be gone at once
		return len(all) > 0 && runnertest.IsReady(all[len(all)-1]) && (len(all) == 1 || all[0].Phase == activator.Backoff)
	})
	rep := all[len(all)-1]
	if !same(rep, before[1]) {
		t.Errorf("there is %+v, want %+v", rep, before[1])
	}
	runnertest.Fetch(t, rep.Addr4, 8080)
	second.Want(web, ended)
	w.Up(t)
	for _, rep := range second.Await("both replicas", func(all []activator.Replica) bool { return allReady(2)(all) && all[1].PID != before[1].PID }) {
		runnertest.Fetch(t, rep.Addr4, 8080)
	}
	if names := w.Names(t, true); len(names) != 2 {
		t.Errorf("containers %v, want two", names)
	}
}
