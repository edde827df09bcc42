// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
)

// aroundOf measures what an agent does with n services before its Target gets
// them: it parses them, if they fit into a config file, and asks the kernel for
// their replicas' next hops.
func (b *bench) aroundOf(n int) (all []*step, err error) {
	title := report.Number(n) + " services × 10: "
	if text := configOf(n); len(text) <= file.MaxSize {
		parse := &step{name: title + "config file parsed"}
		all = append(all, parse)
		for range min(b.cfg.rounds, 3) {
			err := parse.clock(func() error {
				_, err := file.Parse("bench.yaml", text)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	hops := &step{name: title + "next hops asked for"}
	all = append(all, hops)
	addrs := make([]netip.Addr, 0, n*perService)
	for _, svc := range stateOf(n, perService, v4).Services {
		for i := range svc.Backends {
			addrs = append(addrs, svc.Backends[i].Addr4)
		}
	}
	started := time.Now()
	for i := range min(b.cfg.rounds, 3) {
		if i > 0 && time.Since(started) > b.cfg.patience/20 {
			break
		}
		table, err := nexthop.New(nexthop.Config{})
		if err != nil {
			return nil, err
		}
		err = hops.clock(func() error {
			defer table.Close()
			table.Track(addrs)
			if hop, known := table.Known(addrs[0]); !known || !hop.Resolved() {
				return fmt.Errorf("resolve %s: %+v", addrs[0], hop)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// configOf is the file of a state of n services.
func configOf(n int) []byte {
	var b strings.Builder
	b.WriteString("node: {interfaces: []}\nservices:\n")
	for _, svc := range stateOf(n, perService, v4).Services {
		fmt.Fprintf(&b, "- project: %s\n  user: %s\n", svc.Name.Project, svc.Name.User)
		fmt.Fprintf(&b, "  run: {containerPort: %d, servicePort: %d}\n  replicas:\n", containerPort, servicePort)
		for i := range svc.Backends {
			fmt.Fprintf(&b, "  - %s\n", svc.Backends[i].Addr4)
		}
	}
	return []byte(b.String())
}
