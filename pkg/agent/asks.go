// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/standby"
)

// answers is what a term of ownership does for the fronts.
type answers struct {
	over         <-chan struct{} // closed when the term ends
	wake         func(ctx context.Context, name model.ServiceName, cause, who string) ([]model.Backend, error)
	enter        func(name model.ServiceName, cause, who string) (standby.Place, error)
	joined       func(model.ServiceName)
	why          func(model.ServiceName) (reason string, retry time.Duration)
	keys         func() (set []byte, maxAge time.Duration)
	certificates *autocert.Target
	instead      func(netip.AddrPort) string
	listen       func(tcp, udp [2]syscall.Conn) (io.Closer, error)
	replay       func(frame []byte, ifindex uint32) (out []byte, held bool, err error)
	own          func(nexthop.Purpose, []netip.Addr) error
}

// asks is what the fronts ask for, of whoever owns this host at the moment:
// this agent, nobody for a moment, or its successor. The fronts outlive a term.
type asks struct {
	mu      sync.Mutex
	now     *answers                                 // of the present term, or of the last one
	certs   *autocert.Target                         // that are served
	owner   bool                                     // the term goes on
	away    string                                   // run directory of the successor; empty: there is none
	learned func(model.ServiceName, []model.Backend) // what the successor has woken
	changed chan struct{}
}

func newAsks() *asks { return &asks{now: &answers{}, changed: make(chan struct{})} }

// begin says who answers from now on. An earlier term's certificates are served
// until those of this one are loaded.
func (a *asks) begin(now *answers) {
	a.set(func() {
		if a.now, a.owner = now, true; a.certs == nil {
			a.certs = now.certificates
		}
	})
}

// loaded says that the present term has its certificates.
func (a *asks) loaded() { a.set(func() { a.certs = a.now.certificates }) }

// pause says that nobody wakes for now. Certificates are served as they are.
func (a *asks) pause() { a.set(func() { a.owner = false }) }

// moved says that the agent of the run directory is asked from now on, and who
// is told of what it has woken.
func (a *asks) moved(runDir string, learned func(model.ServiceName, []model.Backend)) {
	a.set(func() { a.owner, a.away, a.learned = false, runDir, learned })
}

func (a *asks) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *asks) read() (now *answers, owner bool, away string, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now, a.owner, a.away, a.changed
}

// wake has a sleeping service woken. A wake that the end of a term interrupts is
// asked for again.
func (a *asks) wake(ctx context.Context, name model.ServiceName, cause, who string) ([]model.Backend, error) {
	for {
		now, owner, away, changed := a.read()
		switch {
		case owner:
			backends, err := within(ctx, now, func(ctx context.Context) ([]model.Backend, error) { return now.wake(ctx, name, cause, who) })
			if err == nil || !over(now) {
				return backends, err
			}
		case away != "":
			backends, err := wakeAway(ctx, away, name)
			if err == nil {
				a.learned(name, backends)
			}
			return backends, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// enter takes a place among those that wait for a service; the place outlives a
// term.
func (a *asks) enter(name model.ServiceName, cause, who string) (standby.Place, error) {
	p := &place{a: a, name: name, cause: cause, who: who}
	now, owner, _, _ := a.read()
	if !owner {
		return p, nil
	}
	inner, err := now.enter(name, cause, who)
	if err != nil && !over(now) {
		return nil, err
	}
	if err == nil {
		p.term, p.inner = now, inner
	}
	return p, nil
}

// place is a standby.Place.
type place struct {
	a          *asks
	name       model.ServiceName
	cause, who string
	term       *answers
	inner      standby.Place // of the term; nil: there was none
}

// Wait waits in the place of the term, and after its end wherever one is to be
// had.
func (p *place) Wait(ctx context.Context) ([]model.Backend, error) {
	if p.inner != nil {
		backends, err := within(ctx, p.term, p.inner.Wait)
		if err == nil || !over(p.term) {
			return backends, err
		}
	}
	return p.a.wake(ctx, p.name, p.cause, p.who)
}

// Leave gives the place up.
func (p *place) Leave() {
	if p.inner != nil {
		p.inner.Leave()
	}
}

// joined, why and keys are the last term's.
func (a *asks) joined(name model.ServiceName) {
	now, _, _, _ := a.read()
	now.joined(name)
}

func (a *asks) why(name model.ServiceName) (reason string, retry time.Duration) {
	now, _, _, _ := a.read()
	return now.why(name)
}

func (a *asks) keys() (set []byte, maxAge time.Duration) {
	now, _, _, _ := a.read()
	return now.keys()
}

func over(t *answers) bool {
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

// within waits for a term, until it ends.
func within(ctx context.Context, now *answers, wait func(context.Context) ([]model.Backend, error)) ([]model.Backend, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-ctx.Done():
		case <-now.over:
			cancel()
		}
	}()
	return wait(ctx)
}

// wakeAway asks the successor.
func wakeAway(ctx context.Context, runDir string, name model.ServiceName) ([]model.Backend, error) {
	c := admin.NewClient(runDir)
	defer c.Close()
	res, err := c.Sleep(ctx, admin.SleepRequest{Verb: "wake", Service: name.String()})
	if err != nil {
		return nil, err
	}
	var out []model.Backend
	for _, r := range res.Replicas {
		out = append(out, model.Backend{Addr4: r.Addr4, Addr6: r.Addr6, Weight: max(r.Weight, 1), Backup: r.Backup, Replica: r.ID})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the agent that owns this host has woken %s and names no replica of it", name)
	}
	return out, nil
}

var errNoTerm = errors.New("no agent owns this host at the moment")

// listen is for the front of services that sleep.
func (a *asks) listen(tcp, udp [2]syscall.Conn) (io.Closer, error) {
	now, owner, _, _ := a.read()
	if !owner {
		return nil, errNoTerm
	}
	return now.listen(tcp, udp)
}

// replay has a datagram go through the data plane. Only the owner may: it writes
// entries of flows. While nobody is, the datagram waits.
func (a *asks) replay(frame []byte, ifindex uint32) (out []byte, held bool, err error) {
	now, owner, _, _ := a.read()
	if !owner {
		return nil, true, nil
	}
	return now.replay(frame, ifindex)
}

// own makes addresses local to this host for a purpose.
func (a *asks) own(why nexthop.Purpose) func([]netip.Addr) error {
	return func(addrs []netip.Addr) error {
		now, owner, _, _ := a.read()
		if !owner {
			return errNoTerm
		}
		return now.own(why, addrs)
	}
}

// instead says what listens at a replica's address.
func (a *asks) instead(addr netip.AddrPort) string {
	now, _, _, _ := a.read()
	return now.instead(addr)
}

func (a *asks) served() *autocert.Target {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.certs
}

// GetCertificate is a tls.Config's. Certificates are served also when nobody
// keeps them.
func (a *asks) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.served().GetCertificate(h)
}

// Holds tells whether there is a valid certificate.
func (a *asks) Holds(host string) bool { return a.served().Holds(host) }

// Covering is a certificate that is good for a name, whoever has it.
func (a *asks) Covering(host string) *tls.Certificate { return a.served().Covering(host) }

// HTTPChallenge answers an ACME http-01 challenge.
func (a *asks) HTTPChallenge(w http.ResponseWriter, r *http.Request) bool {
	now, _, _, _ := a.read()
	return now.certificates.HTTPChallenge(w, r)
}
