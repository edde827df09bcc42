// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// headTime bounds one HEAD request. A program that is slow to answer its first
// one is asked again.
const headTime = 5 * time.Second

// head asks the replica HEAD / on its TCP ports (row D05), and says why no
// answer is good; "": one is. Any status below 400 is.
func (r Replica) head(ctx context.Context) (why string) {
	tcp, _ := Split(r.Ports)
	why = "it has no TCP port to answer HEAD / on"
	for _, port := range tcp {
		for _, addr := range r.Addrs {
			if why = headOf(ctx, netip.AddrPortFrom(addr, port)); why == "" {
				return ""
			}
		}
	}
	return why
}

func headOf(ctx context.Context, to netip.AddrPort) (why string) {
	ctx, cancel := context.WithTimeout(ctx, headTime)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+to.String()+"/", nil)
	if err != nil {
		return err.Error()
	}
	q.Header.Set("User-Agent", "fairlead-readiness")
	t := &http.Transport{DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	a, err := t.RoundTrip(q) // redirects are not followed: they are no error
	if err != nil {
		return fmt.Sprintf("it does not answer HEAD / on %s: %v", to, err)
	}
	_ = a.Body.Close()
	if a.StatusCode >= http.StatusBadRequest {
		return fmt.Sprintf("it answers HEAD / on %s with %s", to, a.Status)
	}
	return ""
}
