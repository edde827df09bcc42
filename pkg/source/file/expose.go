// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/names"
)

// rawExpose is one entry of expose: exactly one of its keys.
type rawExpose struct {
	place
	port *rawNodePort
	http *rawHTTP
	tcp  *rawTCP
}

type rawNodePort struct {
	place
	port, servicePort located[uint16]
}

type rawHTTP struct {
	place
	host     located[string]
	tls      string
	redirect bool
	paths    located[[]rawPath]
}

type rawPath struct {
	place
	path        located[string]
	servicePort located[uint16]
	websocket   bool
	stripPrefix bool
	rewrite     rawRewrite
	backendTLS  model.BackendTLS
}

type rawRewrite struct{ match, target located[string] }

type rawTCP struct {
	place
	host located[string]
	kind located[string]
	tls  string

	backendTLS    located[model.BackendTLS]
	proxyProtocol bool
}

func exposeCodec() codec[rawExpose] {
	c := placed(object(rawExpose{},
		opt("port", "L4 on the node's public addresses.", pointer(nodePortCodec()), func(e *rawExpose) **rawNodePort { return &e.port }),
		opt("http", "HTTP and HTTPS by host and path.", pointer(httpCodec()), func(e *rawExpose) **rawHTTP { return &e.http }),
		opt("tcp", "A database protocol by TLS server name.", pointer(tcpCodec()), func(e *rawExpose) **rawTCP { return &e.tcp }),
	), func(e *rawExpose) *place { return &e.place })
	inner := c
	c.schema = func() schema {
		s := inner.schema()
		s["minProperties"], s["maxProperties"] = 1, 1
		return s
	}
	c.decode = func(d *decoder, v value) (rawExpose, bool) {
		before := len(d.errs)
		e, ok := inner.decode(d, v)
		n := 0
		for _, given := range []bool{e.port != nil, e.http != nil, e.tcp != nil} {
			if given {
				n++
			}
		}
		if n == 1 || !ok || len(d.errs) > before {
			return e, ok
		}
		d.report(v.place, "has %d of the keys port, http, tcp, want one; start a new list item (-) for each", n)
		return e, false
	}
	return c
}

func nodePortCodec() codec[rawNodePort] {
	port := where(integer[uint16](1, 65535))
	return placed(object(rawNodePort{},
		req("port", "Port on the node's public addresses.", unset(port), func(n *rawNodePort) *located[uint16] { return &n.port }),
		opt("servicePort", "Service port it leads to. Default: the only one.", unset(port), func(n *rawNodePort) *located[uint16] { return &n.servicePort }),
	), func(n *rawNodePort) *place { return &n.place })
}

func httpCodec() codec[rawHTTP] {
	return placed(object(rawHTTP{tls: "auto", redirect: true},
		opt("host", "Host name. Default: the free name (names.http).", where(unset(hostName())), func(h *rawHTTP) *located[string] { return &h.host }),
		opt("tls", "auto obtains a certificate and serves HTTPS too.", enum("auto", "off"), func(h *rawHTTP) *string { return &h.tls }),
		opt("redirect", "Redirect http to https when tls is on.", boolean(), func(h *rawHTTP) *bool { return &h.redirect }),
		opt("paths", "Path prefixes by whole segments, the longest wins. Default: / leads to the first TCP port.", where(list(pathCodec(), 1000)), func(h *rawHTTP) *located[[]rawPath] { return &h.paths }),
	), func(h *rawHTTP) *place { return &h.place })
}

func pathCodec() codec[rawPath] {
	base := rawPath{path: here("/"), backendTLS: model.BackendTLS{Mode: "off"}}
	return placed(object(base,
		opt("path", "Path prefix, by whole segments.", where(httpPath(true)), func(p *rawPath) *located[string] { return &p.path }),
		opt("servicePort", "TCP service port it leads to. Default: the first.", where(unset(integer[uint16](1, 65535))), func(p *rawPath) *located[uint16] { return &p.servicePort }),
		opt("websocket", "Allow upgrades to WebSocket.", boolean(), func(p *rawPath) *bool { return &p.websocket }),
		opt("stripPrefix", "Take the prefix off the path towards the replica.", boolean(), func(p *rawPath) *bool { return &p.stripPrefix }),
		opt("rewrite", "Replace the path by a regular expression.", rewriteCodec(), func(p *rawPath) *rawRewrite { return &p.rewrite }),
		opt("backendTLS", "TLS towards the replica.", backendTLSCodec(), func(p *rawPath) *model.BackendTLS { return &p.backendTLS }),
	), func(p *rawPath) *place { return &p.place })
}

func rewriteCodec() codec[rawRewrite] {
	match := str("a regular expression", func(s string) error {
		if _, err := regexp.Compile(s); err != nil {
			return fmt.Errorf("%s is no regular expression of RE2: %w", quote(s), err)
		}
		return nonEmpty("a regular expression")(s)
	})
	return object(rawRewrite{},
		opt("match", "Regular expression (RE2) on the path.", unset(where(match)), func(r *rawRewrite) *located[string] { return &r.match }),
		opt("target", "What replaces the match; $1 is its first group.", unset(where(str("a path", anything))), func(r *rawRewrite) *located[string] { return &r.target }),
	)
}

func backendTLSCodec() codec[model.BackendTLS] {
	name := str("a server name", func(s string) error {
		if s == "" {
			return nil
		}
		return names.CheckName(s)
	})
	return object(model.BackendTLS{Mode: "off"},
		opt("mode", "on encrypts; verify checks the certificate as well.", enum("off", "on", "verify"), func(b *model.BackendTLS) *string { return &b.Mode }),
		opt("serverName", "Name asked for and verified.", name, func(b *model.BackendTLS) *string { return &b.ServerName }),
		opt("caFile", "PEM file with the CA that verify trusts.", absolutePath(), func(b *model.BackendTLS) *string { return &b.CAFile }),
	)
}

func tcpCodec() codec[rawTCP] {
	return placed(object(rawTCP{tls: "passthrough"},
		req("kind", "POSTGRES (5432), MONGO (27017) or REDIS (6379); the service must have that service port.",
			unset(where(enum("POSTGRES", "MONGO", "REDIS"))), func(t *rawTCP) *located[string] { return &t.kind }),
		opt("host", "Server name. Default: the free name (names.tcp).", where(unset(hostName())), func(t *rawTCP) *located[string] { return &t.host }),
		opt("tls", "passthrough leaves TLS to the replica; terminate ends it here.", enum("passthrough", "terminate"), func(t *rawTCP) *string { return &t.tls }),
		opt("backendTLS", "TLS towards the replica, with tls: terminate.", where(backendTLSCodec()), func(t *rawTCP) *located[model.BackendTLS] { return &t.backendTLS }),
		opt("proxyProtocol", "Begin every connection to a replica with a PROXY protocol header (version 2) that names the client.", boolean(), func(t *rawTCP) *bool { return &t.proxyProtocol }),
	), func(t *rawTCP) *place { return &t.place })
}

// hostName is a DNS name in lower case without the trailing dot (row A26).
func hostName() codec[string] {
	const want = "a host name such as shop.example.com"
	return parsed(want, "hostname", func(s string) (string, error) {
		host := strings.ToLower(strings.TrimSuffix(s, "."))
		if _, err := netip.ParseAddr(host); err == nil {
			return "", fmt.Errorf("got the address %s, want %s", quote(s), want)
		}
		for _, r := range host {
			if r > 127 {
				return "", fmt.Errorf("got %s, want %s; write other alphabets in punycode (xn--…)", quote(s), want)
			}
		}
		if err := names.CheckName(host); err != nil {
			return "", fmt.Errorf("got %s, want %s: %w", quote(s), want, err)
		}
		return host, nil
	}, func(s string) string { return s })
}

// httpPath is an absolute path. As a prefix it has no query and loses its
// trailing slash: routes match whole segments, /ws and /ws/ are one.
func httpPath(prefix bool) codec[string] {
	const want = `a path such as / or /web`
	return parsed(want, "", func(s string) (string, error) {
		u, err := url.ParseRequestURI(s)
		switch {
		case !strings.HasPrefix(s, "/"):
			return "", fmt.Errorf(`got %s, want %s that begins with "/"`, quote(s), want)
		case strings.ContainsAny(s, "# \t\n") || prefix && strings.Contains(s, "?"):
			return "", fmt.Errorf("got %s, want %s without a query, a fragment or spaces", quote(s), want)
		case err != nil:
			return "", fmt.Errorf("got %s, want %s with every %% followed by two hex digits", quote(s), want)
		case !prefix:
			return s, nil
		case strings.Contains(s, "//"):
			return "", fmt.Errorf("got %s with an empty segment, want %s", quote(s), want)
		}
		for seg := range strings.SplitSeq(u.Path, "/") {
			if seg == "." || seg == ".." {
				return "", fmt.Errorf("got %s with the segment %q, want %s", quote(s), seg, want)
			}
		}
		if s == "/" {
			return s, nil
		}
		return strings.TrimSuffix(s, "/"), nil
	}, func(s string) string { return s })
}
