// SPDX-License-Identifier: Apache-2.0

// Package standby takes the TCP connections to services that sleep: it accepts
// them, holds them without reading a byte, has the service woken, and then
// moves bytes between them and a replica to their natural end. It is a Target:
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
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Target needs. Listen, Own and Wake are required.
type Config struct {
	// Listen leads connections to services that may sleep to two listeners, one
	// of each family (v6 may be nil), until it is closed.
	Listen func(v4, v6 *net.TCPListener) (io.Closer, error)
	// Own makes exactly these addresses local to this host.
	Own func([]netip.Addr) error
	// Sockets keeps the listening sockets; nil: they end with the process.
	Sockets conn.Sockets
	// Begin holds accepting back until it is closed: connections wait in the
	// kernel. nil: it begins at once.
	Begin <-chan struct{}
	// Enter takes a place among those that wait for a service, and has it
	// started; who is why, in words. It bounds the places of each service.
	Enter func(name model.ServiceName, who string) (Place, error)
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
	Joined  int    // led to a replica and open
	// Bytes of connections that have ended, from clients and to them.
	BytesIn, BytesOut uint64
}

// Target implements reconcile.Target. Create it with New.
type Target struct {
	cfg      Config
	acceptor *conn.Acceptor
	pump     *conn.Pump
	ports    atomic.Pointer[ports]

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
	cancel    context.CancelFunc
	wg        sync.WaitGroup
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
	next := &ports{node: map[uint16]target{}}
	var own []netip.Addr
	for _, svc := range s.Services {
		if svc.Sleep == model.NeverSleeps {
			continue
		}
		vips := svc.VIPs()
		own = append(own, vips...)
		for _, p := range svc.Ports {
			if p.Protocol != model.TCP {
				continue
			}
			for _, vip := range vips {
				next.vips = append(next.vips, vipPort{netip.AddrPortFrom(vip, p.Service), target{svc, p.Container}})
			}
			for _, np := range svc.NodePorts {
				if np.ServicePort == p.Service {
					next.node[np.Port] = target{svc, p.Container}
				}
			}
		}
	}
	next.sort()
	t.ports.Store(next)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(next.vips)+len(next.node) > 0 && t.open == nil {
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

// listen opens both listeners. They are on loopback: what comes to them by
// their own address is nobody's.
func (t *Target) listen() error {
	v4, err := t.listenOn("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	listeners := []*net.TCPListener{v4}
	v6, err := t.listenOn("tcp6", "[::1]:0")
	if err == nil {
		listeners = append(listeners, v6)
	} else {
		t.cfg.Log.Debug("no IPv6 for sleeping services", "error", err)
	}
	lead, err := t.cfg.Listen(v4, v6)
	if err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.open = &opened{lead: lead, listeners: listeners, cancel: cancel}
	for _, l := range listeners {
		t.open.wg.Go(func() {
			if err := t.acceptor.Serve(ctx, l); err != nil {
				t.cfg.Log.Error("take connections to sleeping services", "error", err)
			}
		})
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
		_ = o.lead.Close()
		for _, l := range o.listeners {
			_ = l.Close()
		}
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
		_ = o.lead.Close()
		o.cancel()
		o.wg.Wait()
	}
	t.stop()
	t.lines.wg.Wait()
	t.pump.Close()
}

// Counts reads the counters, and asks the kernel what held connections have
// sent.
func (t *Target) Counts() Counts {
	n := Counts{Passed: t.passed.Load(), Failed: t.failed.Load(), Refused: t.refused.Load(), Gone: t.gone.Load(), Waiting: t.lines.waiting()}
	t.lines.each(func(_ model.ServiceName, h held) { n.Pending += unread(h.TCPConn) })
	t.joined.mu.Lock()
	defer t.joined.mu.Unlock()
	n.Joined, n.BytesIn, n.BytesOut = len(t.joined.open), t.joined.in, t.joined.out
	return n
}
