// SPDX-License-Identifier: Apache-2.0

// Package dns01 answers an authority's dns-01 challenge (RFC 8555 section
// 8.4): it writes the TXT record, by a dynamic update (RFC 2136) signed with
// TSIG (RFC 8945) or by a command, waits until the name servers of the zone
// show it, and removes it. It orders nothing.
package dns01

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// Config of a Solver: either Server or Command is set.
type Config struct {
	// Server is the primary that takes updates, by TCP. KeyFile holds its key
	// as tsig-keygen writes it; empty: updates are not signed.
	Server  netip.AddrPort
	KeyFile string
	// Zone that the updates are for, a domain name. Empty: the server is asked.
	Zone string
	// Command is called in place of updates, as "COMMAND… present|cleanup NAME
	// VALUE"; exit 0 says that it is done.
	Command []string
	// NameServers must show the record before the authority is told to look.
	// Empty: those of the zone, as Server lists them; of a Command: none.
	NameServers []netip.AddrPort
	// Propagation is the time they have for it. Default 2 min.
	Propagation time.Duration
	Log         *slog.Logger // default slog.Default()
}

// Problem is what went wrong, in words for a person. It holds no secret.
type Problem struct{ Text string }

// Error is the text.
func (p *Problem) Error() string { return p.Text }

func problem(format string, args ...any) error { return &Problem{fmt.Sprintf(format, args...)} }

// records is where TXT records are written to.
type records interface {
	add(ctx context.Context, name, value string) error
	remove(ctx context.Context, name, value string) error
	// probe finds out whether add would be refused, and changes nothing.
	probe(ctx context.Context, name string) error
	// nameServers are those that must show the record; none: nobody knows.
	nameServers(ctx context.Context, name string) ([]netip.AddrPort, error)
}

// Solver writes and removes records. It is an acmez.Solver and an
// acmez.Waiter, safe for concurrent use; it holds nothing that must be closed.
type Solver struct {
	cfg     Config
	records records

	mu      sync.Mutex
	written map[record]bool // by Present and not yet removed
}

type record struct{ name, value string }

// New makes a solver. The key file is read at every update: one that is
// missing or broken is the error of the challenge.
func New(cfg Config) (*Solver, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Propagation == 0 {
		cfg.Propagation = 2 * time.Minute
	}
	s := &Solver{cfg: cfg, written: map[record]bool{}}
	switch {
	case len(cfg.Command) > 0:
		s.records = &command{cfg.Command}
	case cfg.Server.IsValid():
		s.records = &updates{cfg}
	default:
		return nil, errors.New("make dns-01 solver: neither a server nor a command is given")
	}
	return s, nil
}

// Probe finds out whether a record for a host could be written, so that no
// order is made that must fail. host is a name without "*.".
func (s *Solver) Probe(ctx context.Context, host string) error {
	tell(ctx, "the name server that takes the record of the dns-01 challenge")
	return s.records.probe(ctx, "_acme-challenge."+host)
}

// Present writes the record of a challenge.
func (s *Solver) Present(ctx context.Context, c acme.Challenge) error {
	r := recordOf(c)
	s.mu.Lock()
	s.written[r] = true // before: an update without an answer may have been done
	s.mu.Unlock()
	return s.records.add(ctx, r.name, r.value)
}

// CleanUp removes what Present wrote. A record that stays harms nobody: it is
// logged.
func (s *Solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	r := recordOf(c)
	s.mu.Lock()
	written := s.written[r]
	delete(s.written, r)
	s.mu.Unlock()
	if !written {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	err := s.records.remove(ctx, r.name, r.value)
	if err != nil {
		s.cfg.Log.Warn("record of a challenge is not removed", "name", r.name, "error", err)
	}
	return err
}

// Wait returns when the name servers show the record that Present wrote.
func (s *Solver) Wait(ctx context.Context, c acme.Challenge) error {
	r := recordOf(c)
	servers := s.cfg.NameServers
	if len(servers) == 0 {
		var err error
		if servers, err = s.records.nameServers(ctx, r.name); err != nil {
			return err
		}
	}
	if len(servers) > 0 {
		if err := await(ctx, r, slices.Compact(servers), s.cfg.Propagation); err != nil {
			return err
		}
	}
	tell(ctx, "the authority, to see the TXT record "+r.name)
	return nil
}

func recordOf(c acme.Challenge) record {
	return record{c.DNS01TXTRecordName(), c.DNS01KeyAuthorization()}
}

type progressKey struct{}

// WithProgress has a solver say through the context what it waits for, in
// words that continue "waits for".
func WithProgress(ctx context.Context, progress func(string)) context.Context {
	return context.WithValue(ctx, progressKey{}, progress)
}

func tell(ctx context.Context, what string) {
	if f, ok := ctx.Value(progressKey{}).(func(string)); ok {
		f(what)
	}
}
