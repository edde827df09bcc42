// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExamplesCheck runs the command a reader is told to run, `fairlead
// check`, over every example and every whole config in the documents.
func TestExamplesCheck(t *testing.T) {
	fairlead := buildFairlead(t)
	for _, path := range configs(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			out, err := exec.Command(fairlead, "check", "--config", path).CombinedOutput()
			if err != nil {
				t.Fatalf("fairlead check: %v\n%s", err, out)
			}
			if want := path + " is valid: "; !strings.HasPrefix(string(out), want) {
				t.Errorf("fairlead check says %q, want it to begin with %q", out, want)
			}
		})
	}
}

// TestExamplesSayWhatTheyAre: a licence, and a comment that a person can read
// before the first key.
func TestExamplesSayWhatTheyAre(t *testing.T) {
	for _, path := range examples(t) {
		head, _, _ := strings.Cut(readFile(t, path), "\n\n")
		if !strings.HasPrefix(head, "# SPDX-License-Identifier: Apache-2.0\n#\n# ") {
			t.Errorf("%s begins with %q, want the SPDX line, \"#\" and what the example shows", path, head)
		}
	}
}

// buildFairlead builds the command into a directory of the test.
func buildFairlead(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/fairlead")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// examples lists the files in examples/.
func examples(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("examples are %q (%v), want quickstart.yaml and more", paths, err)
	}
	return paths
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// configs lists the examples, and a copy of each block of the documents that
// is a whole config: one that has services.
func configs(t *testing.T) []string {
	t.Helper()
	paths := examples(t)
	for _, doc := range documents {
		for i, block := range yamlBlock.FindAllStringSubmatch(readFile(t, doc), -1) {
			if !regexp.MustCompile(`(?m)^services:`).MatchString(block[1]) {
				continue
			}
			path := filepath.Join(t.TempDir(), filepath.Base(doc)+"-"+string(rune('a'+i))+".yaml")
			if err := os.WriteFile(path, []byte(block[1]), 0o644); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
	}
	return paths
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
