// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/fairlead-lb/fairlead/bench/space"
)

// fairlead runs the binary with a config file of n services.
func fairlead(n int) func(*bench, *node) error {
	return func(b *bench, at *node) error {
		home := filepath.Join(space.Dir, at.Name)
		if err := os.MkdirAll(home, 0o755); err != nil {
			return err
		}
		before, after := others(n)
		line := func(a netip.Addr) string {
			return fmt.Sprintf("- {project: other, user: %q, run: {containerPort: 80, servicePort: 80}, vip: %s, health: {type: none}, replicas: [%s]}\n",
				fmt.Sprintf("u%d-%d", a.As4()[2], a.As4()[3]), a, at.server())
		}
		ports := fmt.Sprintf("%d,%d,%d", requestPort, iperfPort, datagramPort)
		config := "node: {interfaces: [up0], attach: tc, cgroup: \"\"}\nservices:\n" + each(before, line) +
			fmt.Sprintf("- {project: bench, user: main, run: {containerPort: %q, servicePort: %q, protocol: \"tcp,tcp,udp\"}, vip: %s, health: {type: none}, replicas: [%s]}\n",
				ports, ports, at.vip(), at.server()) + each(after, line)
		file := filepath.Join(home, "fairlead.yaml")
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			return err
		}
		return at.Start(exec.Command(b.bin, "run", "--config", file, "--state", filepath.Join(home, "state"), "--run", filepath.Join(home, "run")))
	}
}
