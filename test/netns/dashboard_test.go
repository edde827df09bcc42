// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/dashboard"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestDashboard: the agent's own page shows what a client did, to this host
// only; a taken port is told of and tried again, and "" turns the page off.
func TestDashboard(t *testing.T) {
	l := lab.New(t, lab.Any(t))
	a := lab.NewAgent(t, l.Node, l.Mode)
	config := func(address string) string {
		return strings.Replace(httpConfig("80", "  workload:\n"+workload("--http", ":8090")), `https: ""`, fmt.Sprintf(`https: "", dashboard: %q`, address), 1)
	}
	a.WriteText(t, strings.Replace(config(""), `, dashboard: ""`, "", 1)) // the default
	a.Run(t)
	a.WaitReady(t, 2)
	waitReplicas(t, a, "shop/web", 2)
	for range 3 {
		l.Client.Run(t, "curl", "-sS", "--noproxy", "*", "--max-time", "10", "-H", "Host: shop.example.com", "http://"+lab.NodeAddr(lab.V4).String()+"/x")
	}
	fetch := func(flags ...string) (string, error) {
		return l.Node.Try("curl", append([]string{"-sS", "--noproxy", "*", "--max-time", "10", "-w", "\n%{http_code}"}, flags...)...)
	}
	var view struct {
		Status   admin.Status
		Services []admin.Service
		Domains  admin.Domains
		Requests []dashboard.Requests
	}
	lab.Poll(t, 20*time.Second, func() error {
		out, err := fetch("http://127.0.0.1:9321/view.json")
		body, found := strings.CutSuffix(out, "\n200")
		if err != nil || !found {
			return fmt.Errorf("view.json: %v: %s", err, out)
		}
		view.Requests = nil
		if err := json.Unmarshal([]byte(body), &view); err != nil {
			return err
		}
		for _, r := range view.Requests {
			if r.Service == "shop/web" && r.Codes[200] == 3 {
				return nil
			}
		}
		return fmt.Errorf("requests: %v, want 3 of shop/web with 200", view.Requests)
	}, a.Log)
	if len(view.Services) != 2 || len(view.Services[0].Replicas) != 2 || len(view.Domains.Domains) != 3 || len(view.Status.Interfaces) == 0 {
		t.Errorf("view: %+v", view)
	}
	for page, want := range map[string]string{"/": "<!doctype html>", "/app.js": "view.json"} {
		if out, err := fetch("http://localhost:9321" + page); err != nil || !strings.Contains(out, want) || !strings.HasSuffix(out, "\n200") {
			t.Errorf("%s: %v: %.300s", page, err, out)
		}
	}
	if out, err := fetch("-H", "Host: rebound.example.com", "http://127.0.0.1:9321/view.json"); err != nil || !strings.HasSuffix(out, "\n421") {
		t.Errorf("a stranger's Host: %v: %.300s", err, out)
	}
	if out, err := l.Client.Try("curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://"+lab.NodeAddr(lab.V4).String()+":9321/"); err == nil {
		t.Errorf("the network reads the page: %.100s", out)
	}
	var taken net.Listener
	must(t, l.Node.Do(func() (err error) {
		taken, err = net.Listen("tcp", "127.0.0.1:9322")
		return err
	}))
	defer taken.Close()
	a.WriteText(t, config("127.0.0.1:9322"))
	lab.Poll(t, 10*time.Second, func() error {
		if out := a.CLI(t, "status"); !strings.Contains(out, "listen.dashboard 127.0.0.1:9322: the address is in use by another program") {
			return fmt.Errorf("status does not tell of the port:\n%s", out)
		}
		return nil
	}, a.Log)
	must(t, taken.Close())
	lab.Poll(t, 20*time.Second, func() error {
		if out, err := fetch("http://127.0.0.1:9322/"); err != nil || !strings.HasSuffix(out, "\n200") {
			return fmt.Errorf("the port is free again: %v: %.300s", err, out)
		}
		return nil
	}, a.Log)
	a.WriteText(t, config(""))
	lab.Poll(t, 10*time.Second, func() error {
		if _, err := fetch("http://127.0.0.1:9322/"); err == nil {
			return fmt.Errorf("turned off, and it answers")
		}
		return nil
	}, a.Log)
	a.Stop(t)
}
