// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// subject is one proxy.
type subject struct {
	name    string // of the command line
	title   string
	port    uint16
	own     bool // a fairlead: no peer to measure against
	setUp   func(b *bench, s *subject, home string) (*exec.Cmd, error)
	cmd     *exec.Cmd
	said    bytes.Buffer
	samples map[string][]taken
	idle    []float64 // bytes per connection
}

func (s *subject) to() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(clientIP), s.port)
}

// all is what this run can measure.
func (b *bench) all() []*subject {
	all := []*subject{
		{name: "fairlead", title: "fairlead", port: 6379, own: true, setUp: fairlead(b.bin)},
		{name: "nginx", title: nginxTitle, port: 6380, setUp: nginx},
		{name: "haproxy", title: haproxyTitle, port: 6381, setUp: haproxy},
	}
	if b.before != "" {
		all = append(all, &subject{name: "before", title: "fairlead before", port: 6382, own: true, setUp: fairlead(b.before)})
	}
	return all
}

const (
	nginxTitle   = "nginx stream"
	haproxyTitle = "HAProxy"
)

// nginxModule is where Debian's libnginx-mod-stream puts it.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// fairlead runs a binary of it.
func fairlead(bin string) func(*bench, *subject, string) (*exec.Cmd, error) {
	return func(_ *bench, s *subject, home string) (*exec.Cmd, error) {
		file, err := fairleadConfig(s, home)
		if err != nil {
			return nil, err
		}
		return exec.Command(bin, "run", "--config", file, "--state", filepath.Join(home, "state"), "--run", filepath.Join(home, "run")), nil
	}
}

// fairleadConfig has two services told apart by name.
func fairleadConfig(s *subject, home string) (string, error) {
	service := func(host string, port int) string {
		return fmt.Sprintf("- {project: bench, user: %s, run: {containerPort: %d, servicePort: 6379}, health: {type: none}, replicas: [%s], "+
			"expose: [{tcp: {kind: REDIS, host: %s}}]}\n", strings.Split(host, ".")[0], port, serverIP, host)
	}
	config := fmt.Sprintf("node: {interfaces: [], cgroup: \"\"}\nlisten: {redis: \"%s:%d\", metrics: \"\", dashboard: \"\"}\nservices:\n", clientIP, s.port) +
		service(requestHost, requestPort) + service(bulkHost, bulkPort)
	file := filepath.Join(home, "fairlead.yaml")
	return file, os.WriteFile(file, []byte(config), 0o644)
}

func nginx(_ *bench, s *subject, home string) (*exec.Cmd, error) {
	var b strings.Builder
	if _, err := os.Stat(nginxModule); err == nil {
		fmt.Fprintf(&b, "load_module %s;\n", nginxModule)
	}
	fmt.Fprintf(&b, "daemon off;\nuser root;\nworker_processes auto;\nworker_rlimit_nofile %d;\npid %s/pid;\nerror_log stderr error;\n", nofile(), home)
	fmt.Fprintf(&b, "events { worker_connections %d; }\nstream {\n  map $ssl_preread_server_name $upstream {\n", nofile())
	fmt.Fprintf(&b, "    %s %s:%d;\n    %s %s:%d;\n  }\n", requestHost, serverIP, requestPort, bulkHost, serverIP, bulkPort)
	fmt.Fprintf(&b, "  server { listen %s:%d reuseport; ssl_preread on; proxy_pass $upstream; proxy_timeout 1h; }\n}\n", clientIP, s.port)
	file := filepath.Join(home, "nginx.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	return exec.Command("nginx", "-e", "stderr", "-p", home, "-c", file), nil
}

// haproxyConns is how many connections HAProxy's own account of descriptors
// allows: two and a half each, for pipes.
func haproxyConns() int { return (nofile() - 100) * 2 / 5 }

func haproxy(_ *bench, s *subject, home string) (*exec.Cmd, error) {
	config := fmt.Sprintf("global\n  nbthread %s\n  maxconn %d\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"+
		"frontend f\n  bind %s:%d\n  tcp-request inspect-delay 5s\n  tcp-request content accept if { req.ssl_hello_type 1 }\n"+
		"  use_backend bulk if { req.ssl_sni -i %s }\n  default_backend requests\n"+
		"backend requests\n  server one %s:%d\nbackend bulk\n  server one %s:%d\n",
		cpus(), haproxyConns(), clientIP, s.port, bulkHost, serverIP, requestPort, serverIP, bulkPort)
	file := filepath.Join(home, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return exec.Command("haproxy", "-db", "-f", file), nil
}

// start starts the proxy and waits for an answer through it.
func (s *subject) start(b *bench) error {
	home := filepath.Join(dir, s.name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	cmd, err := s.setUp(b, s, home)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = &s.said, &s.said
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := ask(order{Kind: "exchange", To: s.to(), For: 10 * time.Millisecond, N: 1})
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer within 30 s: %w\n%s", err, s.said.String())
		}
	}
}

// cpu is the CPU time that a process and its children have used; fields of
// schedstat (proc(5)).
func cpu(pid int) time.Duration {
	var total time.Duration
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		var ns int64
		text, _ := os.ReadFile(filepath.Join(task, "schedstat"))
		_, _ = fmt.Sscan(string(text), &ns)
		total += time.Duration(ns)
	}
	for _, c := range children(pid) {
		total += cpu(c)
	}
	return total
}

// memory is what a process and its children have in RAM and share with nobody,
// in bytes (proc(5), smaps_rollup).
func memory(pid int) (total int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && (f[0] == "Private_Clean:" || f[0] == "Private_Dirty:") {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			total += n << 10
		}
	}
	for _, c := range children(pid) {
		total += memory(c)
	}
	return total
}

func children(pid int) (out []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, c := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(c); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}
