// SPDX-License-Identifier: Apache-2.0

// Package standby takes the TCP connections to services that sleep: it accepts
// them, holds them without reading a byte, has the service woken, and then
// moves bytes between them and a replica to their natural end. Datagrams it holds,
// too, and has them go the way of all others once there is one. It is a Target:
// it sees that the addresses of such services are this host's own. It starts
// nothing, and connections to services that are awake do not come here but in
// the moment of falling asleep or waking up.
package standby

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Target needs. Listen, Own, Enter and Replay are required.
type Config struct {
	// Listen leads connections and datagrams to services that may sleep to
	// sockets, of IPv4 and of IPv6 (nil: none), until it is closed.
	Listen func(tcp, udp [2]syscall.Conn) (io.Closer, error)
	// Replay has the data plane handle a frame as if it had come in by the
	// interface, and returns it as it is to be sent on; held: it would only come here
	// again.
	Replay func(frame []byte, ifindex uint32) (out []byte, held bool, err error)
	// Own makes exactly these addresses local to this host.
	Own func([]netip.Addr) error
	// Sockets keeps the listening sockets; nil: they end with the process.
	Sockets conn.Sockets
	// Begin holds accepting back until it is closed: connections wait in the
	// kernel. nil: it begins at once.
	Begin <-chan struct{}
	// Enter takes a place among those that wait for a service, and has it
	// started by a "connection" or a "datagram"; who is why, in words. It bounds the
	// places of each service.
	Enter func(name model.ServiceName, cause, who string) (Place, error)
	// Joined is told of each connection that was held once it has reached a
	// replica. Optional.
	Joined func(model.ServiceName)
	// Held bounds the connections that wait, over all services. What each may
	// have sent by then is bounded by the buffer of a socket nobody reads, 128 KiB
	// by the kernel's defaults. Default 16 384.
	Held int
	Log  *slog.Logger // default slog.Default()
}

// Counts is what became of connections so far.
type Counts struct {
	Passed  uint64 // led to a replica
	Failed  uint64 // closed: the service did not wake, or no replica took it
	Refused uint64 // closed: too many wait
	Gone    uint64 // reset by the client as they waited
	Waiting int    // held now
	Pending int64  // bytes that those have sent already, and nobody read
	// Datagrams that wait, went to a replica, and were lost: too many, the service
	// did not wake, or the data plane would not have them.
	Datagrams                         int
	DatagramsPassed, DatagramsDropped uint64
	Joined                            int // led to a replica and open
	// Bytes of connections that have ended, from clients and to them.
	BytesIn, BytesOut uint64
}

// Target implements reconcile.Target. Create it with New.
type Target struct {
	cfg      Config
	acceptor *conn.Acceptor
	pump     *conn.Pump
	ports    atomic.Pointer[ports] // of TCP
	udp      atomic.Pointer[ports]
	held     *datagrams

	mu    sync.Mutex // guards what follows
	open  *opened    // nil: nothing may sleep
	owned []netip.Addr
	known bool // owned is what is local

	lines  lines
	joined joined
	ctx    context.Context // of those who serve lines
	stop   context.CancelFunc

	passed, failed, refused, gone atomic.Uint64
}

// opened is the listeners and who serves them.
type opened struct {
	lead      io.Closer
	listeners []*net.TCPListener
	udp       []*net.UDPConn
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// close takes nothing more.
func (o *opened) close() {
	if o.lead != nil {
		_ = o.lead.Close()
	}
	for _, l := range o.listeners {
		_ = l.Close()
	}
	for _, c := range o.udp {
		_ = c.Close()
	}
}

// New makes a Target. It listens once a state has a service that may sleep.
func New(cfg Config) (*Target, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Held == 0 {
		cfg.Held = 16 << 10
	}
	t := &Target{cfg: cfg}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.lines = lines{most: cfg.Held, by: map[model.ServiceName][]held{}, serve: t.serve}
	t.ports.Store(&ports{})
	t.udp.Store(&ports{})
	t.held = newDatagrams(t.ctx, cfg, func(to netip.AddrPort) (target, bool) { return t.udp.Load().find(to) })
	var err error
	if t.pump, err = conn.NewPump(conn.PumpConfig{}); err != nil {
		return nil, fmt.Errorf("hold connections: %w", err)
	}
	t.acceptor = conn.NewAcceptor(conn.AcceptConfig{
		Handle: t.handle, Refused: func(netip.Addr) { t.refused.Add(1) },
		Pending: cfg.Held, PendingPerSource: cfg.Held, Begin: cfg.Begin, Log: cfg.Log,
	})
	return t, nil
}

// Name is "standby".
func (t *Target) Name() string { return "standby" }

// Serves nothing by itself: a service sleeps if somebody wakes it, too.
func (t *Target) Serves() []model.Feature { return nil }

// Apply takes connections of the state's services that may sleep. Those that
// are held or led on stay, whatever the state says.
func (t *Target) Apply(_ context.Context, s *model.State) error {
	next := map[model.Protocol]*ports{model.TCP: {node: map[uint16]target{}}, model.UDP: {node: map[uint16]target{}}}
	some := false
	var own []netip.Addr
	for _, svc := range s.Services {
		if svc.Sleep == model.NeverSleeps {
			continue
		}
		vips := svc.VIPs()
		own = append(own, vips...)
		for _, p := range svc.Ports {
			to := next[p.Protocol]
			some = true
			for _, vip := range vips {
				to.vips = append(to.vips, vipPort{netip.AddrPortFrom(vip, p.Service), target{svc, p.Container}})
			}
			for _, np := range svc.NodePorts {
				if np.ServicePort == p.Service {
					to.node[np.Port] = target{svc, p.Container}
				}
			}
		}
	}
	for _, to := range next {
		to.sort()
	}
	t.ports.Store(next[model.TCP])
	t.udp.Store(next[model.UDP])
	t.held.local.apply(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	if some && t.open == nil {
		if err := t.listen(); err != nil {
			return fmt.Errorf("take connections to sleeping services: %w", err)
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	if t.known && slices.Equal(own, t.owned) && len(own) == 0 {
		return nil
	}
	if err := t.cfg.Own(own); err != nil {
		return err
	}
	t.owned, t.known = own, true
	return nil
}

// listen opens the sockets. They are on loopback: what comes to them by their own
// address is nobody's. A host without IPv6 has none of it.
func (t *Target) listen() (err error) {
	o := &opened{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	var tcp, udp [2]syscall.Conn
	for i, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		family := []string{"4", "6"}[i]
		l, err := t.listenOn("tcp"+family, at)
		if err != nil && i == 1 {
			t.cfg.Log.Debug("no IPv6 for sleeping services", "error", err)
			break
		}
		if err != nil {
			return err
		}
		o.listeners, tcp[i] = append(o.listeners, l), l
		c, err := listenUDP("udp"+family, at)
		if err != nil {
			return err
		}
		o.udp, udp[i] = append(o.udp, c), c
	}
	if t.held.send == nil {
		if t.held.send, err = newSender(); err != nil {
			return err
		}
	}
	if o.lead, err = t.cfg.Listen(tcp, udp); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	t.open = o
	for _, l := range o.listeners {
		o.wg.Go(func() {
			if err := t.acceptor.Serve(ctx, l); err != nil {
				t.cfg.Log.Error("take connections to sleeping services", "error", err)
			}
		})
	}
	for _, c := range o.udp {
		o.wg.Go(func() { t.held.readOn(ctx, c) })
	}
	return nil
}

// listenOn opens a listener of plain TCP, or takes the predecessor's over: the
// kernel leads nothing to one of multipath TCP, which Go makes by default.
func (t *Target) listenOn(network, address string) (*net.TCPListener, error) {
	name := "sleeping " + network
	tcp, err := conn.Inherit(t.cfg.Sockets, name)
	if tcp == nil && err == nil {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		var l net.Listener
		if l, err = lc.Listen(context.Background(), network, address); err == nil {
			tcp = l.(*net.TCPListener)
		}
	}
	if err != nil {
		return nil, err
	}
	if t.cfg.Sockets != nil {
		t.cfg.Sockets.Keep(name, tcp)
	}
	return tcp, nil
}

// Drain takes no more connections, lets those that wait be led on, and waits for
// the end of all; Close cuts what is left when ctx has ended. A successor may go
// on with the listeners.
func (t *Target) Drain(ctx context.Context) error {
	t.mu.Lock()
	o := t.open
	t.mu.Unlock()
	if o != nil {
		o.close()
	}
	for begun := time.Now(); t.Open() > 0; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections to services that slept had not ended and were cut", t.Open())
		case <-time.After(min(max(time.Since(begun)/20, 5*time.Millisecond), 500*time.Millisecond)):
		}
	}
	return nil
}

// Open counts the connections: those held and those led on.
func (t *Target) Open() int {
	t.joined.mu.Lock()
	defer t.joined.mu.Unlock()
	return t.acceptor.Pending() + t.lines.waiting() + len(t.joined.open)
}

// Close takes no more connections and cuts those there are.
func (t *Target) Close() {
	t.mu.Lock()
	o := t.open
	t.open = nil
	t.mu.Unlock()
	if o != nil {
		o.cancel()
		o.close()
		o.wg.Wait()
	}
	t.stop()
	t.lines.wg.Wait()
	t.held.close()
	t.pump.Close()
}

// Applied is told whenever the data plane has applied a state whole: datagrams
// that it held may go on.
func (t *Target) Applied() { t.held.applied() }

// Used counts the datagrams that programs on this host have sent to services in
// sessions of their own, which no counter of the data plane knows.
func (t *Target) Used() map[model.ServiceName]uint64 { return t.held.local.uses() }

// Counts reads the counters, and asks the kernel what held connections have
// sent.
func (t *Target) Counts() Counts {
	n := Counts{Passed: t.passed.Load(), Failed: t.failed.Load(), Refused: t.refused.Load(), Gone: t.gone.Load(), Waiting: t.lines.waiting()}
	t.lines.each(func(_ model.ServiceName, h held) { n.Pending += unread(h.TCPConn) })
	clients, waiting, bytes := t.held.counts()
	n.Waiting, n.Datagrams, n.Pending = n.Waiting+clients, waiting, n.Pending+bytes
	n.DatagramsPassed, n.DatagramsDropped = t.held.passed.Load(), t.held.dropped.Load()
	t.joined.mu.Lock()
	defer t.joined.mu.Unlock()
	n.Joined, n.BytesIn, n.BytesOut = len(t.joined.open), t.joined.in, t.joined.out
	return n
}
