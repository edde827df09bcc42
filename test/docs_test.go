// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
)

// documents are those that people read first.
var documents = []string{
	"../README.md", "../CHANGELOG.md", "../docs/ARCHITECTURE.md", "../docs/operations.md", "../docs/design/0001-spine.md",
	"../docs/design/0002-stateless.md", "../docs/design/0005-handover.md", "../docs/design/0006-http.md",
	"../docs/design/0007-upgrade.md", "../docs/design/0009-tokens.md", "../docs/design/0010-short-way.md",
}

const operations = "../docs/operations.md"

// TestReasonsAreDocumented: the table in docs/operations.md has a row for
// every reason, with its verdict, and no other.
func TestReasonsAreDocumented(t *testing.T) {
	var want []string
	for _, r := range bpf.Reasons {
		want = append(want, r.Name+" "+string(r.Verdict))
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (forward|pass|drop|answer) \\|")
	var got []string
	for _, m := range row.FindAllStringSubmatch(readFile(t, operations), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	compare(t, operations+", reasons", got, want)
}

// TestMetricsAreDocumented: the same for the metrics of fairlead itself.
func TestMetricsAreDocumented(t *testing.T) {
	reg := metrics.NewRegistry(metrics.Reader{
		Agent: func() metrics.Agent { return metrics.Agent{} },
		Traffic: func() (metrics.Traffic, error) {
			return metrics.Traffic{Packets: []metrics.Packets{{}}, Services: []metrics.Service{{}}}, nil
		},
		Backends: func() []metrics.Backend { return []metrics.Backend{{}} },
		Requests: func() []metrics.Requests {
			return []metrics.Requests{{Codes: map[int]uint64{200: 1}, Bounds: []float64{1}, Durations: []uint64{1, 0}}}
		},
		Router: func() metrics.Router {
			return metrics.Router{Results: []metrics.RouterResult{{}}, Active: map[string]uint64{"": 0}}
		},
		Behind: func() []string { return nil },

		Wakes: func() metrics.Wakes {
			return metrics.Wakes{Asleep: map[string]bool{"": true}, Counts: []metrics.WakeCount{{}}, Times: []metrics.WakeTime{{}}, Replicas: map[string]int{"": 1}}
		},
		Held: func() metrics.Held {
			return metrics.Held{Results: map[string]uint64{"": 0}, DatagramResults: map[string]uint64{"": 0}, By: map[string]uint64{"": 0}}
		},
		Questions:    func() map[string]uint64 { return map[string]uint64{"": 0} },
		Certificates: func() []metrics.Certificate { return []metrics.Certificate{{}} },
	}, metrics.Build{})
	var want []string
	for _, name := range gather(t, reg) {
		if strings.HasPrefix(name, "fairlead_") {
			want = append(want, name)
		}
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(fairlead_[a-z_]+)").FindAllStringSubmatch(readFile(t, operations), -1) {
		got = append(got, m[1])
	}
	compare(t, operations+", metrics", got, want)
}

// TestPackagesAreDocumented: docs/ARCHITECTURE.md has a row for every package
// there is, and for no other.
func TestPackagesAreDocumented(t *testing.T) {
	const doc = "../docs/ARCHITECTURE.md"
	var want []string
	for _, p := range goList(t) {
		name, inPkg := strings.CutPrefix(p.ImportPath, module+"pkg/")
		if inPkg && !testOnly(name) {
			want = append(want, name)
		}
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `pkg/([a-z0-9/]+)` \\|").FindAllStringSubmatch(readFile(t, doc), -1) {
		got = append(got, m[1])
	}
	compare(t, doc, got, want)
}

// TestLinksLeadSomewhere: every relative link and every file of the tree that
// a document names in code exists.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#: ]+)\)`)
	named := regexp.MustCompile("`((?:bpf|cmd|pkg|test|docs|deploy|examples|scripts)/[A-Za-z0-9_./-]+\\.[a-z]+)`")
	for _, doc := range documents {
		text := readFile(t, doc)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			exists(t, doc, filepath.Join(filepath.Dir(doc), m[1]))
		}
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			exists(t, doc, filepath.Join("..", m[1]))
		}
	}
}

func exists(t *testing.T, doc, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s names %s: %v", doc, path, err)
	}
}

func compare(t *testing.T, where string, got, want []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s lacks a row for %q: add it", where, w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%s has a row for %q, which is not there: remove it", where, g)
		}
	}
}

func gather(t *testing.T, reg *prometheus.Registry) []string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(families))
	for i, f := range families {
		names[i] = f.GetName()
	}
	return names
}
