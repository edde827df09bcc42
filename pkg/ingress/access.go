// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

// accessLog is the log of requests.
type accessLog struct {
	log   *slog.Logger
	oneIn atomic.Uint32 // 0: off
}

// entry is one request as the access log shows it.
type entry struct {
	service, host, method, path, id, proto, agent, trace string
	client                                               netip.Addr
	replica                                              netip.AddrPort
	status                                               int
	took                                                 time.Duration
	sent                                                 int64
	reason                                               string
}

// wants decides before anything is copied for the log.
func (a *accessLog) wants(status int) bool {
	n := a.oneIn.Load()
	return n > 0 && (n == 1 || status >= 500 || rand.Uint32N(n) == 0)
}

func (a *accessLog) write(e *entry) {
	attrs := []slog.Attr{
		slog.String("service", e.service), slog.String("client", e.client.String()), slog.String("method", e.method),
		slog.String("host", e.host), slog.String("path", e.path), slog.String("protocol", e.proto), slog.Int("status", e.status),
		slog.Float64("seconds", e.took.Seconds()), slog.Int64("bytes", e.sent), slog.String("request", e.id),
	}
	if e.replica.IsValid() {
		attrs = append(attrs, slog.String("replica", e.replica.String()))
	}
	for _, opt := range []struct{ key, value string }{{"agent", e.agent}, {"traceparent", e.trace}, {"reason", e.reason}} {
		if opt.value != "" {
			attrs = append(attrs, slog.String(opt.key, opt.value))
		}
	}
	a.log.LogAttrs(context.Background(), slog.LevelInfo, "request", attrs...)
}
