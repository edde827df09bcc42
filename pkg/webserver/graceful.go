// SPDX-License-Identifier: Apache-2.0

package webserver

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Graceful serves a listener and ends without leaving a client unanswered.
// http.Server.Shutdown is not for that: once it has begun, a connection whose
// first request comes is closed without an answer (net/http, conn.serve).
type Graceful struct {
	l    net.Listener
	http *http.Server
	over chan struct{} // closed once nothing is accepted any more

	mu     sync.Mutex
	ending bool
	busy   map[net.Conn]struct{} // connections that may wait for an answer
	quiet  chan struct{}         // closed at the moment there is none, once ending
}

// NewGraceful takes the server over, its ConnState too, and the listener.
func NewGraceful(srv *http.Server, l net.Listener) *Graceful {
	g := &Graceful{l: l, http: srv, over: make(chan struct{}), busy: make(map[net.Conn]struct{}), quiet: make(chan struct{})}
	srv.ConnState = g.changed
	return g
}

// Serve answers until End, once; an error is the reason why it ended by itself.
func (g *Graceful) Serve() error {
	defer close(g.over)
	err := g.http.Serve(g.l)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending {
		return nil
	}
	return err
}

// changed is the http.Server's ConnState. The server calls it for a new
// connection before it accepts the next one.
func (g *Graceful) changed(c net.Conn, to http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch to {
	case http.StateNew, http.StateActive:
		g.busy[c] = struct{}{}
	case http.StateIdle, http.StateHijacked, http.StateClosed:
		delete(g.busy, c)
	}
	g.calmLocked()
}

func (g *Graceful) calmLocked() {
	if !g.ending || len(g.busy) > 0 {
		return
	}
	select {
	case <-g.over: // what is accepted is known
	default:
		return
	}
	select {
	case <-g.quiet:
	default:
		close(g.quiet)
	}
}

// refuse stops accepting.
func (g *Graceful) refuse() {
	g.mu.Lock()
	g.ending = true
	g.mu.Unlock()
	_ = g.l.Close()
}

// End stops accepting, gives the connections there are that much time for their
// request and its answer, and closes them. It waits for all of that; Serve must
// have been called, and returns nil.
func (g *Graceful) End(within time.Duration) {
	g.refuse()
	g.http.SetKeepAlivesEnabled(false) // an answer is the last of its connection
	<-g.over
	g.mu.Lock()
	g.calmLocked()
	g.mu.Unlock()
	select {
	case <-g.quiet:
	case <-time.After(within):
	}
	_ = g.http.Close()
}
