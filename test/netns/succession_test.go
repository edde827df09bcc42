// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestL08SleepersAtAHandover: connections and requests that wait for a service to
// wake are led to it, although the agent that holds them gives its place away
// meanwhile.
func TestL08SleepersAtAHandover(t *testing.T) {
	l := lab.New(t, lab.Any(t))
	a := lab.NewAgent(t, l.Node, l.Mode)
	mail := sleepy(t, l, 40, "shop/mail", "25", 1500*time.Millisecond, "{min: 0, idle: 1h}")
	a.Write(t, lab.Config{Services: []lab.Service{mail}})
	text, err := os.ReadFile(a.Path("fairlead.yaml"))
	must(t, err)
	a.WriteText(t, string(text)+fmt.Sprintf(`- project: shop
  user: web
  run: {containerPort: 8090, servicePort: 90}
  health: {type: none}
  expose: [{http: {host: web.example.com, tls: "off"}}]
  workload:
    driver: process
    command: [sh, -c, "sleep 1.2; exec %s echo --http :8090"]
    scale: {min: 0, idle: 1h}
`, lab.Binary()))
	a.Run(t)
	a.WaitReady(t, 0)
	for round := range 4 {
		if round > 0 {
			a.CLI(t, "sleep", "shop/mail")
			a.CLI(t, "sleep", "shop/web")
		}
		waitAsleep(t, a, "shop/mail")
		waitAsleep(t, a, "shop/web")
		done := make(chan error, 16)
		for i := range cap(done) / 2 { // before, at and after the handover
			go func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				done <- converse(l.Client, vip(lab.V4, 40, 25))
			}()
			go func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				out, err := l.Client.Try("curl", "-sS", "--noproxy", "*", "--max-time", "30", "-w", "%{http_code}", "-H", "Host: web.example.com", "http://"+lab.Node4.String()+"/")
				if err == nil && !strings.HasSuffix(out, "200") {
					err = errors.New(out)
				}
				done <- err
			}()
		}
		time.Sleep(time.Duration(round) * 100 * time.Millisecond)
		old := a.Takeover(t)
		for range cap(done) {
			if err := <-done; err != nil {
				t.Errorf("round %d: %v\n%s", round, err, a.Log())
			}
		}
		must(t, old.Wait(t, 20*time.Second))
	}
	a.Stop(t)
}

// TestL08DeadReplicasStayOut: what the agent before found down is down for its
// successor from the first state on, so that no client meets it.
func TestL08DeadReplicasStayOut(t *testing.T) {
	l := lab.New(t, lab.Any(t))
	for _, r := range l.Replicas[:2] {
		r.ServeTCP(t, 7005)
	}
	s := service(l, 44, "shop/half", "70", "7005", "tcp")
	s.Health = "{type: tcp, interval: 2s, timeout: 1s, fall: 3}"
	a := l.Start(t, lab.Config{Services: []lab.Service{s}})
	dead := l.Replicas[2]
	out := func() error {
		for _, r := range a.Services(t)["shop/half"].Replicas {
			if r.Addr4 == dead.Addr4 && r.Condition != "down" {
				return fmt.Errorf("%s is %s: %s", dead.Name, r.Condition, r.Reason)
			}
		}
		return nil
	}
	lab.Poll(t, 30*time.Second, out, a.Log)
	for round := range 3 {
		ended := make(chan error, 1)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					ended <- nil
					return
				default:
				}
				if _, err := l.Client.Spread(vip(lab.V4, 44, 70), 20); err != nil {
					ended <- err
					return
				}
			}
		}()
		a.Takeover(t)
		must(t, out())
		time.Sleep(time.Second) // of clients' connections
		close(stop)
		if err := <-ended; err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, a.Log())
		}
	}
	a.Stop(t)
}

// TestL08Upgrade: "fairlead upgrade" starts the program that is installed now,
// tells the service manager, and tells a person how it went.
func TestL08Upgrade(t *testing.T) {
	l := lab.New(t, lab.Any(t))
	a := lab.NewAgent(t, l.Node, l.Mode)
	notify := a.Path("notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	must(t, err)
	defer manager.Close()
	program := filepath.Join(a.Dir, "fairlead")
	install := func(from string) {
		t.Helper()
		b, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(program+".new", b, 0o755))
		must(t, os.Rename(program+".new", program))
	}
	install(lab.Binary())
	a.Program(program)
	a.Setenv("NOTIFY_SOCKET=" + notify)
	a.Write(t, lab.Config{Services: []lab.Service{service(l, 41, "shop/web", "90", "8090", "tcp")}})
	a.Run(t)
	a.WaitReady(t, 0)
	first := a.PID()

	must(t, os.WriteFile(a.Path("broken"), []byte("#!/bin/sh\nexit 3\n"), 0o600))
	install(a.Path("broken"))
	if out, err := a.TryCLI("upgrade"); err == nil || !strings.Contains(err.Error(), "did not take the place") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a broken program: %v: %s", err, out)
	}
	if now := a.Status(t).PID; now != first {
		t.Fatalf("pid %d after %d", now, first)
	}
	install(lab.Binary())
	out := a.CLI(t, "upgrade")
	second := a.Status(t).PID
	if want := fmt.Sprintf("runs as pid %d, in place of devel as pid %d", second, first); second == first || !strings.Contains(out, want) {
		t.Errorf("upgrade says %q, wanted %q in it", out, want)
	}
	defer func() { _ = syscall.Kill(second, syscall.SIGKILL) }()
	must(t, a.Wait(t, 20*time.Second))
	_ = manager.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 256)
	for { // sockets are stored before
		n, err := manager.Read(buf)
		must(t, err)
		if string(buf[:n]) == fmt.Sprintf("MAINPID=%d", second) {
			break
		}
	}
	must(t, syscall.Kill(second, syscall.SIGTERM))
	lab.Poll(t, 20*time.Second, func() error {
		if _, err := a.TryCLI("status"); err == nil {
			return errors.New("it still answers")
		}
		return nil
	})
}
