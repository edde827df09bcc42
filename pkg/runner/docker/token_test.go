// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/docker"
	"github.com/fairlead-lb/fairlead/pkg/runner/runnertest"
	"github.com/fairlead-lb/fairlead/pkg/token"
)

// TestD06Container: a container is told its token by a variable and by a file,
// which it sees change when it is renewed, and cannot write; both are gone with
// it.
func TestD06Container(t *testing.T) {
	w := newWorld(t)
	ring, err := token.Open(token.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	told := environment.New(environment.Config{
		Dir: filepath.Join(t.TempDir(), "tokens"), Issue: ring.Issue, KeySet: ring.KeySet,
		Replicas: func() []activator.Replica { return nil }, State: func() *model.State { return &model.State{} },
	})
	w.cfg.Forget = told.Forget
	w.cfg.Environment = func(s activator.Spec, id string, local bool) (map[string]string, string, error) {
		if !local {
			t.Error("the daemon of this test is not local")
		}
		env, err := told.Environment(s, id, docker.FilesAt)
		return env, told.Dir(id), err
	}
	b := w.start(t)
	s := app("web", 8080, "--http", ":$PORT")
	s.Tokens = model.Tokens{Prefix: "DTZ", Context: "main", Host: "apps.example.com", Lifetime: time.Hour}
	b.Want(s)
	rep := b.One("ready replica", runnertest.IsReady)
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", rep.PID))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for pair := range strings.SplitSeq(string(environ), "\x00") {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	inside := func(path string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", rep.PID, path))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	file := env["DTZ_ACCESS_TOKEN_FILE"]
	if file != "/run/secrets/fairlead/token" || env["DTZ_ACCESS_TOKEN"] == "" || inside(file) != env["DTZ_ACCESS_TOKEN"] ||
		env["DTZ_CONTEXT_ID"] != "main" || env["PORT"] != "8080" || !strings.Contains(inside(env["DTZ_JWKS_FILE"]), `"OKP"`) {
		t.Errorf("the container is told %q", env)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root%s", rep.PID, file), nil, 0o600); err == nil {
		t.Error("the container can write its token")
	}
	if _, err := told.Environment(s, rep.ID, docker.FilesAt); err != nil { // as a renewal does
		t.Fatal(err)
	}
	if now := inside(file); now == env["DTZ_ACCESS_TOKEN"] || strings.Count(now, ".") != 2 {
		t.Errorf("after the renewal the container sees %q", now)
	}
	b.Want()
	b.None()
	if _, err := os.Stat(told.Dir(rep.ID)); !os.IsNotExist(err) {
		t.Errorf("the directory of a container that is gone: %v", err)
	}
}
