// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/runner/runnertest"
)

// TestW03StartsThatFail: each says why, in words, and none keeps the others
// from starting.
func TestW03StartsThatFail(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	missing := app("missing", 8080)
	missing.Workload.Image = "127.0.0.1:1/nobody/has:this"
	digest := app("digest", 8080)
	digest.Workload.Image = "127.0.0.1:1/app@sha256:" + strings.Repeat("ab", 32)
	crash := app("crash", 8080, "--no-such-flag")
	wrong := app("command", 8080)
	wrong.Workload.Image, wrong.Workload.Command = "bare:1", []string{"/no/such/program"}
	w.Import(t, "bare:1", "/proc/self/exe", "ENTRYPOINT []")
	hung := app("hung", 8080, "--udp", ":9000")
	hung.Workload.Scale.StartTimeout = 300 * time.Millisecond
	local := app("local", 8080, "--http", "127.0.0.1:8080")
	other := app("other", 8080, "--http", ":9999")
	good := app("good", 8080, "--http", ":8080")
	b.Want(missing, digest, crash, wrong, hung, local, other, good)
	for _, tc := range []struct {
		user  string
		words []string
	}{
		{"missing", []string{"image 127.0.0.1:1/nobody/has:this is missing, and cannot be pulled"}},
		{"digest", []string{"image 127.0.0.1:1/app@sha256:abab", "is missing, and cannot be pulled"}},
		{"crash", []string{"exit status 2", "fairlead echo --help"}},
		{"command", []string{"no such file"}},
		{"hung", []string{"not ready within the startTimeout of 300ms", "nothing listens on 8080 yet"}},
		{"local", []string{"127.0.0.1:8080 only, which nobody outside the replica can reach"}},
		{"other", []string{"nothing listens on 8080 yet; it listens on [::]:9999"}},
		{"good", nil},
	} {
		t.Run(tc.user, func(t *testing.T) {
			b.Await("reason "+strings.Join(tc.words, " … "), func(all []activator.Replica) bool {
				return slices.ContainsFunc(all, func(rep activator.Replica) bool {
					if rep.Service.User != tc.user || tc.words == nil && !runnertest.IsReady(rep) {
						return false
					}
					for _, words := range tc.words {
						if !strings.Contains(rep.Reason, words) {
							return false
						}
					}
					if tc.user == "missing" && rep.Phase == activator.Backoff && !rep.Hopeless {
						return false
					}
					return tc.words == nil || rep.Phase != activator.Ready
				})
			})
		})
	}
	t.Run("CrashLoopBacksOff", func(t *testing.T) {
		b.Await("fourth start", func(all []activator.Replica) bool {
			return slices.ContainsFunc(all, func(rep activator.Replica) bool {
				return rep.Service.User == "crash" && rep.Phase == activator.Backoff && rep.Restarts >= 4 && !rep.Next.IsZero()
			})
		})
	})
	b.Want(good)
	b.One("only what is fit", runnertest.IsReady)
	if names := w.Names(t, true); len(names) != 1 {
		t.Errorf("containers %v are left, want one", names)
	}
}

// TestPullTellsHowFar: an image that the daemon lacks is pulled from a registry,
// and the reason says so while it goes on.
func TestPullTellsHowFar(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registry := &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		select { // a registry that takes its time
		case <-hold:
		case <-q.Context().Done():
		}
		http.NotFound(rw, q)
	})}}
	registry.Start()
	defer registry.Close()
	b := w.start(t)
	slow := app("slow", 8080)
	slow.Workload.Image = l.Addr().String() + "/slow:1"
	b.Want(slow, app("good", 8080, "--http", ":8080"))
	b.Await("word of the pull, and a replica that does not wait for it", func(all []activator.Replica) bool {
		return len(all) == 2 && runnertest.IsReady(all[0]) && all[1].Phase == activator.Starting &&
			all[1].Reason == "pulling image "+slow.Workload.Image
	})
	close(hold)
	b.Await("the registry's answer", func(all []activator.Replica) bool {
		return len(all) == 2 && all[1].Phase == activator.Backoff && strings.Contains(all[1].Reason, "is missing, and cannot be pulled")
	})
}

// TestForeignContainer: one of the name that somebody else made is left alone,
// and so is one that only claims to be fairlead's.
func TestForeignContainer(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	b.Want(app("web", 8080, "--http", ":8080"))
	b.One("ready replica", runnertest.IsReady)
	mine, err := w.ContainerInspect(context.Background(), w.Names(t, true)[0], client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	foreign := *mine.Container.Config // an image could have such labels
	if _, err := w.ContainerCreate(context.Background(), client.ContainerCreateOptions{Name: "bystander", Config: &foreign}); err != nil {
		t.Fatal(err)
	}
	b.Want()
	b.None()
	plain := foreign
	plain.Labels = nil
	if _, err := w.ContainerCreate(context.Background(), client.ContainerCreateOptions{Name: mine.Container.Name[1:], Config: &plain}); err != nil {
		t.Fatal(err)
	}
	b.Want(app("web", 8080, "--http", ":8080"))
	b.One("word of the other container", runnertest.Says("that fairlead did not make: rename it, or remove it"))
	if names := w.Names(t, true); len(names) != 2 {
		t.Errorf("containers %v, want both of somebody else", names)
	}
	for _, name := range w.Names(t, true) {
		if _, err := w.ContainerRemove(context.Background(), name, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}
