// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/tcproute/tcptest"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// namesConfig is one Redis service of each replica, by name.
func namesConfig(replicas ...*lab.Replica) string {
	b := "node: {interfaces: [up0], cgroup: \"\"}\nservices:\n"
	for _, r := range replicas {
		b += fmt.Sprintf("- project: shop\n  user: %s\n  run: {containerPort: 7443, servicePort: 6379}\n  health: {type: none}\n"+
			"  replicas: [{address: [%s, \"%s\"]}]\n  expose:\n  - tcp: {kind: REDIS, host: %s.example.test}\n", r.Name, r.Addr4, r.Addr6, r.Name)
	}
	return b
}

// TestA20NamesThroughTheAgent: from the config file to the replica, in both
// families. A reload that takes everything away cuts nothing, a stop lets what
// is open end.
func TestA20NamesThroughTheAgent(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		ca, err := tcptest.NewAuthority()
		must(t, err)
		for _, r := range l.Replicas {
			cert, err := ca.Issue(r.Name + ".example.test")
			must(t, err)
			r.HandleTCP(t, 7443, func(c net.Conn) {
				s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
				if _, err := fmt.Fprintln(s, r.Name); err == nil {
					_, _ = io.Copy(s, s)
				}
			})
		}
		a := lab.NewAgent(t, l.Node, l.Mode)
		a.WriteText(t, namesConfig(l.Replicas[:2]...))
		a.Run(t)
		a.WaitReady(t, 0)

		connect := func(f lab.Family, name string) (*tls.Conn, string, error) {
			c, err := l.Client.Dial("tcp", netip.AddrPort{}, netip.AddrPortFrom(lab.NodeAddr(f), 6379), 20*time.Second)
			if err != nil {
				return nil, "", err
			}
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(lab.Patience(60 * time.Second)))
			tc := tls.Client(c, &tls.Config{ServerName: name, RootCAs: ca.Pool})
			line, err := bufio.NewReader(tc).ReadString('\n')
			return tc, strings.TrimSpace(line), err
		}
		families(t, func(t *testing.T, f lab.Family) {
			for _, r := range l.Replicas[:2] {
				if _, got, err := connect(f, r.Name+".example.test"); err != nil || got != r.Name {
					t.Errorf("%s.example.test leads to %q, %v", r.Name, got, err)
				}
			}
			if _, _, err := connect(f, l.Replicas[2].Name+".example.test"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("a name nobody has: %v", err)
			}
		})
		open, _, err := connect(lab.V4, l.Replicas[0].Name+".example.test")
		must(t, err)
		echo := func() error {
			if _, err := io.WriteString(open, "ping"); err != nil {
				return err
			}
			_, err := io.ReadFull(open, make([]byte, 4))
			return err
		}
		if out := a.CLI(t, "services", "shop/"+l.Replicas[0].Name); !strings.Contains(out, l.Replicas[0].Name+".example.test") || !strings.Contains(out, "passthrough") {
			t.Errorf("services: %s", out)
		}
		before := a.Status(t).Config.Generation
		a.WriteText(t, namesConfig(l.Replicas[2]))
		a.Signal(t, syscall.SIGHUP)
		a.WaitReady(t, before)
		must(t, echo())
		if _, got, err := connect(lab.V4, l.Replicas[2].Name+".example.test"); err != nil || got != l.Replicas[2].Name {
			t.Errorf("after the reload: %q, %v", got, err)
		}

		a.Signal(t, syscall.SIGTERM)
		lab.Poll(t, 20*time.Second, func() error {
			c, err := l.Client.Dial("tcp", netip.AddrPort{}, netip.AddrPortFrom(lab.Node4, 6379), time.Second)
			if err == nil {
				_ = c.Close()
				return errors.New("a stopping agent takes connections")
			}
			return nil
		})
		if err := echo(); err != nil {
			t.Errorf("a stop cuts at once: %v", err)
		}
		_ = open.Close()
		if err := a.Wait(t, 30*time.Second); err != nil {
			t.Errorf("the agent ended with: %v\n%s", err, a.Log())
		}
	})
}
