// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// Bounds on what an authority says of when to ask again (RFC 9773 section 4.3).
const (
	ariOften  = time.Minute
	ariUsual  = 6 * time.Hour
	ariSeldom = 24 * time.Hour
)

// errNoAdvice is returned by an authority that has no renewal information.
var errNoAdvice = errors.New("the authority gives no renewal information")

// advice is what the authority says of one certificate: when to renew it, in a
// window that lies in the past for one that it revoked.
type advice struct {
	at    time.Time // in the window, chosen at random
	again time.Time // when to ask anew
}

// advise asks for a certificate's renewal information (RFC 9773). The library
// asks, too, but refuses a window of one second, which Pebble gives for a
// revoked certificate, and asks three times when it is refused.
func (a *authority) advise(ctx context.Context, l *leaf) (advice, error) {
	select {
	case a.advisor.slots <- struct{}{}:
		defer func() { <-a.advisor.slots }()
	case <-ctx.Done():
		return advice{}, ctx.Err()
	}
	url, err := a.renewalInfo(ctx)
	if err != nil {
		return advice{}, err
	}
	id, err := acme.ARIUniqueIdentifier(l.x509())
	if err != nil {
		return advice{}, fmt.Errorf("identify certificate: %w", err)
	}
	var info struct {
		SuggestedWindow struct{ Start, End time.Time }
	}
	header, err := a.read(ctx, url+"/"+id, &info)
	if err != nil {
		return advice{}, fmt.Errorf("read renewal information: %w", err)
	}
	w := info.SuggestedWindow
	if w.Start.IsZero() || !w.End.After(w.Start) {
		return advice{}, fmt.Errorf("renewal information has the window %s to %s, want one that ends after its start", w.Start, w.End)
	}
	return advice{
		at:    w.Start.Add(rand.N(w.End.Sub(w.Start))),
		again: time.Now().Add(min(max(retryAfter(header, time.Now()), ariOften), ariSeldom)),
	}, nil
}

// advisor is what questions about renewals share.
type advisor struct {
	slots chan struct{} // bounds them: after a start every name has one
	mu    *sync.Mutex
	url   string
	until time.Time // when url is looked up anew
}

func newAdvisor() advisor {
	return advisor{slots: make(chan struct{}, ordersAtOnce), mu: new(sync.Mutex)}
}

// renewalInfo is the URL that the directory names.
func (a *authority) renewalInfo(ctx context.Context) (string, error) {
	v := &a.advisor
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Now().Before(v.until) {
		return v.url, nil
	}
	var directory struct {
		RenewalInfo string `json:"renewalInfo"`
	}
	if _, err := a.read(ctx, a.directory, &directory); err != nil {
		return "", fmt.Errorf("read directory: %w", err)
	}
	if directory.RenewalInfo == "" {
		return "", errNoAdvice
	}
	v.url, v.until = directory.RenewalInfo, time.Now().Add(ariUsual)
	return v.url, nil
}

// read fetches a small JSON document.
func (a *authority) read(ctx context.Context, url string, to any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	const most = 1 << 20
	return resp.Header, json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(to)
}

// retryAfter reads the header of that name (RFC 9110 section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 1<<31 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return t.Sub(now)
	}
	return ariUsual
}
