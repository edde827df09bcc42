// SPDX-License-Identifier: Apache-2.0

package file

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"

	"github.com/goccy/go-yaml/ast"
)

// rawReplica is one entry of replicas, with the place of each address.
type rawReplica struct {
	addrs  located[[]located[netip.Addr]]
	weight uint16
	backup bool
}

const wantReplica = "the address of a replica such as 10.1.0.2 or fd00:1::3"

// replicaCodec is an address, or a map with one address per family.
func replicaCodec() codec[rawReplica] {
	base := rawReplica{weight: 1}
	one := where(address(wantReplica, unicast))
	whole := object(base,
		req("address", "An address, or a list with at most one per family.", where(oneOrTwo(one)), func(r *rawReplica) *located[[]located[netip.Addr]] { return &r.addrs }),
		opt("weight", "Relative share of new connections.", integer[uint16](1, 65535), func(r *rawReplica) *uint16 { return &r.weight }),
		opt("backup", "Used only when no other replica is fit.", boolean(), func(r *rawReplica) *bool { return &r.backup }),
	)
	return codec[rawReplica]{
		schema: func() schema { return schema{"anyOf": []schema{one.schema(), whole.schema()}} },
		decode: func(d *decoder, v value) (rawReplica, bool) {
			r, ok := d.resolve(v)
			if !ok {
				return base, false
			}
			if _, isMap := pairs(r.node); isMap {
				raw, ok := whole.decode(d, v)
				return raw, ok && !raw.addrs.broken
			}
			raw := base
			addr, _ := one.decode(d, v)
			raw.addrs = located[[]located[netip.Addr]]{place: v.place, v: []located[netip.Addr]{addr}}
			return raw, !addr.broken
		},
		show: func(rawReplica) (any, bool) { return nil, false },
	}
}

// oneOrTwo is an address or a list of at most one per family.
func oneOrTwo(one codec[located[netip.Addr]]) codec[[]located[netip.Addr]] {
	many := list(one, 2)
	return codec[[]located[netip.Addr]]{
		schema: func() schema { return schema{"anyOf": []schema{one.schema(), many.schema()}} },
		decode: func(d *decoder, v value) ([]located[netip.Addr], bool) {
			r, ok := d.resolve(v)
			if !ok {
				return nil, false
			}
			if _, isList := r.node.(*ast.SequenceNode); !isList {
				a, _ := one.decode(d, v)
				return []located[netip.Addr]{a}, !a.broken
			}
			as, ok := many.decode(d, v)
			if !ok || slices.ContainsFunc(as, func(a located[netip.Addr]) bool { return a.broken }) {
				return as, false
			}
			switch {
			case len(as) == 0:
				d.report(r.place, "is an empty list, want %s", wantReplica)
			case len(as) == 2 && as[0].v.Is4() == as[1].v.Is4():
				d.report(as[1].place, "%s is of the family of %s; a replica has one address per family, make it a replica of its own", as[1].v, as[0].v)
			default:
				return as, true
			}
			return as, false
		},
		show: func([]located[netip.Addr]) (any, bool) { return nil, false },
	}
}

// backends makes the model's backends, sorted, and refuses an address that
// stands twice.
func (s *rawService) backends(d *decoder) []model.Backend {
	var out []model.Backend
	seen := map[netip.Addr]place{}
	for _, r := range s.replicas.v {
		b := model.Backend{Weight: r.weight, Backup: r.backup}
		for _, a := range r.addrs.v {
			if first, twice := seen[a.v]; twice {
				d.report(a.place, "replica %s is given twice, first at %d:%d; keep one and use weight for a larger share", a.v, first.line, first.col)
				continue
			}
			seen[a.v] = a.place
			if a.v.Is4() {
				b.Addr4 = a.v
			} else {
				b.Addr6 = a.v
			}
		}
		out = append(out, b)
	}
	slices.SortFunc(out, model.Backend.Compare)
	return out
}
