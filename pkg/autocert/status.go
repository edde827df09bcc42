// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/autocert/dns01"
	"github.com/mholt/acmez/v3/acme"
)

// State is how a name's certificate stands.
type State string

// The states.
const (
	Waiting State = "waiting" // there is none yet, and no try has failed
	Valid   State = "valid"   // it is served; if Error is set, its renewal failed
	Expired State = "expired" // it is served although it has ended: renewals failed
	Failed  State = "failed"  // there is none, the last try failed, and it is tried again
	Refused State = "refused" // no authority would sign it: it is not ordered
)

// Certificate is what a person is told of one name.
type Certificate struct {
	Host      string   // what it is for: a host, or a wildcard
	Covers    []string // of a wildcard: the names of the state that it serves, sorted
	State     State
	Issuer    string    // of the certificate that is served; empty: none is
	NotBefore time.Time // its dates
	NotAfter  time.Time
	Awaiting  string    // what it waits for at this moment, in words; empty: nothing
	Error     string    // of the last try; empty: it succeeded
	NextTry   time.Time // of the next order; zero: one is under way
}

func (k *keeper) status() Certificate {
	out := Certificate{Host: k.host, State: Waiting}
	k.mu.Lock()
	out.Awaiting, out.NextTry = k.awaiting, k.next
	if k.awaiting != "" {
		out.NextTry = time.Time{}
	}
	if k.err != nil {
		out.State, out.Error = Failed, explain(k.err)
	}
	k.mu.Unlock()
	if c := k.cert.Load(); c != nil {
		out.State = Valid
		if time.Now().After(c.x509().NotAfter) {
			out.State = Expired
		}
		out.Issuer = c.x509().Issuer.CommonName
		out.NotBefore, out.NotAfter = c.x509().NotBefore, c.x509().NotAfter
	}
	return out
}

// explain says what went wrong: an authority's own words without the
// library's frame around them.
func explain(err error) string {
	var problem acme.Problem
	var record *dns01.Problem
	switch {
	case errors.As(err, &record):
		return "dns-01: " + record.Text
	case errors.As(err, &problem):
		kind := strings.TrimPrefix(problem.Type, "urn:ietf:params:acme:error:")
		text := fmt.Sprintf("the authority says %s: %s", kind, problem.Detail)
		for _, sub := range problem.Subproblems {
			text += "; " + sub.Detail
		}
		return text
	case errors.Is(err, context.DeadlineExceeded):
		return "the order took too long: " + err.Error()
	}
	return err.Error()
}

// until is how Let's Encrypt says when a limit ends; the library does not hand
// out the header.
var until = regexp.MustCompile(`retry after (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC`)

// limited is how long an authority's limit lasts, at least an hour and at most
// a week; 0: the error is no limit.
func limited(err error, now time.Time) time.Duration {
	var problem acme.Problem
	if !errors.As(err, &problem) || problem.Type != acme.ProblemTypeRateLimited && problem.Status != http.StatusTooManyRequests {
		return 0
	}
	wait := time.Hour
	if m := until.FindStringSubmatch(problem.Detail); m != nil {
		if t, err := time.Parse(time.DateTime, m[1]); err == nil {
			wait = max(wait, t.Sub(now))
		}
	}
	return min(wait, 7*24*time.Hour)
}
