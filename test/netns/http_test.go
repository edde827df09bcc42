// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// httpConfig is two services on one host: "web" runs replicas if it has a
// workload, "soon" has nothing to run.
func httpConfig(port, workload string) string {
	return fmt.Sprintf(`node: {interfaces: [up0], cgroup: ""}
listen: {http: ":%s", https: ""}
services:
- project: shop
  user: web
  run: {containerPort: "8090,8099,8091", servicePort: "80,81,82"}
  health: {type: none}
  drain: 1s
  expose:
  - http: {host: shop.example.com, tls: "off", paths: [{path: /, servicePort: 80}, {path: /wrong, servicePort: 81}, {path: /local, servicePort: 82}]}
  - http: {tls: "off"}
%s- {project: soon, user: u, run: {}, expose: [{http: {tls: "off"}}]}
`, port, workload)
}

// TestA14HTTPFront: a client on the network asks the agent's HTTP front; the
// host follows the config, from the placeholder to replicas and to none.
func TestA14HTTPFront(t *testing.T) {
	l := lab.New(t, lab.Any(t))
	a := lab.NewAgent(t, l.Node, l.Mode)
	run := "  workload:\n" + workload("--http", ":8090", "--http", "127.0.0.1:8091")
	a.WriteText(t, httpConfig("80", ""))
	a.Run(t)
	a.WaitReady(t, 0)
	ask := func(f lab.Family, host, path string) string {
		node := lab.NodeAddr(f).String()
		if f == lab.V6 {
			node = "[" + node + "]"
		}
		out, err := l.Client.Try("curl", "-sS", "-g", "--noproxy", "*", "--max-time", "10", "-H", "Host: "+host, "-H", "Accept: application/json",
			"-w", "\n%{http_code}", "http://"+node+path)
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return out
	}
	families(t, func(t *testing.T, f lab.Family) {
		for _, host := range []string{"shop.example.com", "shop.web.fairlead.test"} {
			if got := ask(f, host, "/x"); !strings.Contains(got, "Nothing is deployed here yet") || !strings.HasSuffix(got, "\n200") {
				t.Errorf("D01, %s: %s", host, got)
			}
		}
		if got := ask(f, "nobody.example.com", "/"); !strings.Contains(got, "no service has the host name") || !strings.HasSuffix(got, "\n404") {
			t.Errorf("unknown host: %s", got)
		}
	})
	a.WriteText(t, httpConfig("80", run))
	waitReplicas(t, a, "shop/web", 2)
	families(t, func(t *testing.T, f lab.Family) {
		got := ask(f, "shop.example.com", "/x")
		if want := `"X-Forwarded-For":["` + lab.ClientAddr(f).String() + `"]`; !strings.Contains(got, want) || !strings.HasSuffix(got, "\n200") {
			t.Errorf("D08: %s, want %s in it", got, want)
		}
		for path, want := range map[string]string{
			"/wrong": "the workload listens on *:8090, 127.0.0.1:8091, the service expects 8099",
			"/local": "the workload listens on 127.0.0.1:8091 only, which nobody outside of it can reach",
		} {
			if got := ask(f, "shop.example.com", path); !strings.Contains(got, want) || !strings.HasSuffix(got, "\n502") {
				t.Errorf("A28, %s: %s, want %q", path, got, want)
			}
		}
	})
	out := a.CLI(t, "services", "shop/web")
	for _, want := range []string{"shop.example.com", ":8099: the workload listens on ", "127.0.0.1:8091 only"} {
		if !strings.Contains(out, want) {
			t.Errorf("A28: fairlead services shows no %q:\n%s", want, out)
		}
	}
	if out := a.CLI(t, "status"); !strings.Contains(out, "3 host names on [::]:80") {
		t.Errorf("fairlead status:\n%s", out)
	}
	// A port that is taken is an error that ends by itself.
	var taken net.Listener
	must(t, l.Node.Do(func() (err error) {
		taken, err = net.Listen("tcp", ":8088")
		return err
	}))
	defer taken.Close()
	a.WriteText(t, httpConfig("8088", run))
	lab.Poll(t, 10*time.Second, func() error {
		if out := a.CLI(t, "status"); !strings.Contains(out, "listen.http :8088: the address is in use by another program") {
			return fmt.Errorf("status does not tell of the port:\n%s", out)
		}
		return nil
	}, a.Log)
	if got := ask(lab.V4, "shop.example.com", "/x"); !strings.HasSuffix(got, "\n200") {
		t.Errorf("the old port meanwhile: %s", got)
	}
	must(t, taken.Close())
	lab.Poll(t, 20*time.Second, func() error {
		out, err := l.Client.Try("curl", "-sS", "--noproxy", "*", "--max-time", "10", "-H", "Host: shop.example.com", "http://"+lab.NodeAddr(lab.V4).String()+":8088/")
		if err != nil || !strings.Contains(out, "name:") {
			return fmt.Errorf("the new port: %v: %s", err, out)
		}
		return nil
	}, a.Log)
	a.Stop(t)
}
