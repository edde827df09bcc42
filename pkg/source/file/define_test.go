// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/source"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
)

// definer is a source that has read a config.
func definer(t *testing.T, config string) *file.Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := file.New(file.Config{Path: path})
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Run(ctx, func(source.Part) { cancel() }); err != nil {
		t.Fatal(err)
	}
	return s
}

// labels are keys of a Definition, as "KEY=VALUE".
func labels(name string, pairs ...string) file.Definition {
	d := file.Definition{Where: "container " + name, Keys: map[string]string{"project": "shop", "user": name}}
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		d.Keys[k] = v
	}
	return d
}

func TestDefine(t *testing.T) {
	s := definer(t, `
names: {internal: "{user}-in-{project}"}
services:
- {project: shop, user: filed, vip: 198.18.0.9, expose: [{http: {host: taken.test}}]}
`)
	for _, tc := range []struct {
		name string
		def  file.Definition
		want []string // faults; none: it is fit
	}{
		{"least", labels("a"), nil},
		{"ports", labels("a", "containerPort=8080,9000", "servicePort=80,90", "protocol=tcp,udp"), nil},
		{"much", labels("a", "vip=198.18.0.10", "mode=full-nat", "drain=5s", "allow=10.0.0.0/8, fd00::/8", "health.type=http", "health.path=/up",
			"health.status=200,204", "rateLimit.connectionsPerSecond=5", "expose.http.host=a.test", "expose.http.path=/x", "expose.http.websocket=true",
			"expose.port=9000", "expose.tcp.kind=REDIS", "containerPort=80,6379", "servicePort=80,6379", "expose.port.servicePort=80"), []string{"expose.port.servicePort: has a value"}},
		{"node port", labels("a", "expose.port=9000"), nil},
		{"free name", labels("a", "expose.http=true"), nil},
		{"digits", labels("7"), nil},
		{"port", labels("a", "containerPort=90000"), []string{`containerPort: got "90000", want a port from 1 to 65535`}},
		{"unequal", labels("a", "containerPort=80,81"), []string{"containerPort"}},
		{"typo", labels("a", "containerport=80"), []string{`containerport: unknown key "containerport"`}},
		{"deep typo", labels("a", "expose.http.hosst=a.test"), []string{`expose.http.hosst: unknown key "hosst"; did you mean host?`}},
		{"path", labels("a", "expose.http.path=x"), []string{"expose.http.path: "}},
		{"workload", labels("a", "workload.image=x"), []string{"workload.image: is not for containers"}},
		{"both", labels("a", "health=x", "health.type=tcp"), []string{"health.type: has a value, and so has a key below it"}},
		{"name", labels("filed"), []string{"project: service name \"shop/filed\" is taken by shop/filed"}},
		{"vip", labels("a", "vip=198.18.0.9"), []string{"vip: "}},
		{"host", labels("a", "expose.http.host=taken.test"), []string{"expose.http"}},
		{"listener", labels("a", "expose.port=443"), []string{"expose.port"}},
		{"two faults", labels("a", "vip=1", "drain=x"), []string{"drain: ", "vip: "}},
		{"not text", labels("a\xff"), []string{""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := s.Define([]file.Definition{tc.def})[0]
			if (got.Service == nil) != (len(tc.want) > 0) || len(got.Faults) != len(tc.want) {
				t.Fatalf("service %+v, faults %v; want faults %q", got.Service, got.Faults, tc.want)
			}
			for i, want := range tc.want {
				if fault := got.Faults[i].String(); !strings.HasPrefix(fault, want) || strings.Contains(fault, "f.yaml:0") {
					t.Errorf("fault %q, want %q", fault, want)
				}
			}
		})
	}
	t.Run("of two that want the same the earlier has it", func(t *testing.T) {
		got := s.Define([]file.Definition{
			labels("a", "expose.http.host=one.test", "vip=1"), labels("b", "expose.http.host=one.test"), labels("c", "expose.http.host=one.test"), labels("d"),
		})
		if got[0].Service != nil || got[1].Service == nil || got[2].Service != nil || got[3].Service == nil {
			t.Fatalf("%+v", got)
		}
		if fault := got[2].Faults[0].String(); !strings.Contains(fault, "container b") {
			t.Errorf("the fault does not name the first: %s", fault)
		}
		if in := got[1].Service.Internal; in != "b-in-shop" {
			t.Errorf("internal name %q is not by the file's template", in)
		}
	})
}

func FuzzDefine(f *testing.F) {
	f.Add("expose.http.host", "a.test")
	f.Add("health.status", "1,,x")
	f.Add("expose.http.path.x", "{")
	path := filepath.Join(f.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte("services: []\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	s := file.New(file.Config{Path: path})
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.Run(ctx, func(source.Part) { cancel() }); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		got := s.Define([]file.Definition{{Where: "container x", Keys: map[string]string{"project": "p", "user": "u", key: value}}})
		if len(got) != 1 || (got[0].Service == nil) == (len(got[0].Faults) == 0) {
			t.Errorf("%q=%q: %+v", key, value, got)
		}
	})
}
