// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"os"
	"path/filepath"
	"testing"
)

// What an earlier version pinned and no program has any more does not stay for
// ever; the rest does.
func TestUnpinFormer(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"fl_clients", lbMapFlFlows} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := &Objects{cfg: Config{PinDir: dir}}
	for range 2 {
		if err := o.unpinFormer(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != lbMapFlFlows {
		t.Errorf("left are %v, want %s alone", left, lbMapFlFlows)
	}
}
