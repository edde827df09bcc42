// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"net/netip"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// table is everything a request is decided by. It never changes; a change of
// state is another table.
type table struct {
	hosts   map[string]*host // by name in lower case, without the trailing dot
	wild    map[string]*host // of *.PARENT, by PARENT
	others  map[string]string
	trusted []netip.Prefix
	keys    *host  // the platform's, where its keys are; nil: none
	https   string // ":PORT" of redirects; empty: 443
	secure  bool   // there is an HTTPS listener
}

// host is one name with its paths.
type host struct {
	name     string
	tls      bool
	redirect bool
	routes   map[string]*route // by path prefix
	longest  int               // of the prefixes, in bytes
	only     *route            // of "/", if there is no other path
}

// route is one path of a host.
type route struct {
	prefix  string // canonical; "/", or without a slash at the end
	service *service
	port    uint16
	socket  bool // WebSocket is allowed
	strip   bool
	rewrite *regexp.Regexp
	target  string
	pool    *pool
	// lacking is the answer when the pool is empty; its code 0: the
	// placeholder.
	lacking fault
	wakes   bool          // the service sleeps, and a request wakes it
	page    time.Duration // how long a person's page is held for that
	runs    bool          // fairlead runs its replicas
	allow   []netip.Prefix
	drain   time.Duration
}

// service is what is counted of one service; it outlives tables.
type service struct {
	name   model.ServiceName
	text   string
	stats  stats
	active atomic.Int64 // requests and WebSockets under way
}

// lookup finds a host by its name in lower case.
func (t *table) lookup(name []byte) *host {
	if h := t.hosts[string(name)]; h != nil {
		return h
	}
	if len(t.wild) > 0 {
		if i := bytes.IndexByte(name, '.'); i > 0 {
			return t.wild[string(name[i+1:])]
		}
	}
	return nil
}

// match finds the longest prefix of whole segments. The path is canonical.
func (h *host) match(path []byte) *route {
	if h.only != nil {
		return h.only
	}
	if len(path) > h.longest {
		// No prefix is longer, so the first end to try is at or before longest.
		end := bytes.LastIndexByte(path[:h.longest+1], '/')
		path = path[:max(end, 0)]
	}
	for len(path) > 1 {
		if r := h.routes[string(path)]; r != nil {
			return r
		}
		path = path[:max(bytes.LastIndexByte(path, '/'), 0)]
	}
	return h.routes["/"]
}

// isTrusted tells whether what the peer says of the client is believed.
func (t *table) isTrusted(peer netip.Addr) bool {
	return contains(t.trusted, peer)
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
