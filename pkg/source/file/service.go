// SPDX-License-Identifier: Apache-2.0

package file

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// rawService is a service as it was written; build makes the model's of it.
type rawService struct {
	place
	project, user located[string]
	run           rawRun
	vip, vip6     located[netip.Addr]
	replicas      located[[]rawReplica]
	mode          model.Mode
	balance       model.Balance
	health        *rawHealth
	drain         time.Duration
	allow         []netip.Prefix
	rateLimit     model.RateLimit
	expose        []rawExpose
	workload      *rawWorkload
}

func defaultService() rawService {
	return rawService{run: defaultRun(), mode: model.ModeNAT, drain: 30 * time.Second, balance: defaultBalance()}
}

func serviceCodec() codec[rawService] {
	const wantName = "text in Latin or Cyrillic letters and digits"
	name := where(str(wantName, nonEmpty(wantName)))
	return placed(object(defaultService(),
		req("project", "Project of the service; transliterated in names.", name, func(s *rawService) *located[string] { return &s.project }),
		req("user", "Owner of the service; transliterated in names.", name, func(s *rawService) *located[string] { return &s.user }),
		opt("run", "Port pairs. None given: 80 reaches 80, and a port left out is 80.", runCodec(), func(s *rawService) *rawRun { return &s.run }),
		opt("vip", "Virtual IPv4 address. Default: allocated from network.services.", where(address("an IPv4 address such as 198.18.0.10", virtual(false))), func(s *rawService) *located[netip.Addr] { return &s.vip }),
		opt("vip6", "Virtual IPv6 address. Default: allocated from network.services6.", where(address("an IPv6 address such as fd00:198:18::10", virtual(true))), func(s *rawService) *located[netip.Addr] { return &s.vip6 }),
		opt("replicas", "Fixed addresses of the replicas. Without replicas and workload the placeholder answers.", where(list(replicaCodec(), 10_000)), func(s *rawService) *located[[]rawReplica] { return &s.replicas }),
		opt("mode", "nat keeps the client's address and sees replies; full-nat replaces it; dsr lets replicas answer directly.",
			enum(model.ModeNAT, model.ModeFullNAT, model.ModeDSR), func(s *rawService) *model.Mode { return &s.mode }),
		opt("balance", "How a replica is chosen.", balanceCodec(), func(s *rawService) *model.Balance { return &s.balance }),
		opt("health", "Active check of every replica. Default: none.", pointer(healthCodec()), func(s *rawService) **rawHealth { return &s.health }),
		opt("drain", "How long a removed replica keeps its established connections.", duration(0, 24*time.Hour), func(s *rawService) *time.Duration { return &s.drain }),
		opt("allow", "Source CIDRs that may connect. Empty: everyone.", list(cidr(), 10_000), func(s *rawService) *[]netip.Prefix { return &s.allow }),
		opt("rateLimit", "Bound on new connections per client address.", rateLimitCodec(), func(s *rawService) *model.RateLimit { return &s.rateLimit }),
		opt("expose", "Where the service can be reached from outside.", list(exposeCodec(), 1000), func(s *rawService) *[]rawExpose { return &s.expose }),
		opt("workload", "What runs the replicas, instead of fixed ones.", pointer(workloadCodec()), func(s *rawService) **rawWorkload { return &s.workload }),
	), func(s *rawService) *place { return &s.place })
}

// placed notes where an object stood, and keeps one with faults: what could
// be read of it is checked further, so that all faults show at once.
func placed[S any](c codec[S], of func(*S) *place) codec[S] {
	inner := c.decode
	c.decode = func(d *decoder, v value) (S, bool) {
		s, ok := inner(d, v)
		*of(&s) = v.place
		if r, resolved := d.resolve(v); !ok && resolved {
			_, ok = pairs(r.node)
		}
		return s, ok
	}
	return c
}

const defaultAffinityTimeout = 3 * time.Hour

func defaultBalance() model.Balance {
	return model.Balance{Affinity: "none", AffinityTimeout: defaultAffinityTimeout, Policy: "maglev"}
}

func balanceCodec() codec[model.Balance] {
	return object(defaultBalance(),
		opt("affinity", "client-ip sends a client's connections to one replica.", enum("none", "client-ip"), func(b *model.Balance) *string { return &b.Affinity }),
		opt("affinityTimeout", "How long client-ip remembers an idle client.", duration(time.Second, 30*24*time.Hour), func(b *model.Balance) *time.Duration { return &b.AffinityTimeout }),
		opt("policy", "maglev hashes consistently; least-connections counts.", enum("maglev", "least-connections"), func(b *model.Balance) *string { return &b.Policy }),
	)
}

// rawHealth is a check with the place of what depends on its type.
type rawHealth struct {
	place
	kind              string
	path              located[string]
	status            located[[]int]
	interval, timeout located[time.Duration]
	rise, fall        int
	slowStart         time.Duration
}

func healthCodec() codec[rawHealth] {
	period := where(duration(10*time.Millisecond, time.Hour))
	return placed(object(rawHealth{kind: "tcp", path: here("/"), interval: here(2 * time.Second), timeout: here(time.Second), rise: 2, fall: 3},
		opt("type", "tcp connects; http asks for path; none trusts every replica.", enum("tcp", "http", "none"), func(h *rawHealth) *string { return &h.kind }),
		opt("path", "What http asks for.", where(httpPath(false)), func(h *rawHealth) *located[string] { return &h.path }),
		opt("status", "Status codes http accepts. Default: 200 to 399.", where(statusList()), func(h *rawHealth) *located[[]int] { return &h.status }),
		opt("interval", "Time between two checks.", period, func(h *rawHealth) *located[time.Duration] { return &h.interval }),
		opt("timeout", "How long a check may take; at most interval.", period, func(h *rawHealth) *located[time.Duration] { return &h.timeout }),
		opt("rise", "Checks in a row that make a replica fit.", integer(1, 100), func(h *rawHealth) *int { return &h.rise }),
		opt("fall", "Failed checks in a row that make it unfit.", integer(1, 100), func(h *rawHealth) *int { return &h.fall }),
		opt("slowStart", "How long a replica that is fit again takes to get its whole share; 0: none.", duration(0, time.Hour), func(h *rawHealth) *time.Duration { return &h.slowStart }),
	), func(h *rawHealth) *place { return &h.place })
}

// statusList is one code or a list of them.
func statusList() codec[[]int] {
	one := integer(100, 599)
	many := list(one, 100)
	return codec[[]int]{
		schema: func() schema { return schema{"anyOf": []schema{one.schema(), many.schema()}} },
		decode: func(d *decoder, v value) ([]int, bool) {
			if r, ok := d.resolve(v); ok {
				if _, _, isScalar := scalar(r.node); isScalar {
					code, ok := one.decode(d, v)
					return []int{code}, ok
				}
			}
			return many.decode(d, v)
		},
		show: many.show,
	}
}

// check makes the model's health check.
func (h *rawHealth) check(d *decoder) model.HealthCheck {
	if h == nil {
		return model.HealthCheck{}
	}
	c := model.HealthCheck{Type: h.kind}
	if h.kind != "http" {
		for _, l := range []place{h.path.place, h.status.place} {
			if l.line > 0 {
				d.report(l, "is for type http, the type here is %s; remove it or set type: http", h.kind)
			}
		}
	} else {
		c.Path, c.Status = h.path.v, h.status.v
	}
	if h.kind == "none" {
		return c
	}
	c.Interval, c.Timeout, c.Rise, c.Fall = h.interval.v, h.timeout.v, h.rise, h.fall
	c.SlowStart = h.slowStart
	switch {
	case h.interval.broken || h.timeout.broken || c.Timeout <= c.Interval:
	case h.timeout.given():
		d.report(h.timeout.place, "is %s, longer than the interval of %s; shorten it or lengthen interval", short(c.Timeout), short(c.Interval))
	default:
		c.Timeout = c.Interval
	}
	return c
}

func rateLimitCodec() codec[model.RateLimit] {
	most := uint32(10_000_000)
	return object(model.RateLimit{},
		opt("connectionsPerSecond", "New connections per second and client address; 0: off.", integer(0, most), func(r *model.RateLimit) *uint32 { return &r.PerSecond }),
		opt("burst", "Connections that may come at once; 0: as many as connectionsPerSecond.", integer(0, most), func(r *model.RateLimit) *uint32 { return &r.Burst }),
	)
}
