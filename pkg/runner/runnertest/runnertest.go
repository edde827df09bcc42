// SPDX-License-Identifier: Apache-2.0

// Package runnertest drives an activator.Runner in tests of drivers. Only tests
// import it.
package runnertest

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

// Patience is how long anything may take.
const Patience = 30 * time.Second

// Bench is a Runner under test.
type Bench struct {
	activator.Runner
	t       *testing.T
	changed chan struct{}
	// Abandon ends Run and leaves the replicas, as the end of an agent does.
	Abandon func()
}

// Start runs a Runner until the test ends, and then shuts it down.
func Start(t *testing.T, r activator.Runner) *Bench {
	t.Helper()
	b := &Bench{Runner: r, t: t, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, func() {
			select {
			case b.changed <- struct{}{}:
			default:
			}
		})
	}()
	abandoned := false
	b.Abandon = func() {
		if abandoned {
			return
		}
		abandoned = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(func() {
		b.Abandon()
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return b
}

// Want applies specs, which must be fit.
func (b *Bench) Want(specs ...activator.Spec) {
	b.t.Helper()
	if err := b.Apply(b.t.Context(), specs); err != nil {
		b.t.Fatal(err)
	}
}

// Await returns the replicas as soon as ok accepts them.
func (b *Bench) Await(what string, ok func([]activator.Replica) bool) []activator.Replica {
	b.t.Helper()
	deadline := time.After(Patience)
	for {
		all := b.Replicas()
		if ok(all) {
			return all
		}
		select {
		case <-b.changed:
		case <-deadline:
			b.t.Fatalf("no %s after %s; there is %+v", what, Patience, all)
		}
	}
}

// One awaits a single replica that ok accepts.
func (b *Bench) One(what string, ok func(activator.Replica) bool) activator.Replica {
	b.t.Helper()
	return b.Await(what, func(all []activator.Replica) bool { return len(all) == 1 && ok(all[0]) })[0]
}

// None awaits that there is no replica.
func (b *Bench) None() {
	b.t.Helper()
	b.Await("end of all replicas", func(all []activator.Replica) bool { return len(all) == 0 })
}

// IsReady accepts a replica that is.
func IsReady(rep activator.Replica) bool { return rep.Phase == activator.Ready }

// Says accepts a replica with words in its reason.
func Says(text string) func(activator.Replica) bool {
	return func(rep activator.Replica) bool { return strings.Contains(rep.Reason, text) }
}

// Fetch gets http://ADDR:PORT/ over a connection of its own.
func Fetch(t testing.TB, addr netip.Addr, port uint16) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + netip.AddrPortFrom(addr, port).String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
