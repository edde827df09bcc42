// SPDX-License-Identifier: Apache-2.0

// Package domain keeps the domains that people bring along: each is bound to a
// service once its A and TXT records are seen at a public resolver. The
// bindings are a source of hosts, kept over restarts in one file. It asks name
// servers only when a person tells it to, and serves nothing.
package domain

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/names"
	"github.com/fairlead-lb/fairlead/pkg/source"
	"golang.org/x/net/idna"
)

// most bounds the domains, so that a script gone wild fills no disk.
const most = 10_000

// Errors a caller may test for.
var (
	ErrUnknown  = errors.New("unknown")
	ErrConflict = errors.New("conflict")
)

// Config is what a Store needs.
type Config struct {
	Path string           // of the file that keeps the domains over restarts
	Log  *slog.Logger     // default slog.Default()
	Now  func() time.Time // default time.Now
	// Timeout bounds one question to the resolver, which is asked three times
	// at most. Default 3 s.
	Timeout time.Duration
}

// Domain is one binding of a host to a service.
type Domain struct {
	Host      string            `json:"host"`
	Service   model.ServiceName `json:"service"`
	Token     string            `json:"token"` // that the TXT record holds
	Added     time.Time         `json:"added"`
	Confirmed time.Time         `json:"confirmed,omitzero"` // zero: its records were not seen yet
	Off       bool              `json:"off,omitempty"`
}

// Serves tells whether the domain is served.
func (d Domain) Serves() bool { return !d.Confirmed.IsZero() && !d.Off }

// Store is the domains: a source.Source of hosts. Safe for concurrent use.
type Store struct {
	cfg Config

	mu      sync.Mutex
	domains []Domain // sorted by host
	publish func(source.Part)
}

// fileVersion is raised when the file's meaning changes.
const fileVersion = 1

type stored struct {
	Version int      `json:"version"`
	Domains []Domain `json:"domains"`
}

// New reads the domains that were kept. A file that cannot be understood is
// moved aside and reported: it must not keep the agent from starting.
func New(cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	s := &Store{cfg: cfg}
	data, err := os.ReadFile(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read domains: %w", err)
	}
	if s.domains, err = decode(data); err != nil {
		aside := cfg.Path + ".invalid"
		cfg.Log.Error("own domains are lost: the file that keeps them is invalid", "file", cfg.Path, "movedTo", aside, "error", err)
		if err := os.Rename(cfg.Path, aside); err != nil {
			return nil, fmt.Errorf("move invalid domains aside: %w", err)
		}
	}
	return s, nil
}

// decode is all or nothing.
func decode(data []byte) ([]Domain, error) {
	var f stored
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Version != fileVersion {
		return nil, fmt.Errorf("version %d, want %d", f.Version, fileVersion)
	}
	slices.SortFunc(f.Domains, byHost)
	for i, d := range f.Domains {
		if err := names.CheckName(d.Host); err != nil {
			return nil, err
		}
		if d.Token == "" || d.Service == (model.ServiceName{}) {
			return nil, fmt.Errorf("domain %s lacks a token or a service", d.Host)
		}
		if i > 0 && f.Domains[i-1].Host == d.Host {
			return nil, fmt.Errorf("domain %s is there twice", d.Host)
		}
	}
	return f.Domains, nil
}

// Name of the source.
func (s *Store) Name() string { return "domains" }

// Run publishes the hosts that are served, at once and after every change.
func (s *Store) Run(ctx context.Context, publish func(source.Part)) error {
	s.mu.Lock()
	s.publish = publish
	publish(part(s.domains))
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.publish = nil
	s.mu.Unlock()
	return nil
}

// part has no paths in its hosts: each gets those of its service.
func part(domains []Domain) source.Part {
	p := source.Part{Hosts: map[model.ServiceName][]model.HTTPHost{}}
	for _, d := range domains {
		if d.Serves() {
			p.Hosts[d.Service] = append(p.Hosts[d.Service], model.HTTPHost{Host: d.Host, TLS: true, Redirect: true})
		}
	}
	return p
}

// List is all domains, by host.
func (s *Store) List() []Domain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.domains)
}

// find is the domain of a host as a person writes it.
func (s *Store) find(host string) (Domain, error) {
	name, err := Canonical(host)
	if err != nil {
		return Domain{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := slices.BinarySearchFunc(s.domains, Domain{Host: name}, byHost)
	if !ok {
		return Domain{}, fmt.Errorf("%w: %s was not added; \"fairlead domain add %s --service PROJECT/USER\" does", ErrUnknown, name, name)
	}
	return s.domains[at], nil
}

// change replaces a domain, adds it, or removes it (to is nil), in the file
// before anywhere else. before is what the caller saw: if it is not so any
// more, somebody else was faster, and nothing changes.
func (s *Store) change(before Domain, to *Domain) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, there := slices.BinarySearchFunc(s.domains, before, byHost)
	if there != !before.Added.IsZero() || there && s.domains[at] != before {
		return fmt.Errorf("%w: %s was changed by somebody else at the same time; try again", ErrConflict, before.Host)
	}
	next := slices.Clone(s.domains)
	switch {
	case to == nil:
		next = slices.Delete(next, at, at+1)
	case there:
		next[at] = *to
	case len(next) >= most:
		return fmt.Errorf("there are %d domains, more do not fit: remove some", len(next))
	default:
		next = slices.Insert(next, at, *to)
	}
	if err := save(s.cfg.Path, stored{fileVersion, next}); err != nil {
		return fmt.Errorf("keep domains: %w", err)
	}
	s.domains = next
	if s.publish != nil {
		s.publish(part(next))
	}
	return nil
}

func byHost(a, b Domain) int { return strings.Compare(a.Host, b.Host) }

// Canonical is a host in lower case, without the trailing dot, other
// alphabets in punycode (RFC 5891). The error says what is wrong with it.
func Canonical(host string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(strings.TrimSpace(host), "."))
	if _, err := netip.ParseAddr(name); err == nil {
		return "", fmt.Errorf("host %q is an address, want a name such as shop.example.com", host)
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", fmt.Errorf("host %q: want a name such as shop.example.com: %w", host, err)
	}
	if err := names.CheckName(ascii); err != nil {
		return "", fmt.Errorf("host %q: want a name such as shop.example.com: %w", host, err)
	}
	if !strings.Contains(ascii, ".") {
		return "", fmt.Errorf("host %q has no dot, want a name such as shop.example.com", host)
	}
	return ascii, nil
}

// newToken is 128 random bits that nobody can guess into another zone.
func newToken() string { return "fairlead-" + strings.ToLower(rand.Text()) }

// save replaces the file whole: a crash leaves the old one or the new one.
func save(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".domains-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // no-op once renamed
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
