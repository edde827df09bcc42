// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	mail  = model.ServiceName{Project: "shop", User: "mail"}
	dtz   = model.Tokens{Prefix: "DTZ", Context: "main", Host: "apps.example.com", Lifetime: time.Hour}
	ports = []model.Port{{Service: 80, Container: 8090, Protocol: model.TCP}}
)

// bench is a Keeper over a Ring, and the replicas and state that it looks at.
type bench struct {
	*Keeper
	ring     *token.Ring
	replicas []activator.Replica
	state    *model.State
}

func newBench(t *testing.T, dir string) *bench {
	t.Helper()
	ring, err := token.Open(token.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{ring: ring, state: &model.State{
		Settings: model.Settings{Tokens: dtz},
		Services: []*model.Service{{Name: mail, Ports: ports, Workload: &model.Workload{Identity: "mailer"}}},
	}}
	b.Keeper = New(Config{
		Dir: dir, Issue: ring.Issue, KeySet: ring.KeySet, Log: slog.New(slog.DiscardHandler),
		Replicas: func() []activator.Replica { return b.replicas }, State: func() *model.State { return b.state },
	})
	return b
}

func spec(env map[string]string) activator.Spec {
	return activator.Spec{Service: mail, Tokens: dtz, Ports: ports, Workload: model.Workload{Identity: "mailer", Env: env}}
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestD06Environment: the variables carry the platform's prefix; the owner may
// set PORT and all others but the context id.
func TestD06Environment(t *testing.T) {
	b := newBench(t, filepath.Join(t.TempDir(), "tokens"))
	env, err := b.Environment(spec(nil), "shop.mail.1", "")
	if err != nil {
		t.Fatal(err)
	}
	dir := b.Dir("shop.mail.1")
	if env["DTZ_ACCESS_TOKEN"] == "" || env["DTZ_ACCESS_TOKEN"] != read(t, dir, "token") {
		t.Errorf("token %q", env["DTZ_ACCESS_TOKEN"])
	}
	if keys, _ := b.ring.KeySet(); read(t, dir, "jwks.json") != string(keys) {
		t.Errorf("keys %s", read(t, dir, "jwks.json"))
	}
	env["DTZ_ACCESS_TOKEN"] = ""
	want := map[string]string{
		"PORT": "8090", "FAIRLEAD_REPLICA": "shop.mail.1", "DTZ_ACCESS_TOKEN": "", "DTZ_CONTEXT_ID": "main", "DTZ_ISSUER": "https://apps.example.com",
		"DTZ_ACCESS_TOKEN_FILE": dir + "/token", "DTZ_JWKS_FILE": dir + "/jwks.json",
	}
	if diff := cmp.Diff(want, env); diff != "" {
		t.Error(diff)
	}
	env, err = b.Environment(spec(map[string]string{"PORT": "7", "DTZ_CONTEXT_ID": "another", "DTZ_ACCESS_TOKEN": "my own", "X": "y"}), "shop.mail.1", "/run/secrets")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"PORT": "7", "DTZ_CONTEXT_ID": "main", "DTZ_ACCESS_TOKEN": "my own", "X": "y", "DTZ_ACCESS_TOKEN_FILE": "/run/secrets/token",
	} {
		if env[name] != want {
			t.Errorf("%s=%q, want %q", name, env[name], want)
		}
	}
	for path, mode := range map[string]os.FileMode{b.cfg.Dir: 0o700, dir: 0o755, dir + "/token": 0o644} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %o", path, st.Mode(), err, mode)
		}
	}
	if err := b.Forget("shop.mail.1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a forgotten replica's directory: %v", err)
	}
}

// TestD07Identity: without one chosen it is the service's name, which the token
// tells besides.
func TestD07Identity(t *testing.T) {
	for identity, want := range map[string]string{"": "shop/mail", "mailer": "mailer"} {
		c := claimsOf(dtz, mail, &model.Workload{Identity: identity, Roles: []string{"reader"}})
		if c.Subject != want || c.Service != "shop/mail" || c.Context != "main" || c.Roles[0] != "reader" {
			t.Errorf("identity %q: %+v", identity, c)
		}
	}
}

// TestD07Refresh: the file has a token with half of its life left at any time,
// for replicas of this agent and of the one before, and none of a replica that
// never had one or is on its way out.
func TestD07Refresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "tokens")
		b := newBench(t, dir)
		b.replicas = []activator.Replica{
			{ID: "shop.mail.1", Service: mail, Phase: activator.Ready},
			{ID: "shop.mail.2", Service: mail, Phase: activator.Ready},
			{ID: "shop.mail.3", Service: mail, Phase: activator.Stopping},
			{ID: "shop.gone.1", Service: model.ServiceName{Project: "shop", User: "gone"}, Phase: activator.Ready},
		}
		if _, err := b.Environment(spec(nil), "shop.mail.1", ""); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"shop.mail.3", "shop.gone.1"} {
			if err := os.MkdirAll(b.Dir(id), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for agent := range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = b.Run(ctx) }()
			first, changes := read(t, b.Dir("shop.mail.1"), "token"), 0
			last := first
			for range 4 * 60 {
				time.Sleep(time.Minute)
				now := read(t, b.Dir("shop.mail.1"), "token")
				if now != last {
					last, changes = now, changes+1
				}
				left := time.Until(expires(t, now))
				if left < 29*time.Minute {
					t.Fatalf("agent %d: a token with %s left", agent, left)
				}
			}
			if changes < 7 || changes > 9 {
				t.Errorf("agent %d: renewed %d times in four hours, want every half", agent, changes)
			}
			cancel()
			<-done
			time.Sleep(50 * time.Minute) // nobody runs
			next := newBench(t, dir)
			next.replicas = b.replicas
			b = next
		}
		for _, id := range []string{"shop.mail.2", "shop.mail.3", "shop.gone.1"} {
			if _, err := os.Stat(filepath.Join(b.Dir(id), "token")); err == nil {
				t.Errorf("%s has a token", id)
			}
		}
	})
}

func expires(t *testing.T, access string) time.Time {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(access, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), `"exp":`)
	seconds, err := time.ParseDuration(strings.TrimRight(strings.Split(rest, ",")[0], "}") + "s")
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, 0).Add(seconds)
}

// TestD07NoRoom: a replica whose token cannot be written does not start; one
// that runs keeps what it has, and that is told until it is over.
func TestD07NoRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tokens")
	b := newBench(t, dir)
	b.replicas = []activator.Replica{{ID: "shop.mail.1", Service: mail, Phase: activator.Ready}}
	if _, err := b.Environment(spec(nil), "shop.mail.1", ""); err != nil {
		t.Fatal(err)
	}
	b.fresh = map[string]files{} // as if it were old
	blocker := filepath.Join(b.Dir("shop.mail.1"), "token.tmp")
	if err := os.MkdirAll(filepath.Join(blocker, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := read(t, b.Dir("shop.mail.1"), "token")
	b.refresh()
	if got := b.Problems(); len(got) != 1 || !strings.Contains(got[0], "shop.mail.1") || read(t, b.Dir("shop.mail.1"), "token") != before {
		t.Errorf("problems %q", got)
	}
	if _, err := b.Environment(spec(nil), "shop.mail.1", ""); err == nil {
		t.Error("a replica starts without its token")
	}
	if err := os.RemoveAll(blocker); err != nil {
		t.Fatal(err)
	}
	b.refresh()
	if got := b.Problems(); len(got) != 0 || read(t, b.Dir("shop.mail.1"), "token") == before {
		t.Errorf("afterwards: problems %q", got)
	}
}
