// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
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

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// ErrUnknownAddress is returned for a drain of an address no service has.
var ErrUnknownAddress = errors.New("unknown address")

// DrainsConfig is what Drains needs.
type DrainsConfig struct {
	Path string       // of the file that keeps the drains over restarts
	Log  *slog.Logger // default slog.Default()
}

// Drains is the operator's drains: a source.Source of conditions. Safe for
// concurrent use.
type Drains struct {
	cfg DrainsConfig

	mu      sync.Mutex
	set     []drain // sorted
	publish func(source.Part)
}

type drain struct {
	Addr netip.Addr `json:"address"`
	Port uint16     `json:"port,omitempty"` // container port; 0: every port
}

func (d drain) String() string {
	if d.Port == 0 {
		return d.Addr.String()
	}
	return netip.AddrPortFrom(d.Addr, d.Port).String()
}

func (d drain) compare(o drain) int {
	if c := d.Addr.Compare(o.Addr); c != 0 {
		return c
	}
	return int(d.Port) - int(o.Port)
}

type drainsFile struct {
	Drains []drain `json:"drains"`
}

// NewDrains reads the drains that were kept. A file that cannot be understood
// is moved aside and reported: it must not keep the agent from starting.
func NewDrains(cfg DrainsConfig) (*Drains, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	d := &Drains{cfg: cfg}
	data, err := os.ReadFile(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read drains: %w", err)
	}
	var f drainsFile
	if err := json.Unmarshal(data, &f); err != nil {
		aside := cfg.Path + ".invalid"
		cfg.Log.Error("drains are lost: the file that keeps them is invalid", "file", cfg.Path, "movedTo", aside, "error", err)
		if err := os.Rename(cfg.Path, aside); err != nil {
			return nil, fmt.Errorf("move invalid drains aside: %w", err)
		}
		return d, nil
	}
	d.set = slices.DeleteFunc(f.Drains, func(x drain) bool { return !x.Addr.IsValid() })
	slices.SortFunc(d.set, drain.compare)
	d.set = slices.Compact(d.set)
	return d, nil
}

// Name of the source.
func (d *Drains) Name() string { return "operator" }

// Run publishes the drains at once and after every change.
func (d *Drains) Run(ctx context.Context, publish func(source.Part)) error {
	d.mu.Lock()
	d.publish = publish
	publish(part(d.set))
	d.mu.Unlock()
	<-ctx.Done()
	d.mu.Lock()
	d.publish = nil
	d.mu.Unlock()
	return nil
}

// List names the drained addresses.
func (d *Drains) List() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]string, len(d.set))
	for i, x := range d.set {
		out[i] = x.String()
	}
	return out
}

// Set starts a drain, or ends it, and keeps it in the file before it takes
// effect. state tells what is known. The result lists the services that have
// the address; their flows are the caller's to count. An address no service
// has is ErrUnknownAddress.
func (d *Drains) Set(state *model.State, r DrainRequest) (DrainResult, error) {
	x, err := parseDrain(r.Address)
	if err != nil {
		return DrainResult{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at, there := slices.BinarySearchFunc(d.set, x, drain.compare)
	next := slices.Clone(d.set)
	switch {
	case r.Undo && !there:
		return DrainResult{}, fmt.Errorf("%w: %s is not drained: %s", ErrUnknownAddress, x, knownNames(names(d.set), "nothing is"))
	case r.Undo:
		next = slices.Delete(next, at, at+1)
	default:
		if err := known(state, x); err != nil {
			return DrainResult{}, err
		}
		if !there {
			next = slices.Insert(next, at, x)
		}
	}
	res := DrainResult{Address: x.String(), Draining: !r.Undo, Changed: r.Undo || !there}
	if res.Changed {
		if err := save(d.cfg.Path, drainsFile{Drains: list(next)}); err != nil {
			return DrainResult{}, fmt.Errorf("keep drains: %w", err)
		}
		d.set = next
		if d.publish != nil {
			d.publish(part(next))
		}
	}
	res.Services = affected(state, x, next)
	return res, nil
}

func part(set []drain) source.Part {
	p := source.Part{Conditions: make([]source.Condition, len(set))}
	for i, x := range set {
		p.Conditions[i] = source.Condition{Addr: x.Addr, Port: x.Port, Condition: model.Draining}
	}
	return p
}

func names(set []drain) []string {
	out := make([]string, len(set))
	for i, x := range set {
		out[i] = x.String()
	}
	return out
}

func parseDrain(s string) (drain, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return drain{Addr: a.Unmap()}, nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return drain{Addr: ap.Addr().Unmap(), Port: ap.Port()}, nil
	}
	return drain{}, fmt.Errorf("address %q: want ADDRESS or ADDRESS:PORT, as 10.1.0.2, 10.1.0.2:8090 or [fd00::2]:8090", s)
}

// known tells why nothing would be drained; nil if something would.
func known(state *model.State, x drain) error {
	var addrs, ports []string
	for i := range state.Services {
		svc := state.Services[i]
		for _, b := range svc.Backends {
			for _, a := range b.Addrs() {
				addrs = append(addrs, a.String())
				if a != x.Addr {
					continue
				}
				if has(svc, x.Port) {
					return nil
				}
				for _, p := range svc.Ports {
					ports = append(ports, fmt.Sprint(p.Container))
				}
			}
		}
	}
	if len(ports) > 0 {
		return fmt.Errorf("%w: replica %s has no container port %d: %s", ErrUnknownAddress, x.Addr, x.Port, knownNames(ports, "it has none"))
	}
	return fmt.Errorf("%w: no service has a replica at %s: %s", ErrUnknownAddress, x.Addr, knownNames(addrs, "there are no replicas at all"))
}

func has(svc *model.Service, port uint16) bool {
	return port == 0 || slices.ContainsFunc(svc.Ports, func(p model.Port) bool { return p.Container == port })
}

// affected lists the services with the address and how many replicas they have
// left once set is in force.
func affected(state *model.State, x drain, set []drain) []DrainedService {
	out := []DrainedService{}
	for i := range state.Services {
		svc := state.Services[i]
		hit, left := false, 0
		for _, b := range svc.Backends {
			hit = hit || slices.Contains(b.Addrs(), x.Addr) && has(svc, x.Port)
			drained := slices.ContainsFunc(set, func(y drain) bool {
				return slices.Contains(b.Addrs(), y.Addr) && has(svc, y.Port)
			})
			if b.Condition != model.Down && !drained {
				left++
			}
		}
		if hit {
			out = append(out, DrainedService{Service: svc.Name.String(), Left: left, Drain: svc.Drain.String()})
		}
	}
	return out
}

// knownNames says what is there, shortened, or none.
func knownNames(all []string, none string) string {
	const most = 8
	all = slices.Clone(all)
	slices.Sort(all)
	all = slices.Compact(all)
	switch {
	case len(all) == 0:
		return none
	case len(all) > most:
		return fmt.Sprintf("there are %s and %d more", strings.Join(all[:most], ", "), len(all)-most)
	}
	return "there is " + strings.Join(all, ", ")
}

// save replaces the file whole: a crash leaves the old one or the new one.
func save(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".drains-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // no-op once renamed
	_, err = tmp.Write(append(data, '\n'))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
