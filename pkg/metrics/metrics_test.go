// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testReader() Reader {
	return Reader{
		Agent: func() Agent { return Agent{Generation: 4, ConfigErrors: 2} },
		Traffic: func() (Traffic, error) {
			return Traffic{
				Packets: []Packets{
					{Interface: "eth0", Direction: "in", Verdict: "drop", Reason: "truncated", Count: 3},
					{Interface: "other", Direction: "in", Verdict: "pass", Reason: "not-ours", Count: 1},
					{Interface: "other", Direction: "in", Verdict: "pass", Reason: "not-ours", Count: 2},
				},
				Services: []Service{
					{Name: "test/user", Port: 90, Connections: 5, Active: 1, BytesIn: 100, BytesOut: 200},
					{Name: "test/user", Port: 90, Connections: 2, Active: 1, BytesIn: 10, BytesOut: 20}, // UDP
				},
				Flows: 7, FlowLimit: 1000, Evictions: 1, SourcePorts: 100, SourcePortsUsed: 3,
			}, nil
		},
		Backends: func() []Backend {
			return []Backend{{"test/user", "10.1.0.2", true}, {"test/user", "10.1.0.3", false}, {"test/user", "10.1.0.2", true}}
		},
		Requests: func() []Requests {
			return []Requests{{Service: "a/u", Codes: map[int]uint64{200: 2, 502: 1}, Bounds: []float64{.1, 1}, Durations: []uint64{1, 1, 1}, Seconds: 3}, {Service: "none"}}
		},
		Router: func() Router {
			return Router{
				Results: []RouterResult{{"redis", "routed", 3}, {"redis", "no_tls", 0}},
				Active:  map[string]uint64{"redis": 2},
			}
		},
		Behind:       func() []string { return nil },
		Certificates: func() []Certificate { return nil },
		Wakes: func() Wakes {
			return Wakes{
				Asleep: map[string]bool{"p/a": true, "p/b": false}, Counts: []WakeCount{{Service: "p/b", Cause: "request", Result: "ready", Count: 5}},
				Times:    []WakeTime{{Service: "p/b", Phase: "listen", Count: 5, Seconds: 1.5}},
				Replicas: map[string]int{"p/b": 2},
			}
		},
		Held: func() Held {
			return Held{Waiting: 1, Joined: 2, Pending: 14, In: 20, Out: 30, Results: map[string]uint64{"joined": 4}, Datagrams: 6, DatagramResults: map[string]uint64{"passed": 7}, By: map[string]uint64{"p/a": 3}}
		},
		Questions: func() map[string]uint64 { return map[string]uint64{"internal": 3} },
	}
}

func TestTimeLeftToCertificates(t *testing.T) {
	r := testReader()
	r.Certificates = func() []Certificate {
		return []Certificate{{"a.example", time.Now().Add(time.Hour)}, {"b.example", time.Now().Add(-time.Hour)}}
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(&collector{r})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "fairlead_certificate_expiry_seconds" {
				got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	if a, b := got["a.example"], got["b.example"]; len(got) != 2 || a < 3500 || a > 3600 || b > -3600 || b < -3700 {
		t.Errorf("got %v, want an hour left and an hour gone", got)
	}
}

func TestCollect(t *testing.T) {
	want := `
# HELP fairlead_backend_healthy 1 while the replica passes its checks, or has none, and nothing else holds it down.
# TYPE fairlead_backend_healthy gauge
fairlead_backend_healthy{backend="10.1.0.2",service="test/user"} 1
fairlead_backend_healthy{backend="10.1.0.3",service="test/user"} 0
# HELP fairlead_config_errors_total Invalid configs that were refused.
# TYPE fairlead_config_errors_total counter
fairlead_config_errors_total 2
# HELP fairlead_config_generation Generation of the newest desired state; 0 before the first.
# TYPE fairlead_config_generation gauge
fairlead_config_generation 4
# HELP fairlead_dataplane_read_error 1 when the data plane's counters cannot be read.
# TYPE fairlead_dataplane_read_error gauge
fairlead_dataplane_read_error 0
# HELP fairlead_dns_questions_total Questions to the name server, by what became of them.
# TYPE fairlead_dns_questions_total counter
fairlead_dns_questions_total{result="internal"} 3
# HELP fairlead_flow_table_entries Entries of the flow table at the last sweep, two per connection.
# TYPE fairlead_flow_table_entries gauge
fairlead_flow_table_entries 7
# HELP fairlead_flow_table_evictions_total Flows begun by a TCP segment in mid-connection: their entries had been evicted, or there never were any.
# TYPE fairlead_flow_table_evictions_total counter
fairlead_flow_table_evictions_total 1
# HELP fairlead_flow_table_limit Confirmed entries the flow table can hold, two per connection.
# TYPE fairlead_flow_table_limit gauge
fairlead_flow_table_limit 1000
# HELP fairlead_held_bytes_total Bytes of such connections that have ended, in from clients and out to them.
# TYPE fairlead_held_bytes_total counter
fairlead_held_bytes_total{direction="in"} 20
fairlead_held_bytes_total{direction="out"} 30
# HELP fairlead_held_connections Connections opened while their service slept: they wait, or are joined with a replica.
# TYPE fairlead_held_connections gauge
fairlead_held_connections{state="joined"} 2
fairlead_held_connections{state="waiting"} 1
# HELP fairlead_held_connections_total Connections opened while their service slept, by what became of them.
# TYPE fairlead_held_connections_total counter
fairlead_held_connections_total{result="joined"} 4
# HELP fairlead_held_datagrams Datagrams that wait for their service to wake.
# TYPE fairlead_held_datagrams gauge
fairlead_held_datagrams 6
# HELP fairlead_held_datagrams_total Datagrams that came while their service slept, by what became of them.
# TYPE fairlead_held_datagrams_total counter
fairlead_held_datagrams_total{result="passed"} 7
# HELP fairlead_held_pending_bytes Bytes that waiting connections have sent; the kernel keeps them.
# TYPE fairlead_held_pending_bytes gauge
fairlead_held_pending_bytes 14
# HELP fairlead_http_request_duration_seconds From the head of a request to the end of its answer.
# TYPE fairlead_http_request_duration_seconds histogram
fairlead_http_request_duration_seconds_bucket{service="a/u",le="0.1"} 1
fairlead_http_request_duration_seconds_bucket{service="a/u",le="1"} 2
fairlead_http_request_duration_seconds_bucket{service="a/u",le="+Inf"} 3
fairlead_http_request_duration_seconds_sum{service="a/u"} 3
fairlead_http_request_duration_seconds_count{service="a/u"} 3
# HELP fairlead_http_requests_total Requests the HTTP front answered, by service and status; 499: the client went away before the answer.
# TYPE fairlead_http_requests_total counter
fairlead_http_requests_total{code="200",service="a/u"} 2
fairlead_http_requests_total{code="502",service="a/u"} 1
# HELP fairlead_packets_total Packets the data plane saw, by what became of them and why.
# TYPE fairlead_packets_total counter
fairlead_packets_total{direction="in",interface="eth0",reason="truncated",verdict="drop"} 3
fairlead_packets_total{direction="in",interface="other",reason="not-ours",verdict="pass"} 3
# HELP fairlead_ready 1 once every target has applied the newest desired state.
# TYPE fairlead_ready gauge
fairlead_ready 1
# HELP fairlead_replicas_wanted Replicas that a service shall have which may have more or fewer.
# TYPE fairlead_replicas_wanted gauge
fairlead_replicas_wanted{service="p/b"} 2
# HELP fairlead_service_active_connections Established connections at the last sweep.
# TYPE fairlead_service_active_connections gauge
fairlead_service_active_connections{port="90",service="test/user"} 2
# HELP fairlead_service_bytes_total Bytes of frames, Ethernet header included, in from clients and out from replicas.
# TYPE fairlead_service_bytes_total counter
fairlead_service_bytes_total{direction="in",port="90",service="test/user"} 110
fairlead_service_bytes_total{direction="out",port="90",service="test/user"} 220
# HELP fairlead_service_connections_total Connections begun, by service port.
# TYPE fairlead_service_connections_total counter
fairlead_service_connections_total{port="90",service="test/user"} 7
# HELP fairlead_sleeping 1 while a service that may sleep does.
# TYPE fairlead_sleeping gauge
fairlead_sleeping{service="p/a"} 1
fairlead_sleeping{service="p/b"} 0
# HELP fairlead_source_ports Source ports that mode full-nat has, over protocols and addresses.
# TYPE fairlead_source_ports gauge
fairlead_source_ports 100
# HELP fairlead_source_ports_used Source ports that flows of mode full-nat held at the last sweep.
# TYPE fairlead_source_ports_used gauge
fairlead_source_ports_used 3
# HELP fairlead_tcp_router_active_connections Connections by TLS server name that are open.
# TYPE fairlead_tcp_router_active_connections gauge
fairlead_tcp_router_active_connections{kind="redis"} 2
# HELP fairlead_tcp_router_connections_total Connections to the fronts by TLS server name, by what became of them.
# TYPE fairlead_tcp_router_connections_total counter
fairlead_tcp_router_connections_total{kind="redis",result="no_tls"} 0
fairlead_tcp_router_connections_total{kind="redis",result="routed"} 3
# HELP fairlead_wake_duration_seconds Starts of sleeping services that came to a good end: until a process ran (start), then until it was ready (listen), then until the first held connection reached it (first_byte).
# TYPE fairlead_wake_duration_seconds summary
fairlead_wake_duration_seconds_sum{phase="listen",service="p/b"} 1.5
fairlead_wake_duration_seconds_count{phase="listen",service="p/b"} 5
# HELP fairlead_wake_total Starts of sleeping services, by what caused them and what came of them; queue_full, refused: connections and requests that could not wait.
# TYPE fairlead_wake_total counter
fairlead_wake_total{cause="request",result="ready",service="p/b"} 5
# HELP fairlead_wake_waiting Connections and requests that wait for a service to start.
# TYPE fairlead_wake_waiting gauge
fairlead_wake_waiting{service="p/a"} 3
`
	if err := testutil.CollectAndCompare(&collector{testReader()}, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	reg := NewRegistry(testReader(), Build{Version: "v1", Revision: "abc"})
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "fairlead_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, name := range []string{"fairlead_build_info", "go_goroutines", "process_open_fds"} {
		if n, err := testutil.GatherAndCount(reg, name); err != nil || n != 1 {
			t.Errorf("%s: %d, %v; want 1", name, n, err)
		}
	}
}

func TestUnreadableCountersAreAGap(t *testing.T) {
	r := testReader()
	r.Traffic = func() (Traffic, error) { return Traffic{}, errors.New("no map") }
	reg := NewRegistry(r, Build{})
	if n, err := testutil.GatherAndCount(reg, "fairlead_flow_table_entries"); err != nil || n != 0 {
		t.Errorf("flow_table_entries: %d, %v; want none", n, err)
	}
	if n, err := testutil.GatherAndCount(reg, "fairlead_config_generation"); err != nil || n != 1 {
		t.Errorf("config_generation: %d, %v; want 1", n, err)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	r := testReader()
	var behind []string
	r.Behind = func() []string { return behind }
	h := Handler(r, Build{}, nil)
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := ask("/readyz"); code != 200 {
		t.Errorf("/readyz: %d, want 200", code)
	}
	behind = []string{"target attach at generation 1 of 2: no eth0", "target dataplane at generation 1 of 2"}
	if code, body := ask("/readyz"); code != 503 || body != strings.Join(behind, "\n")+"\n" {
		t.Errorf("/readyz: %d %q, want 503 and the reasons", code, body)
	}
	if code, _ := ask("/healthz"); code != 200 {
		t.Errorf("/healthz: %d, want 200", code)
	}
	if code, body := ask("/metrics"); code != 200 || !strings.Contains(body, "fairlead_ready 0") {
		t.Errorf("/metrics: %d, want fairlead_ready 0", code)
	}
}

func state(metrics string) *model.State {
	s := &model.State{}
	s.Settings.Listen.Metrics = metrics
	return s
}

func TestListenerFollowsTheConfig(t *testing.T) {
	s := New(Config{Reader: testReader()})
	defer s.Close()
	ctx := context.Background()
	apply := func(address string) {
		t.Helper()
		if err := s.Apply(ctx, state(address)); err != nil {
			t.Fatal(err)
		}
	}
	apply("")
	if s.Addr() != nil {
		t.Fatalf("listens on %v, want nowhere", s.Addr())
	}
	apply("127.0.0.1:0")
	first := s.Addr().String()
	apply("127.0.0.1:0")
	if s.Addr().String() != first {
		t.Errorf("the same config opened a new listener")
	}
	get(t, "http://"+first+"/healthz")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(ctx, state(taken.Addr().String())); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("taken address: %v, want \"in use\"", err)
	}
	get(t, "http://"+first+"/healthz") // the old one is still there
	_ = taken.Close()
	apply(taken.Addr().String())
	get(t, "http://"+taken.Addr().String()+"/metrics")
	if c, err := net.Dial("tcp", first); err == nil {
		_ = c.Close()
		t.Error("the old address still answers")
	}
	apply("")
}

func get(t *testing.T, url string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		t.Errorf("%s: %s, %v", url, resp.Status, err)
	}
}
