// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// query is what a request is decided by, whatever engine reads it.
type query struct {
	host   []byte // in lower case, without port and trailing dot
	path   []byte // as it came
	secure bool   // it came over TLS
	tls    *tls.Conn
	socket bool // it asks for an upgrade to WebSocket
	person bool // it asks for a page to look at
	client netip.Addr
}

// verdict is what becomes of a request: the route that forwards it, or an
// answer. host and route are set as far as they are known.
type verdict struct {
	host     *host
	route    *route
	fault    fault
	redirect bool // to HTTPS
	empty    bool // the placeholder
	keys     bool // the platform's keys
	wake     bool // the service sleeps; fault is what to say if it does not wake
	lacks    bool // fairlead runs the replicas, and there is none: fault is what to say if nobody knows why
}

// lowerHost writes the host of a Host header in lower case, without port and
// trailing dot.
func lowerHost(dst, value []byte) []byte {
	name, _ := http1.HostName(value)
	if n := len(name); n > 1 && name[n-1] == '.' {
		name = name[:n-1]
	}
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// decide is the one place that says what becomes of a request.
func (t *table) decide(q *query, certs Certificates) (v verdict) {
	v.host = t.lookup(q.host)
	if v.host == nil {
		if kind, known := t.others[string(q.host)]; known {
			v.fault = fault{code: http.StatusMisdirectedRequest, reason: fmt.Sprintf("%s is served to %s clients, on another port", q.host, kind)}
			return v
		}
		v.fault = fault{code: http.StatusNotFound, reason: fmt.Sprintf("no service has the host name %s", q.host)}
		return v
	}
	if v.fault = t.checkTLS(q, v.host, certs); v.fault.code != 0 {
		return v
	}
	if v.host == t.keys && string(q.path) == keysPath {
		v.keys = true
		return v
	}
	r, ambiguous := v.host.find(q.path)
	switch {
	case ambiguous:
		v.fault = fault{code: http.StatusBadRequest, reason: "the path can be read in more than one way"}
		return v
	case r == nil:
		v.fault = fault{code: http.StatusNotFound, reason: fmt.Sprintf("%s has no service at this path", q.host)}
		return v
	}
	v.route = r
	switch {
	case len(r.allow) > 0 && !contains(r.allow, q.client):
		v.fault = fault{code: http.StatusForbidden, reason: "this service does not serve your address"}
	case !q.secure && v.host.tls && t.secure && (q.socket || v.host.redirect) && held(certs, v.host.name, q.host):
		if q.socket {
			v.fault = fault{
				code: http.StatusUpgradeRequired, reason: "this host is served over TLS: use wss:// in place of ws://",
				extra: "Upgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n",
			}
		} else {
			v.redirect = true
		}
	case q.socket && !r.socket:
		v.fault = fault{code: http.StatusForbidden, reason: "WebSocket is switched off for this path (websocket: false)"}
	case len(r.pool.members) == 0:
		v.fault, v.empty, v.wake = r.lacking, r.lacking.code == 0, r.wakes
		v.lacks = r.runs && !r.wakes && r.lacking.code == http.StatusServiceUnavailable
	}
	return v
}

// checkTLS says why a host cannot be served on a TLS connection.
func (t *table) checkTLS(q *query, h *host, certs Certificates) fault {
	if !q.secure {
		return fault{}
	}
	if !h.tls {
		return fault{code: http.StatusMisdirectedRequest, reason: fmt.Sprintf("%s is served without TLS only", q.host)}
	}
	if q.tls == nil {
		return fault{}
	}
	sni := q.tls.ConnectionState().ServerName
	if equalHost(sni, q.host) || certs == nil {
		return fault{}
	}
	// One connection may carry all hosts of its certificate (RFC 9113, 9.1.1).
	cert, err := certs.GetCertificate(&tls.ClientHelloInfo{ServerName: sni, SupportedVersions: []uint16{tls.VersionTLS13}})
	if err == nil && cert != nil && leafCovers(cert, string(q.host)) {
		return fault{}
	}
	return fault{code: http.StatusMisdirectedRequest, reason: fmt.Sprintf("the certificate of this connection is not that of %s: open another one", q.host)}
}

func equalHost(sni string, host []byte) bool {
	return bytes.EqualFold([]byte(sni), host)
}

// held tells whether there is a certificate, so that TLS may be asked for.
func held(certs Certificates, name string, host []byte) bool {
	if certs == nil {
		return false
	}
	if len(name) > 0 && name[0] == '*' {
		return certs.Holds(string(host))
	}
	return certs.Holds(name)
}
