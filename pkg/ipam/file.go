// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// fileVersion is raised when the file's meaning changes.
const fileVersion = 1

// stored is the file: small, and readable by a person.
type stored struct {
	Version   int           `json:"version"`
	Addresses []storedEntry `json:"addresses"`
}

type storedEntry struct {
	Addr  netip.Addr `json:"addr"`
	Owner string     `json:"owner"`
	Fixed bool       `json:"fixed,omitempty"`
	Gone  time.Time  `json:"gone,omitzero"`
}

func (p *Pool) load() {
	if p.cfg.Path == "" {
		return
	}
	b, err := os.ReadFile(p.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		p.cfg.Log.Error("read remembered addresses; starting without them", "error", err)
		return
	}
	if err := p.decode(b); err != nil {
		aside := p.cfg.Path + ".corrupt-" + p.cfg.Now().UTC().Format("20060102T150405")
		p.cfg.Log.Error("remembered addresses are corrupt; starting without them",
			"file", p.cfg.Path, "error", err, "moved-to", aside)
		if err := os.Rename(p.cfg.Path, aside); err != nil {
			p.cfg.Log.Error("move the corrupt file aside", "error", err)
		}
	}
}

// decode fills the pool, all or nothing.
func (p *Pool) decode(b []byte) error {
	var f stored
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	if f.Version != fileVersion {
		return fmt.Errorf("version %d, want %d", f.Version, fileVersion)
	}
	entries, owners := map[netip.Addr]entry{}, map[ownerKey]netip.Addr{}
	for _, s := range f.Addresses {
		key := ownerKey{s.Owner, s.Addr.Is4()}
		if _, twice := entries[s.Addr]; twice || !s.Addr.IsValid() || s.Owner == "" {
			return fmt.Errorf("address %q of owner %q: invalid or there twice", s.Addr, s.Owner)
		}
		if a, twice := owners[key]; twice {
			return fmt.Errorf("owner %q has both %s and %s", s.Owner, a, s.Addr)
		}
		entries[s.Addr] = entry{owner: s.Owner, fixed: s.Fixed, gone: s.Gone}
		owners[key] = s.Addr
	}
	p.entries, p.owners = entries, owners
	return nil
}

// save writes the file if the pool changed since it was written. A failure is
// kept for Err, and logged once.
func (p *Pool) save() {
	if !p.dirty || p.cfg.Path == "" {
		return
	}
	err := p.write()
	if err != nil && p.saveErr == nil {
		p.cfg.Log.Error("addresses will be forgotten at a restart", "error", err)
	}
	p.dirty, p.saveErr = err != nil, err
}

func (p *Pool) write() error {
	f := stored{Version: fileVersion}
	for _, a := range p.sorted() {
		e := p.entries[a]
		f.Addresses = append(f.Addresses, storedEntry{Addr: a, Owner: e.owner, Fixed: e.fixed, Gone: e.gone})
	}
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	if err := writeFile(p.cfg.Path, append(b, '\n')); err != nil {
		return fmt.Errorf("save addresses to %s: %w", p.cfg.Path, err)
	}
	return nil
}

// writeFile replaces a file so that after a crash or a power cut either the
// old or the new content is there, whole.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // fails once it has been renamed
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
