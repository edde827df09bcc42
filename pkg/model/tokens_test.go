// SPDX-License-Identifier: Apache-2.0

package model

import "testing"

// TestTokensTLS: the platform's host has a certificate only where somebody asks
// for one there, or names below it have theirs.
func TestTokensTLS(t *testing.T) {
	host := func(free, tls bool) []*Service { return []*Service{{HTTP: []HTTPHost{{Free: free, TLS: tls}}}} }
	for _, tc := range []struct {
		name     string
		tokens   Tokens
		services []*Service
		want     bool
	}{
		{"nothing", Tokens{}, host(true, true), false},
		{"domain alone", Tokens{Host: "a.test"}, nil, false},
		{"own host", Tokens{Host: "a.test", Own: true}, nil, true},
		{"free names", Tokens{Host: "a.test"}, host(true, true), true},
		{"free names without TLS", Tokens{Host: "a.test"}, host(true, false), false},
		{"other names", Tokens{Host: "a.test"}, host(false, true), false},
	} {
		s := &State{Settings: Settings{Tokens: tc.tokens}, Services: tc.services}
		if got := s.TokensTLS(); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
