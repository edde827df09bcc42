// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Kinds of use.
const (
	UseRequest   = "request"
	UseWebSocket = "websocket"
	UseHTTP2     = "http2"
)

// Use is a request under way, or an open WebSocket: the service must not sleep.
type Use struct {
	Kind   string     // one of the above
	Client netip.Addr // that the connection is from; a proxy of the client's, if it has one
	Since  time.Time  // of the request; HTTP/2: zero
}

// Uses lists the requests and WebSockets of a service, in no order.
func (t *Target) Uses(name model.ServiceName) (out []Use) {
	t.smu.Lock()
	defer t.smu.Unlock()
	now, clock := time.Now(), t.clock.coarse.Load()
	for s := range t.sessions {
		svc := s.serving.Load()
		if svc == nil || svc.name != name {
			continue
		}
		u := Use{Kind: UseRequest, Client: s.peer}
		if s.streams.Load() > 0 {
			u.Kind = UseHTTP2
		} else {
			u.Since = now.Add(-time.Duration(clock - s.waits.Load()))
		}
		if s.tunnel.Load() != nil {
			u.Kind = UseWebSocket
		}
		out = append(out, u)
	}
	return out
}

// enter notes a request of HTTP/2 on a connection, which may have several; of
// these the last one's service is told of.
func (s *session) enter(svc *service) {
	s.streams.Add(1)
	s.serving.Store(svc)
}

func (s *session) leave() {
	if s.streams.Add(-1) == 0 {
		s.serving.Store(nil)
	}
}
