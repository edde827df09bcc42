// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/fairlead-lb/fairlead/bench/report"
)

// mapMemory is what one map takes of the kernel's memory.
type mapMemory struct {
	name    string
	kind    ebpf.MapType
	entries uint64 // it can hold
	bytes   uint64
}

// memory lists the maps this process holds, by the kernel's own account.
func memory() ([]mapMemory, error) {
	fds, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		return nil, fmt.Errorf("list maps: %w", err)
	}
	byID := map[uint64]mapMemory{}
	for _, fd := range fds {
		text, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", fd.Name()))
		if err != nil || !strings.Contains(string(text), "map_id:") {
			continue // closed meanwhile, or no map
		}
		m, id, err := describe(string(text))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		byID[id] = m
	}
	var out []mapMemory
	for _, m := range byID {
		if strings.HasPrefix(m.name, "fl_") {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b mapMemory) int { return int(int64(b.bytes) - int64(a.bytes)) })
	return out, nil
}

// describe reads a map's fdinfo.
func describe(text string) (mapMemory, uint64, error) {
	fields := map[string]uint64{}
	for l := range strings.Lines(text) {
		var (
			key string
			n   uint64
		)
		if _, err := fmt.Sscan(strings.Replace(l, ":", " ", 1), &key, &n); err == nil {
			fields[key] = n
		}
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(fields["map_id"]))
	if err != nil {
		return mapMemory{}, 0, fmt.Errorf("open map %d: %w", fields["map_id"], err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return mapMemory{}, 0, fmt.Errorf("ask for map %d: %w", fields["map_id"], err)
	}
	return mapMemory{name: info.Name, kind: info.Type, entries: fields["max_entries"], bytes: fields["memlock"]}, fields["map_id"], nil
}

// memory prints what the maps of a world take.
func (b *bench) memory(what string) error {
	maps, err := memory()
	if err != nil {
		return err
	}
	t := report.Table{Title: "Memory of the maps, " + what, Head: []string{"map", "kind", "entries", "MiB", "bytes per entry"}}
	for _, m := range maps {
		if m.bytes < 1<<20 {
			continue
		}
		each := float64(m.bytes) / float64(max(m.entries, 1))
		t.Add(m.name, m.kind.String(), report.Number(int(m.entries)), fmt.Sprintf("%.1f", float64(m.bytes)/(1<<20)), fmt.Sprintf("%.0f", each))
		b.rows = append(b.rows, report.Row{Case: "memory, " + what, Subject: m.name, Value: each, Unit: "bytes per entry", Rounds: 1})
	}
	t.Notes = append(t.Notes, "entries are the map's size; a hash without preallocation takes memory for what it holds")
	t.Print(b.w)
	return nil
}
