// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/mholt/acmez/v3/acme"
)

const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

func TestUnfitNamesAreNotAskedFor(t *testing.T) {
	for _, tt := range []struct{ host, directory, want string }{
		{"shop.example.com", letsEncrypt, ""},
		{"a.p.fairlead.test", letsEncrypt, "reserved"},
		{"a.p.fairlead.test", "https://10.0.0.1:14000/dir", ""},
		{"test", letsEncrypt, "reserved"},
		{"contest.org", letsEncrypt, ""},
		{"printer", letsEncrypt, "without a dot"},
		{"printer", "https://ca.corp/acme", ""},
		{"db.home.arpa", "https://acme.zerossl.com/v2/DV90", "reserved"},
		{"*.example.com", letsEncrypt, "dns-01"},
		{"192.0.2.1", letsEncrypt, "addresses"},
		{"shop.example.com", "https://evilletsencrypt.org/dir", ""},
	} {
		got := unfit(tt.host, model.ACME{Directory: tt.directory})
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("unfit(%s, %s) = %q, want %q in it", tt.host, tt.directory, got, tt.want)
		}
	}
}

// Five failures in an hour are what Let's Encrypt allows a name.
func TestBackoffStaysWithinTheLimitOfFailures(t *testing.T) {
	k := &keeper{t: &Target{cfg: Config{RetryMin: 15 * time.Second, RetryMax: 6 * time.Hour}}}
	var at time.Duration
	inHour := 0
	var last time.Duration
	for range 40 {
		if at < time.Hour {
			inHour++
		}
		wait := k.backoff(errors.New("no"))
		if wait > 6*time.Hour*11/10 {
			t.Fatalf("wait of %s after %d failures, want 6 h and a tenth at most", wait, k.failures)
		}
		last = wait
		at += wait
		k.failures++
	}
	if inHour > 5 {
		t.Errorf("%d tries in the first hour, want at most 5", inHour)
	}
	if last < 6*time.Hour {
		t.Errorf("last wait is %s, want 6 h", last)
	}
}

func TestLimitsOfTheAuthorityAreKept(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	limit := func(detail string) error {
		return fmt.Errorf("order: %w", acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429, Detail: detail})
	}
	for _, tt := range []struct {
		err  error
		want time.Duration
	}{
		{errors.New("connection refused"), 0},
		{acme.Problem{Type: acme.ProblemTypeUnauthorized, Status: 403}, 0},
		{limit("too many"), time.Hour},
		{limit("too many certificates (5) already issued …, retry after 2026-11-22 12:00:00 UTC: see https://…"), 26 * time.Hour},
		{limit("retry after 2036-11-22 12:00:00 UTC"), 7 * 24 * time.Hour},
		{limit("retry after 2026-11-21 10:00:01 UTC"), time.Hour},
		{limit("retry after 2026-99-21 10:00:01 UTC"), time.Hour},
	} {
		if got := limited(tt.err, now); got != tt.want {
			t.Errorf("limited(%v) = %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": ariUsual, "21600": 6 * time.Hour, "-5": ariUsual, "soon": ariUsual, "0": 0,
		"Sat, 21 Nov 2026 11:00:00 GMT": time.Hour, "99999999999999": ariUsual,
	} {
		h := http.Header{}
		if value != "" {
			h.Set("Retry-After", value)
		}
		if got := retryAfter(h, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", value, got, want)
		}
	}
}

func TestRenewalTime(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	day := 24 * time.Hour
	c := &leaf{tls.Certificate{Leaf: &x509.Certificate{NotBefore: now, NotAfter: now.Add(90 * day)}}}
	for _, tt := range []struct {
		name    string
		advice  time.Time
		ordered time.Time
		want    time.Time
	}{
		{"no advice: a third is left", time.Time{}, time.Time{}, now.Add(60 * day)},
		{"advice", now.Add(70 * day), time.Time{}, now.Add(70 * day)},
		{"advice too late", now.Add(89 * day), time.Time{}, now.Add(90*day - 90*day/20)},
		{"revoked", now.Add(-time.Hour), time.Time{}, now.Add(-time.Hour)},
		{"an authority that always says now", now.Add(-time.Hour), now, now.Add(time.Hour)},
	} {
		k := &keeper{advice: advice{at: tt.advice}, ordered: tt.ordered}
		if got := k.renewal(c); !got.Equal(tt.want) {
			t.Errorf("%s: renewal at %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestStatusIsSortedByDomain(t *testing.T) {
	if compareHosts("b.a.com", "a.b.com") >= 0 || compareHosts("a.com", "x.a.com") >= 0 {
		t.Error("names of one domain do not stand together")
	}
}

// TestD07PlatformHost: the host of the tokens' keys has a certificate where it
// was chosen. The domain of the free names is nobody's order.
func TestD07PlatformHost(t *testing.T) {
	free := []*model.Service{{HTTP: []model.HTTPHost{{Host: "a.b.apps.example.com", TLS: true, Free: true}}}}
	for _, tc := range []struct {
		tokens   model.Tokens
		services []*model.Service
		want     bool
	}{
		{model.Tokens{Host: "apps.example.com"}, nil, false},
		{model.Tokens{Host: "apps.example.com", Own: true}, nil, true},
		{model.Tokens{Host: "apps.example.com"}, free, false},
	} {
		hosts, _ := wanted(&model.State{Settings: model.Settings{Tokens: tc.tokens}, Services: tc.services})
		if hosts["apps.example.com"] != tc.want {
			t.Errorf("%+v with %d services: hosts %v", tc.tokens, len(tc.services), hosts)
		}
	}
}
