// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/names"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// build makes the Part of what was written and reports what only shows when
// fields and services are seen together. With faults the Part is incomplete.
func (c *config) build(d *decoder) source.Part {
	settings := c.settings()
	c.checkNetwork(d)
	c.checkListen(d)
	b := newBuilder(d, c)
	services := make([]*model.Service, 0, len(c.services))
	for i := range c.services {
		services = append(services, b.service(&c.services[i]))
	}
	b.checkReplicaAddresses()
	b.checkNodePorts()
	slices.SortFunc(services, func(a, b *model.Service) int { return a.Name.Compare(b.Name) })
	return source.Part{Settings: &settings, Services: services}
}

func (c *config) settings() model.Settings {
	return model.Settings{
		Node: model.Node{
			Interfaces: c.node.interfaces, Addresses: c.node.addresses, Sources: c.node.sources,
			Cgroup: c.node.cgroup, Attach: c.node.attach, TC: c.node.tc,
		},
		Network: model.Network{
			Services: c.network.services.v, Services6: c.network.services6.v,
			Workloads: c.network.workloads.v, Workloads6: c.network.workloads6.v,
		},
		Listen: model.Listen{
			HTTP: c.listen.http.v, HTTPS: c.listen.https.v, Postgres: c.listen.postgres.v, Mongo: c.listen.mongo.v,
			Redis: c.listen.redis.v, DNS: c.listen.dns.v, Metrics: c.listen.metrics.v, Dashboard: c.listen.dashboard.v,
		},
		DNS: c.dns, ACME: c.acme, Domains: c.domains, Tokens: c.tokensOf(), TrustedProxies: c.trusted, AccessLog: c.access, Docker: c.docker,
	}
}

// builder carries what the services of one file share.
type builder struct {
	d     *decoder
	c     *config
	names *names.Registry
	hosts map[string]hostUse
	ports []nodePortUse
	vips  map[netip.Addr]model.ServiceName
}

func newBuilder(d *decoder, c *config) *builder {
	return &builder{d: d, c: c, names: &names.Registry{}, hosts: map[string]hostUse{}}
}

// hostUse is how the first service of a host wants it served.
type hostUse struct {
	owner    model.ServiceName
	at       place
	where    string // of at, for people
	tls      string
	redirect bool
}

// service makes the model's service of s and claims its names.
func (b *builder) service(s *rawService) *model.Service {
	d := b.d
	svc := &model.Service{
		Name:   model.ServiceName{Project: b.label(s.project), User: b.label(s.user)},
		Title:  s.project.v + "/" + s.user.v,
		Mode:   s.mode,
		Drain:  s.drain,
		Allow:  s.allow,
		Health: s.health.check(d),

		Balance:   s.balance,
		RateLimit: s.rateLimit,
		Workload:  s.workload.build(d, b.c.tokens.prefix+"_CONTEXT_ID"),
	}
	if svc.Balance.Affinity == "none" {
		svc.Balance.AffinityTimeout = 0
	}
	if svc.RateLimit.Burst == 0 {
		svc.RateLimit.Burst = svc.RateLimit.PerSecond
	}
	if s.workload != nil && s.replicas.given() {
		d.report(s.replicas.place, "stands beside workload, which makes the replicas; remove one of the two")
	}
	named := svc.Name.Project != "" && svc.Name.User != ""
	if named {
		named = b.claimWritten(s.project.place, "service name", svc.Name.String(), svc.Name, svc.Title)
	}
	if named {
		svc.Internal = b.internal(s, svc.Name)
	}
	ports, portsKnown := s.run.pair(d, s.place)
	svc.Ports = ports
	if portsKnown {
		s.assume(d, svc)
	}
	svc.Backends = s.backends(d)
	svc.VIP4 = b.vip(s.vip, svc.Name, b.c.network.services.v)
	svc.VIP6 = b.vip(s.vip6, svc.Name, b.c.network.services6.v)
	if portsKnown {
		b.expose(s, svc, named)
	}
	return svc
}

// label is the name's part in LDH; empty when that was reported.
func (b *builder) label(l located[string]) string {
	if !l.usable() {
		return ""
	}
	label, err := names.Label(l.v)
	if err != nil {
		b.d.report(l.place, "%s", err)
	}
	return label
}

// claim takes a name for a service, or reports who has it (row A11).
func (b *builder) claim(at place, kind, name string, owner model.ServiceName) bool {
	return b.claimWritten(at, kind, name, owner, "")
}

// claimWritten tells later claimants what the owner wrote, where that is not
// the owner's name.
func (b *builder) claimWritten(at place, kind, name string, owner model.ServiceName, title string) bool {
	where := b.where(at)
	if title != "" && title != owner.String() {
		where += ", written " + quote(title)
	}
	err := b.names.Claim(names.Claim{Kind: kind, Name: name, Owner: owner, Where: where})
	if err == nil {
		return true
	}
	remedy := map[string]string{
		"service name":  "give one of them another project or user",
		"internal name": "give one of them another project or user, or change the template names.internal",
	}[kind]
	if remedy == "" {
		remedy = "choose another"
	}
	b.d.report(at, "%s; %s", err, remedy)
	return false
}

// where names a place in what is being read.
func (b *builder) where(at place) string {
	if b.d.elsewhere {
		return b.d.file
	}
	return fmt.Sprintf("%s:%d:%d", b.d.file, at.line, at.col)
}

// vars are the values of the templates for a service.
func (b *builder) vars(n model.ServiceName) names.Vars {
	c := b.c.names
	return names.Vars{
		Prefix: c.prefix, Project: n.Project, User: n.User, Region: c.region,
		Domain: c.domain, TCPDomain: c.tcpDomain,
	}
}

func (b *builder) internal(s *rawService, n model.ServiceName) string {
	name, err := b.c.names.internal.v.Expand(b.vars(n))
	if err != nil {
		b.d.report(s.project.place, "internal name: %s; choose a shorter project or user, or change the template names.internal", err)
		return ""
	}
	b.claim(s.project.place, "internal name", name, n)
	return name
}

// vip checks a virtual IP against the network and the other services.
func (b *builder) vip(l located[netip.Addr], owner model.ServiceName, services netip.Prefix) netip.Addr {
	if !l.usable() {
		return netip.Addr{}
	}
	first, last := edges(services)
	taken := b.ownAddress(l.v)
	switch net := b.c.network; {
	case taken != "":
		b.d.report(l.place, "%s is %s; take another one of network.services %s", l.v, taken, services)
	case l.v == first:
		b.d.report(l.place, "%s is the network address of network.services %s; take one after it", l.v, services)
	case l.v == last && l.v.Is4():
		b.d.report(l.place, "%s is the broadcast address of network.services %s; take one before it", l.v, services)
	case net.workloads.v.Contains(l.v) || net.workloads6.v.Contains(l.v):
		b.d.report(l.place, "%s is inside network.workloads, where replicas get their addresses; take one of %s", l.v, services)
	default:
		if !b.claim(l.place, "virtual IP", l.v.String(), owner) {
			break
		}
		if b.vips == nil {
			b.vips = map[netip.Addr]model.ServiceName{}
		}
		b.vips[l.v] = owner
	}
	return l.v
}

// ownAddress says what the node itself uses an address for: a virtual IP
// there would refuse every port that is not the service's.
func (b *builder) ownAddress(a netip.Addr) string {
	if slices.Contains(b.c.node.addresses, a) {
		return "one of node.addresses"
	}
	for _, l := range b.c.listens() {
		if host, err := netip.ParseAddr(l.host); err == nil && host == a {
			return "the address of listen." + l.name
		}
	}
	return ""
}

// edges are the first and last address of a range.
func edges(p netip.Prefix) (first, last netip.Addr) {
	p = p.Masked()
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ = netip.AddrFromSlice(bytes)
	return p.Addr(), last
}
