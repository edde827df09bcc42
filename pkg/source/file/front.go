// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/names"
)

// expose makes what the service shows to the outside. named tells that the
// service has a name of its own, so that free names can be made.
func (b *builder) expose(s *rawService, svc *model.Service, named bool) {
	for i := range s.expose {
		e := &s.expose[i]
		switch {
		case e.port != nil:
			b.nodePort(e.port, svc)
		case e.http != nil:
			b.http(e.http, s, svc, named)
		case e.tcp != nil:
			b.tcp(e.tcp, svc, named)
		}
	}
}

// nodePort claims a port of the node for each protocol of its service port.
func (b *builder) nodePort(n *rawNodePort, svc *model.Service) {
	if n.servicePort.broken || !n.port.usable() {
		return
	}
	service := n.servicePort.v
	if !n.servicePort.given() {
		all := servicePorts(svc)
		if len(all) != 1 {
			b.d.report(n.child("servicePort"), "is missing; the service has %s, name one of them", portsText(all))
			return
		}
		service = all[0]
	}
	var protos []model.Protocol
	for _, p := range svc.Ports {
		if p.Service == service {
			protos = append(protos, p.Protocol)
		}
	}
	if len(protos) == 0 {
		b.d.report(n.servicePort.place, "%s", noSuchPort(service, servicePorts(svc), ""))
		return
	}
	for _, p := range protos {
		if !b.claim(n.port.place, "node port", fmt.Sprintf("%d/%s", n.port.v, p), svc.Name) {
			return
		}
	}
	b.ports = append(b.ports, nodePortUse{n.port.place, n.port.v, protos})
	svc.NodePorts = append(svc.NodePorts, model.NodePort{Port: n.port.v, ServicePort: service})
}

// http makes a host with its paths and claims each path of the host.
func (b *builder) http(h *rawHTTP, s *rawService, svc *model.Service, named bool) {
	host := model.HTTPHost{Host: h.host.v, TLS: h.tls == "auto", Redirect: h.redirect && h.tls == "auto"}
	at := at0(h.host.place, h.place)
	known := h.host.usable()
	if !h.host.given() && named {
		host.Free = true
		host.Host, known = b.free(h.place, b.c.names.http.v, "http", svc.Name)
	}
	if known && !b.agree(at, h, host.Host, svc) {
		return
	}
	paths := h.paths.v
	if !h.paths.given() {
		paths = []rawPath{{place: h.place, path: here("/"), backendTLS: model.BackendTLS{Mode: "off"}}}
	} else if len(paths) == 0 && !h.paths.broken {
		b.d.report(h.paths.place, "is an empty list; give a path, or remove the key to route / to the first TCP port")
	}
	for i := range paths {
		p, ok := b.path(&paths[i], s.run.firstTCP(), svc)
		if !ok {
			continue
		}
		where := at0(paths[i].path.place, paths[i].place)
		if paths[i].path.line == 0 && !h.paths.given() {
			where = at
		}
		if known {
			b.claim(where, "route", host.Host+p.Path, svc.Name)
		}
		host.Paths = append(host.Paths, p)
	}
	svc.HTTP = append(svc.HTTP, host)
}

// agree refuses a host that the same service has already, and one that two
// services want served differently.
func (b *builder) agree(at place, h *rawHTTP, host string, svc *model.Service) bool {
	first, taken := b.hosts[host]
	switch {
	case !taken:
		b.hosts[host] = hostUse{svc.Name, at, b.where(at), h.tls, h.redirect}
	case first.owner == svc.Name:
		b.d.report(at, "host %s stands twice in this service, first at %d:%d; put all paths into one entry", host, first.at.line, first.at.col)
		return false
	case first.tls != h.tls || first.redirect != h.redirect:
		b.d.report(at, "host %s has tls: %s and redirect: %t here but tls: %s and redirect: %t for %s (%s); make them equal",
			host, h.tls, h.redirect, first.tls, first.redirect, first.owner, first.where)
	}
	return true
}

// path makes a route; a service port left out is first.
func (b *builder) path(p *rawPath, first uint16, svc *model.Service) (model.HTTPPath, bool) {
	rewrite, ok := p.rewrite.build(b.d)
	if p.path.broken || p.servicePort.broken {
		ok = false
	}
	out := model.HTTPPath{
		Path: p.path.v, ServicePort: p.servicePort.v, WebSocket: p.websocket, StripPrefix: p.stripPrefix,
		Rewrite: rewrite, BackendTLS: p.backendTLS,
	}
	tcp := tcpPorts(svc)
	switch {
	case p.servicePort.broken:
	case len(tcp) == 0:
		b.d.report(at0(p.servicePort.place, p.place), "the service has no TCP port, which HTTP needs; add one under run")
		return out, false
	case !p.servicePort.given():
		out.ServicePort = first
	case !slices.Contains(tcp, p.servicePort.v):
		b.d.report(p.servicePort.place, "%s", noSuchPort(p.servicePort.v, tcp, "TCP "))
		return out, false
	}
	return out, ok
}

func (r *rawRewrite) build(d *decoder) (model.Rewrite, bool) {
	switch {
	case r.match.broken || r.target.broken:
		return model.Rewrite{}, false
	case r.target.given() && !r.match.given():
		d.report(r.target.place, "has no match beside it; add match, a regular expression on the path")
		return model.Rewrite{}, false
	case r.match.given() && !r.target.given():
		d.report(r.match.place, "has no target beside it; add target, which replaces the match")
		return model.Rewrite{}, false
	}
	return model.Rewrite{Match: r.match.v, Target: r.target.v}, true
}

// tcp makes a server name of a database kind (row A20).
func (b *builder) tcp(t *rawTCP, svc *model.Service, named bool) {
	if !t.kind.usable() {
		return
	}
	name := model.TCPName{Host: t.host.v, Kind: t.kind.v, TLS: t.tls, ProxyProtocol: t.proxyProtocol}
	if back := t.backendTLS; back.usable() && back.v.Mode != "off" {
		name.BackendTLS = back.v
		if t.tls == "passthrough" {
			b.d.report(back.place, "is for tls: terminate; with passthrough the client's own TLS reaches the replica: remove it, or set tls: terminate")
		}
	}
	if tcp := tcpPorts(svc); !slices.Contains(tcp, name.ServicePort()) {
		b.d.report(t.kind.place, "kind %s needs the TCP service port %d, the service has %s; add it under run",
			name.Kind, name.ServicePort(), portsText(tcp))
	}
	known := t.host.usable()
	if !t.host.given() && named {
		name.Host, known = b.free(t.place, b.c.names.tcp.v, "tcp", svc.Name)
	}
	if known {
		b.claim(at0(t.host.place, t.kind.place), strings.ToLower(name.Kind)+" name", name.Host, svc.Name)
	}
	svc.TCPNames = append(svc.TCPNames, name)
}

// free makes the free name of a service.
func (b *builder) free(at place, t names.Template, key string, n model.ServiceName) (string, bool) {
	name, err := t.Expand(b.vars(n))
	if err != nil {
		b.d.report(at, "free name: %s; give host, choose a shorter project or user, or change the template names.%s", err, key)
		return "", false
	}
	return name, true
}

func servicePorts(svc *model.Service) []uint16 {
	var ports []uint16
	for _, p := range svc.Ports {
		ports = append(ports, p.Service)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func tcpPorts(svc *model.Service) []uint16 {
	var ports []uint16
	for _, p := range svc.Ports {
		if p.Protocol == model.TCP {
			ports = append(ports, p.Service)
		}
	}
	return ports
}

func noSuchPort(port uint16, have []uint16, kind string) string {
	return fmt.Sprintf("the service has no %sport %d, it has %s; take one of these, or add it under run", kind, port, portsText(have))
}

func portsText(ports []uint16) string {
	if len(ports) == 0 {
		return "none"
	}
	var all []string
	for _, p := range ports {
		all = append(all, fmt.Sprint(p))
	}
	return strings.Join(all, ", ")
}
