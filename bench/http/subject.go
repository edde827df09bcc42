// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	baseline    = "nginx"
	replicaAddr = "127.0.0.1:18080"
	// The proxy has a CPU of its own where there are two; client and replica
	// share the other.
	clientCPU, proxyCPU = 0, 1
)

// subject is one proxy.
type subject struct {
	name, title   string
	addr, tlsAddr string
	start         func(*bench, *subject) error
	proc          *proc
	samples       map[string][]float64
}

func (s *subject) add(kind string, v float64) { s.samples[kind] = append(s.samples[kind], v) }

func subjects() []*subject {
	return []*subject{
		{name: "nginx", title: "nginx", addr: "127.0.0.1:18081", tlsAddr: "127.0.0.1:18441", start: startNginx},
		{name: "haproxy", title: "HAProxy", addr: "127.0.0.1:18082", tlsAddr: "127.0.0.1:18442", start: startHAProxy},
		{name: "fairlead", title: "fairlead", addr: "127.0.0.1:18083", tlsAddr: "127.0.0.1:18443", start: startFairlead},
	}
}

func startNginx(b *bench, s *subject) error {
	home := filepath.Join(b.dir, "nginx")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	server := `location / { proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Request-ID $request_id; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme; }`
	conf := fmt.Sprintf(`daemon off; master_process off; user root; worker_processes 1; pid %[1]s/pid; error_log stderr error;
events { worker_connections 4096; }
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  keepalive_requests 1000000000; tcp_nodelay on;
  upstream replica { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
  server { listen %[3]s; %[5]s }
  server { listen %[4]s ssl; ssl_certificate %[6]s; ssl_certificate_key %[7]s; ssl_protocols TLSv1.2 TLSv1.3; ssl_ecdh_curve X25519:prime256v1;
    ssl_session_cache shared:x:10m; %[5]s }
}
`, home, replicaAddr, s.addr, s.tlsAddr, server, b.certs.cert, b.certs.key)
	return b.startProxy(s, home, conf, "nginx", "-e", "stderr", "-p", home, "-c")
}

func startHAProxy(b *bench, s *subject) error {
	home := filepath.Join(b.dir, "haproxy")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	conf := fmt.Sprintf(`global
  nbthread 1
  maxconn 4000
  ssl-default-bind-curves X25519:P-256
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
frontend f
  bind %s
  bind %s ssl crt %s
  option forwardfor
  http-request set-header X-Request-ID %%[uuid()]
  http-request set-header X-Forwarded-Host %%[req.hdr(Host)]
  http-request set-header X-Forwarded-Proto %%[ssl_fc,iif(https,http)]
  default_backend b
backend b
  http-reuse always
  server s %s
`, s.addr, s.tlsAddr, b.certs.both, replicaAddr)
	return b.startProxy(s, home, conf, "haproxy", "-db", "-f")
}

// startProxy writes a configuration and starts a program with its path as the
// last argument.
func (b *bench) startProxy(s *subject, home, conf, name string, args ...string) error {
	file := filepath.Join(home, name+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return err
	}
	var err error
	if s.proc, err = b.spawn(exec.Command(name, append(args, file)...), proxyCPU); err != nil {
		return err
	}
	return s.proc.wait(s.addr)
}

func startFairlead(b *bench, s *subject) error {
	var err error
	if s.proc, err = b.startRole("fairlead", proxyCPU, "BENCH_ADDR="+s.addr, "BENCH_TLS_ADDR="+s.tlsAddr, "BENCH_CERT="+b.certs.cert, "BENCH_KEY="+b.certs.key); err != nil {
		return err
	}
	return s.proc.wait(s.addr)
}
