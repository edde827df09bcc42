// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// compiler turns a state into a table. Services and endpoints that were there
// before are the same ones again.
type compiler struct {
	t         *Target
	table     *table
	services  map[model.ServiceName]*service
	endpoints map[endpointKey]*endpoint
	pools     map[string]*pool
	errs      []error
}

// compile makes the table of a state. With an error it is whole but for what the
// error names.
func (t *Target) compile(s *model.State) (*compiler, error) {
	c := &compiler{
		t: t, services: map[model.ServiceName]*service{}, endpoints: map[endpointKey]*endpoint{}, pools: map[string]*pool{},
		table: &table{
			hosts: map[string]*host{}, wild: map[string]*host{}, others: map[string]string{},
			trusted: s.Settings.TrustedProxies, secure: s.Settings.Listen.HTTPS != "",
		},
	}
	if _, port, err := net.SplitHostPort(s.Settings.Listen.HTTPS); err == nil && port != "443" && port != "0" {
		c.table.https = ":" + port
	}
	for i := range s.Services {
		svc := s.Services[i]
		for j := range svc.HTTP {
			c.host(svc, &svc.HTTP[j])
		}
		for _, n := range svc.TCPNames {
			c.table.others[strings.ToLower(n.Host)] = strings.ToLower(n.Kind)
		}
	}
	c.platform(s)
	for _, hosts := range []map[string]*host{c.table.hosts, c.table.wild} {
		for _, h := range hosts {
			if r := h.routes["/"]; r != nil && len(h.routes) == 1 {
				h.only = r
			}
		}
	}
	return c, errors.Join(c.errs...)
}

// host adds what a service serves of a host. Names and paths are the services'
// alone: the source has refused conflicts (row A11), and the first stays.
func (c *compiler) host(svc *model.Service, m *model.HTTPHost) {
	name, hosts := strings.ToLower(strings.TrimSuffix(m.Host, ".")), c.table.hosts
	key := name
	if parent, ok := strings.CutPrefix(name, "*."); ok {
		key, hosts = parent, c.table.wild
	}
	h := hosts[key]
	if h == nil {
		h = &host{name: name, tls: m.TLS, redirect: m.Redirect, routes: map[string]*route{}}
		hosts[key] = h
	}
	for i := range m.Paths {
		r := c.route(svc, name, &m.Paths[i])
		if taken := h.routes[r.prefix]; taken != nil {
			c.errs = append(c.errs, fmt.Errorf("%s%s is asked for by %s and stays with %s", name, r.prefix, svc.Name, taken.service.text))
			continue
		}
		h.routes[r.prefix] = r
		h.longest = max(h.longest, len(r.prefix))
	}
}

// platform adds the host of the platform's own, or has the service's of that
// name answer for the keys as well.
func (c *compiler) platform(s *model.State) {
	name := s.Settings.Tokens.Host
	if name == "" || c.t.cfg.Keys == nil {
		return
	}
	c.table.keys = name
	if s.Settings.Tokens.Own && c.table.hosts[name] == nil || c.table.lookup([]byte(name)) == nil {
		c.table.hosts[name] = &host{name: name, tls: s.Settings.Tokens.Own, routes: map[string]*route{}}
	}
}

func (c *compiler) service(name model.ServiceName) *service {
	s := c.services[name]
	if s == nil {
		if s = c.t.services[name]; s == nil {
			s = &service{name: name, text: name.String()}
		}
		c.services[name] = s
	}
	return s
}

func (c *compiler) route(svc *model.Service, hostName string, m *model.HTTPPath) *route {
	prefix := m.Path
	if decoded, ok := decode(nil, []byte(prefix)); ok {
		prefix = string(decoded)
	}
	if prefix != "/" {
		prefix = strings.TrimRight(prefix, "/")
	}
	r := &route{
		prefix: cmp.Or(prefix, "/"), service: c.service(svc.Name), port: m.ServicePort, socket: m.WebSocket, strip: m.StripPrefix,
		allow: svc.Allow, rate: svc.RateLimit, drain: svc.Drain, pool: &pool{},
	}
	if m.Rewrite.Match != "" {
		re, err := regexp.Compile(m.Rewrite.Match)
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf("service %s, path %s: rewrite: %w", svc.Name, m.Path, err))
		}
		r.rewrite, r.target = re, m.Rewrite.Target
	}
	port, ok := svc.FindPort(model.TCP, m.ServicePort)
	if !ok {
		r.lacking = fault{code: http.StatusBadGateway, reason: fmt.Sprintf("service %s has no TCP port %d", svc.Name, m.ServicePort)}
		return r
	}
	r.lacking = lacking(svc)
	ready := serving(svc)
	r.wakes = svc.Sleep == model.Asleep && c.t.cfg.Wake != nil
	if svc.Workload != nil {
		r.runs, r.page = true, svc.Workload.Scale.Page
	}
	if len(ready) == 0 {
		return r
	}
	p, err := c.pool(svc, ready, port.Container, hostName, m.BackendTLS)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("service %s, path %s: backendTLS: %w", svc.Name, m.Path, err))
		r.lacking = fault{code: http.StatusBadGateway, reason: "TLS towards the replica is not set up: " + err.Error()}
		return r
	}
	r.pool = p
	return r
}

// serving lists the backends that take new requests: ready primaries, or, if
// there is none, ready backups (row L10).
func serving(svc *model.Service) []model.Backend {
	var primary, backup []model.Backend
	for _, b := range svc.Backends {
		switch {
		case b.Condition != model.Ready:
		case b.Backup:
			backup = append(backup, b)
		default:
			primary = append(primary, b)
		}
	}
	if len(primary) > 0 {
		return primary
	}
	return backup
}

// retryAfter is what clients are told to wait, in seconds.
const retryAfter = 5

// lacking says why a service has no replica for a request.
func lacking(svc *model.Service) fault {
	f := fault{code: http.StatusServiceUnavailable, retry: retryAfter}
	switch w := svc.Workload; {
	case w == nil && len(svc.Backends) == 0:
		return fault{} // the placeholder
	case w != nil && w.Scale.Paused:
		f.reason = "the workload is stopped by its owner"
	case w != nil && len(svc.Backends) == 0:
		f.reason = "the workload is not running: no replica is ready yet"
	default:
		f.reason = fmt.Sprintf("no replica takes requests: all of them (%d) are down or on their way out", len(svc.Backends))
	}
	return f
}

func (c *compiler) pool(svc *model.Service, ready []model.Backend, port uint16, hostName string, b model.BackendTLS) (*pool, error) {
	cfg, tlsKey, err := backendTLS(b, hostName)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s %d %s", svc.Name, port, tlsKey)
	if p := c.pools[key]; p != nil {
		return p, nil
	}
	p := &pool{}
	for _, backend := range ready {
		k := endpointKey{netip.AddrPortFrom(backend.Addrs()[0], port), tlsKey}
		weight := uint64(max(backend.Weight, 1))
		p.total += weight
		p.members = append(p.members, member{c.endpoint(k, cfg), weight, p.total})
	}
	c.pools[key] = p
	return p, nil
}

func (c *compiler) endpoint(k endpointKey, cfg *tls.Config) *endpoint {
	e := c.endpoints[k]
	if e == nil {
		if e = c.t.endpoints[k]; e == nil {
			e = &endpoint{key: k, tls: cfg, clock: c.t.clock, dialer: &c.t.dialer}
		}
		c.endpoints[k] = e
	}
	return e
}

// backendTLS is the settings of connections to replicas, and a key that is
// equal where they are. A changed CA file is another key.
func backendTLS(b model.BackendTLS, hostName string) (cfg *tls.Config, key string, err error) {
	if b.Mode == "" || b.Mode == "off" {
		return nil, "", nil
	}
	name := cmp.Or(b.ServerName, strings.TrimPrefix(hostName, "*."))
	cfg = &tls.Config{
		ServerName: name, InsecureSkipVerify: b.Mode != "verify", MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}
	key = b.Mode + " " + name
	if b.CAFile != "" && b.Mode == "verify" {
		pem, err := os.ReadFile(b.CAFile)
		if err != nil {
			return nil, "", fmt.Errorf("read caFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("caFile %s has no certificate in PEM form", b.CAFile)
		}
		key += fmt.Sprintf(" %x", sha256.Sum256(pem))
	}
	return cfg, key, nil
}
