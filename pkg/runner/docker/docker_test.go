// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dockerd/dockertest"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/docker"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/pkg/runner/runnertest"
)

func TestMain(m *testing.M) {
	dockertest.Main(func() { goleak.VerifyTestMain(m) })
}

// world is a daemon with the image "app", and what a Runner needs.
type world struct {
	*dockertest.Dockerd
	cfg docker.Config
}

func newWorld(t *testing.T, prepare ...func(data string)) *world {
	t.Helper()
	w := &world{Dockerd: dockertest.Start(t, dockertest.Cgroup(), prepare...)}
	w.Import(t, "app:1", dockertest.Program(t))
	root, err := listen.Cgroup2()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := bpf.Open(bpf.Config{Services: 64, Backends: 64, Slots: 1024, Flows: 1024, Embryos: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = objects.Close() })
	log := io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	w.cfg = docker.Config{
		RunDir: filepath.Join(t.TempDir(), "run"), Cgroup: filepath.Join(root, dockertest.Cgroup()), Listens: func(cgroup string, notify func(listen.Heard)) (io.Closer, error) {
			return objects.WatchListens(cgroup, func(l bpf.Listen) { notify(listen.Heard(l)) })
		},
		Host: func(context.Context) (string, error) { return w.Host(), nil },
		Log:  slog.New(slog.NewTextHandler(log, nil)),
	}
	return w
}

func (w *world) start(t *testing.T) *runnertest.Bench {
	t.Helper()
	r, err := docker.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return runnertest.Start(t, r)
}

// app is a service of one replica whose container runs `fairlead echo ARGS`.
func app(name string, port uint16, args ...string) activator.Spec {
	return activator.Spec{
		Service: model.ServiceName{Project: "shop", User: name}, Replicas: 1,
		Ports: []model.Port{{Service: 80, Container: port, Protocol: model.TCP}},
		Workload: model.Workload{
			Driver: "docker", Image: "app:1", Command: append([]string{"echo"}, args...), Scale: model.Scale{StartTimeout: 10 * time.Second},
		},
	}
}

// TestContainerServes: a container is started, answers in both families at its
// own address, and is gone when nobody wants it.
func TestContainerServes(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	b.Want(app("web", 8080, "--http", ":$PORT"))
	b.One("ready replica", runnertest.IsReady)
	rep := b.One("replica with both addresses", func(rep activator.Replica) bool { return rep.Addr6.IsValid() })
	for _, addr := range []struct {
		family string
		at     func() string
	}{
		{"IPv4", func() string { return runnertest.Fetch(t, rep.Addr4, 8080) }},
		{"IPv6", func() string { return runnertest.Fetch(t, rep.Addr6, 8080) }},
	} {
		if body := addr.at(); !strings.Contains(body, "shop.web.1") {
			t.Errorf("%s: the answer does not name the replica: %s", addr.family, body)
		}
	}
	if rep.PID == 0 || rep.Driver != "docker" {
		t.Errorf("replica %+v", rep)
	}
	b.Want()
	b.None()
	if names := w.Names(t, true); len(names) > 0 {
		t.Errorf("containers %v are left", names)
	}
}

// Row W08: who waits for a container is told once, before the news goes round, of
// an address that answers.
func TestW08Herald(t *testing.T) {
	w := newWorld(t)
	r, err := docker.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan activator.Replica, 8)
	r.Herald(func(rep activator.Replica) bool {
		told <- rep
		return true
	})
	b := runnertest.Start(t, r)
	b.Want(app("web", 8080, "--http", ":$PORT"))
	rep := b.One("ready replica", runnertest.IsReady)
	if n := len(told); n != 1 {
		t.Fatalf("told %d times", n)
	}
	first := <-told
	if first.ID != rep.ID || first.Phase != activator.Starting || first.Addr4 != rep.Addr4 || first.Addr6.IsValid() {
		t.Errorf("told of %+v, ready is %+v", first, rep)
	}
	if body := runnertest.Fetch(t, first.Addr4, 8080); !strings.Contains(body, "shop.web.1") {
		t.Errorf("the answer does not name the replica: %s", body)
	}
}

// TestD04Port: where nobody wrote the port, the one that the container was told
// wins if it opens, else the first that others can reach; one that is written
// is the only one that counts.
func TestD04Port(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	unwritten := func(name string, args ...string) activator.Spec {
		s := app(name, 80, args...)
		s.AnyPort = true
		return s
	}
	told := unwritten("told", "--http", ":9000", "--http", ":$PORT")
	other := unwritten("other", "--http", "127.0.0.1:7000", "--http", ":9000")
	local := unwritten("local", "--http", "127.0.0.1:9000")
	written := app("written", 80, "--http", ":9000")
	b.Want(told, other, local, written)
	for user, want := range map[string]uint16{"told": 0, "other": 9000} {
		all := b.Await("ready "+user, func(all []activator.Replica) bool {
			return slices.ContainsFunc(all, func(rep activator.Replica) bool { return rep.Service.User == user && runnertest.IsReady(rep) })
		})
		i := slices.IndexFunc(all, func(rep activator.Replica) bool { return rep.Service.User == user })
		if all[i].Port != want {
			t.Errorf("%s: port %d, want %d", user, all[i].Port, want)
		}
	}
	for user, words := range map[string]string{"local": "127.0.0.1:9000 only", "written": "nothing listens on 80 yet; it listens on [::]:9000"} {
		b.Await("reason of "+user, func(all []activator.Replica) bool {
			return slices.ContainsFunc(all, func(rep activator.Replica) bool {
				return rep.Service.User == user && rep.Phase == activator.Starting && strings.Contains(rep.Reason, words)
			})
		})
	}
	b.Want(other)
	b.One("the one that is wanted", runnertest.IsReady)
	b.Abandon()
	again := w.start(t)
	again.Want(other)
	if rep := again.One("adopted replica", runnertest.IsReady); rep.Port != 9000 {
		t.Errorf("adopted with port %d, want 9000", rep.Port)
	}
}

// Row D05: with `ready: http-head` a container that merely listens is not ready.
func TestD05HTTPHead(t *testing.T) {
	w := newWorld(t)
	b := w.start(t)
	mute, web := app("mute", 8080, "--tcp", ":$PORT"), app("web", 8080, "--http", ":$PORT")
	mute.Workload.Ready, web.Workload.Ready = "http-head", "http-head"
	b.Want(mute, web)
	b.Await("ready web, and mute told why it is not", func(all []activator.Replica) bool {
		return slices.ContainsFunc(all, func(rep activator.Replica) bool { return rep.Service.User == "web" && runnertest.IsReady(rep) }) &&
			slices.ContainsFunc(all, func(rep activator.Replica) bool {
				return rep.Service.User == "mute" && rep.Phase == activator.Starting && strings.Contains(rep.Reason, "HEAD /")
			})
	})
}
