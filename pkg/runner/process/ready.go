// SPDX-License-Identifier: Apache-2.0

package process

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
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

// probe looks whether the replica answers until it does, or ctx ends. After
// the start timeout it goes on, and the reason says that it is late.
func (r *Runner) probe(ctx context.Context, rep *replica) {
	_, rec := r.look(rep)
	told := false // some replica has just listened
	for pause := probeMin; ; pause = min(2*pause, probeMax) {
		heard := r.listens() // before the look, so that none is missed
		if tcp, _ := split(rec.Ports); heard != nil && len(tcp) > 0 {
			pause = probeSlow
		}
		why := ""
		if !told || !answers(ctx, rec) {
			why = unready(ctx, rec)
		}
		if ctx.Err() != nil {
			return
		}
		if why == "" {
			r.becomeReady(rep)
			return
		}
		if late := r.cfg.Now().Sub(rec.Since); rec.Timeout > 0 && late >= rec.Timeout {
			why = fmt.Sprintf("not ready within the startTimeout of %s: %s", rec.Timeout, why)
			pause = probeLate
		}
		if r.mayTell(rep, why) {
			r.update(func() {
				if rep.phase == activator.Starting {
					rep.reason = why
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-heard:
			told = true
			continue
		case <-time.After(pause):
		}
		told = false
	}
}

func (r *Runner) mayTell(rep *replica, why string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rep.phase == activator.Starting && rep.reason != why
}

// becomeReady notes it for the next agent before anybody is told.
func (r *Runner) becomeReady(rep *replica) {
	_, rec := r.look(rep)
	rec.Ready = true
	if err := rec.save(rep.paths.record); err != nil {
		r.cfg.Log.Warn("the next agent will probe this replica again", "replica", rep.id, "error", err)
	}
	r.update(func() {
		rep.rec.Ready = true
		if rep.phase == activator.Starting {
			r.enter(rep, activator.Ready, "")
		}
	})
	r.cfg.Log.Info("replica is ready", "replica", rep.id, "after", r.cfg.Now().Sub(rec.Since).Round(time.Millisecond))
}

// unready says why the replica does not answer, "" if it does: one TCP port
// that accepts a connection from the host, or, when it has only UDP, a socket
// on one of them.
func unready(ctx context.Context, rec record) string {
	tcp, udp := split(rec.Ports)
	if len(tcp) == 0 {
		bound, err := sockets(rec.PID, "udp")
		if err != nil {
			return err.Error()
		}
		return diagnose(udp, bound, "has a UDP socket")
	}
	all, err := sockets(rec.PID, "tcp")
	if err != nil {
		return err.Error()
	}
	listeners := slices.DeleteFunc(all, func(s socket) bool { return s.state != tcpListen })
	if why := diagnose(tcp, listeners, "listens"); why != "" {
		return why
	}
	dialer := net.Dialer{Timeout: dialTime}
	for _, l := range listeners {
		if !slices.Contains(tcp, l.local.Port()) || l.local.Addr().IsLoopback() {
			continue
		}
		for _, x := range rec.hops() {
			to := netip.AddrPortFrom(x.addr, l.local.Port()).String()
			var conn net.Conn
			if conn, err = dialer.DialContext(ctx, "tcp", to); err == nil {
				_ = conn.Close()
				return ""
			}
		}
	}
	return fmt.Sprintf("it listens, but does not answer the host: %v", err)
}

// answers tells whether one of the ports takes a connection from the host. It
// is asked when one probably does: the list of sockets takes milliseconds to
// make, a connection a fraction of one.
func answers(ctx context.Context, rec record) bool {
	d := net.Dialer{Timeout: answerTime}
	tcp, _ := split(rec.Ports)
	for _, port := range tcp {
		for _, x := range rec.hops() {
			if conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(x.addr, port).String()); err == nil {
				_ = conn.Close()
				return true
			}
		}
	}
	return false
}

func split(ports []port) (tcp, udp []uint16) {
	for _, p := range ports {
		if p.UDP {
			udp = append(udp, p.Number)
		} else {
			tcp = append(tcp, p.Number)
		}
	}
	return tcp, udp
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
