// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// upstreamDNS answers A of every name with 192.0.2.1, in the node's namespace.
func upstreamDNS(t *testing.T, ns *lab.Netns) netip.AddrPort {
	t.Helper()
	var pc net.PacketConn
	must(t, ns.Do(func() (err error) {
		pc, err = net.ListenPacket("udp", "127.0.0.2:5300")
		return err
	}))
	begun, done := make(chan struct{}), make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(begun) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1),
			}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe(); close(done) }()
	<-begun
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// inside runs a command as the program of a replica would: in its network and
// mount namespaces.
func inside(w lab.WorkloadView, command ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(w.PID), "-n", "-m", "timeout", "20"}, command...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestA07InternalNames: a workload reaches services by their internal names,
// of both families, and everything else by the host's resolver; also after the
// agent was killed and another one took over. A detach leaves nothing.
func TestA07InternalNames(t *testing.T) {
	lab.Some(t, []string{"tcx", "clsact"}, func(t *testing.T, l *lab.Lab) {
		upstream := upstreamDNS(t, l.Node)
		// One mode by IPv4, the other by IPv6: where the server is.
		server := netip.MustParseAddrPort("198.18.0.1:53")
		if l.Mode.Name == "clsact" {
			server = netip.MustParseAddrPort("[fd00:198:18::1]:53")
		}
		web := service(l, 30, "test/user", "90", "8090", "tcp")
		web.Workload = workload("--http", ":8090")
		a := l.Start(t, lab.Config{
			Services: []lab.Service{web},
			Settings: fmt.Sprintf("listen: {dns: %q, metrics: \"\", dashboard: \"\"}\ndns: {upstream: [%s]}\n", server, upstream),
		})
		replicas := waitReplicas(t, a, "test/user", 2)
		curl := func(t *testing.T, flags ...string) {
			t.Helper()
			args := append([]string{"curl", "-sS", "--noproxy", "*", "--max-time", "10"}, flags...)
			for _, r := range replicas {
				if out, err := inside(r, append(args, "http://fairlead-test-run-user:90/")...); err != nil || !strings.Contains(out, "name:") {
					t.Errorf("%q in %s: %v: %s", args, r.ID, err, out)
				}
			}
		}
		t.Run("Curl", func(t *testing.T) {
			curl(t)
			curl(t, "-4")
			curl(t, "-6")
		})
		t.Run("TheRest", func(t *testing.T) {
			if out, err := inside(replicas[0], "getent", "ahostsv4", "www.example.org"); err != nil || !strings.Contains(out, "192.0.2.1") {
				t.Errorf("getent: %v: %s", err, out)
			}
		})
		t.Run("FromTheHostByTCP", func(t *testing.T) {
			c, err := l.Node.Dial("tcp", netip.AddrPort{}, server, 5*time.Second)
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(lab.Patience(10*time.Second))))
			conn := &dns.Conn{Conn: c}
			must(t, conn.WriteMsg(new(dns.Msg).SetQuestion("fairlead-test-run-user.", dns.TypeAAAA)))
			m, err := conn.ReadMsg()
			must(t, err)
			if len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "fd00:198:18::1e") {
				t.Errorf("answer: %v", m)
			}
		})
		t.Run("AnotherAgent", func(t *testing.T) {
			a.Kill(t)
			a.Run(t)
			a.WaitReady(t, 0)
			before := replicas
			replicas = waitReplicas(t, a, "test/user", 2)
			for i := range replicas {
				if replicas[i].PID != before[i].PID {
					t.Errorf("%s was started again", replicas[i].ID)
				}
			}
			curl(t)
		})
		local := func() string {
			return l.Node.Run(t, "ip", "-4", "route", "show", "table", "local", "proto", "241") +
				l.Node.Run(t, "ip", "-6", "route", "show", "table", "local", "proto", "241")
		}
		if !strings.Contains(local(), server.Addr().String()) {
			t.Errorf("the name server's address is not local: %q", local())
		}
		a.Stop(t)
		a.CLI(t, "detach")
		if left := strings.TrimSpace(local()); left != "" {
			t.Errorf("after a detach: %q", left)
		}
	})
}
