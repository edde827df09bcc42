// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/autocert/pebbletest"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// internet is a lab whose client side has a certificate authority and a name
// server; the agent under test is to be started.
type internet struct {
	l     *lab.Lab
	a     *lab.Agent
	ca    *pebbletest.CA
	zone  *zone
	dns   netip.AddrPort
	root  string // file of the authority's root
	roots *x509.CertPool
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{l: lab.New(t, lab.Any(t))}
	n.zone, n.dns = serveZone(t, n.l)
	n.ca = pebbletest.New(t, pebbletest.Config{
		In: n.l.Client.Do, Address: lab.Client4, Resolver: n.dns.String(), HTTPPort: 80, TLSPort: 443,
	})
	n.root, n.roots = filepath.Join(t.TempDir(), "root.pem"), n.ca.Roots()
	must(t, os.WriteFile(n.root, n.ca.RootPEM(), 0o600))
	n.a = lab.NewAgent(t, n.l.Node, n.l.Mode)
	return n
}

// sites is a config: service shop/web with these hosts, and shop/cache, whose
// TLS ends in fairlead.
func (n *internet) sites(http, https string, hosts ...string) string {
	var expose strings.Builder
	for _, h := range hosts {
		n.zone.set("A", h, lab.Node4.String())
		fmt.Fprintf(&expose, "  - http: {host: %s, tls: auto, redirect: true, paths: [{path: /, servicePort: 90}]}\n", h)
	}
	text := fmt.Sprintf(`node: {interfaces: [up0], addresses: [%s, "%s"], cgroup: ""}
listen: {http: %q, https: %q}
acme: {directory: %q, caFile: %q, email: ops@example.com}
domains: {resolver: %q}
services:
- project: shop
  user: web
  run: {containerPort: 8090, servicePort: 90}
  health: {type: none}
  drain: 1s
  workload:
%s`, lab.Node4, lab.Node6, http, https, n.ca.Directory, n.ca.CAFile, n.dns, workload("--http", ":8090"))
	text += "  expose:\n" + expose.String()
	n.zone.set("A", "cache.example.com", lab.Node4.String())
	return text + `- project: shop
  user: cache
  run: {containerPort: 7001, servicePort: 6379}
  health: {type: none}
  drain: 1s
  expose:
  - tcp: {kind: REDIS, host: cache.example.com, tls: terminate}
  workload:
` + workload("--tcp", ":7001")
}

// curl is a client's request to a host of the node: the body, then a line with
// the code and where a redirect leads to.
func (n *internet) curl(url string) string {
	args := []string{"-sS", "--noproxy", "*", "--max-time", "20", "--cacert", n.root, "-w", "\n%{http_code} %{redirect_url}"}
	_, host, _ := strings.Cut(url, "://")
	host, _, _ = strings.Cut(host, "/")
	for _, port := range []string{"80", "443"} {
		args = append(args, "--resolve", host+":"+port+":"+lab.Node4.String())
	}
	out, err := n.l.Client.Try("curl", append(args, url)...)
	if err != nil {
		return fmt.Sprintf("%s%v", out, err)
	}
	return out
}

// openssl is what s_client says of a port of the node and a server name.
func (n *internet) openssl(port int, name string) string {
	out, _ := n.l.Client.Try("openssl", "s_client", "-connect", fmt.Sprintf("%s:%d", lab.Node4, port), "-servername", name,
		"-CAfile", n.root, "-verify_hostname", name, "-verify_return_error")
	return out
}

// handshake connects to a server name and returns its certificate.
func (n *internet) handshake(t *testing.T, port uint16, name string) (*tls.Conn, *x509.Certificate) {
	t.Helper()
	c, err := n.l.Client.Dial("tcp", netip.AddrPort{}, netip.AddrPortFrom(lab.Node4, port), 20*time.Second)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(lab.Patience(30*time.Second))))
	tc := tls.Client(c, &tls.Config{ServerName: name, RootCAs: n.roots})
	if err := tc.Handshake(); err != nil {
		t.Fatalf("%s at port %d: %v\n%s", name, port, err, n.a.Log())
	}
	return tc, tc.ConnectionState().PeerCertificates[0]
}

// certificates waits until exactly these names have one.
func (n *internet) certificates(t *testing.T, names ...string) {
	t.Helper()
	slices.Sort(names)
	lab.Poll(t, 120*time.Second, func() error {
		var got []string
		var list []admin.Certificate
		n.a.JSON(t, &list, "certificates")
		for _, c := range list {
			if c.State == "valid" {
				got = append(got, c.Host)
			}
		}
		if slices.Sort(got); !slices.Equal(got, names) || len(list) != len(names) {
			return fmt.Errorf("certificates of %q, wanted %q: %+v", got, names, list)
		}
		return nil
	}, n.a.Log)
}

// TestA15CertificatesThroughTheFronts: an agent, an ACME authority and clients
// in namespaces. Port 80 serves while the certificate is awaited, then clients
// are sent to TLS; both challenges pass the fronts; what was obtained outlives
// the agent.
func TestA15CertificatesThroughTheFronts(t *testing.T) {
	n := newInternet(t)
	n.ca.Pause() // orders wait
	t.Cleanup(n.ca.Resume)
	n.a.WriteText(t, n.sites(":80", ":443", "shop.example.com"))
	n.a.Run(t)
	n.a.WaitReady(t, 0)
	waitReplicas(t, n.a, "shop/web", 2)
	t.Run("WhileItIsAwaited", func(t *testing.T) {
		if got := n.curl("http://shop.example.com/x"); !strings.Contains(got, "name:") || !strings.HasSuffix(got, "\n200 ") {
			t.Errorf("port 80: %s", got)
		}
		if got := n.curl("http://shop.example.com/.well-known/acme-challenge/unknown"); !strings.HasSuffix(got, "\n200 ") {
			t.Errorf("a challenge of somebody else is the service's: %s", got)
		}
		if got := n.openssl(443, "shop.example.com"); !strings.Contains(got, "alert number 112") { // unrecognized_name
			t.Errorf("port 443 before there is a certificate: %s", got)
		}
		if got := n.openssl(6379, "cache.example.com"); !strings.Contains(got, "alert number 80") { // internal_error: the name is known
			t.Errorf("port 6379 before there is a certificate: %s", got)
		}
		if out := n.a.CLI(t, "certificates", "shop.example.com"); !strings.Contains(out, "waiting") || !strings.Contains(out, "waits for") {
			t.Errorf("fairlead certificates: %s", out)
		}
	})
	n.ca.Resume()
	n.certificates(t, "cache.example.com", "shop.example.com")
	t.Run("Served", func(t *testing.T) {
		if got := n.curl("https://shop.example.com/x"); !strings.Contains(got, "name:") || !strings.HasSuffix(got, "\n200 ") {
			t.Errorf("https: %s", got)
		}
		if got := n.curl("http://shop.example.com/x"); !strings.HasSuffix(got, "\n301 https://shop.example.com/x") {
			t.Errorf("http: %s", got)
		}
		if got := n.openssl(443, "nobody.example.com"); !strings.Contains(got, "alert number 112") {
			t.Errorf("L02: a server name that nobody has: %s", got)
		}
		if out := n.a.CLI(t, "certificates"); !strings.Contains(out, "Pebble") {
			t.Errorf("fairlead certificates: %s", out)
		}
	})
	t.Run("TerminatedTCP", func(t *testing.T) {
		if got := n.openssl(6379, "cache.example.com"); !strings.Contains(got, "Verify return code: 0 (ok)") {
			t.Errorf("openssl: %s", got)
		}
		c, _ := n.handshake(t, 6379, "cache.example.com")
		_, err := io.WriteString(c, "through\n")
		must(t, err)
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "through\n" {
			t.Errorf("echo behind fairlead's TLS: %q, %v", line, err)
		}
	})
	_, first := n.handshake(t, 443, "shop.example.com")
	orders := n.ca.Orders()
	t.Run("ARestartKeepsThem", func(t *testing.T) {
		n.a.Stop(t)
		n.a.Run(t)
		n.a.WaitReady(t, 0)
		n.certificates(t, "cache.example.com", "shop.example.com")
		if _, again := n.handshake(t, 443, "shop.example.com"); !again.Equal(first) || n.ca.Orders() != orders {
			t.Errorf("serial %v after %v; %d orders after %d", again.SerialNumber, first.SerialNumber, n.ca.Orders(), orders)
		}
	})
	t.Run("TLSALPN01Alone", func(t *testing.T) { // nobody serves port 80
		n.a.WriteText(t, n.sites("127.0.0.1:8081", ":443", "shop.example.com", "alpn.example.com"))
		n.certificates(t, "cache.example.com", "shop.example.com", "alpn.example.com")
		n.handshake(t, 443, "alpn.example.com")
	})
	t.Run("HTTP01Alone", func(t *testing.T) { // nobody serves port 443; shop.example.com redirects there
		n.ca.Advise(first, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		n.a.Stop(t)
		n.a.WriteText(t, n.sites(":80", ":8443", "shop.example.com", "plain.example.com"))
		n.a.Run(t)
		n.a.WaitReady(t, 0)
		n.certificates(t, "cache.example.com", "shop.example.com", "plain.example.com")
		n.handshake(t, 8443, "plain.example.com")
		lab.Poll(t, 120*time.Second, func() error {
			if _, now := n.handshake(t, 8443, "shop.example.com"); now.Equal(first) {
				return fmt.Errorf("the certificate is not renewed yet: %s", n.a.CLI(t, "certificates"))
			}
			return nil
		}, n.a.Log)
	})
	n.a.Stop(t)
}

// TestA18OwnDomain: a domain of one's own, from the records to set to TLS, and
// off, on and gone (rows A17 and A19), against a real name server.
func TestA18OwnDomain(t *testing.T) {
	const host = "www.own.example"
	n := newInternet(t)
	n.a.WriteText(t, n.sites(":80", ":443", "shop.example.com"))
	n.a.Run(t)
	n.a.WaitReady(t, 0)
	waitReplicas(t, n.a, "shop/web", 2)
	var add admin.DomainResult
	if err := decode(n.a.CLI(t, "domain", "add", host, "--service", "shop/web", "-o", "json"), &add); err != nil {
		t.Fatal(err)
	}
	txt := slices.IndexFunc(add.Records, func(r admin.DomainRecord) bool { return r.Type == "TXT" })
	if txt < 0 || add.Records[txt].Name != "_fairlead."+host || len(add.Records[txt].Want) != 1 {
		t.Fatalf("domain add: %+v", add)
	}
	refused := func(verb string, wants ...string) {
		t.Helper()
		out, err := n.a.TryCLI("domain", verb, host)
		if err == nil {
			t.Errorf("domain %s succeeds:\n%s", verb, out)
			return
		}
		for _, want := range wants {
			if !strings.Contains(out+err.Error(), want) {
				t.Errorf("domain %s says nothing of %q: %v\n%s", verb, want, err, out)
			}
		}
	}
	refused("check", lab.Node4.String(), add.Records[txt].Want[0], "198.51.100.2:53")
	n.zone.set("A", host, "192.0.2.7")
	n.zone.set("TXT", add.Records[txt].Name, "another token")
	refused("confirm", "192.0.2.7", "another token", lab.Node4.String(), "nothing is bound")
	if got := n.curl("http://" + host + "/"); !strings.HasSuffix(got, "\n404 ") {
		t.Errorf("a domain that is not confirmed: %s", got)
	}
	n.zone.set("A", host, lab.Node4.String())
	refused("confirm", "another token", "nothing is bound")
	n.zone.set("TXT", add.Records[txt].Name, add.Records[txt].Want[0])
	n.a.CLI(t, "domain", "check", host)
	n.certificates(t, "cache.example.com", "shop.example.com") // none was ordered for it
	n.a.CLI(t, "domain", "confirm", host)
	n.certificates(t, "cache.example.com", "shop.example.com", host)
	served := func(what string) {
		t.Helper()
		lab.Poll(t, 20*time.Second, func() error {
			if got := n.curl("https://" + host + "/"); !strings.Contains(got, "name:") || !strings.HasSuffix(got, "\n200 ") {
				return fmt.Errorf("%s: %s", what, got)
			}
			return nil
		}, n.a.Log)
	}
	gone := func(what string) {
		t.Helper()
		lab.Poll(t, 20*time.Second, func() error {
			if got := n.curl("http://" + host + "/"); !strings.HasSuffix(got, "\n404 ") {
				return fmt.Errorf("%s, port 80: %s", what, got)
			}
			if got := n.openssl(443, host); !strings.Contains(got, "alert number 112") {
				return fmt.Errorf("%s, port 443: %s", what, got)
			}
			return nil
		}, n.a.Log)
	}
	served("confirmed")
	_, first := n.handshake(t, 443, host)
	orders := n.ca.Orders()
	n.a.CLI(t, "domain", "off", host)
	gone("A17: off")
	n.zone.set("A", host) // on is without another look
	n.zone.set("TXT", add.Records[txt].Name)
	n.a.CLI(t, "domain", "on", host)
	served("A17: on again")
	n.a.Stop(t)
	n.a.Run(t)
	n.a.WaitReady(t, 0)
	served("after a restart")
	if _, again := n.handshake(t, 443, host); !again.Equal(first) || n.ca.Orders() != orders {
		t.Errorf("serial %v after %v; %d orders after %d", again.SerialNumber, first.SerialNumber, n.ca.Orders(), orders)
	}
	n.a.CLI(t, "domain", "remove", host)
	gone("A19: removed")
	n.certificates(t, "cache.example.com", "shop.example.com")
	if out := n.a.CLI(t, "domains"); strings.Contains(out, host) {
		t.Errorf("domains after remove: %s", out)
	}
	n.a.Stop(t)
}

func decode(text string, v any) error {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	return nil
}
