// SPDX-License-Identifier: Apache-2.0

package file

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/names"
)

// config is the whole file as it was written.
type config struct {
	node     rawNode
	network  rawNetwork
	names    rawNames
	listen   rawListen
	dns      model.DNS
	acme     model.ACME
	domains  model.Domains
	tokens   rawTokens
	trusted  []netip.Prefix
	access   model.AccessLog
	docker   model.Docker
	services []rawService
}

const maxServices = 200_000

// root declares the file. The codecs it is made of are the only place that
// knows which keys there are.
func root() codec[config] {
	return object(newConfig(),
		opt("node", "Where the data plane attaches.", nodeCodec(), func(c *config) *rawNode { return &c.node }),
		opt("network", "Where addresses are taken from.", networkCodec(), func(c *config) *rawNetwork { return &c.network }),
		opt("names", "How names are made.", namesCodec(), func(c *config) *rawNames { return &c.names }),
		opt("listen", `Listen addresses: ":PORT", "IP:PORT" or "" for off.`, listenCodec(), func(c *config) *rawListen { return &c.listen }),
		opt("dns", "The internal name server's own resolver.", dnsCodec(), func(c *config) *model.DNS { return &c.dns }),
		opt("acme", "The certificate authority.", acmeCodec(), func(c *config) *model.ACME { return &c.acme }),
		opt("domains", "How the ownership of a domain is checked.", domainsCodec(), func(c *config) *model.Domains { return &c.domains }),
		opt("trustedProxies", "CIDRs whose X-Forwarded-For and PROXY protocol are believed.",
			list(cidr(), 10_000), func(c *config) *[]netip.Prefix { return &c.trusted }),
		opt("tokens", "Names of the environment variables workloads get.", tokensCodec(), func(c *config) *rawTokens { return &c.tokens }),
		opt("accessLog", "The log of HTTP requests.", accessLogCodec(), func(c *config) *model.AccessLog { return &c.access }),
		opt("docker", "The Docker daemon that runs workloads of driver docker.", dockerCodec(), func(c *config) *model.Docker { return &c.docker }),
		req("services", "The list of services; [] for none.", list(serviceCodec(), maxServices), func(c *config) *[]rawService { return &c.services }),
	)
}

// newConfig is the config of a file without any key. Objects that are absent
// are not decoded, so their defaults are put in here.
func newConfig() config {
	return config{
		node: defaultNode(), network: defaultNetwork(), names: defaultNames(), listen: defaultListen(),
		acme: defaultACME(), domains: defaultDomains(), tokens: defaultTokens(), docker: defaultDocker(),
	}
}

type rawNode struct {
	interfaces []string
	addresses  []netip.Addr
	sources    []netip.Addr
	cgroup     *string
	attach, tc string
}

func defaultNode() rawNode { return rawNode{attach: "auto", tc: "auto"} }

func nodeCodec() codec[rawNode] {
	return object(defaultNode(),
		opt("interfaces", "Interfaces where clients' packets arrive. Default: those of the default routes. []: none, local clients only.",
			list(interfaceName(), 256), func(n *rawNode) *[]string { return &n.interfaces }),
		opt("addresses", "Public addresses of the node. Default: the interfaces' global ones.",
			list(address("an IP address such as 203.0.113.10", unicast), 1024), func(n *rawNode) *[]netip.Addr { return &n.addresses }),
		opt("sources", "Addresses that replicas of mode full-nat see in place of the client's; no other program may connect from them. Default: the node's first address of each family.",
			checked(list(address("an IP address such as 10.0.0.5", unicast), 2*maxSources), sourcesFit, nil), func(n *rawNode) *[]netip.Addr { return &n.sources }),
		opt("cgroup", `cgroup2 subtree whose processes get connect-time balancing. Default: the cgroup2 root. "" turns it off.`,
			pointer(absolutePath()), func(n *rawNode) **string { return &n.cgroup }),
		opt("attach", "How programs are attached to interfaces.",
			enum("auto", "xdp-native", "xdp-generic", "tc"), func(n *rawNode) *string { return &n.attach }),
		opt("tc", "How TC programs are attached: tcx needs Linux 6.6.",
			enum("auto", "tcx", "clsact"), func(n *rawNode) *string { return &n.tc }),
	)
}

// maxSources is how many addresses of a family have room for their ports in the
// data plane (PORTS of bpf/lib/maps.h).
const maxSources = 8

func sourcesFit(sources []netip.Addr) error {
	v4 := 0
	for _, a := range sources {
		if a.Is4() {
			v4++
		}
	}
	if n := max(v4, len(sources)-v4); n > maxSources {
		return fmt.Errorf("has %d addresses of a family, at most %d are taken: their ports are as many as there can be connections", n, maxSources)
	}
	return nil
}

func interfaceName() codec[string] {
	const want = "the name of a network interface such as eth0"
	return str(want, func(s string) error {
		if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: ") {
			return fmt.Errorf("got %s, want %s (1 to 15 bytes; ip link lists them)", quote(s), want)
		}
		return nil
	})
}

func absolutePath() codec[string] {
	return str(`an absolute path, or ""`, func(s string) error {
		if s != "" && !strings.HasPrefix(s, "/") {
			return fmt.Errorf(`got %s, want a path that begins with "/", or ""`, quote(s))
		}
		return nil
	})
}

type rawNetwork struct {
	services, services6, workloads, workloads6 located[netip.Prefix]
}

func defaultNetwork() rawNetwork {
	return rawNetwork{
		services:   here(netip.MustParsePrefix("198.18.0.0/16")),
		services6:  here(netip.MustParsePrefix("fd00:198:18::/112")),
		workloads:  here(netip.MustParsePrefix("10.213.0.0/16")),
		workloads6: here(netip.MustParsePrefix("fd00:213::/64")),
	}
}

func networkCodec() codec[rawNetwork] {
	type at = *located[netip.Prefix]
	return object(defaultNetwork(),
		opt("services", "Virtual IPs are taken from here, first come, kept over restarts.", where(pool(false)), func(n *rawNetwork) at { return &n.services }),
		opt("services6", "IPv6 virtual IPs.", where(pool(true)), func(n *rawNetwork) at { return &n.services6 }),
		opt("workloads", "Addresses of process replicas.", where(pool(false)), func(n *rawNetwork) at { return &n.workloads }),
		opt("workloads6", "IPv6 addresses of process replicas.", where(pool(true)), func(n *rawNetwork) at { return &n.workloads6 }),
	)
}

type rawNames struct {
	prefix, region, domain, tcpDomain string
	internal, http, tcp               located[names.Template]
}

func defaultNames() rawNames {
	return rawNames{
		prefix: "fairlead", region: "local", domain: "fairlead.test", tcpDomain: "fairlead.test",
		internal: here(mustTemplate("{prefix}-{project}-run-{user}")),
		http:     here(mustTemplate("{project}.{user}.{domain}")),
		tcp:      here(mustTemplate("{project}.{user}.db-{region}.{tcpDomain}")),
	}
}

// mustTemplate is for the templates above, which a test parses.
func mustTemplate(s string) names.Template {
	t, err := names.ParseTemplate(s)
	if err != nil {
		panic(err)
	}
	return t
}

func namesCodec() codec[rawNames] {
	label := str("a label", names.CheckLabel)
	domain := str("a domain name", names.CheckName)
	template := where(parsed("a name template", "", names.ParseTemplate, names.Template.String))
	type at = *located[names.Template]
	return object(defaultNames(),
		opt("prefix", "{prefix} in templates.", label, func(n *rawNames) *string { return &n.prefix }),
		opt("region", "{region} in templates.", label, func(n *rawNames) *string { return &n.region }),
		opt("domain", "{domain} in templates: the domain of free HTTP names.", domain, func(n *rawNames) *string { return &n.domain }),
		opt("tcpDomain", "{tcpDomain} in templates: the domain of free TCP names.", domain, func(n *rawNames) *string { return &n.tcpDomain }),
		opt("internal", "Template of internal names.", template, func(n *rawNames) at { return &n.internal }),
		opt("http", "Template of free HTTP names.", template, func(n *rawNames) at { return &n.http }),
		opt("tcp", "Template of free TCP names.", template, func(n *rawNames) at { return &n.tcp }),
	)
}

type rawListen struct {
	http, https, postgres, mongo, redis, dns, metrics, dashboard located[string]
}

func defaultListen() rawListen {
	return rawListen{
		http: here(":80"), https: here(":443"),
		postgres: here(":5432"), mongo: here(":27017"), redis: here(":6379"),
		metrics: here("127.0.0.1:9320"), dashboard: here("127.0.0.1:9321"),
	}
}

func listenCodec() codec[rawListen] {
	type at = *located[string]
	l := where(listener())
	return object(defaultListen(),
		opt("http", "HTTP front.", l, func(n *rawListen) at { return &n.http }),
		opt("https", "HTTPS front.", l, func(n *rawListen) at { return &n.https }),
		opt("postgres", "PostgreSQL by server name.", l, func(n *rawListen) at { return &n.postgres }),
		opt("mongo", "MongoDB by server name.", l, func(n *rawListen) at { return &n.mongo }),
		opt("redis", "Redis by server name.", l, func(n *rawListen) at { return &n.redis }),
		opt("dns", "Internal names, the rest forwarded.", l, func(n *rawListen) at { return &n.dns }),
		opt("metrics", "/metrics, /healthz and /readyz.", l, func(n *rawListen) at { return &n.metrics }),
		opt("dashboard", "The web page.", l, func(n *rawListen) at { return &n.dashboard }),
	)
}

func dnsCodec() codec[model.DNS] {
	return object(model.DNS{},
		opt("upstream", "Name servers that other names are forwarded to. Default: those of /etc/resolv.conf.",
			list(server(), 16), func(n *model.DNS) *[]netip.AddrPort { return &n.Upstream }))
}

func defaultDomains() model.Domains {
	return model.Domains{Resolver: netip.MustParseAddrPort("8.8.8.8:53"), TXTName: "_fairlead.{host}"}
}

func domainsCodec() codec[model.Domains] {
	txt := str("a name with {host}", func(s string) error {
		if strings.Count(s, "{host}") != 1 || strings.ContainsAny(strings.Replace(s, "{host}", "", 1), "{} ") {
			return fmt.Errorf(`got %s, want a name that holds {host} once, such as "_fairlead.{host}"`, quote(s))
		}
		return nil
	})
	return object(defaultDomains(),
		opt("resolver", "Where A and TXT records must be visible.", server(), func(n *model.Domains) *netip.AddrPort { return &n.Resolver }),
		opt("txtName", "Name of the TXT record that holds the token; {host} is the domain.", txt, func(n *model.Domains) *string { return &n.TXTName }))
}

type rawTokens struct {
	prefix, context, host string
	lifetime              time.Duration
}

func defaultTokens() rawTokens {
	return rawTokens{prefix: "FAIRLEAD", context: "default", lifetime: time.Hour}
}

func tokensCodec() codec[rawTokens] {
	return object(defaultTokens(),
		opt("prefix", "Prefix of the variables _ACCESS_TOKEN, _CONTEXT_ID and their like.", str("a variable name", envName), func(n *rawTokens) *string { return &n.prefix }),
		opt("context", "Value of the context id.", str("a context id", nonEmpty("a context id such as default")), func(n *rawTokens) *string { return &n.context }),
		opt("host", "Host name that serves /.well-known/jwks.json and gets a certificate for it. Default: names.domain.", str("a host name", names.CheckName), func(n *rawTokens) *string { return &n.host }),
		opt("lifetime", "How long an access token is good.", duration(5*time.Minute, 24*time.Hour), func(n *rawTokens) *time.Duration { return &n.lifetime }))
}

// tokensOf is the model's, with the host that nobody chose.
func (c *config) tokensOf() model.Tokens {
	t := c.tokens
	return model.Tokens{
		Prefix: t.prefix, Context: t.context, Host: strings.ToLower(cmp.Or(t.host, c.names.domain)), Own: t.host != "", Lifetime: t.lifetime,
	}
}

func accessLogCodec() codec[model.AccessLog] {
	return object(model.AccessLog{},
		opt("oneIn", "Log one request in so many, and all that end in 5xx; 1: all, 0: none.", integer[uint32](0, 1_000_000_000), func(a *model.AccessLog) *uint32 { return &a.OneIn }))
}

func defaultDocker() model.Docker { return model.Docker{Host: "unix:///var/run/docker.sock"} }

func dockerCodec() codec[model.Docker] {
	const want = "unix:///PATH of the daemon's socket, or tcp://HOST:PORT"
	host := str(want, func(s string) error {
		u, err := url.Parse(s)
		switch {
		case err != nil:
		case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
			return nil
		case u.Scheme == "tcp" && u.Hostname() != "" && u.Port() != "" && u.Path == "":
			return nil
		}
		return fmt.Errorf("got %s, want %s", quote(s), want)
	})
	return object(defaultDocker(),
		opt("host", "Where the daemon listens. A change is in force after a restart of fairlead.", host, func(k *model.Docker) *string { return &k.Host }),
		opt("labels", "Its containers' labels define services: whoever may start a container may then name its hosts and ports.", boolean(), func(k *model.Docker) *bool { return &k.Labels }))
}
