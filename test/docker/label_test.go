// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// labeled starts a container as a person would, with labels "KEY=VALUE".
func (w *world) labeled(name string, labels ...string) {
	w.t.Helper()
	l := map[string]string{}
	for _, pair := range labels {
		k, v, _ := strings.Cut(pair, "=")
		l["fairlead."+k] = v
	}
	ctx := context.Background()
	_, err := w.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: name, Config: &container.Config{Image: "app:1", Cmd: []string{"echo", "--http", ":8080", "--name", name}, Labels: l},
		HostConfig: &container.HostConfig{Resources: container.Resources{}},
	})
	must(w.t, err)
	_, err = w.ContainerStart(ctx, name, client.ContainerStartOptions{})
	must(w.t, err)
}

func (w *world) remove(names ...string) {
	w.t.Helper()
	for _, name := range names {
		_, err := w.ContainerRemove(context.Background(), name, client.ContainerRemoveOptions{Force: true})
		must(w.t, err)
	}
}

// replicas waits until a service has so many, or is gone (-1).
func (w *world) replicas(service string, n int) {
	w.t.Helper()
	w.poll(fmt.Sprintf("%d replicas of %s", n, service), func() error {
		s := w.service(service)
		if s.Name == "" && n == -1 {
			return w.applied()
		}
		if s.Name == "" || len(s.Replicas) != n {
			return fmt.Errorf("there is %+v", s)
		}
		return w.applied()
	})
}

// problem waits until the status tells of something.
func (w *world) problem(words ...string) {
	w.t.Helper()
	w.poll(fmt.Sprintf("%q in the status", words), func() error {
		out, _ := w.command("status").CombinedOutput() // with a problem it may end with 1
		for _, word := range words {
			if !strings.Contains(string(out), word) {
				return fmt.Errorf("%s", out)
			}
		}
		return nil
	})
}

// TestLabels: containers that others start are services by their labels: they
// come, change and go; one with faults is named and takes nothing from the
// others; while the daemon is away what it said last stays in force.
func TestLabels(t *testing.T) {
	w := newWorld(t)
	w.labeled("web-1", "project=shop", "user=web", "containerPort=8080", "servicePort=90", "vip=198.18.0.50", "expose.http.host=web.test", "expose.http.tls=off")
	filed := app("filed", 10, ports, `--http, ":8080"`) + "    scale: {min: 0}\n"
	w.write("labels\n", filed)
	w.run()
	w.replicas("shop/web", 1)
	w.answers(vip4(50, 90), "", "web-1")
	w.answers(front, "web.test", "web-1")

	t.Run("TwoReplicas", func(t *testing.T) {
		w.labeled("web-2", "project=shop", "user=web", "containerPort=8080", "servicePort=90", "vip=198.18.0.50", "expose.http.host=web.test", "expose.http.tls=off")
		w.replicas("shop/web", 2)
		seen := map[string]bool{}
		for range 40 {
			_, body, err := w.get(vip4(50, 90), "")
			must(t, err)
			seen["web-1"] = seen["web-1"] || strings.Contains(body, "web-1")
			seen["web-2"] = seen["web-2"] || strings.Contains(body, "web-2")
		}
		if !seen["web-1"] || !seen["web-2"] {
			t.Errorf("40 connections reached %v", seen)
		}
	})
	t.Run("Faults", func(t *testing.T) {
		w.labeled("typo", "project=shop", "user=typo", "containerport=8080")
		w.problem(`container typo: label fairlead.containerport: unknown key "containerport"`)
		w.labeled("thief", "project=shop", "user=thief", "expose.http.host=web.test", "expose.http.tls=off")
		w.problem("container thief: label fairlead.expose.http", "container web-1")
		w.labeled("filed-too", "project=shop", "user=filed")
		w.problem(`container filed-too: label fairlead.project: service name "shop/filed" is taken by shop/filed`)
		w.labeled("other", "project=shop", "user=web", "containerPort=8081")
		w.problem(`container other: label fairlead.containerPort is "8081", but container web-1 of the same service has "8080"`)
		w.replicas("shop/web", 2)
		w.replicas("shop/typo", -1)
		w.answers(front, "web.test", "web-")
		w.remove("typo", "thief", "filed-too", "other")
		w.poll("no more problems", func() error {
			if out := w.cli("status"); strings.Contains(out, "container") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	})
	t.Run("StoppedAndRemoved", func(t *testing.T) {
		zero := 0
		_, err := w.ContainerStop(context.Background(), "web-1", client.ContainerStopOptions{Timeout: &zero})
		must(t, err)
		w.replicas("shop/web", 1)
		w.answers(vip4(50, 90), "", "web-2")
		_, err = w.ContainerStop(context.Background(), "web-2", client.ContainerStopOptions{Timeout: &zero})
		must(t, err)
		w.replicas("shop/web", 0) // it is known still
		_, err = w.ContainerStart(context.Background(), "web-2", client.ContainerStartOptions{})
		must(t, err)
		w.replicas("shop/web", 1)
		w.remove("web-1")
		w.answers(vip4(50, 90), "", "web-2")
	})
	t.Run("DaemonAway", func(t *testing.T) {
		w.Kill(t)
		w.problem("docker.labels: no Docker daemon answers at unix://")
		w.replicas("shop/web", 1)
		w.answers(vip4(50, 90), "", "web-2") // the container runs on
		w.Up(t)                              // and the daemon ends it as it comes back
		w.replicas("shop/web", 0)
		_, err := w.ContainerStart(context.Background(), "web-2", client.ContainerStartOptions{})
		must(t, err)
		w.replicas("shop/web", 1)
	})
	t.Run("OffAndOn", func(t *testing.T) {
		w.write("", filed)
		w.replicas("shop/web", -1)
		w.write("labels\n", filed)
		w.replicas("shop/web", 1)
	})
	w.remove("web-2")
	w.replicas("shop/web", -1)
}
