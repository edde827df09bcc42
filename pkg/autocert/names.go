// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// wanted is the names that the state serves with a certificate of ours, and
// those of them that nobody would sign, with the reason.
func wanted(s *model.State) (hosts map[string]bool, refused map[string]string) {
	hosts, refused = map[string]bool{}, map[string]string{}
	add := func(host string) {
		host = canonical(host)
		if why := unfit(host, s.Settings.ACME); why != "" {
			refused[host] = why
			return
		}
		hosts[host] = true
	}
	for i := range s.Services {
		for _, h := range s.Services[i].HTTP {
			if h.TLS {
				add(h.Host)
			}
		}
		for _, n := range s.Services[i].TCPNames {
			if n.TLS == "terminate" {
				add(n.Host)
			}
		}
	}
	if s.Settings.Tokens.Own {
		add(s.Settings.Tokens.Host)
	}
	return hosts, refused
}

// subjects is what the certificates of hosts are for: a wildcard for names that
// templates made, where dns-01 is configured, else the host itself.
func subjects(s *model.State, hosts map[string]bool) map[string]string {
	out := map[string]string{}
	for host := range hosts {
		out[host] = host
	}
	if !s.Settings.ACME.DNS01.On() {
		return out
	}
	share := func(host string, free bool) {
		if host = canonical(host); free && hosts[host] {
			out[host] = shared(host)
		}
	}
	for _, svc := range s.Services {
		for _, h := range svc.HTTP {
			share(h.Host, h.Free)
		}
		for _, n := range svc.TCPNames {
			share(n.Host, n.Free)
		}
	}
	return out
}

// shared is the wildcard that a free name shares with those that differ from
// it in the first label; the name itself, if nobody would sign that one: a
// public authority does not sign *.com.
func shared(host string) string {
	_, parent, _ := strings.Cut(host, ".")
	if !strings.Contains(parent, ".") {
		return host
	}
	return "*." + parent
}

// publicAuthorities are those known to sign only for names of the public DNS.
var publicAuthorities = []string{
	".letsencrypt.org", ".zerossl.com", ".pki.goog", ".buypass.com", ".ssl.com", ".sectigo.com", ".digicert.com",
}

// reservedNames are top-level and other domains that no public authority signs
// for: RFC 2606, RFC 6761, RFC 6762, RFC 8375, RFC 9476, and ICANN's .internal.
var reservedNames = []string{
	".test", ".example", ".invalid", ".localhost", ".local", ".internal", ".home.arpa", ".alt", ".onion",
}

// unfit says why a name is not even asked for; empty: it may be. To ask would
// cost the account one of the few failures that the authority allows.
func unfit(host string, a model.ACME) string {
	if strings.Contains(host, "*") && !a.DNS01.On() {
		return "wildcard names need the dns-01 challenge: set acme.dns01, or name the hosts one by one"
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "certificates for addresses are not supported; use a host name"
	}
	u, err := url.Parse(a.Directory)
	if err != nil {
		return ""
	}
	public := false
	for _, suffix := range publicAuthorities {
		public = public || strings.HasSuffix("."+u.Hostname(), suffix)
	}
	if !public {
		return ""
	}
	for _, suffix := range reservedNames {
		if strings.HasSuffix("."+host, suffix) {
			return fmt.Sprintf("%s signs no names under %s, which is reserved; serve it with tls: off, choose another name, or set acme.directory to an authority of your own",
				u.Hostname(), suffix[1:])
		}
	}
	if !strings.Contains(host, ".") {
		return fmt.Sprintf("%s signs no names without a dot; choose a name of the public DNS", u.Hostname())
	}
	return ""
}

// compareHosts orders names so that those of one domain stand together.
func compareHosts(a, b string) int { return strings.Compare(reversed(a), reversed(b)) }

func reversed(host string) string {
	labels := strings.Split(host, ".")
	for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
		labels[i], labels[j] = labels[j], labels[i]
	}
	return strings.Join(labels, ".")
}
