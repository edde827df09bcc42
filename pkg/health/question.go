// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Used where a source leaves them zero; package source/file never does.
const (
	defaultInterval = 2 * time.Second
	defaultTimeout  = time.Second
	defaultRise     = 2
	defaultFall     = 3
)

// question is a service's health check, complete and ready to be asked.
type question struct {
	model.HealthCheck
	target string // of the HTTP request
}

func newQuestion(h model.HealthCheck) *question {
	if h.Interval <= 0 {
		h.Interval = defaultInterval
	}
	if h.Timeout <= 0 {
		h.Timeout = defaultTimeout
	}
	h.Timeout = min(h.Timeout, h.Interval)
	if h.Rise <= 0 {
		h.Rise = defaultRise
	}
	if h.Fall <= 0 {
		h.Fall = defaultFall
	}
	q := &question{HealthCheck: h}
	if h.Type == "http" {
		q.target = target(h.Path)
	}
	return q
}

// target escapes what a path must not hold on the wire, line ends first of all.
func target(path string) string {
	if u, err := url.ParseRequestURI(path); err == nil && u.Host == "" {
		return u.RequestURI()
	}
	return (&url.URL{Path: "/" + strings.TrimPrefix(path, "/")}).RequestURI()
}

// same tells whether the answer to the one is an answer to the other: only
// their pace may differ.
func (q *question) same(o *question) bool {
	return q.Type == o.Type && q.target == o.target && slices.Equal(q.Status, o.Status)
}

func (q *question) equal(o *question) bool {
	return q.same(o) && q.Interval == o.Interval && q.Timeout == o.Timeout && q.Rise == o.Rise && q.Fall == o.Fall
}

// accepts tells whether a status code is that of a fit replica.
func (q *question) accepts(code int) bool {
	if len(q.Status) == 0 {
		return code >= 200 && code <= 399
	}
	return slices.Contains(q.Status, code)
}

// wanted is what accepts accepts.
func (q *question) wanted() string {
	if len(q.Status) == 0 {
		return "200–399"
	}
	s := fmt.Sprint(q.Status[0])
	for i, code := range q.Status[1:] {
		if i == len(q.Status)-2 {
			s += " or "
		} else {
			s += ", "
		}
		s += fmt.Sprint(code)
	}
	return s
}

// request is what is sent to a replica. Its address is the Host, as in the
// probes of Kubernetes: a replica is asked, not a site. The connection is
// closed after the answer, so that every check also proves that the replica
// accepts connections, and none is held open at every replica for ever.
func (q *question) request(to netip.AddrPort) []byte {
	host := to.String()
	if to.Port() == 80 {
		host = to.Addr().String()
		if to.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	b := make([]byte, 0, 256)
	b = append(b, "GET "...)
	b = append(b, q.target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	return append(b, "\r\nUser-Agent: fairlead-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"...)
}

// pace is the time from one check to the next while nothing is known: a
// replica that was dead when it was first seen must not get connections for
// fall whole intervals.
func (q *question) pace() time.Duration {
	return max(q.Interval/4, min(q.Interval, 100*time.Millisecond))
}
