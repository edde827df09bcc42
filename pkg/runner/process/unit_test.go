// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestEnvironment(t *testing.T) {
	s := activator.Spec{
		Ports:    []model.Port{{Container: 8090, Protocol: model.TCP}, {Container: 1, Protocol: model.UDP}},
		Workload: model.Workload{Env: map[string]string{"X": "1"}},
	}
	want := []string{"FAIRLEAD_REPLICA=a.b.1", "HOME=/h", "PATH=" + defaultPath, "PORT=8090", "X=1"}
	if diff := cmp.Diff(want, environment.List(variables(environment.Plain(s, "a.b.1"), "/h"))); diff != "" {
		t.Error(diff)
	}
	s.Workload.Env = map[string]string{"PORT": "7", "PATH": "/p"}
	if env := variables(environment.Plain(s, "a.b.1"), "/h"); env["PORT"] != "7" || env["PATH"] != "/p" {
		t.Errorf("environment %v", env)
	}
}

// A workload that stays as it is is not hashed again; whatever counts is.
func TestHashIsKept(t *testing.T) {
	spec := func() activator.Spec {
		s := echoSpec(8090, ":8090")
		s.Workload.Roles = []string{"reader"}
		return s
	}
	before := want{spec: spec(), hash: "kept"}
	more := spec()
	more.Replicas, more.Drain = 7, 7
	for _, s := range []activator.Spec{spec(), more} {
		if w := before.with(s, false); w.hash != "kept" || w.spec.Replicas != s.Replicas || w.spec.Drain != s.Drain {
			t.Errorf("the same workload: hash %q, %d replicas", w.hash, w.spec.Replicas)
		}
	}
	for name, change := range map[string]func(*activator.Spec){
		"command":  func(s *activator.Spec) { s.Workload.Command = []string{"sh"} },
		"env":      func(s *activator.Spec) { s.Workload.Env = map[string]string{"X": "1"} },
		"identity": func(s *activator.Spec) { s.Workload.Identity = "x" },
		"roles":    func(s *activator.Spec) { s.Workload.Roles = []string{"writer"} },
		"ports":    func(s *activator.Spec) { s.Ports = []model.Port{{Service: 80, Container: 81, Protocol: model.TCP}} },
		"any port": func(s *activator.Spec) { s.AnyPort = true },
		"tokens":   func(s *activator.Spec) { s.Tokens.Host = "x" },
		"resolver": func(*activator.Spec) {},
	} {
		s := spec()
		change(&s)
		if w := before.with(s, name == "resolver"); w.hash != hashOf(s, name == "resolver") || w.hash == hashOf(spec(), false) {
			t.Errorf("%s changes: hash %q", name, w.hash)
		}
	}
	if w := (want{}).with(spec(), false); w.hash != hashOf(spec(), false) {
		t.Errorf("a new workload: hash %q", w.hash)
	}
}

func TestRotateLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "a.log")
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	write := func(s string) {
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string { b, _ := os.ReadFile(path); return string(b) }
	write("1234\n")
	for _, limit := range []int64{5, 4} {
		if err := rotateLog(path, limit); err != nil {
			t.Fatal(err)
		}
		write("new\n")
	}
	if now, old := read(path), read(path+".1"); now != "new\n" || old != "1234\nnew\n" {
		t.Errorf("now %q, old %q", now, old)
	}
	write(strings.Repeat("x", 100))
	if err := rotateLog(path, 4); err != nil || len(read(path)) != 0 || len(read(path+".1")) != 104 {
		t.Errorf("%v, now %q, old %q", err, read(path), read(path+".1"))
	}
	if names, _ := filepath.Glob(path + "*"); len(names) != 2 {
		t.Errorf("files %v", names)
	}
}

func TestLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, tc := range []struct {
		log   string
		start int64
		want  string
	}{
		{"", 0, ""},
		{"a\nb\n\n", 0, "b"},
		{"a\nb\x1b[1m\xff", 0, "b·[1m·"},
		{"old\n", 4, ""},
		{"old\nnew\n", 4, "new"},
		{"rotated\n", 400, "rotated"},
		{strings.Repeat("é", 300), 0, strings.Repeat("é", 200) + "…"},
		{strings.Repeat("x", 9000) + "\nend", 0, "end"},
	} {
		if err := os.WriteFile(path, []byte(tc.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastLine(path, tc.start); got != tc.want {
			t.Errorf("lastLine(%.20q, %d) = %q, want %q", tc.log, tc.start, got, tc.want)
		}
	}
}

func TestExplainNamesWhatIsMissing(t *testing.T) {
	err := explain(fmt.Errorf("make link: %w", os.ErrPermission))
	if err == nil {
		t.Fatal("no error")
	}
	if err := explain(fmt.Errorf("x: %w", bytes.ErrTooLarge)); err.Error() != "x: "+bytes.ErrTooLarge.Error() {
		t.Errorf("changed to %v", err)
	}
}
