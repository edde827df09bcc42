// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDetachRefusesWhileAnAgentRuns(t *testing.T) {
	h := newHarness(t, nil)
	h.run(t)
	wait(t, "start", h.started)
	defer func() { h.cancel(); wait(t, "end", h.done) }()
	var held *HeldError
	if removed, err := detach(h.cfg.RunDir, h.name+"-detach"); !errors.As(err, &held) || held.PID != os.Getpid() || removed != nil {
		t.Errorf("removed %v, error %v; want a refusal that names pid %d", removed, err, os.Getpid())
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	h := newHarness(t, nil)
	h.run(t)
	wait(t, "start", h.started)
	defer func() { h.cancel(); wait(t, "end", h.done) }()

	same := newHarness(t, nil)
	same.cfg.RunDir, same.name = h.cfg.RunDir, same.name+"2"
	other := newHarness(t, nil)
	other.name = h.name
	for what, second := range map[string]*harness{"same run directory": same, "same network namespace": other} {
		err := second.Run(t.Context())
		var held *HeldError
		if !errors.As(err, &held) || held.PID != os.Getpid() || held.RunDir != h.cfg.RunDir {
			t.Errorf("%s: %v; want pid %d and %s named", what, err, os.Getpid(), h.cfg.RunDir)
		}
	}
	if _, err := os.Stat(other.cfg.RunDir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the refused agent left a run directory behind")
	}
}

func TestLockIsFreeAfterTheEnd(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		k, note, err := acquire(dir, "@fairlead-test-again-"+strconv.Itoa(os.Getpid()))
		if err != nil || note != "" {
			t.Fatal(err, note)
		}
		k.release()
	}
}

// A killed agent holds its locks for a moment: nobody is told to kill it again.
func TestLockOfAnEndingAgent(t *testing.T) {
	dir, name := t.TempDir(), "@fairlead-test-ending-"+strconv.Itoa(os.Getpid())
	first, _, err := acquire(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	released := time.AfterFunc(200*time.Millisecond, first.release)
	defer released.Stop()
	var held *HeldError
	if _, _, err := acquireSoon(dir, name, 0); !errors.As(err, &held) {
		t.Fatalf("without patience: %v, want a refusal", err)
	}
	second, _, err := acquireSoon(dir, name, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	second.release()
}

func TestPermissionSaysWhatToDo(t *testing.T) {
	if err := asRoot(&fs.PathError{Op: "mkdir", Path: "/run/fairlead", Err: syscall.EACCES}); !strings.Contains(err.Error(), "fairlead needs root, so try with sudo") {
		t.Errorf("%v: want what to do", err)
	}
	if err := asRoot(fs.ErrNotExist); err != fs.ErrNotExist {
		t.Errorf("%v: root is no remedy", err)
	}
}
