// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

// rewriteH2 makes the request towards the replica. ReverseProxy has taken
// hop-by-hop headers and the forwarding ones off.
func (t *Target) rewriteH2(p *httputil.ProxyRequest) {
	x := streamOf(p.In.Context())
	out := p.Out
	out.Host = p.In.Host
	out.URL = x.url()
	h := out.Header
	for name := range h {
		if strings.Contains(name, "_") || !x.trusted && forwardingHeader(name) || name == "Proxy" || name == "Proxy-Authorization" {
			dropLike(h, name, x.trusted)
		}
	}
	in := p.In.Header
	host, proto, chain := p.In.Host, "http", x.peer.String()
	if x.secure {
		proto = "https"
	}
	if x.trusted {
		if v := in.Get("X-Forwarded-Host"); v != "" {
			host = v
		}
		if v := in.Get("X-Forwarded-Proto"); v != "" {
			proto = v
		}
		if v := in.Values("Forwarded"); len(v) > 0 {
			h["Forwarded"] = v
		}
		if v := in.Values("X-Forwarded-For"); len(v) > 0 {
			chain = v[len(v)-1] + ", " + chain
		}
	}
	h.Set("X-Forwarded-For", chain)
	h.Set("X-Forwarded-Host", host)
	h.Set("X-Forwarded-Proto", proto)
	h.Set("X-Request-Id", x.id)
	if h.Get("Traceparent") == "" {
		h.Set("Traceparent", string(appendTrace(nil)))
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // so that none of ours is sent
	}
	if in.Get("Te") == "trailers" {
		h.Set("Te", "trailers")
	}
}

// url is what the replica is asked for, as exactly as net/url lets one say it.
func (x *stream) url() *url.URL {
	u := &url.URL{Scheme: "http", Host: "replica", Opaque: string(x.path), RawQuery: strings.TrimPrefix(string(x.query), "?"), ForceQuery: len(x.query) == 1}
	if x.verdict.route.pool.members[0].ep.tls != nil {
		u.Scheme = "https"
	}
	if strings.HasPrefix(u.Opaque, "//") { // would be read as a host
		u.RawPath, u.Opaque = u.Opaque, ""
		u.Path, _ = url.PathUnescape(u.RawPath)
	}
	return u
}

// forwardingHeader tells of headers in which proxies speak of clients.
func forwardingHeader(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" || name == "Forwarded" || name == "X-Request-Id"
}

// dropLike drops a header that is, or reads to CGI programs like, one of the
// forwarding ones, or that is for us alone.
func dropLike(h http.Header, name string, trusted bool) {
	like := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	if forwardingHeader(like) && (like != name || !trusted) || name == "Proxy" || name == "Proxy-Authorization" {
		delete(h, name)
	}
}
