// SPDX-License-Identifier: Apache-2.0

// Package rollout says which replicas of a workload to start and to stop, how
// they are numbered, and how long one that ended waits for its next start. It
// starts and stops nothing itself.
package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Candidate is a replica of one workload, not stopping, as Plan sees it.
type Candidate struct {
	ID      string
	Current bool // runs what is wanted now
	Ready   bool
	Since   time.Time // it was started; may be unknown
}

// Plan says how many replicas to start and which to stop so that n current
// ones run in the end. Old ones stay until as many new ones are ready; those
// that do not serve go at once. Of those that serve and are too many the ones
// started first go, by Since and then in the order of have.
func Plan(n int, have []Candidate) (start int, stop []string) {
	var current, old []Candidate
	ready := 0
	for _, c := range have {
		if !c.Current {
			old = append(old, c)
			continue
		}
		current = append(current, c)
		if c.Ready {
			ready++
		}
	}
	surplus := len(current) - n
	for i := len(current) - 1; i >= 0 && surplus > 0; i-- { // first those that do not serve
		if !current[i].Ready {
			stop = append(stop, current[i].ID)
			surplus--
		}
	}
	slices.SortStableFunc(current, func(a, b Candidate) int { return a.Since.Compare(b.Since) })
	for _, c := range current {
		if c.Ready && surplus > 0 {
			stop = append(stop, c.ID)
			surplus--
			ready--
		}
	}
	keep := n - ready
	for _, c := range old {
		if c.Ready && keep > 0 {
			keep--
			continue
		}
		stop = append(stop, c.ID)
	}
	return max(0, n-len(current)), stop
}

// Why says in words why Plan stops a replica: of a workload that is wanted or
// not, a current one or not.
func Why(wanted, current bool) string {
	switch {
	case !wanted:
		return "no longer in the config"
	case !current:
		return "replaced by a replica of the new config"
	}
	return "more replicas than wanted"
}

// FreeID is PROJECT.USER.N with the lowest N that is not taken.
func FreeID(name model.ServiceName, taken func(id string) bool) string {
	for n := 1; ; n++ {
		if id := fmt.Sprintf("%s.%s.%d", name.Project, name.User, n); !taken(id) {
			return id
		}
	}
}

// CompareIDs orders the replicas of one workload by number.
func CompareIDs(a, b string) int { return cmp.Compare(number(a), number(b)) }

func number(id string) int {
	n, _ := strconv.Atoi(id[strings.LastIndexByte(id, '.')+1:])
	return n
}

// Backoff is how long a replica that ended waits for its next start: Min,
// doubled up to Max, and Min again after a run that was good for Reset.
type Backoff struct{ Min, Max, Reset time.Duration }

// Default fills in what is zero: 100 ms, 30 s, 10 s.
func (b Backoff) Default() Backoff {
	return Backoff{cmp.Or(b.Min, 100*time.Millisecond), cmp.Or(b.Max, 30*time.Second), cmp.Or(b.Reset, 10*time.Second)}
}

// Next is the wait after one of last; ready is how long the replica that ended
// had served, negative if it never did.
func (b Backoff) Next(last, ready time.Duration) time.Duration {
	if last == 0 || ready >= b.Reset {
		return b.Min
	}
	return min(2*last, b.Max)
}

// defaultRunDir is what a host's agent keeps its run directory in.
const defaultRunDir = "/run/fairlead/"

// Owner names what belongs to the agent of a run directory: "fairlead" for the
// host's own. Agents that run elsewhere (those of tests) have a name of their
// own, so that agents side by side may run services of the same name.
func Owner(runDir string) string {
	if strings.HasPrefix(runDir+"/", defaultRunDir) {
		return "fairlead"
	}
	sum := sha256.Sum256([]byte(runDir))
	return "fairlead-" + hex.EncodeToString(sum[:3])
}
