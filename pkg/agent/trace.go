// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// foreign are the ways out of packets that have nothing to do with a service.
var foreign = []string{"not_ours", "not_ip", "malformed"}

// trace tells the operator of packets as they leave the programs.
func (a *Agent) trace(ctx context.Context, q admin.TraceQuery, yield func([]admin.TraceEvent, uint64) bool) error {
	t := tracing{agent: a, interfaces: map[uint32]string{}}
	f := bpf.TraceFilter{Client: q.Client, Reason: func(r bpf.Reason) bool { return wanted(q, r) }}
	if q.Service != "" {
		name, err := model.ParseServiceName(q.Service)
		if err != nil {
			return err
		}
		t.only = name
		f.Ends = func() []bpf.ServiceKey { return t.current().endsOf(name) }
	}
	var out []admin.TraceEvent
	err := a.parts.trace(ctx, f, func(events []bpf.TraceEvent, lost uint64) bool {
		out = out[:0]
		for i := range events {
			if e, ok := t.event(&events[i]); ok {
				out = append(out, e)
			}
		}
		return yield(out, lost)
	})
	if errors.Is(err, bpf.ErrTracing) {
		return admin.ErrTracing
	}
	return err
}

func wanted(q admin.TraceQuery, r bpf.Reason) bool {
	switch {
	case q.Drops:
		return r.Verdict == bpf.Drop || r.Verdict == bpf.Answer && r.Name != "echo_answered"
	case q.All || q.Service != "" || q.Client.IsValid():
		return true
	}
	return !slices.Contains(foreign, r.Name)
}

// tracing puts into words what one trace sees.
type tracing struct {
	agent      *Agent
	only       model.ServiceName // zero: all services
	state      *model.State      // what owners is made of
	owners     owners
	interfaces map[uint32]string
}

// current is who owns what in the newest state.
func (t *tracing) current() owners {
	if s := t.agent.engine.state(); s != t.state {
		t.state, t.owners = s, ownersOf(s, t.agent.nodeAddrs(s))
		clear(t.interfaces) // they may have changed too
	}
	return t.owners
}

// event is ok if it belongs to the service that is watched.
func (t *tracing) event(e *bpf.TraceEvent) (out admin.TraceEvent, ok bool) {
	service := t.current().of(e, t.only)
	if t.only != (model.ServiceName{}) && service != t.only {
		return out, false
	}
	out = admin.TraceEvent{
		Time: e.Time, Interface: t.name(e.IfIndex), Hook: "xdp",
		Verdict: string(e.Reason.Verdict), Reason: e.Reason.Name, Help: e.Reason.Help, Length: e.Bytes,
	}
	if e.TC {
		out.Hook = "tc"
	}
	if service != (model.ServiceName{}) {
		out.Service = service.String()
	}
	if e.Key.Src.Addr().IsValid() || e.Key.Dst.Addr().IsValid() {
		out.Src, out.Dst = specified(e.Key.Src), specified(e.Key.Dst)
		out.Protocol, out.Flags = protocolName(e.Key.Proto), flagsOf(e)
	}
	if e.Src.Addr().IsValid() {
		out.Became = &admin.Tuple{Src: e.Src, Dst: e.Dst}
	}
	return out, true
}

// specified makes "::" of 16 zero bytes, which elsewhere are no address.
func specified(a netip.AddrPort) netip.AddrPort {
	if a.Addr().IsValid() {
		return a
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port())
}

func (t *tracing) name(index uint32) string {
	name, ok := t.interfaces[index]
	if !ok {
		name = fmt.Sprintf("if%d", index)
		if i, err := net.InterfaceByIndex(int(index)); err == nil {
			name = i.Name
		}
		t.interfaces[index] = name
	}
	return name
}

// nodeAddrs are the addresses that node ports of the state are served on.
func (a *Agent) nodeAddrs(s *model.State) []netip.Addr {
	ports := slices.ContainsFunc(s.Services, func(svc *model.Service) bool { return len(svc.NodePorts) > 0 })
	if !ports || s.Settings.Node.Addresses != nil {
		return s.Settings.Node.Addresses
	}
	addrs, err := a.parts.nodeAddrs(s.Settings.Node.Interfaces)
	if err != nil {
		a.cfg.Log.Warn("trace cannot tell node ports", "error", err) // the data plane reports it as its own error
	}
	return addrs
}

// owners tells whose an address and port is.
type owners struct {
	served   map[bpf.ServiceKey]model.ServiceName // what clients connect to
	vips     map[netip.Addr]model.ServiceName
	replicas map[bpf.ServiceKey][]model.ServiceName // services may share them
}

func ownersOf(s *model.State, node []netip.Addr) owners {
	o := owners{
		served: map[bpf.ServiceKey]model.ServiceName{}, vips: map[netip.Addr]model.ServiceName{},
		replicas: map[bpf.ServiceKey][]model.ServiceName{},
	}
	for i := range s.Services {
		svc := s.Services[i]
		for _, vip := range svc.VIPs() {
			o.vips[vip] = svc.Name
		}
		for _, p := range svc.Ports {
			for _, vip := range svc.VIPs() {
				o.served[bpf.ServiceKey{VIP: vip, Port: p.Service, Proto: uint8(p.Protocol)}] = svc.Name
			}
			for _, np := range svc.NodePorts {
				if np.ServicePort != p.Service {
					continue
				}
				for _, addr := range node {
					o.served[bpf.ServiceKey{VIP: addr, Port: np.Port, Proto: uint8(p.Protocol)}] = svc.Name
				}
			}
			for _, b := range svc.Backends {
				for _, addr := range b.Addrs() {
					k := bpf.ServiceKey{VIP: addr, Port: p.Container, Proto: uint8(p.Protocol)}
					o.replicas[k] = append(o.replicas[k], svc.Name)
				}
			}
		}
	}
	return o
}

// endsOf is what packets of a service come from or go to.
func (o owners) endsOf(name model.ServiceName) []bpf.ServiceKey {
	var ends []bpf.ServiceKey
	for vip, owner := range o.vips {
		if owner == name {
			ends = append(ends, bpf.ServiceKey{VIP: vip})
		}
	}
	for k, owner := range o.served {
		if owner == name {
			ends = append(ends, k)
		}
	}
	for k, of := range o.replicas {
		if slices.Contains(of, name) {
			ends = append(ends, k)
		}
	}
	return ends
}

// of is whose packet this is; zero: nobody's. What could be several services'
// is the preferred one's, if that is among them.
func (o owners) of(e *bpf.TraceEvent, prefer model.ServiceName) model.ServiceName {
	key := func(a netip.AddrPort) bpf.ServiceKey {
		return bpf.ServiceKey{VIP: a.Addr(), Port: a.Port(), Proto: e.Key.Proto}
	}
	for _, k := range []bpf.ServiceKey{key(e.Key.Dst), key(e.Src)} {
		if name, ok := o.served[k]; ok {
			return name
		}
	}
	for _, a := range []netip.Addr{e.Key.Dst.Addr(), e.Src.Addr()} {
		if name, ok := o.vips[a]; ok {
			return name
		}
	}
	for _, k := range []bpf.ServiceKey{key(e.Key.Src), key(e.Key.Dst)} {
		if names := o.replicas[k]; slices.Contains(names, prefer) {
			return prefer
		} else if len(names) > 0 {
			return names[0]
		}
	}
	return model.ServiceName{}
}
