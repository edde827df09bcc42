// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
)

// fakeMap is an IfaceMap that remembers and counts what it was told.
type fakeMap struct {
	entries map[uint32][2]uint8
	mtus    map[uint32]uint16
	writes  int
	fail    error
}

func (m *fakeMap) SetIface(ifindex uint32, slot, flags uint8, mtu uint16) error {
	m.writes++
	if m.fail != nil {
		return m.fail
	}
	m.entries[ifindex] = [2]uint8{slot, flags}
	m.mtus[ifindex] = mtu
	return nil
}

func (m *fakeMap) ClearIface(ifindex uint32) error {
	m.writes++
	if m.fail != nil {
		return m.fail
	}
	delete(m.entries, ifindex)
	return nil
}

func (m *fakeMap) Iface(ifindex uint32) (slot, flags uint8, err error) {
	e, ok := m.entries[ifindex]
	if !ok {
		return 0, 0, errors.New("no entry")
	}
	return e[0], e[1], nil
}

// world is what an agent finds: a bpffs, maps, routes and the programs.
type world struct {
	t        *testing.T
	pins     string
	ifaces   *fakeMap
	hops     *nexthop.Table
	xdp, tc  counter
	programs Programs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// The kernel frees links a moment after their last user is gone.
	nstest.Until(t, "the links of the test before are gone", func() bool { return len(linkIDs(t)) == 0 })
	w := &world{t: t, ifaces: &fakeMap{entries: map[uint32][2]uint8{}, mtus: map[uint32]uint16{}}}
	fs := filepath.Join(t.TempDir(), "bpf")
	if mounted, err := EnsureBPFFS(fs); err != nil || !mounted {
		t.Fatalf("EnsureBPFFS = %v, %v", mounted, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(fs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w.pins = filepath.Join(fs, "links")
	var err error
	if w.hops, err = nexthop.New(nexthop.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.hops.Close)
	w.hops.Track(nil) // the data plane has nothing that drains
	w.load()
	return w
}

// load loads programs as a new agent does; the counters go on.
func (w *world) load() {
	if w.xdp.Map == nil {
		w.xdp, w.tc = newCounter(w.t), newCounter(w.t)
	}
	w.programs = Programs{XDP: xdpProgram(w.t, w.xdp), TC: tcProgram(w.t, w.tc)}
}

func (w *world) start() *Target {
	w.t.Helper()
	target, err := New(Config{Programs: w.programs, PinDir: w.pins, Ifaces: w.ifaces, Hops: w.hops, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(target.Close)
	return target
}

// node is the settings of a test; no cgroup unless it says so.
func node(attach, tc string, interfaces ...string) model.Node {
	off := ""
	return model.Node{Attach: attach, TC: tc, Interfaces: append([]string{}, interfaces...), Cgroup: &off}
}

func state(n model.Node, backends ...string) *model.State {
	s := &model.State{Settings: model.Settings{Node: n}}
	for i, b := range backends {
		a := netip.MustParseAddr(b)
		backend := model.Backend{Weight: 1, Addr4: a}
		if a.Is6() {
			backend = model.Backend{Weight: 1, Addr6: a}
		}
		s.Services = append(s.Services, &model.Service{
			Name:     model.ServiceName{Project: "p", User: fmt.Sprintf("u%03d", i)},
			Backends: []model.Backend{backend},
		})
	}
	return s
}

func apply(t *testing.T, target *Target, s *model.State) {
	t.Helper()
	if err := target.Apply(t.Context(), s); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// shown is an interface of the status; its index and slot are not compared.
func shown(t *testing.T, target *Target, name string) Interface {
	t.Helper()
	for _, i := range target.Interfaces() {
		if i.Name == name {
			if i.Slot == 0 && i.TC+i.XDP != "" {
				t.Errorf("%s has no slot", name)
			}
			i.Index, i.Slot = 0, 0
			return i
		}
	}
	return Interface{}
}

func veth(t *testing.T) (*nstest.NS, netlink.Link) {
	t.Helper()
	ns := nstest.New(t)
	return ns, ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
}

// grows tells by how much the counter grows when n datagrams arrive.
func grows(t *testing.T, ns *nstest.NS, c counter, n int) int {
	t.Helper()
	conn, err := net.ListenPacket("udp4", fmt.Sprintf("10.1.0.1:%d", countedPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	before := c.value(t)
	ns.Send(t, conn.LocalAddr().String(), n)
	// All programs pass what they count: what arrived here was counted.
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for got := range n {
		if _, _, err := conn.ReadFrom(make([]byte, 16)); err != nil {
			t.Fatalf("datagram %d of %d: %v", got+1, n, err)
		}
	}
	return int(c.value(t) - before)
}

// pinNames lists the pin directory.
func pinNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// linkIDs lists the links of this process's programs in the kernel. It begins
// anew where another process is just making one: the kernel says EAGAIN then.
func linkIDs(t *testing.T) map[link.ID]link.Type {
	t.Helper()
	for {
		found, err := walkLinks()
		if err == nil {
			return found
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
}

func walkLinks() (map[link.ID]link.Type, error) {
	found := map[link.ID]link.Type{}
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			continue
		}
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			continue
		}
		about, err := p.Info()
		_ = p.Close()
		if err == nil && about.Name == programName {
			found[it.ID] = info.Type
		}
	}
	return found, it.Err()
}

// listing is what is attached in this namespace: interfaces with their XDP
// programs, qdiscs, filters, tcx programs and pins' links.
func listing(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, cmd := range [][]string{
		{"tc", "qdisc", "show"},
		{"sh", "-c", "for d in $(ip -o link | awk -F': ' '{print $2}' | cut -d@ -f1); do tc filter show dev $d ingress; tc filter show dev $d egress; done"},
		{"sh", "-c", "ip -o link show | sed 's/state [A-Z]*//'"},
		{"bpftool", "net", "show"},
	} {
		// Not its errors: ip and tc complain of names in /run/netns that another
		// process is about to mount or to remove.
		c := exec.Command(cmd[0], cmd[1:]...)
		var complaints strings.Builder
		c.Stdout, c.Stderr = &b, &complaints
		if err := c.Run(); err != nil && cmd[0] != "bpftool" {
			t.Fatalf("%v: %v: %s", cmd, err, complaints.String())
		}
	}
	return b.String()
}

// flood sends datagrams to veth0 until stop is called; then sent is their number.
func flood(t *testing.T, ns *nstest.NS) (stop func(), sent *int) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan struct{})
	sent = new(int)
	started := make(chan struct{})
	go func() {
		defer close(done)
		ns.Do(t, func() error {
			return sendUntil(quit, started, sent)
		})
	}()
	<-started
	return func() {
		close(quit)
		<-done
	}, sent
}

// sendUntil sends datagrams from the calling thread's namespace until quit.
func sendUntil(quit <-chan struct{}, started chan<- struct{}, sent *int) error {
	c, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		close(started)
		return err
	}
	defer func() { _ = c.Close() }()
	to := &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1), Port: countedPort}
	for n := 0; ; n++ {
		if n == 10 {
			close(started)
		}
		select {
		case <-quit:
			if n < 10 {
				close(started)
			}
			return nil
		default:
		}
		if _, err := c.WriteTo([]byte("x"), to); err != nil {
			close(started)
			return err
		}
		*sent++
		time.Sleep(50 * time.Microsecond)
	}
}
