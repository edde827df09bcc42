// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
)

// sample is the agent's counters at one moment.
type sample struct {
	at       time.Time
	status   admin.Status
	services []admin.Service
}

func takeSample(ctx context.Context, client *admin.Client) (s sample, err error) {
	if s.status, err = client.Status(ctx); err != nil {
		return s, err
	}
	s.services, err = client.Services(ctx)
	s.at = time.Now()
	return s, err
}

// rates is what went on between two samples, per second.
type rates struct {
	Seconds  float64       `json:"seconds"`
	Services []serviceRate `json:"services"`
	Drops    []reasonRate  `json:"drops"`   // packets
	Refused  []reasonRate  `json:"refused"` // packets answered with a refusal
}

type serviceRate struct {
	Service     string  `json:"service"`
	Connections float64 `json:"connectionsPerSecond"`
	Active      uint64  `json:"active"` // at the last sweep of the agent
	Packets     float64 `json:"packetsPerSecond"`
	BitsIn      float64 `json:"bitsInPerSecond"` // from clients
	BitsOut     float64 `json:"bitsOutPerSecond"`
	Ready       int     `json:"ready"`
	Replicas    int     `json:"replicas"` // those there are, or should be

	view admin.Service
}

type reasonRate struct {
	Reason  string  `json:"reason"`
	Packets float64 `json:"packetsPerSecond"`
}

// between compares two samples; services are those of the later one. A counter
// that went back began anew.
func between(a, b sample) rates {
	r := rates{Seconds: b.at.Sub(a.at).Seconds(), Services: []serviceRate{}}
	per := func(from, to uint64) float64 {
		if to < from || r.Seconds <= 0 {
			return 0
		}
		return float64(to-from) / r.Seconds
	}
	before := map[string]admin.Port{}
	for _, s := range a.services {
		for _, p := range s.Ports {
			before[portOf(s, p)] = p
		}
	}
	for _, s := range b.services {
		out := serviceRate{Service: s.Name, Ready: s.Ready(), Replicas: max(s.Wanted, len(s.Replicas)), view: s}
		for _, p := range s.Ports {
			out.Active += p.Active
			old, known := before[portOf(s, p)]
			if !known {
				continue
			}
			out.Connections += per(old.Connections, p.Connections)
			out.Packets += per(old.PacketsIn, p.PacketsIn) + per(old.PacketsOut, p.PacketsOut)
			out.BitsIn += 8 * per(old.BytesIn, p.BytesIn)
			out.BitsOut += 8 * per(old.BytesOut, p.BytesOut)
		}
		r.Services = append(r.Services, out)
	}
	r.Drops, r.Refused = lossRates(a.status.Packets, b.status.Packets, per)
	return r
}

func portOf(s admin.Service, p admin.Port) string {
	return fmt.Sprintf("%s %d/%s", s.Name, p.Service, p.Protocol)
}

// echoAnswered is an answer that refuses nothing.
const echoAnswered = "echo_answered"

// lossRates sums up over interfaces what reached nobody, most first.
func lossRates(a, b []admin.Packets, per func(from, to uint64) float64) (drops, refused []reasonRate) {
	cell := func(p admin.Packets) admin.Packets { p.Count = 0; return p }
	before := map[admin.Packets]uint64{}
	for _, p := range a {
		before[cell(p)] += p.Count
	}
	after := map[admin.Packets]uint64{}
	for _, p := range b {
		after[cell(p)] += p.Count
	}
	sums := map[string]map[string]float64{"drop": {}, "answer": {}}
	for c, n := range after {
		if by, lost := sums[c.Verdict]; lost && c.Reason != echoAnswered {
			by[c.Reason] += per(before[c], n)
		}
	}
	list := func(by map[string]float64) []reasonRate {
		out := []reasonRate{}
		for _, reason := range slices.Sorted(maps.Keys(by)) {
			if by[reason] > 0 {
				out = append(out, reasonRate{reason, by[reason]})
			}
		}
		slices.SortStableFunc(out, func(x, y reasonRate) int { return cmp.Compare(y.Packets, x.Packets) })
		return out
	}
	return list(sums["drop"]), list(sums["answer"])
}

// order is what services are sorted by, most first.
type order struct {
	name string
	of   func(serviceRate) float64
}

// orders are gone through with a key; the first is the default.
var orders = []order{
	{"packets", func(s serviceRate) float64 { return s.Packets }},
	{"bits", func(s serviceRate) float64 { return s.BitsIn + s.BitsOut }},
	{"connections", func(s serviceRate) float64 { return s.Connections }},
	{"active", func(s serviceRate) float64 { return float64(s.Active) }},
}

// sort puts the busiest first; equals by connections, then by name.
func (r *rates) sort(o order) {
	slices.SortFunc(r.Services, func(a, b serviceRate) int {
		return cmp.Or(cmp.Compare(o.of(b), o.of(a)), cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.Service, b.Service))
	})
}

// total sums up all services.
func (r *rates) total() (t serviceRate) {
	for _, s := range r.Services {
		t.Connections += s.Connections
		t.Active += s.Active
		t.Packets += s.Packets
		t.BitsIn += s.BitsIn
		t.BitsOut += s.BitsOut
		t.Ready += s.Ready
		t.Replicas += s.Replicas
	}
	return t
}

// perSecond writes a rate in at most five characters.
func perSecond(v float64) string {
	units := " kMGT"
	u := 0
	for v >= 9999.5 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	switch {
	case u > 0 && v < 99.95:
		return fmt.Sprintf("%.1f%c", v, units[u])
	case u > 0:
		return fmt.Sprintf("%.0f%c", v, units[u])
	case v == 0 || v >= 9.95:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// bitsOf writes bits per second in decimal units, as links are sold.
func bitsOf(v float64) string {
	units := []string{"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"}
	u := 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	if u > 0 && v < 99.95 {
		return fmt.Sprintf("%.1f %s", v, units[u])
	}
	return fmt.Sprintf("%.0f %s", v, units[u])
}
