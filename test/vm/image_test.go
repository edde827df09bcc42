// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestSystemTool: a program of the caller's that hides one of the system's, as
// pyenv's python3 does, is not what comes into the guest.
func TestSystemTool(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"sh", "nobodys-tool"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if got := systemTool("sh"); filepath.Base(got) != "sh" || !slices.Contains(filepath.SplitList(toolDirs), filepath.Dir(got)) {
		t.Errorf("sh is %q, wanted that of %s", got, toolDirs)
	}
	if got := systemTool("nobodys-tool"); got != "" {
		t.Errorf("a tool that the system lacks is %q", got)
	}
}
