// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"strings"
	"testing"
	"time"
)

const ports = "  run: {containerPort: 8080, servicePort: 80}\n"

// TestD03ContainerSleeps: a service whose container does not run is woken by a
// TCP connection to its virtual IP, in each family, and by a request over HTTP;
// it is stopped when nobody uses it; a new agent wakes nobody and forgets nobody.
func TestD03ContainerSleeps(t *testing.T) {
	w := newWorld(t)
	scale := "    scale: {min: 0, idle: 1s, startTimeout: 20s}\n"
	lasting := "    scale: {min: 0, idle: 1h, startTimeout: 20s}\n"
	w.write("", app("web", 10, ports, `--http, ":$PORT"`)+scale+
		app("shop", 11, ports+"  expose: [{http: {host: shop.test, tls: \"off\"}}]\n", `--http, ":8080"`)+lasting)
	w.run()
	if left := w.containers(); len(left) > 0 {
		t.Fatalf("containers %v run before anybody connects", left)
	}
	t.Run("W01ByTCP", func(t *testing.T) {
		w.answers(vip4(10, 80), "", "shop.web.1")
		w.ready("shop/web", 1)
		w.answers(vip4(10, 80), "", "shop.web.1") // straight, by the data plane
		w.asleep("shop/web")
		w.answers(vip6(10, 80), "", "shop.web.1")
		w.asleep("shop/web")
		if left := w.containers(); len(left) > 0 {
			t.Errorf("containers %v are left of what sleeps", left)
		}
	})
	t.Run("W01ByHTTP", func(t *testing.T) {
		w.answers(front, "shop.test", "shop.shop.1")
		w.ready("shop/shop", 1)
		w.poll("both families", func() error {
			if r := w.workloads()[0]; !r.Addr6.IsValid() {
				return errNotYet
			}
			return nil
		})
		for range 3 {
			w.answers(vip4(11, 80), "", "shop.shop.1")
			w.answers(vip6(11, 80), "", "shop.shop.1")
		}
	})
	t.Run("W06AgentRestart", func(t *testing.T) {
		before := w.ready("shop/shop", 1)[0]
		w.kill()
		w.answers(vip4(11, 80), "", "shop.shop.1") // without an agent
		w.run()
		if after := w.ready("shop/shop", 1)[0]; after != before {
			t.Errorf("after the restart: %+v, before: %+v", after, before)
		}
		time.Sleep(time.Second) // of a wake something would be seen by now
		if left := w.containers(); len(left) != 1 {
			t.Errorf("containers %v, want the one that is awake", left)
		}
		w.answers(vip4(10, 80), "", "shop.web.1")
	})
	t.Run("Status", func(t *testing.T) {
		if out := w.cli("status", "shop/shop"); !strings.Contains(out, "awake") {
			t.Errorf("status: %s", out)
		}
		if out := w.cli("workloads"); !strings.Contains(out, "shop.shop.1") || !strings.Contains(out, "docker") {
			t.Errorf("workloads: %s", out)
		}
	})
	w.stop()
	if left := w.containers(); len(left) > 0 {
		t.Errorf("containers %v are left after SIGTERM", left)
	}
}

// TestW03ContainerFails: who waits for a container that cannot be started gets
// the reason.
func TestW03ContainerFails(t *testing.T) {
	w := newWorld(t)
	scale := "    scale: {min: 0, startTimeout: 10s}\n"
	missing := strings.Replace(app("missing", 20, ports+"  expose: [{http: {host: missing.test, tls: \"off\"}}]\n", `--http, ":8080"`), "app:1", "127.0.0.1:1/app:1", 1)
	w.write("", missing+scale+app("crash", 21, ports+"  expose: [{http: {host: crash.test, tls: \"off\"}}]\n", "--bogus")+scale)
	w.run()
	for host, reason := range map[string]string{"missing.test": "image 127.0.0.1:1/app:1 is missing", "crash.test": "exit status 2"} {
		code, body, err := w.get(front, host)
		if err != nil || code != 503 || !strings.Contains(body, reason) {
			t.Errorf("%s: %d, %v: %s; want 503 with %q", host, code, err, body, reason)
		}
	}
}

// TestReplicasOfContainers: two replicas share the connections; a service that
// leaves the config loses its containers, also while no agent ran.
func TestReplicasOfContainers(t *testing.T) {
	w := newWorld(t)
	two := app("web", 10, ports, `--http, ":8080"`) + "    scale: {min: 2, max: 2}\n"
	other := app("other", 11, ports, `--http, ":8080"`)
	w.write("", two+other)
	w.run()
	w.ready("shop/web", 2)
	w.ready("shop/other", 1)
	seen := map[string]bool{}
	for range 40 {
		_, body, err := w.get(vip4(10, 80), "")
		must(t, err)
		for _, id := range []string{"shop.web.1", "shop.web.2"} {
			seen[id] = seen[id] || strings.Contains(body, id)
		}
	}
	if !seen["shop.web.1"] || !seen["shop.web.2"] {
		t.Errorf("40 connections reached %v", seen)
	}
	w.kill()
	w.write("", two)
	w.run()
	w.poll("the removed service's container is gone", func() error {
		if len(w.containers()) != 2 {
			return errNotYet
		}
		return nil
	})
	w.ready("shop/web", 2)
}

// TestD04PortChoice: connections go to the port that the container opened, also
// those that woke it; a port that is written wins.
func TestD04PortChoice(t *testing.T) {
	w := newWorld(t)
	sleeps := "    scale: {min: 0, idle: 1h, startTimeout: 20s}\n"
	w.write("",
		app("found", 30, "  run: {servicePort: 80}\n  expose: [{http: {host: found.test, tls: \"off\"}}]\n", `--http, ":9123"`)+sleeps+
			app("told", 31, "  run: {servicePort: 80}\n", `--http, ":$PORT", --http, ":9123"`)+"    env: {PORT: \"8123\"}\n"+sleeps+
			app("written", 32, ports, `--http, ":9123", --http, ":8080"`)+sleeps)
	w.run()
	for user, k := range map[string]int{"found": 30, "told": 31, "written": 32} {
		local := map[string]string{"found": ":9123", "told": ":8123", "written": ":8080"}[user]
		for range 2 { // asleep, awake
			w.answers(vip4(k, 80), "", "shop."+user+".1")
			_, body, err := w.get(vip4(k, 80), "")
			if err != nil || !strings.Contains(body, local) {
				t.Errorf("%s: %v: %s; want an answer at %s", user, err, body, local)
			}
			w.ready("shop/"+user, 1)
		}
	}
	w.answers(front, "found.test", "shop.found.1")
}
