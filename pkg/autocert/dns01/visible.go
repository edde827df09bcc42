// SPDX-License-Identifier: Apache-2.0

package dns01

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The wait between two looks: it doubles from one to the other.
const (
	lookMin = 250 * time.Millisecond
	lookMax = 5 * time.Second
)

// view is what a name server shows of a record.
type view struct {
	server netip.AddrPort
	shown  bool
	silent bool   // it does not answer
	why    string // it is not shown
}

// await returns when every name server that answers shows a record, and one
// does: the authority may ask any of them. One that is silent is silent to the
// authority, too.
func await(ctx context.Context, r record, servers []netip.AddrPort, patience time.Duration) error {
	tell(ctx, "the TXT record "+r.name+" at the name servers of its zone")
	end := time.Now().Add(patience)
	for wait := lookMin; ; wait = min(2*wait, lookMax) {
		views := look(ctx, r, servers)
		missing := lacking(views)
		if missing == "" {
			return nil
		}
		if left := time.Until(end); left <= 0 {
			return problem("the TXT record %s was written, and after %s it is still not shown by all name servers of its zone: %s", r.name, patience, missing)
		} else if wait > left {
			wait = left
		}
		tell(ctx, fmt.Sprintf("the TXT record %s at all name servers of its zone: %s", r.name, missing))
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the TXT record %s: %w", r.name, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// lacking says which servers do not show it; empty: it can be seen.
func lacking(views []view) string {
	var missing []string
	shown, wrong := false, false
	for _, v := range views {
		if v.shown {
			shown = true
			continue
		}
		wrong = wrong || !v.silent
		missing = append(missing, fmt.Sprintf("%s %s", v.server, v.why))
	}
	if shown && !wrong {
		return ""
	}
	return strings.Join(missing, ", ")
}

// look asks all servers at once.
func look(ctx context.Context, r record, servers []netip.AddrPort) []view {
	views := make([]view, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { views[i] = ask(ctx, r, s) })
	}
	wg.Wait()
	return views
}

func ask(ctx context.Context, r record, server netip.AddrPort) view {
	v := view{server: server}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(r.name), dns.TypeTXT)
	q.RecursionDesired = false
	q.SetEdns0(1232, false)
	answer, _, err := (&dns.Client{Timeout: exchangeTimeout / 2}).ExchangeContext(ctx, q, server.String())
	if err != nil || answer.Truncated {
		answer, _, err = (&dns.Client{Net: "tcp", Timeout: exchangeTimeout / 2}).ExchangeContext(ctx, q, server.String())
	}
	switch {
	case err != nil:
		v.silent, v.why = true, "does not answer ("+short(err)+")"
		return v
	case answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
		v.why = "answers " + rcode(answer)
		return v
	}
	v.why = "does not have it yet"
	for _, rr := range answer.Answer {
		if t, ok := rr.(*dns.TXT); ok && strings.Join(t.Txt, "") == r.value {
			v.shown, v.why = true, ""
		}
	}
	return v
}
