// SPDX-License-Identifier: Apache-2.0

// Package file is the source that reads the config file: it parses and
// validates the YAML, publishes it as a Part, and reads it again when it
// changes. An invalid file changes nothing and is reported in full. It knows
// nothing of what the config leads to.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/source"
)

// Config is what a Source needs.
type Config struct {
	Path string
	Log  *slog.Logger // default: slog.Default()
	// Poll is how often the file is looked at without a notice of the kernel,
	// for file systems that send none. Default 10 s.
	Poll time.Duration
	// Settle is how long a change may go on before the file is read.
	// Default 100 ms.
	Settle time.Duration
	// Checked is what Check said of the path, if it was asked; the first load does
	// not parse the same content again.
	Checked *Checked
}

// Checked is a config file that was read and is valid.
type Checked struct {
	Part source.Part
	data []byte
}

// Check reads and validates a config file. The error is an Errors, or why the
// file cannot be read.
func Check(path string) (*Checked, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	part, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	return &Checked{part, data}, nil
}

// Source reads one config file. Create it with New, run it once. Its methods
// are safe for concurrent use.
type Source struct {
	cfg    Config
	reload chan struct{}

	checked *Checked // of the loading goroutine; nil after the first load

	mu      sync.Mutex
	last    error
	errors  uint64
	loaded  time.Time
	content []byte // what was last read, good or bad; nil: nothing could be
	good    []byte // what is in force

	defining  sync.Mutex
	definer   *config // of definerOf; nil: nobody has asked for it
	definerOf []byte
}

// New makes a Source; it touches nothing yet.
func New(cfg Config) *Source {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Poll == 0 {
		cfg.Poll = 10 * time.Second
	}
	if cfg.Settle == 0 {
		cfg.Settle = 100 * time.Millisecond
	}
	checked := cfg.Checked
	cfg.Checked = nil
	return &Source{cfg: cfg, checked: checked, reload: make(chan struct{}, 1)}
}

// Name is "file".
func (s *Source) Name() string { return "file" }

// LastError is why the file as it is now is not in force; nil when it is. For
// a file that could be read it is an Errors.
func (s *Source) LastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Errors counts the loads that failed.
func (s *Source) Errors() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errors
}

// Loaded is when the config in force was last read; zero before the first.
func (s *Source) Loaded() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded
}

// Reload has Run read the file again, changed or not. It does not wait.
func (s *Source) Reload() {
	select {
	case s.reload <- struct{}{}:
	default:
	}
}

// Run publishes the file's Part and again after each change, until ctx ends.
// A first load that fails is returned (an Errors, or what opening the file
// said); a later one leaves the published Part in force.
func (s *Source) Run(ctx context.Context, publish func(source.Part)) error {
	w := newWatch(s.cfg.Path)
	defer w.close()
	if w.err != nil {
		s.cfg.Log.Warn("the config file is not watched, only polled", "path", s.cfg.Path, "every", s.cfg.Poll, "error", w.err)
	}
	if err := s.load(publish, true); err != nil {
		return err
	}
	poll := time.NewTicker(s.cfg.Poll)
	defer poll.Stop()
	for {
		always := false
		select {
		case <-ctx.Done():
			return nil
		case <-s.reload:
			always = true
		case <-poll.C:
		case <-w.changed:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(s.cfg.Settle):
			}
			w.drain()
		}
		w.follow()
		if err := s.load(publish, always); err != nil {
			s.tell(err)
		}
	}
}

// load reads the file and publishes it. Without always, a file whose content
// was seen before is passed over. The same content's fault is told once.
func (s *Source) load(publish func(source.Part), always bool) error {
	data, err := read(s.cfg.Path)
	s.mu.Lock()
	seen := s.content
	same := err == nil && seen != nil && bytes.Equal(data, seen) || err != nil && seen == nil
	again := same && s.last != nil
	if same { // one copy of it in memory
		data = seen
	}
	s.content = data
	s.mu.Unlock()
	if same && !always {
		return nil
	}
	var part source.Part
	if err == nil {
		part, err = s.parse(data)
	}
	s.mu.Lock()
	s.last = err
	switch {
	case err == nil:
		s.loaded, s.good = time.Now(), data
	case !again:
		s.errors++
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		publish(part)
	case again:
		s.cfg.Log.Info("config is as it was when it was refused, the running one stays in force", "path", s.cfg.Path)
		return nil
	}
	return err
}

// parse is Parse, but for what was checked before the first load.
func (s *Source) parse(data []byte) (source.Part, error) {
	checked := s.checked
	s.checked = nil
	if checked != nil && bytes.Equal(checked.data, data) {
		return checked.Part, nil
	}
	return Parse(s.cfg.Path, data)
}

// read returns the file's content, never nil without an error. It stops one
// byte after what Parse takes.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("read config: %s is a directory, want a YAML file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if len(data) == 0 {
		return []byte{}, nil
	}
	return bytes.Clone(data), nil // without the room to grow
}

// tell logs a refused file, one record per fault.
func (s *Source) tell(err error) {
	var faults Errors
	if !errors.As(err, &faults) {
		s.cfg.Log.Error("config not reloaded, the running one stays in force", "path", s.cfg.Path, "error", err)
		return
	}
	s.cfg.Log.Error("config refused, the running one stays in force", "path", s.cfg.Path, "faults", len(faults))
	for _, f := range faults {
		s.cfg.Log.Error("config fault", "at", fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Col), "field", f.Field, "problem", f.Problem)
	}
}
