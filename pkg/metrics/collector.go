// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Build names the running program.
type Build struct{ Version, Revision string }

// NewRegistry has everything that /metrics shows.
func NewRegistry(r Reader, b Build) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fairlead_build_info", Help: "The running program; always 1.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "goversion": runtime.Version()},
	})
	info.Set(1)
	reg.MustRegister(info, &collector{r},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fairlead_"+name, help, labels, nil)
}

var (
	packetsDesc = desc("packets_total", "Packets the data plane saw, by what became of them and why.",
		"interface", "direction", "verdict", "reason")
	connectionsDesc = desc("service_connections_total", "Connections begun, by service port.", "service", "port")
	bytesDesc       = desc("service_bytes_total", "Bytes of frames, Ethernet header included, in from clients and out from replicas.",
		"service", "port", "direction")
	activeDesc       = desc("service_active_connections", "Established connections at the last sweep.", "service", "port")
	healthyDesc      = desc("backend_healthy", "1 while the replica passes its checks, or has none, and nothing else holds it down.", "service", "backend")
	flowsDesc        = desc("flow_table_entries", "Entries of the flow table at the last sweep, two per connection.")
	flowLimitDesc    = desc("flow_table_limit", "Confirmed entries the flow table can hold, two per connection.")
	sourcePortsDesc  = desc("source_ports", "Source ports that mode full-nat has, over protocols and addresses.")
	sourcesUsedDesc  = desc("source_ports_used", "Source ports that flows of mode full-nat held at the last sweep.")
	evictionsDesc    = desc("flow_table_evictions_total", "Flows begun by a TCP segment in mid-connection: their entries had been evicted, or there never were any.")
	generationDesc   = desc("config_generation", "Generation of the newest desired state; 0 before the first.")
	routerDesc       = desc("tcp_router_connections_total", "Connections to the fronts by TLS server name, by what became of them.", "kind", "result")
	routerActiveDesc = desc("tcp_router_active_connections", "Connections by TLS server name that are open.", "kind")
	configErrorsDesc = desc("config_errors_total", "Invalid configs that were refused.")
	readyDesc        = desc("ready", "1 once every target has applied the newest desired state.")
	expiryDesc       = desc("certificate_expiry_seconds", "Time left to the certificate of a host; negative once it has ended.", "host")
	questionsDesc    = desc("dns_questions_total", "Questions to the name server, by what became of them.", "result")
	requestsDesc     = desc("http_requests_total", "Requests the HTTP front answered, by service and status; 499: the client went away before the answer.", "service", "code")
	durationDesc     = desc("http_request_duration_seconds", "From the head of a request to the end of its answer.", "service")
	wakeDesc         = desc("wake_total", "Starts of sleeping services, by what caused them and what came of them; queue_full, refused: connections and requests that could not wait.", "service", "cause", "result")
	wakeTimeDesc     = desc("wake_duration_seconds", "Starts of sleeping services that came to a good end: until a process ran (start), then until it was ready (listen), then until the first held connection reached it (first_byte).", "service", "phase")
	sleepingDesc     = desc("sleeping", "1 while a service that may sleep does.", "service")
	waitingDesc      = desc("wake_waiting", "Connections and requests that wait for a service to start.", "service")
	heldDesc         = desc("held_connections", "Connections opened while their service slept: they wait, or are joined with a replica.", "state")
	heldPendingDesc  = desc("held_pending_bytes", "Bytes that waiting connections have sent; the kernel keeps them.")
	heldTotalDesc    = desc("held_connections_total", "Connections opened while their service slept, by what became of them.", "result")
	datagramsDesc    = desc("held_datagrams", "Datagrams that wait for their service to wake.")
	datagramsAllDesc = desc("held_datagrams_total", "Datagrams that came while their service slept, by what became of them.", "result")
	heldBytesDesc    = desc("held_bytes_total", "Bytes of such connections that have ended, in from clients and out to them.", "direction")
	replicasDesc     = desc("replicas_wanted", "Replicas that a service shall have which may have more or fewer.", "service")
	readErrorDesc    = desc("dataplane_read_error", "1 when the data plane's counters cannot be read.")
)

// collector reads at scrape time.
type collector struct{ r Reader }

// Describe sends the metrics that can occur.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		packetsDesc, connectionsDesc, bytesDesc, activeDesc, healthyDesc, flowsDesc, flowLimitDesc, sourcePortsDesc, sourcesUsedDesc,
		evictionsDesc, generationDesc, configErrorsDesc, routerDesc, routerActiveDesc, readyDesc, readErrorDesc, expiryDesc, questionsDesc, requestsDesc, durationDesc,
		wakeDesc, wakeTimeDesc, sleepingDesc, waitingDesc, heldDesc, heldPendingDesc, heldTotalDesc, heldBytesDesc, datagramsDesc, datagramsAllDesc, replicasDesc,
	} {
		ch <- d
	}
}

// Collect sends one reading. Counters that cannot be read are left out, so
// that a graph has a gap and no false zero.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	a := c.r.Agent()
	gauge(generationDesc, a.Generation)
	counter(configErrorsDesc, a.ConfigErrors)
	gauge(readyDesc, one(len(c.r.Behind()) == 0))
	seen := map[Backend]bool{}
	for _, b := range c.r.Backends() {
		key := Backend{Service: b.Service, Address: b.Address}
		if !seen[key] {
			seen[key] = true
			gauge(healthyDesc, one(b.Healthy), b.Service, b.Address)
		}
	}
	for _, x := range c.r.Certificates() {
		ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, time.Until(x.Expires).Seconds(), x.Host)
	}
	for result, n := range c.r.Questions() {
		counter(questionsDesc, n, result)
	}
	wakes := c.r.Wakes()
	for service, asleep := range wakes.Asleep {
		gauge(sleepingDesc, one(asleep), service)
	}
	for service, n := range wakes.Replicas {
		gauge(replicasDesc, uint64(n), service)
	}
	for _, w := range wakes.Counts {
		counter(wakeDesc, w.Count, w.Service, w.Cause, w.Result)
	}
	for _, w := range wakes.Times {
		ch <- prometheus.MustNewConstSummary(wakeTimeDesc, w.Count, w.Seconds, nil, w.Service, w.Phase)
	}
	held := c.r.Held()
	for service, n := range held.By {
		gauge(waitingDesc, n, service)
	}
	gauge(heldDesc, held.Waiting, "waiting")
	gauge(heldDesc, held.Joined, "joined")
	gauge(heldPendingDesc, held.Pending)
	for result, n := range held.Results {
		counter(heldTotalDesc, n, result)
	}
	gauge(datagramsDesc, held.Datagrams)
	for result, n := range held.DatagramResults {
		counter(datagramsAllDesc, n, result)
	}
	counter(heldBytesDesc, held.In, "in")
	counter(heldBytesDesc, held.Out, "out")
	router := c.r.Router()
	for _, n := range router.Results {
		counter(routerDesc, n.Count, n.Kind, n.Result)
	}
	for kind, n := range router.Active {
		gauge(routerActiveDesc, n, kind)
	}
	for _, r := range c.r.Requests() {
		collectRequests(ch, r)
	}
	t, err := c.r.Traffic()
	gauge(readErrorDesc, one(err != nil))
	if err != nil {
		return
	}
	packets := map[Packets]uint64{}
	for _, p := range t.Packets {
		n := p.Count
		p.Count = 0
		packets[p] += n
	}
	for p, n := range packets {
		counter(packetsDesc, n, p.Interface, p.Direction, p.Verdict, p.Reason)
	}
	for key, s := range byPort(t.Services) {
		port := strconv.Itoa(int(key.port))
		counter(connectionsDesc, s.Connections, key.service, port)
		counter(bytesDesc, s.BytesIn, key.service, port, "in")
		counter(bytesDesc, s.BytesOut, key.service, port, "out")
		gauge(activeDesc, s.Active, key.service, port)
	}
	gauge(flowsDesc, t.Flows)
	gauge(flowLimitDesc, t.FlowLimit)
	gauge(sourcePortsDesc, t.SourcePorts)
	gauge(sourcesUsedDesc, t.SourcePortsUsed)
	counter(evictionsDesc, t.Evictions)
}

// collectRequests sends one service's counters of the HTTP front.
func collectRequests(ch chan<- prometheus.Metric, r Requests) {
	for code, n := range r.Codes {
		ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), r.Service, strconv.Itoa(code))
	}
	var total uint64
	buckets := make(map[float64]uint64, len(r.Bounds))
	for i, n := range r.Durations {
		if total += n; i < len(r.Bounds) {
			buckets[r.Bounds[i]] = total
		}
	}
	if total > 0 {
		ch <- prometheus.MustNewConstHistogram(durationDesc, total, r.Seconds, buckets, r.Service)
	}
}

type servicePort struct {
	service string
	port    uint16
}

func byPort(services []Service) map[servicePort]Service {
	sum := map[servicePort]Service{}
	for _, s := range services {
		key := servicePort{s.Name, s.Port}
		t := sum[key]
		t.Connections += s.Connections
		t.Active += s.Active
		t.BytesIn += s.BytesIn
		t.BytesOut += s.BytesOut
		sum[key] = t
	}
	return sum
}

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
