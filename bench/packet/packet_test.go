// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
)

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(childEnv) == "" {
		if err := inNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, "run in a namespace:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The benchmark's cases send what they say: each makes sure by the counters.
// The figures of so short a run mean nothing.
func TestCasesAreWhatTheySay(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("bench/packet loads BPF programs: run it as root")
		}
		t.Skip("it loads BPF programs and needs root")
	}
	out := filepath.Join(t.TempDir(), "packet.json")
	err := run(config{
		rounds: 1, sample: time.Millisecond, services: 1, flows: "64", patience: time.Minute,
		only: "one,six,replies,new,full-nat,churn", out: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var rows []report.Row
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Unit == unitGross && (r.Value <= 0 || r.Rounds < 1) {
			t.Errorf("%s, %s: %v %s in %d rounds", r.Case, r.Subject, r.Value, r.Unit, r.Rounds)
		}
	}
	if len(rows) < 30 {
		t.Errorf("%d figures, want all of them", len(rows))
	}
}
