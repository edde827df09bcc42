// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// Failed is a replica that was found down, to be told to the Checker of another
// agent: it does not begin with clients sent to the dead.
type Failed struct {
	Service   model.ServiceName `json:"service"`
	To        netip.AddrPort    `json:"to"`
	Published bool              `json:"published"` // false: passed over, see Service.LastResort
	Words     string            `json:"words"`     // why
}

// said is why an earlier agent found a replica down, in its words.
type said string

func (s said) Error() string { return string(s) }

// Failed lists the replicas that are down now, by service and address.
func (c *Checker) Failed() []Failed {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Failed
	for name, svc := range c.services {
		for to, k := range svc.checks {
			if k.up {
				continue
			}
			f := Failed{Service: name, To: to, Published: k.published}
			if k.err != nil {
				f.Words = words(k.err, to, k.ask)
			}
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Failed) int { return cmp.Or(compare(a.Service, b.Service), a.To.Compare(b.To)) })
	return out
}

// priors finds what was told at the start.
type priors map[model.ServiceName]map[netip.AddrPort]Failed

func priorsOf(list []Failed) priors {
	p := priors{}
	for _, f := range list {
		if p[f.Service] == nil {
			p[f.Service] = map[netip.AddrPort]Failed{}
		}
		p[f.Service][f.To] = f
	}
	return p
}

// recall begins a new check where an earlier agent left off, once.
func (p priors) recall(k *check) {
	svc := p[k.svc.model.Name]
	f, ok := svc[k.to]
	if !ok {
		return
	}
	delete(svc, k.to)
	k.verdict = verdict{known: true, since: time.Now()}
	k.err = said(cmp.Or(f.Words, "failed before another agent took over"))
	if k.published = f.Published; k.published {
		k.svc.published = append(k.svc.published, k)
	}
}

// conditions are those an earlier agent published: they hold from the first
// state on.
func (p priors) conditions() (out []source.Condition) {
	for name, svc := range p {
		for to, f := range svc {
			if f.Published {
				out = append(out, source.Condition{Service: name, Addr: to.Addr(), Port: to.Port(), Condition: model.Down})
			}
		}
	}
	slices.SortFunc(out, func(a, b source.Condition) int {
		return cmp.Or(compare(a.Service, b.Service), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return out
}
