// SPDX-License-Identifier: Apache-2.0

package domain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Record is one record a domain needs, and what was seen of it.
type Record struct {
	Type     string   // "A" | "AAAA" | "TXT"
	Name     string   // without the trailing dot
	Want     []string // one of these must be there; empty: none may be
	Optional bool     // it need not be there at all
	Found    []string // values; empty: none
	OK       bool
	Note     string // what is wrong and what to do, or what to know
}

// wanted is the records of a domain on this node.
func wanted(d Domain, site Site) []Record {
	var v4, v6 []string
	for _, a := range site.Addresses {
		switch {
		case a.Is4() || a.Is4In6():
			v4 = append(v4, a.Unmap().String())
		default:
			v6 = append(v6, a.WithZone("").String())
		}
	}
	txt := strings.Replace(site.State.Settings.Domains.TXTName, "{host}", d.Host, 1)
	return []Record{
		{Type: "A", Name: d.Host, Want: v4, Optional: len(v4) == 0},
		// Without an IPv6 address there is nothing to set, but a foreign record
		// would be asked first, by clients and by the certificate authority.
		{Type: "AAAA", Name: d.Host, Want: v6, Optional: len(v4) > 0 || len(v6) == 0},
		{Type: "TXT", Name: txt, Want: []string{d.Token}},
	}
}

// look asks for all of them at once.
func look(ctx context.Context, o question, records []Record) []Record {
	var wg sync.WaitGroup
	for i := range records {
		r := &records[i]
		wg.Go(func() {
			a, err := o.ask(ctx, r.Name, dns.StringToType[r.Type])
			if err != nil {
				r.Note = err.Error()
				return
			}
			r.judge(a)
		})
	}
	wg.Wait()
	return records
}

// judge compares what was found with what is wanted.
func (r *Record) judge(a answer) {
	r.Found = a.values
	var foreign []string
	hit := false
	for _, v := range a.values {
		if slices.Contains(r.Want, v) {
			hit = true
		} else {
			foreign = append(foreign, v)
		}
	}
	via := ""
	if a.alias != "" {
		via = fmt.Sprintf(" (%s is an alias of %s)", r.Name, a.alias)
	}
	switch {
	case len(a.values) == 0 && r.Optional:
		r.OK = true
		r.Note = "not needed"
	case len(a.values) == 0:
		r.Note = fmt.Sprintf("the resolver knows none%s: %s; it can take the time to live of an older answer until a new record is seen", via, a.none)
	case !hit && r.Type == "TXT":
		r.Note = fmt.Sprintf("none of the values%s is the token", via)
	case !hit && len(r.Want) == 0:
		r.Note = fmt.Sprintf("this node has no address of that kind%s: remove the record, as clients and the certificate authority would go there", via)
	case !hit:
		r.Note = fmt.Sprintf("none of the addresses%s is this node's; if it is reached by another one (NAT), name that in node.addresses", via)
	case len(foreign) > 0 && r.Type != "TXT":
		r.OK = true
		r.Note = fmt.Sprintf("%s%s is not an address of this node: what is sent there does not come here", strings.Join(foreign, ", "), via)
	default:
		r.OK = true
	}
}
