// SPDX-License-Identifier: Apache-2.0

// Package netns_test proves the main job on real traffic: real clients and
// servers in namespaces (package lab), with fairlead between them. Tests are
// named after the rows of REQUIREMENTS.md that they prove.
package netns_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// vip is the k-th virtual IP of a family and a port of it.
func vip(f lab.Family, k, port int) netip.AddrPort {
	addr := netip.AddrFrom4([4]byte{198, 18, 0, byte(k)})
	if f == lab.V6 {
		addr = netip.MustParseAddr(fmt.Sprintf("fd00:198:18::%x", k))
	}
	return netip.AddrPortFrom(addr, uint16(port))
}

// service is a service on the k-th virtual IPs with all replicas of the lab.
func service(l *lab.Lab, k int, name, servicePort, containerPort, protocol string) lab.Service {
	return lab.Service{
		Name: name, VIP: vip(lab.V4, k, 0).Addr().String(), VIP6: vip(lab.V6, k, 0).Addr().String(),
		Service: servicePort, Container: containerPort, Protocol: protocol,
		Backends: lab.Backends(l.Replicas[:]...),
	}
}

// stream is the k-th service with TCP 70 in front of the echo servers.
func stream(l *lab.Lab, k int, replicas ...*lab.Replica) lab.Service {
	s := service(l, k, fmt.Sprintf("shop/stream%d", k), "70", fmt.Sprint(lab.TCPPort), "tcp")
	if len(replicas) > 0 {
		s.Backends = lab.Backends(replicas...)
	}
	return s
}

// families runs f for both.
func families(t *testing.T, f func(t *testing.T, f lab.Family)) {
	t.Helper()
	for _, family := range lab.Families {
		t.Run(family.String(), func(t *testing.T) { f(t, family) })
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
