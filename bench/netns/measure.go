// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/bench/load"
)

// measure is one kind of traffic and its figure.
type measure struct {
	name  string // of the command line
	title string
	short string // heads a column
	unit  string
	less  bool   // is better
	udp   bool   // needs a node that balances UDP
	per   string // what the CPU time is divided by
	take  func(l *lab, s *subject, d time.Duration) (taken, error)
}

// taken is one sample: the figure, and the CPU time of client, server and the
// node's processes for each operation. On a machine that others use too, the
// second is the steadier one.
type taken struct {
	value float64
	cpu   float64 // µs
}

var measures = []measure{
	{name: "bulk1", title: "bulk, 1 stream", short: "1 stream", unit: "Gbit/s", per: "MB", take: bulk(1)},
	{name: "bulk8", title: "bulk, 8 streams", short: "8 streams", unit: "Gbit/s", per: "MB", take: bulk(8)},
	{name: "connect", title: "connect, request, close", short: "connect", unit: "1/s", per: "connection", take: requests("connect")},
	{name: "keepalive", title: "keep-alive requests", short: "keep-alive", unit: "1/s", per: "request", take: requests("keepalive")},
	{name: "pingpong", title: "ping-pong", short: "ping-pong", unit: "µs", less: true, per: "request", take: requests("pingpong")},
	{name: "udp", title: "UDP delivered", short: "UDP", unit: "1/s", udp: true, per: "datagram", take: requests("udp")},
}

// margin is added to what a client is allowed to take.
const margin = 10 * time.Second

func (l *lab) order(kind string, to netip.AddrPort, d time.Duration) (load.Result, error) {
	var r load.Result
	text, err := json.Marshal(order{Kind: kind, To: to, For: d})
	if err != nil {
		return r, err
	}
	out, err := l.client.Output(d+margin, string(text), []string{roleEnv + "=client"}, "/proc/self/exe")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("read the client's result: %w: %q", err, out)
	}
	if r.Failed*100 > r.Done {
		return r, fmt.Errorf("%s to %s: %d failed, %d were done", kind, to, r.Failed, r.Done)
	}
	return r, nil
}

// requests are the measures in which this program is client and server.
func requests(kind string) func(*lab, *subject, time.Duration) (taken, error) {
	port := uint16(requestPort)
	if kind == "udp" {
		port = datagramPort
	}
	return func(l *lab, s *subject, d time.Duration) (taken, error) {
		before, serverCPU, err := l.served()
		if err != nil {
			return taken{}, err
		}
		nodeCPU := s.node.CPU()
		r, err := l.order(kind, netip.AddrPortFrom(s.to(s.node), port), d)
		if err != nil {
			return taken{}, err
		}
		after, serverEnd, err := l.served()
		cpu := r.CPU + serverEnd - serverCPU + s.node.CPU() - nodeCPU
		t := taken{value: r.PerSecond(), cpu: micro(cpu) / float64(max(r.Done, 1))}
		switch kind {
		case "udp": // what arrived counts
			t.value = float64(after-before) / r.Elapsed.Seconds()
			t.cpu = micro(cpu) / float64(max(after-before, 1))
		case "pingpong":
			t.value = micro(r.Median)
		}
		return t, err
	}
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
