// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// formerMaps are those of earlier versions that no program has any more.
var formerMaps = []string{"fl_clients"}

// unpinFormer lets go of them. An agent of an earlier version that still runs
// keeps its own.
func (o *Objects) unpinFormer() error {
	if o.cfg.PinDir == "" {
		return nil
	}
	for _, name := range formerMaps {
		if err := os.Remove(filepath.Join(o.cfg.PinDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin a map of an earlier version: %w", err)
		}
	}
	return nil
}

// Remove unpins every map and program in dir and lists what it removed. A
// directory that is not there holds nothing.
func Remove(dir string) (removed []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("remove pin: %w", err))
			continue
		}
		removed = append(removed, "pin "+e.Name())
	}
	return removed, errors.Join(errs...)
}
