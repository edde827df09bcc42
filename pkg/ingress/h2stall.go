// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"io"
	"net/http"
	"sync/atomic"
)

// stall bounds how long the client of a stream may take no byte of its answer,
// or send none of its body, as in HTTP/1. The connection's own limits see only
// whether anything moves on it: one stream may be stuck beside others.
type stall struct {
	t           *Target
	rc          *http.ResponseController
	read, write watch
	shards      [2]*shard
	late        atomic.Bool // the body of the request was given up
}

// guardStream bounds the stream of an answer until release.
func (t *Target) guardStream(w http.ResponseWriter) *stall {
	g := &stall{t: t, rc: http.NewResponseController(w)}
	// A deadline in the past ends a read at once, and resets the stream of a
	// write. Errors tell of a stream that has ended.
	g.read.expire = func(phase) {
		g.late.Store(true)
		_ = g.rc.SetReadDeadline(past)
	}
	g.write.expire = func(phase) { _ = g.rc.SetWriteDeadline(past) }
	g.shards = [2]*shard{t.clock.add(&g.read), t.clock.add(&g.write)}
	return g
}

// release is called before the handler ends: no limit expires after it.
func (g *stall) release() {
	g.shards[0].remove(&g.read)
	g.shards[1].remove(&g.write)
}

// guardedBody bounds the waits for a request's body.
type guardedBody struct {
	io.ReadCloser
	g *stall
}

// Read waits for the client.
func (b *guardedBody) Read(p []byte) (int, error) {
	b.g.read.arm(b.g.t.clock, onClient, b.g.t.cfg.Limits.Stall)
	n, err := b.ReadCloser.Read(p)
	b.g.read.disarm()
	return n, err
}

// writePiece is how much of an answer a client must take within the limit: a
// frame.
const writePiece = 16 << 10

// writeTo writes within the limit.
func (g *stall) writeTo(w io.Writer, b []byte) (n int, err error) {
	for first := true; first || n < len(b); first = false {
		g.write.arm(g.t.clock, onClient, g.t.cfg.Limits.Stall)
		m, err := w.Write(b[n:min(n+writePiece, len(b))])
		g.write.disarm()
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// flush does the same with what was written already.
func (g *stall) flush() error {
	g.write.arm(g.t.clock, onClient, g.t.cfg.Limits.Stall)
	defer g.write.disarm()
	return g.rc.Flush()
}
