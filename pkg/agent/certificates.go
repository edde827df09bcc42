// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
)

const noCertificates = "no service has a name with TLS that ends here: give one \"expose: - http\", or \"- tcp\" with \"tls: terminate\""

// certificates shows the names that certificates are kept for.
func (a *Agent) certificates() admin.Certificates {
	out := admin.Certificates{Note: noCertificates}
	for _, c := range a.parts.certificates() {
		out.Certificates = append(out.Certificates, admin.Certificate{
			Host: c.Host, Covers: c.Covers, State: string(c.State), Issuer: c.Issuer, NotBefore: c.NotBefore, Expires: c.NotAfter,
			Awaiting: c.Awaiting, Error: c.Error, NextTry: c.NextTry,
		})
	}
	return out
}

// expiries are the certificates that are served.
func (a *Agent) expiries() []metrics.Certificate {
	var out []metrics.Certificate
	for _, c := range a.parts.certificates() {
		if !c.NotAfter.IsZero() {
			out = append(out, metrics.Certificate{Host: c.Host, Expires: c.NotAfter})
		}
	}
	return out
}

// certificateProblems tells of orders that failed. Names that are never
// ordered are no fault of today: "fairlead certificates" has them.
func (a *Agent) certificateProblems() []string {
	var out []string
	more := 0
	for _, c := range a.parts.certificates() {
		switch {
		case c.Error == "" || c.State == autocert.Refused:
		case len(out) == mostProblems:
			more++
		default:
			out = append(out, fmt.Sprintf("certificate of %s: %s", c.Host, c.Error))
		}
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("and %d more of this kind: see \"fairlead certificates\"", more))
	}
	return out
}
