// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/source"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lockedBuffer is a log that the source writes and the test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a Source at work on a file.
type running struct {
	t     *testing.T
	src   *Source
	parts chan source.Part
	log   *lockedBuffer
}

// start runs a Source on path. The poll is far off, so that what a test sees
// came by inotify, unless poll says otherwise.
func start(t *testing.T, path string, poll time.Duration) *running {
	t.Helper()
	r := &running{t: t, parts: make(chan source.Part, 100), log: &lockedBuffer{}}
	r.src = New(Config{Path: path, Log: slog.New(slog.NewTextHandler(r.log, nil)), Poll: poll, Settle: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.src.Run(ctx, func(p source.Part) { r.parts <- p }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run ended with %v", err)
		}
	})
	return r
}

// project waits for a Part whose only service has the project.
func (r *running) project(want string) {
	r.t.Helper()
	for {
		select {
		case p := <-r.parts:
			if len(p.Services) == 1 && p.Services[0].Name.Project == want {
				return
			}
		case <-time.After(10 * time.Second):
			r.t.Fatalf("no part with project %s came; log:\n%s", want, r.log)
		}
	}
}

// until polls for a condition.
func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s did not happen; log:\n%s", what, r.log)
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *running) none() {
	r.t.Helper()
	select {
	case p := <-r.parts:
		r.t.Errorf("a part was published: %+v", p.Services)
	default:
	}
}

func oneService(project string) string {
	return fmt.Sprintf("services: [{project: %s, user: u}]\n", project)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

const far = time.Hour

func TestReloadOnWriteAndRename(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fairlead.yaml")
	write(t, path, oneService("a"))
	r := start(t, path, far)
	r.project("a")
	first := r.src.Loaded()
	if first.IsZero() {
		t.Error("loaded is zero after a load")
	}
	write(t, path, oneService("b"))
	r.project("b")
	write(t, path+".new", oneService("c")) // what editors do
	rename(t, path+".new", path)
	r.project("c")
	write(t, path, oneService("d")) // and the new file is watched as well
	r.project("d")
	if n, err := r.src.Errors(), r.src.LastError(); n != 0 || err != nil || !r.src.Loaded().After(first) {
		t.Errorf("got %d errors, last %v, loaded %v", n, err, r.src.Loaded())
	}
}

// TestReloadOnConfigMap swaps directories behind a link as the kubelet does.
func TestReloadOnConfigMap(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(dir, "..v"+v), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "..v"+v, "fairlead.yaml"), oneService("v"+v))
	}
	symlink(t, "..v1", filepath.Join(dir, "..data"))
	symlink(t, "..data/fairlead.yaml", filepath.Join(dir, "fairlead.yaml"))
	r := start(t, filepath.Join(dir, "fairlead.yaml"), far)
	r.project("v1")
	symlink(t, "..v2", filepath.Join(dir, "..data_tmp"))
	rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	r.project("v2")
}

// TestReloadBehindLink: the file's own directory is watched where the path is
// a link into it.
func TestReloadBehindLink(t *testing.T) {
	real, etc := t.TempDir(), t.TempDir()
	write(t, filepath.Join(real, "x.yaml"), oneService("a"))
	symlink(t, filepath.Join(real, "x.yaml"), filepath.Join(etc, "fairlead.yaml"))
	r := start(t, filepath.Join(etc, "fairlead.yaml"), far)
	r.project("a")
	write(t, filepath.Join(real, "x.yaml"), oneService("b"))
	r.project("b")
}

func TestInvalidFileChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.yaml")
	write(t, path, oneService("a"))
	r := start(t, path, far)
	r.project("a")
	write(t, path, "services: [{project: a, user: u, drain: x, mode: y}]\n")
	r.until("the error", func() bool { return r.src.LastError() != nil })
	var faults Errors
	if err := r.src.LastError(); !errors.As(err, &faults) || len(faults) != 2 || faults[0].File != path {
		t.Errorf("last error is %v, want two faults of %s", err, path)
	}
	r.until("the log", func() bool { return strings.Count(r.log.String(), "config fault") == 2 })
	for _, want := range []string{"field=services[0].drain", "field=services[0].mode", path + ":1:"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("log lacks %s:\n%s", want, r.log)
		}
	}
	r.none()
	// The same bad content once more is no new error.
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, path+".other", "a change in the directory")
	replace(t, path, oneService("b"))
	r.project("b")
	if n, err := r.src.Errors(), r.src.LastError(); n != 1 || err != nil {
		t.Errorf("after repair: %d errors, last %v, want 1 and none", n, err)
	}
}

func TestMissingFileChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.yaml")
	write(t, path, oneService("a"))
	r := start(t, path, far)
	r.project("a")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.until("the error", func() bool { return errors.Is(r.src.LastError(), fs.ErrNotExist) })
	r.none()
	write(t, path, oneService("a"))
	r.until("the recovery", func() bool { return r.src.LastError() == nil })
	if n := r.src.Errors(); n != 1 {
		t.Errorf("got %d errors, want 1", n)
	}
}

// replace puts a new file in the place of the old one, so that no reader meets
// half of it.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	rename(t, path+".new", path)
}

// TestReload reads the file again though nothing changed.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.yaml")
	write(t, path, oneService("a"))
	r := start(t, path, far)
	r.project("a")
	r.src.Reload()
	r.project("a")
}

// SIGHUP after a bad save is the same fault, not another one.
func TestReloadOfABadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.yaml")
	write(t, path, oneService("a"))
	r := start(t, path, far)
	r.project("a")
	for i, bad := range []string{"services: [{project: a, user: u, drain: x}]\n", "services: [{project: a, user: u, drain: y}]\n"} {
		replace(t, path, bad)
		r.until("the error", func() bool { return r.src.Errors() == uint64(i)+1 })
		r.src.Reload()
		r.until("the reload", func() bool { return strings.Count(r.log.String(), "config is as it was") == i+1 })
		if n, told := r.src.Errors(), strings.Count(r.log.String(), "config fault"); n != uint64(i)+1 || told != i+1 || r.src.LastError() == nil {
			t.Errorf("%d errors, %d told, last %v; want %d and one", n, told, r.src.LastError(), i+1)
		}
	}
	r.none()
}

// TestPoll finds a change that no event tells of: the directory was put in
// the place of another.
func TestPoll(t *testing.T) {
	base := t.TempDir()
	for _, d := range []string{"etc", "new"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(base, d, "fairlead.yaml"), oneService(d))
	}
	r := start(t, filepath.Join(base, "etc", "fairlead.yaml"), 5*time.Millisecond)
	r.project("etc")
	rename(t, filepath.Join(base, "etc"), filepath.Join(base, "old"))
	rename(t, filepath.Join(base, "new"), filepath.Join(base, "etc"))
	r.project("new")
}

func TestFirstLoadFails(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	write(t, bad, "services: 1\n")
	for path, is := range map[string]func(error) bool{
		filepath.Join(dir, "none.yaml"):         func(err error) bool { return errors.Is(err, fs.ErrNotExist) },
		filepath.Join(dir, "none", "none.yaml"): func(err error) bool { return errors.Is(err, fs.ErrNotExist) },
		dir:                                     func(err error) bool { return strings.Contains(err.Error(), "is a directory") },
		bad:                                     func(err error) bool { var e Errors; return errors.As(err, &e) && len(e) == 1 },
	} {
		src := New(Config{Path: path, Log: slog.New(slog.DiscardHandler)})
		err := src.Run(t.Context(), func(source.Part) { t.Errorf("%s: published", path) })
		if err == nil || !is(err) {
			t.Errorf("%s: got %v", path, err)
		}
		if src.LastError() == nil || src.Errors() != 1 || !src.Loaded().IsZero() {
			t.Errorf("%s: last %v, %d errors, loaded %v", path, src.LastError(), src.Errors(), src.Loaded())
		}
	}
}

// A start with many services parses the file once: the first load takes what was
// checked, unless the file has changed since; a later one parses (issue 3, 2).
func TestFirstLoadTakesWhatWasChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.yaml")
	for _, changed := range []bool{false, true} {
		write(t, path, oneService("a"))
		checked, err := Check(path)
		if err != nil {
			t.Fatal(err)
		}
		want := "a"
		if changed {
			want = "b"
			write(t, path, oneService(want))
		}
		src := New(Config{Path: path, Checked: checked, Log: slog.New(slog.DiscardHandler)})
		for first := true; ; first = false {
			var got source.Part
			if err := src.load(func(p source.Part) { got = p }, true); err != nil {
				t.Fatal(err)
			}
			if name := got.Services[0].Name.Project; name != want {
				t.Errorf("changed %v: published %s, want %s", changed, name, want)
			}
			if same := &got.Services[0] == &checked.Part.Services[0]; same != (first && !changed) {
				t.Errorf("changed %v, first %v: the part that was checked: %v", changed, first, same)
			}
			if !first {
				break
			}
		}
	}
}
