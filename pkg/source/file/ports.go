// SPDX-License-Identifier: Apache-2.0

package file

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"

	"github.com/goccy/go-yaml/ast"
)

// defaultPort is both ports of a service that names none (row A01).
const defaultPort = 80

// rawRun is the port pairs of a service as written: lists by position.
type rawRun struct {
	container, service located[[]uint16]
	protocol           located[[][]model.Protocol]
}

func defaultRun() rawRun {
	return rawRun{
		container: here([]uint16{defaultPort}),
		service:   here([]uint16{defaultPort}),
		protocol:  here([][]model.Protocol{{model.TCP}}),
	}
}

func runCodec() codec[rawRun] {
	return object(defaultRun(),
		opt("containerPort", `Port or ports ("80,8080") the replicas listen on.`, where(portList()), func(r *rawRun) *located[[]uint16] { return &r.container }),
		opt("servicePort", "Port or ports clients connect to, paired with containerPort by position.", where(portList()), func(r *rawRun) *located[[]uint16] { return &r.service }),
		opt("protocol", "tcp, udp or tcp+udp; one for all ports, or a comma list by position.", where(protocolList()), func(r *rawRun) *located[[][]model.Protocol] { return &r.protocol }),
	)
}

const wantPorts = `a port from 1 to 65535 or a list such as "80,8080"`

const maxPorts = 1024

// portList is 80, "80,8080" or [80, 8080].
func portList() codec[[]uint16] {
	one := integer[uint16](1, 65535)
	return codec[[]uint16]{
		schema: func() schema {
			return schema{"anyOf": []schema{
				one.schema(),
				{"type": "string", "pattern": `^ *[1-9][0-9]{0,4} *(, *[1-9][0-9]{0,4} *)*$`},
				{"type": "array", "items": one.schema(), "minItems": 1},
			}}
		},
		decode: func(d *decoder, v value) ([]uint16, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return nil, false
			}
			if seq, isList := v.node.(*ast.SequenceNode); isList {
				ports, ok := list(one, maxPorts).decode(d, v)
				if ok && len(seq.Values) == 0 {
					d.report(v.place, "got an empty list, want %s", wantPorts)
				}
				return ports, ok && len(ports) == len(seq.Values) && len(ports) > 0
			}
			s, _, ok := scalar(v.node)
			if !ok {
				d.report(v.place, "%s", wantProblem(v.node, wantPorts))
				return nil, false
			}
			return splitPorts(d, v.place, s)
		},
		show: func(ps []uint16) (any, bool) {
			if len(ps) == 1 {
				return ps[0], true
			}
			return nil, false
		},
	}
}

func splitPorts(d *decoder, p place, s string) ([]uint16, bool) {
	items := strings.Split(s, ",")
	if len(items) > maxPorts {
		d.report(p, "has %d ports, at most %d are taken", len(items), maxPorts)
		return nil, false
	}
	var ports []uint16
	for _, item := range items {
		n, err := decimal(strings.TrimSpace(item))
		switch {
		case err == nil && n >= 1 && n <= 65535:
			ports = append(ports, uint16(n))
		case len(items) == 1:
			d.report(p, "got %s, want %s", quote(s), wantPorts)
		default:
			d.report(p, "got %s in %s, want %s", quote(item), quote(s), wantPorts)
		}
	}
	return ports, len(ports) == len(items)
}

func protocolList() codec[[][]model.Protocol] {
	const want = `tcp, udp or tcp+udp, or a list by position such as "tcp,udp"`
	known := map[string][]model.Protocol{
		"tcp": {model.TCP}, "udp": {model.UDP},
		"tcp+udp": {model.TCP, model.UDP}, "udp+tcp": {model.TCP, model.UDP},
	}
	return codec[[][]model.Protocol]{
		schema: func() schema {
			const one = `(tcp|udp|tcp\+udp|udp\+tcp)`
			return schema{"type": "string", "pattern": "^ *" + one + " *(, *" + one + " *)*$"}
		},
		decode: func(d *decoder, v value) ([][]model.Protocol, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return nil, false
			}
			s, _, ok := scalar(v.node)
			if !ok {
				d.report(v.place, "%s", wantProblem(v.node, want))
				return nil, false
			}
			var out [][]model.Protocol
			for item := range strings.SplitSeq(s, ",") {
				p, ok := known[strings.TrimSpace(item)]
				if !ok {
					d.report(v.place, "got %s, want %s", quote(item), want)
					return nil, false
				}
				out = append(out, p)
			}
			return out, true
		},
		show: func([][]model.Protocol) (any, bool) { return "tcp", true },
	}
}

// pair joins the lists to port pairs, sorted. Faults are reported at the list
// that has them; ok is false when what ports there are is not known.
func (r *rawRun) pair(d *decoder, service place) (ports []model.Port, ok bool) {
	if r.container.broken || r.service.broken || r.protocol.broken {
		return nil, false
	}
	at := service.child("run")
	for _, l := range []place{r.container.place, r.service.place} {
		if l.line > 0 {
			at = l
		}
	}
	n := len(r.service.v)
	if len(r.container.v) != n {
		d.report(at, "containerPort has %s, servicePort has %s; give as many of each, they pair by position%s",
			count(len(r.container.v), r.container.given()), count(n, r.service.given()), r.lone())
		return nil, false
	}
	if p := len(r.protocol.v); p != 1 && p != n {
		d.report(r.protocol.place, "has %d protocols for %s; give one for all, or one for each by position", p, plural(n, "port pair"))
		return nil, false
	}
	for i := range n {
		for _, proto := range r.protocol.v[min(i, len(r.protocol.v)-1)] {
			ports = append(ports, model.Port{Service: r.service.v[i], Container: r.container.v[i], Protocol: proto})
		}
	}
	ok = r.unique(d, ports)
	slices.SortFunc(ports, func(a, b model.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Service, b.Service))
	})
	return ports, ok
}

// unique refuses a port that stands twice in either list for one protocol
// (row A03): the second pair could never be told from the first.
func (r *rawRun) unique(d *decoder, ports []model.Port) bool {
	type side struct {
		l  located[[]uint16]
		of func(model.Port) uint16
	}
	ok := true
	for _, s := range []side{
		{r.container, func(p model.Port) uint16 { return p.Container }},
		{r.service, func(p model.Port) uint16 { return p.Service }},
	} {
		seen := map[model.Port]bool{}
		told := map[uint16]bool{}
		for _, p := range ports {
			k := model.Port{Service: s.of(p), Protocol: p.Protocol}
			if seen[k] && !told[k.Service] {
				d.report(s.l.place, "port %d is given twice for %s; each port may stand once", k.Service, k.Protocol)
				told[k.Service], ok = true, false
			}
			seen[k] = true
		}
	}
	return ok
}

// firstTCP is the first TCP service port as written; 0: there is none. Only
// for lists that pair.
func (r *rawRun) firstTCP() uint16 {
	for i, port := range r.service.v {
		if slices.Contains(r.protocol.v[min(i, len(r.protocol.v)-1)], model.TCP) {
			return port
		}
	}
	return 0
}

// lone explains a list whose partner was left out.
func (r *rawRun) lone() string {
	if r.container.given() && r.service.given() {
		return ""
	}
	return fmt.Sprintf(" (the default is %d)", defaultPort)
}

func count(n int, given bool) string {
	if !given {
		return "none"
	}
	return plural(n, "port")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
