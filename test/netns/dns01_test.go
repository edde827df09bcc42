// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/autocert/bindtest"
	"github.com/fairlead-lb/fairlead/pkg/autocert/pebbletest"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestA09A10WildcardsByDNS01: an agent, an ACME authority and BIND, which is the
// zone's only name server, in namespaces. The free names of each template share
// a wildcard certificate; an own domain has one by itself. Before that the key
// is the wrong one, and "fairlead certificates" says so.
func TestA09A10WildcardsByDNS01(t *testing.T) {
	const zone = "fairlead.example"
	n := &internet{l: lab.New(t, lab.Any(t)), dns: netip.AddrPortFrom(lab.Client4, 53)}
	ns := bindtest.New(t, bindtest.Config{Zone: zone, In: n.l.Client.Do, Addr: n.dns, Host: lab.Node4})
	n.ca = pebbletest.New(t, pebbletest.Config{
		In: n.l.Client.Do, Address: lab.Client4, Resolver: n.dns.String(), HTTPPort: 80, TLSPort: 443,
	})
	n.root, n.roots = filepath.Join(t.TempDir(), "root.pem"), n.ca.Roots()
	must(t, os.WriteFile(n.root, n.ca.RootPEM(), 0o600))
	n.a = lab.NewAgent(t, n.l.Node, n.l.Mode)

	key := filepath.Join(t.TempDir(), "update.key")
	other := base64.StdEncoding.EncodeToString([]byte("another secret than the server's"))
	ns.WriteKey(key, ns.KeyName, other)
	text := fmt.Sprintf(`node: {interfaces: [up0], addresses: [%s, "%s"], cgroup: ""}
names: {domain: %s, tcpDomain: %[3]s, http: "{project}-{user}.{domain}", tcp: "{project}-{user}.db-{region}.{tcpDomain}"}
acme: {directory: %q, caFile: %q, dns01: {server: %q, keyFile: %q}}
services:
`, lab.Node4, lab.Node6, zone, n.ca.Directory, n.ca.CAFile, n.dns, key)
	for i := range 3 {
		text += fmt.Sprintf("- {project: shop, user: web%d, run: {containerPort: 8090, servicePort: 80}, health: {type: none}, expose: [{http: {}}]}\n", i)
		text += fmt.Sprintf("- {project: shop, user: db%d, run: {containerPort: 7001, servicePort: 6379}, health: {type: none}, expose: [{tcp: {kind: REDIS, tls: terminate}}]}\n", i)
	}
	text += "- {project: shop, user: own, run: {containerPort: 8090, servicePort: 80}, health: {type: none}, expose: [{http: {host: own." + zone + "}}]}\n"
	n.a.WriteText(t, text)
	n.a.Run(t)
	n.a.WaitReady(t, 0)
	lab.Poll(t, 60*time.Second, func() error {
		if out := n.a.CLI(t, "certificates"); !strings.Contains(out, "BADSIG") || !strings.Contains(out, "failed") {
			return fmt.Errorf("fairlead certificates does not say that the key is wrong:\n%s", out)
		}
		return nil
	})
	if out := n.a.CLI(t, "status"); !strings.Contains(out, "certificate of *."+zone+": dns-01: ") {
		t.Errorf("fairlead status does not say it:\n%s", out)
	}
	ns.WriteKey(key, ns.KeyName, ns.Secret)
	wild, wildTCP, own := "*."+zone, "*.db-local."+zone, "own."+zone
	n.certificates(t, wild, wildTCP, own)
	if got := n.ca.Issued(); got != 3 {
		t.Errorf("%d certificates were issued, want 3", got)
	}
	for i := range 3 {
		host := fmt.Sprintf("shop-web%d.%s", i, zone)
		if _, crt := n.handshake(t, 443, host); crt.DNSNames[0] != wild {
			t.Errorf("%s is served with the certificate of %q", host, crt.DNSNames)
		}
		if got := n.curl("https://" + host + "/"); !strings.HasSuffix(got, "\n200 ") { // the placeholder, row D01
			t.Errorf("%s: %s", host, got)
		}
		host = fmt.Sprintf("shop-db%d.db-local.%s", i, zone)
		if _, crt := n.handshake(t, 6379, host); crt.DNSNames[0] != wildTCP {
			t.Errorf("%s is served with the certificate of %q", host, crt.DNSNames)
		}
	}
	if _, crt := n.handshake(t, 443, own); crt.DNSNames[0] != own {
		t.Errorf("the own domain is served with the certificate of %q", crt.DNSNames)
	}
	if got := n.openssl(443, "shop-nobody."+zone); !strings.Contains(got, "alert number 112") {
		t.Errorf("A25: a name below the wildcard that nobody has: %s", got)
	}
	if out := n.a.CLI(t, "certificates", "shop-db1.db-local."+zone); !strings.Contains(out, wildTCP+": serves 3 names") {
		t.Errorf("fairlead certificates:\n%s", out)
	}
	if out := n.a.CLI(t, "domains"); strings.Count(out, "valid") != 4 {
		t.Errorf("fairlead domains does not show four hosts with a valid certificate:\n%s", out)
	}
	if log := n.a.Log(); strings.Contains(log, ns.Secret) || strings.Contains(log, other) {
		t.Error("the agent's log has the key's secret")
	}
}
