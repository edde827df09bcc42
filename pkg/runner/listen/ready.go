// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the time between two looks at a replica that is not ready.
const (
	probeMin  = 5 * time.Millisecond
	probeMax  = 250 * time.Millisecond
	probeLate = time.Second // after the start timeout
	dialTime  = time.Second
	// answerTime is how long a connection to a port that was just opened may take.
	answerTime = 50 * time.Millisecond
)

// Start is a replica that is not ready yet.
type Start struct {
	Replica
	Netns   uint64           // its namespace's Cookie; 0: unknown
	Head    bool             // only an answer to HEAD / without an error makes it ready
	Since   time.Time        // of the process
	Timeout time.Duration    // after it the reason says that it is late; 0: never
	Now     func() time.Time // as Since was taken
	Tell    func(why string) // is told after every look why it is not ready
	// Ready is called once, as soon as it is known to be, by whoever knows: it
	// must not block. It tells whether somebody waited for the replica: then Await
	// gives those a moment's start. Optional.
	Ready func() (awaited bool)
}

// anyGrace is how long a replica that listens on another port than the one it
// was told has to open that one as well.
const anyGrace = 100 * time.Millisecond

// Await waits until the replica is ready, or ctx ends before it is (false). After the
// timeout it goes on. The look at the beginning finds what was there before. port
// is that of a replica that may have Any and does not listen on its own; else 0.
func (e *Ear) Await(ctx context.Context, s Start) (port uint16, ready bool) {
	w, hears, stop := e.await(s)
	defer stop()
	told := false      // it, or some replica, has just listened
	var find time.Time // when another port was found
	for pause := probeMin; ; pause = min(2*pause, probeMax) {
		if hears && s.PID != 0 && (!s.Head || !told) {
			pause = probeSlow
		}
		if w.done.Load() {
			return 0, true
		}
		why := s.look(ctx, told)
		if ctx.Err() != nil {
			return 0, w.done.Load()
		}
		if why == "" {
			w.ready()
			return 0, true
		}
		if other := s.Other(ctx); other != 0 && s.fits(ctx, other) {
			if now := time.Now(); find.IsZero() {
				find = now
			} else if now.Sub(find) >= anyGrace {
				if w.done.CompareAndSwap(false, true) {
					return other, true
				}
				return 0, true // it was heard on its own at this moment
			}
			pause = min(pause, anyGrace)
		}
		if s.Timeout > 0 && s.Now().Sub(s.Since) >= s.Timeout {
			why = fmt.Sprintf("not ready within the startTimeout of %s: %s", s.Timeout, why)
			pause = probeLate
		}
		s.Tell(why)
		select {
		case <-ctx.Done():
			return 0, w.done.Load()
		case <-w.told:
			told, pause = true, probeMin
			continue
		case <-time.After(pause):
		}
		told = told && s.Head
	}
}

// fits tells whether a port that the replica listens on in place of its own makes
// it ready.
func (s Start) fits(ctx context.Context, port uint16) bool {
	s.Ports = []Port{{Number: port}}
	return !s.Head || s.head(ctx) == ""
}

// look says why the replica is not ready; "": it is. told: it probably listens.
func (s Start) look(ctx context.Context, told bool) (why string) {
	if !told || s.Head || !s.answers(ctx) {
		why = s.Unready(ctx)
	}
	if why == "" && s.Head {
		why = s.head(ctx)
	}
	return why
}

// Unready says why the replica does not answer, "" if it does: one TCP port
// that accepts a connection from the host, or, when it has only UDP, a socket
// on one of them. Of a replica whose process cannot be seen that is all there is
// to know: one with UDP alone is taken to be ready.
func (r Replica) Unready(ctx context.Context) string {
	tcp, udp := Split(r.Ports)
	if r.PID == 0 {
		return r.unanswered(ctx, tcp)
	}
	if len(tcp) == 0 {
		bound, err := sockets(r.PID, "udp")
		if err != nil {
			return err.Error()
		}
		return diagnose(udp, bound, "has a UDP socket")
	}
	listening, err := listeners(r.PID, fmt.Sprintf("/proc/%d/ns/net", r.PID), dialTime)
	if err != nil {
		return err.Error()
	}
	var have []socket
	for _, l := range listening {
		have = append(have, socket{local: l.local})
	}
	if r.Any && !slices.ContainsFunc(have, func(s socket) bool { return !s.local.Addr().IsLoopback() }) {
		for _, s := range have {
			tcp = append(tcp, s.local.Port()) // any of them would do
		}
	}
	if why := diagnose(tcp, have, "listens"); why != "" {
		return why
	}
	for _, l := range have {
		if !slices.Contains(tcp, l.local.Port()) || l.local.Addr().IsLoopback() {
			continue
		}
		for _, addr := range r.Addrs {
			if err = dial(ctx, netip.AddrPortFrom(addr, l.local.Port()), dialTime); err == nil {
				return ""
			}
		}
	}
	return fmt.Sprintf("it listens, but does not answer the host: %v", err)
}

// Other is the lowest port on which a replica that may have Any takes
// connections from the host; 0: none.
func (r Replica) Other(ctx context.Context) uint16 {
	if !r.Any || r.PID == 0 {
		return 0
	}
	all, err := sockets(r.PID, "tcp")
	if err != nil {
		return 0
	}
	var ports []uint16
	for _, s := range all {
		if s.state == tcpListen && !s.local.Addr().IsLoopback() {
			ports = append(ports, s.local.Port())
		}
	}
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		r.Ports = []Port{{Number: port}}
		if r.answers(ctx) {
			return port
		}
	}
	return 0
}

// unanswered says why no connection can be made to a replica whose sockets
// cannot be looked at.
func (r Replica) unanswered(ctx context.Context, tcp []uint16) string {
	var last error
	for _, port := range tcp {
		for _, addr := range r.Addrs {
			if last = dial(ctx, netip.AddrPortFrom(addr, port), dialTime); last == nil {
				return ""
			}
		}
	}
	if len(tcp) == 0 {
		return ""
	}
	return fmt.Sprintf("it does not answer yet: %v", last)
}

// answers tells whether one of the ports takes a connection from the host. It
// is asked when one probably does: the list of sockets takes milliseconds to
// make, a connection a fraction of one.
func (r Replica) answers(ctx context.Context) bool {
	tcp, _ := Split(r.Ports)
	for _, port := range tcp {
		for _, addr := range r.Addrs {
			if dial(ctx, netip.AddrPortFrom(addr, port), answerTime) == nil {
				return true
			}
		}
	}
	return false
}

// Reaches tells whether something answers at an address of the replica within
// limit, if only by refusing: then there is a way to it.
func (r Replica) Reaches(ctx context.Context, addr netip.Addr, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tcp, _ := Split(r.Ports)
	for len(tcp) > 0 {
		err := dial(ctx, netip.AddrPortFrom(addr, tcp[0]), dialTime)
		switch {
		case err == nil, errors.Is(err, unix.ECONNREFUSED):
			return true
		case ctx.Err() != nil:
			return false
		}
		select { // without a route it fails at once
		case <-ctx.Done():
		case <-time.After(probeMax):
		}
	}
	return true
}

func dial(ctx context.Context, to netip.AddrPort, limit time.Duration) error {
	d := net.Dialer{Timeout: limit}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// diagnose says what is wrong with the sockets for someone who wants one of
// the ports from outside; "" when one is right.
func diagnose(want []uint16, have []socket, verb string) string {
	var local, others []netip.AddrPort
	for _, s := range have {
		switch {
		case !slices.Contains(want, s.local.Port()):
			others = append(others, s.local)
		case s.local.Addr().IsLoopback():
			local = append(local, s.local)
		default:
			return ""
		}
	}
	if len(local) > 0 {
		return fmt.Sprintf("it %s on %s only, which nobody outside the replica can reach; let it use 0.0.0.0 or [::]",
			verb, list(local))
	}
	names := make([]string, len(want))
	for i, p := range want {
		names[i] = fmt.Sprint(p)
	}
	why := fmt.Sprintf("nothing %s on %s yet", verb, strings.Join(names, " or "))
	if len(others) > 0 {
		why += fmt.Sprintf("; it %s on %s: run.containerPort, or the program's port, is wrong", verb, list(others))
	}
	return why
}

// list names the addresses in order, each once, and not more than four.
func list(addrs []netip.AddrPort) string {
	slices.SortFunc(addrs, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(a.Port(), b.Port()), a.Addr().Compare(b.Addr()))
	})
	addrs = slices.Compact(addrs)
	var names []string
	for i, a := range addrs {
		if i == 4 {
			names = append(names, "…")
			break
		}
		names = append(names, a.String())
	}
	return strings.Join(names, ", ")
}
