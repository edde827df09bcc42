// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

var redisOnce sync.Once

// redis starts a server with TLS on one port and plain on another.
func redis(t *testing.T) {
	t.Helper()
	redisOnce.Do(func() {
		must(t, authority.Write(dir, 0, 0, passHost, replicaHost))
		overTLS, plain := freePort(t), freePort(t)
		start(t, exec.Command("redis-server", "--bind", replicaIP, "--port", strconv.Itoa(int(plain)),
			"--tls-port", strconv.Itoa(int(overTLS)), "--tls-cert-file", filepath.Join(dir, "server.pem"),
			"--tls-key-file", filepath.Join(dir, "server.key"), "--tls-ca-cert-file", caFile(), "--tls-auth-clients", "no",
			"--save", "", "--dir", dir))
		up(t, replica(overTLS))
		up(t, replica(plain))
		serve(t, services(tcproute.Redis, replica(overTLS), replica(plain))...)
	})
	if router.Addr(tcproute.Redis) == nil {
		t.Fatal("Redis did not start: see the first test")
	}
}

func redisTool(t *testing.T, tool, host string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(tool, "-h", frontIP, "-p", frontPort(tcproute.Redis))
	if host != "" {
		cmd.Args = append(cmd.Args, "--tls", "--sni", host, "--cacert", caFile())
	}
	cmd.Args = append(cmd.Args, args...)
	return output(t, cmd)
}

func TestA20RedisCli(t *testing.T) {
	redis(t)
	for _, host := range []string{passHost, termHost, tlsHost} {
		out, err := redisTool(t, "redis-cli", host, "SET", "wire", "1")
		if err != nil || out != "OK\n" {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
		// A value of many records both ways.
		big := strings.Repeat("fairlead", 12<<10)
		if out, err = redisTool(t, "redis-cli", host, "SET", "big", big); err != nil || out != "OK\n" {
			t.Errorf("%s: %v\n%.100s", host, err, out)
		}
		if out, err = redisTool(t, "redis-cli", host, "GET", "big"); err != nil || out != big+"\n" {
			t.Errorf("%s: %v, %d bytes", host, err, len(out))
		}
	}
}

// A24, A25: what a person at redis-cli reads.
func TestA24RedisErrors(t *testing.T) {
	redis(t)
	out, _ := redisTool(t, "redis-cli", "", "PING")
	has(t, "no TLS", out, "ERR fairlead: this server needs TLS")
	out, _ = redisTool(t, "redis-cli", noHost, "PING")
	has(t, "unknown", out, "unrecognized name")
	out, _ = output(t, exec.Command("redis-cli", "-h", frontIP, "-p", frontPort(tcproute.Redis), "--tls", "--cacert", caFile(), "PING"))
	has(t, "no name", out, "unrecognized name")
}

func TestGoRedis(t *testing.T) {
	redis(t)
	for _, host := range []string{passHost, termHost, tlsHost} {
		if out, err := drivers(t, tcproute.Redis, "redis", host, ""); err != nil || out != "ok value\n" {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
	}
	out, _ := drivers(t, tcproute.Redis, "redis", noHost, "")
	has(t, "unknown", out, "unrecognized name")
	out, _ = drivers(t, tcproute.Redis, "redis", passHost, "plain")
	has(t, "no TLS", out, "ERR fairlead: this server needs TLS")
}

func TestRedisBenchmark(t *testing.T) {
	redis(t)
	for _, host := range []string{passHost, termHost} {
		out, err := redisTool(t, "redis-benchmark", host, "-q", "-t", "ping,set,get,lrange_600", "-n", "4000", "-c", "50", "-P", "4")
		if err != nil || strings.Contains(strings.ToLower(out), "error") {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
		has(t, host, out, "LRANGE_600")
	}
}
