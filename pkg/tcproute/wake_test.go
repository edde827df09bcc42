// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// TestW03ByName: a client of a service that cannot be woken is told why in its
// own protocol, or by a TLS alert where it would read nothing else; also where
// the start took longer than a client may take to say where it wants to go.
func TestW03ByName(t *testing.T) {
	const patience = 100 * time.Millisecond
	var woken atomic.Int32
	w := newWorld(t, func(c *Config) {
		c.Patience = patience
		c.Wake = func(ctx context.Context, _ model.ServiceName, _ string) ([]model.Backend, error) {
			woken.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(3 * patience):
			}
			return nil, errors.New("it ended 3 times before it was ready: exit status 1")
		}
	})
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	for _, tc := range []struct {
		kind  Kind
		first string // that a client says
		want  []string
	}{
		{Postgres, "\x00\x00\x00\x08\x00\x03\x00\x00", []string{"FATAL", "57P03", "could not be woken: it ended 3 times", "exit status 1"}},
		{Redis, "*1\r\n$4\r\nPING\r\n", []string{"-ERR fairlead: the service sleeps and could not be woken: it ended 3 times", "exit status 1"}},
		{Mongo, "\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00", []string{"errmsg", "could not be woken: it ended 3 times", "exit status 1"}},
	} {
		svc := service(tc.kind, "a.b", "terminate")
		svc.Sleep = model.Asleep
		w.apply(1, svc)
		c, err := w.tls(tc.kind, "a.b")
		must(t, err)
		_, err = io.WriteString(c, tc.first)
		must(t, err)
		must(t, c.CloseWrite())
		answer, _ := io.ReadAll(c)
		for _, want := range tc.want {
			if !strings.Contains(string(answer), want) {
				t.Errorf("%s: the client reads %q, want %q in it", tc.kind, answer, want)
			}
		}
		eventually(t, "count", func() bool { return w.count(tc.kind, NotWoken) == 1 })
		// Passthrough: nothing but an alert can be read.
		svc = service(tc.kind, "pass.b", "passthrough")
		svc.Sleep = model.Asleep
		w.apply(1, svc)
		if _, err := w.tls(tc.kind, "pass.b"); alertOf(err) != alertInternalError {
			t.Errorf("%s, passthrough: %v, want alert 80", tc.kind, err)
		}
	}
	if n := woken.Load(); n != 6 {
		t.Errorf("woken %d times", n)
	}
}

// TestW03ByNameNotRunning: of a service that nobody may wake the client is told
// why no replica runs.
func TestW03ByNameNotRunning(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Why = func(model.ServiceName) string { return "it is stopped by its owner" } })
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	w.apply(1, service(Postgres, "a.b", "terminate"))
	if text := w.fatal("a.b"); !strings.Contains(text, "no replica that takes connections now: it is stopped by its owner") {
		t.Errorf("the client reads %q", text)
	}
	eventually(t, "count", func() bool { return w.count(Postgres, NoReplica) == 1 })
}

// TestW01ByNameHeld: a client is held for as long as the start takes, whatever
// the time to say where it wants to go.
func TestW01ByNameHeld(t *testing.T) {
	const patience = 100 * time.Millisecond
	s := serve(t, "127.0.0.1", "one", 0, nil)
	joined := make(chan model.ServiceName, 1)
	w := newWorld(t, func(c *Config) {
		c.Patience = patience
		c.Wake = func(context.Context, model.ServiceName, string) ([]model.Backend, error) {
			time.Sleep(3 * patience)
			return []model.Backend{backend(s)}, nil
		}
		c.Joined = func(name model.ServiceName) { joined <- name }
	})
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	svc := service(Redis, "a.b", "terminate")
	svc.Sleep = model.Asleep
	w.apply(s.addr.Port(), svc)
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	if got := talk(t, c); got != "one" {
		t.Errorf("leads to %s", got)
	}
	if name := <-joined; name != svc.Name {
		t.Errorf("joined %s", name)
	}
	if all := w.Sessions(svc.Name); len(all) != 1 || all[0].Client.Addr().String() != "127.0.0.1" || all[0].Host != "a.b" || time.Since(all[0].Since) > time.Minute {
		t.Errorf("sessions %+v", all)
	}
	if all := w.Sessions(model.ServiceName{Project: "another", User: "u"}); len(all) != 0 {
		t.Errorf("another's sessions %+v", all)
	}
}

// TestD13ByName: who is refused wakes nothing.
func TestD13ByName(t *testing.T) {
	var woken atomic.Int32
	w := newWorld(t, func(c *Config) {
		c.Wake = func(context.Context, model.ServiceName, string) ([]model.Backend, error) {
			woken.Add(1)
			return nil, errors.New("no")
		}
	})
	w.certs.Put("closed.b", w.ca.issue(t, "closed.b"))
	closed, bare := service(Postgres, "closed.b", "passthrough"), service(Postgres, "bare.b", "terminate")
	closed.Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	closed.Sleep, bare.Sleep = model.Asleep, model.Asleep
	bare.Name.User = "bare"
	w.apply(1, closed, bare)
	for _, host := range []string{"closed.b", "bare.b", "unknown.b"} {
		if _, err := w.tls(Postgres, host); err == nil && host != "closed.b" {
			t.Errorf("%s: a handshake", host)
		}
	}
	c := w.dial(Postgres)
	_, err := c.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0})
	must(t, err)
	_, _ = io.ReadAll(c)
	if n := woken.Load(); n != 0 {
		t.Errorf("woken %d times", n)
	}
}
