// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/fairlead-lb/fairlead/pkg/dockerd"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
	"github.com/fairlead-lb/fairlead/pkg/source/docker"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
)

// settled is the source of the settings, for those who need them before there
// is a state.
type settled struct {
	source.Source
	known chan struct{} // closed once there are settings

	once    sync.Once
	mu      sync.Mutex
	last    model.Settings
	changed chan struct{} // closed and replaced with every Part
}

func newSettled(s source.Source) *settled {
	return &settled{Source: s, known: make(chan struct{}), changed: make(chan struct{})}
}

// Run runs the source.
func (s *settled) Run(ctx context.Context, publish func(source.Part)) error {
	return s.Source.Run(ctx, func(p source.Part) {
		if p.Settings != nil {
			s.mu.Lock()
			s.last = *p.Settings
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
			s.once.Do(func() { close(s.known) })
		}
		publish(p)
	})
}

// dockerHost waits for the settings and tells the daemon's address in them.
func (s *settled) dockerHost(ctx context.Context) (string, error) {
	d, _, err := s.docker(ctx)
	return d.Host, err
}

// docker waits for the settings and tells those of the daemon; changed is closed
// when the config is another.
func (s *settled) docker(ctx context.Context) (now model.Docker, changed <-chan struct{}, err error) {
	select {
	case <-ctx.Done():
		return model.Docker{}, nil, ctx.Err()
	case <-s.known:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Docker, s.changed, nil
}

// defineBy has labels read by the rules of the config file.
func defineBy(config *file.Source) func([]docker.Definition) []docker.Defined {
	return func(defs []docker.Definition) []docker.Defined {
		written := make([]file.Definition, len(defs))
		for i, d := range defs {
			written[i] = file.Definition{Where: d.Where, Keys: d.Keys}
		}
		var out []docker.Defined
		for _, made := range config.Define(written) {
			d := docker.Defined{Service: made.Service}
			for _, f := range made.Faults {
				d.Faults = append(d.Faults, f.String())
			}
			out = append(out, d)
		}
		return out
	}
}

// containerDNS is the name server that containers can use: fairlead's, where it
// has an address of its own. On every address there is none that each network of
// containers reaches.
func containerDNS(s *model.State) []netip.Addr {
	at, err := netip.ParseAddrPort(s.Settings.Listen.DNS)
	if err != nil || at.Port() != 53 || at.Addr().IsUnspecified() || at.Addr().IsLoopback() {
		return nil
	}
	return []netip.Addr{at.Addr()}
}

// ProbeDocker tells whether a Docker daemon can run workloads here, and how
// soon fairlead hears that they are ready.
func ProbeDocker(ctx context.Context, host string) attach.Fact {
	f := attach.Fact{Name: "docker", Lost: "workloads of driver docker, and services named by containers' labels"}
	d, err := dockerd.Dial(host)
	if err != nil {
		f.Value, f.Fix = err.Error(), "correct the address"
		return f
	}
	defer func() { _ = d.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	about, err := d.About(ctx)
	if err != nil {
		f.Value, f.Fix = d.Explain(err), "start dockerd, or leave it if no workload needs it"
		return f
	}
	f.OK, f.Lost = true, ""
	f.Value = fmt.Sprintf("%s at %s, cgroups by %s", about.Version, host, about.CgroupDriver)
	if !d.Local() {
		f.OK = false
		f.Value += ", on another machine"
		f.Lost = "readiness as an event (containers that start are asked every 250 ms), and sleep for want of use: nobody sees their sockets"
	}
	return f
}
