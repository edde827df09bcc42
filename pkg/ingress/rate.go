// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// charged is whose connection to which service was counted last.
type charged struct {
	mu      sync.Mutex // of HTTP/2's streams
	service *service
	client  netip.Addr
}

// charge applies the rate of a service to a verdict that would have it work:
// a connection counts once, with its first request to the service; that of a
// trusted proxy each time it goes over to another client. Who is refused wakes
// nobody (row D13).
func (s *session) charge(v *verdict, client netip.Addr) {
	r := v.route
	if r == nil || r.rate.PerSecond == 0 || v.redirect || v.fault.code != 0 && !v.wake {
		return
	}
	s.paid.mu.Lock()
	defer s.paid.mu.Unlock()
	if s.paid.service == r.service && s.paid.client == client {
		return
	}
	wait := s.t.ledger.Admit(r.service.text, client, r.rate.PerSecond, r.rate.Burst, time.Now())
	if wait == 0 {
		s.paid.service, s.paid.client = r.service, client
		return
	}
	v.wake, v.empty = false, false
	v.fault = fault{
		code: http.StatusTooManyRequests, retry: int((wait + time.Second - 1) / time.Second),
		reason: fmt.Sprintf("too many connections from %s: this service takes %d a second of a client, %d at once", client, r.rate.PerSecond, max(r.rate.Burst, 1)),
	}
}
