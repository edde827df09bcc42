// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestOlder(t *testing.T) {
	for _, tc := range []struct {
		release string
		want    bool
	}{
		{"5.10.0-46-cloud-amd64", true},
		{"6.1.0-56-amd64", true},
		{"6.5-rc3", true},
		{"6.6.0", false},
		{"6.12.117+deb13-cloud-amd64", false},
		{"7.3.4", false},
		{"7", false},
		{"", false},
	} {
		if got := older(tc.release, 6, 6); got != tc.want {
			t.Errorf("older(%q, 6, 6) = %v", tc.release, got)
		}
	}
}

// recorder is a test that notes how it was ended.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(f string, a ...any) { r.end("failed: "+f, a...) }

func (r *recorder) Skipf(f string, a ...any) { r.end("skipped: "+f, a...) }

func (r *recorder) end(f string, a ...any) {
	r.said = fmt.Sprintf(f, a...)
	panic(r)
}

// A probe that fails skips on an old kernel only.
func TestNeeds(t *testing.T) {
	for _, tc := range []struct {
		major int
		err   error
		want  string
	}{
		{3, nil, ""},
		{999, errors.New("no"), "skipped: flux (Linux 999.0)"},
		{3, errors.New("no"), "failed: flux: this kernel"},
	} {
		r := &recorder{TB: t}
		func() {
			defer func() {
				if p := recover(); p != nil && p != any(r) {
					panic(p)
				}
			}()
			Needs(r, Feature{"flux", tc.major, 0, func() error { return tc.err }})
		}()
		if !strings.HasPrefix(r.said, tc.want) || (r.said == "") != (tc.want == "") {
			t.Errorf("since %d, probe says %v: %q, want %q", tc.major, tc.err, r.said, tc.want)
		}
	}
}
