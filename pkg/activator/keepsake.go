// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// keepsake is the file by which the next agent wakes nobody and forgets nobody.
type keepsake struct {
	Services map[model.ServiceName]keptService `json:"services"`
	Stopped  map[model.ServiceName]time.Time   `json:"stopped,omitempty"`
}

type keptService struct {
	Awake bool      `json:"awake"`
	Since time.Time `json:"since"`
	Cause string    `json:"cause,omitempty"`
}

// recall reads the file. One that cannot be understood is moved aside and
// reported: what runs is adopted, what does not sleeps.
func (a *Activator) recall() {
	s, now := &a.sleep, a.cfg.Now()
	s.by, s.stopped = map[model.ServiceName]*sleeper{}, map[model.ServiceName]time.Time{}
	s.kick, s.dirty, s.stats = make(chan struct{}, 1), make(chan struct{}, 1), map[outcome]uint64{}
	s.took, s.sizes = map[phaseOf]*Duration{}, map[model.ServiceName]*size{}
	if a.cfg.SleepFile == "" {
		return
	}
	b, err := os.ReadFile(a.cfg.SleepFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k keepsake
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		aside := a.cfg.SleepFile + ".invalid"
		a.cfg.Log.Error("which services slept is lost", "file", a.cfg.SleepFile, "movedTo", aside, "error", err)
		_ = os.Rename(a.cfg.SleepFile, aside)
		return
	}
	for name, since := range k.Stopped {
		s.stopped[name] = since
	}
	for name, kept := range k.Services {
		x := &sleeper{name: name, stage: asleep, since: kept.Since, cause: kept.Cause, busy: now}
		if kept.Awake {
			x.stage = awake
		}
		s.by[name] = x
	}
}

// keepAgain is the time between two tries to write the file.
const keepAgain = 5 * time.Second

// keep has the file written soon: nobody who waits for a service waits for that.
// What is lost by a crash in between is made good by what runs (learn).
func (a *Activator) keep() {
	select {
	case a.sleep.dirty <- struct{}{}:
	default:
	}
}

// keeper writes the file after every change, or several at once, until ctx ends.
func (a *Activator) keeper(ctx context.Context) {
	for ctx.Err() == nil {
		var again <-chan time.Time
		if len(a.Problems()) > 0 {
			again = time.After(keepAgain)
		}
		select {
		case <-ctx.Done():
		case <-a.sleep.dirty:
		case <-again:
		}
		a.keepNow()
	}
}

// keepNow writes the file. If it cannot the agent goes on, tells of it, and
// keeper tries again.
func (a *Activator) keepNow() {
	if a.cfg.SleepFile == "" {
		return
	}
	a.keeping.Lock()
	defer a.keeping.Unlock()
	err := a.save()
	switch {
	case err != nil && a.unkept == nil:
		a.cfg.Log.Error("the next agent will not know what slept", "error", err)
	case err == nil && a.unkept != nil:
		a.cfg.Log.Info("the next agent will know what slept")
	}
	a.unkept = err
}

// Problems says, in words, what a person should know.
func (a *Activator) Problems() []string {
	a.keeping.Lock()
	defer a.keeping.Unlock()
	if a.unkept == nil {
		return nil
	}
	return []string{fmt.Sprintf("the next agent will not know what sleeps and what is stopped: %v", a.unkept)}
}

func (a *Activator) save() error {
	k := keepsake{Services: map[model.ServiceName]keptService{}, Stopped: map[model.ServiceName]time.Time{}}
	a.sleep.mu.Lock()
	for name, x := range a.sleep.by {
		k.Services[name] = keptService{Awake: x.stage != asleep, Since: x.since, Cause: x.cause}
	}
	for name, since := range a.sleep.stopped {
		k.Stopped[name] = since
	}
	a.sleep.mu.Unlock()
	b, err := json.MarshalIndent(k, "", "\t")
	if err != nil {
		return err
	}
	tmp := a.cfg.SleepFile + ".tmp"
	if err = os.WriteFile(tmp, append(b, '\n'), 0o600); err == nil {
		err = os.Rename(tmp, a.cfg.SleepFile)
	}
	if err != nil {
		_ = os.Remove(tmp) // half of it would take room that is short
		return fmt.Errorf("save which services sleep: %w", err)
	}
	return nil
}
