// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/fairlead-lb/fairlead/bench/space"
)

// nginxModule is where Debian's libnginx-mod-stream puts it.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func nginx(_ *bench, at *node) error {
	var b strings.Builder
	if _, err := os.Stat(nginxModule); err == nil {
		fmt.Fprintf(&b, "load_module %s;\n", nginxModule)
	}
	home := filepath.Join(space.Dir, at.Name)
	fmt.Fprintf(&b, "daemon off;\nuser root;\nworker_processes 2;\npid %s/pid;\nerror_log stderr error;\n"+
		"events { worker_connections 8192; }\nstream {\n", home)
	for _, p := range ports {
		kind, more := "", ""
		if p.proto == "udp" {
			kind, more = " udp", "proxy_timeout 2s;"
		}
		fmt.Fprintf(&b, "server { listen %d%s reuseport; proxy_pass %s:%d; %s }\n", p.port, kind, at.server(), p.port, more)
	}
	b.WriteString("}\n")
	return at.proxy(home, b.String(), "nginx", "-e", "stderr", "-p", home, "-c")
}

func haproxy(_ *bench, at *node) error {
	home := filepath.Join(space.Dir, at.Name)
	var b strings.Builder
	b.WriteString("global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  option splice-auto\n" +
		"  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n")
	for _, p := range ports {
		if p.proto == "tcp" {
			fmt.Fprintf(&b, "listen p%d\n  bind :%d\n  server s %s:%d\n", p.port, p.port, at.server(), p.port)
		}
	}
	return at.proxy(home, b.String(), "haproxy", "-db", "-f")
}

// proxy writes a configuration and starts a program with its path as the last
// argument.
func (n *node) proxy(home, config, name string, args ...string) error {
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	file := filepath.Join(home, name+".conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	return n.Start(exec.Command(name, append(args, file)...))
}
