// SPDX-License-Identifier: Apache-2.0

package file

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what Parse answers into testdata")

// TestParse runs testdata/*.txtar: NAME.yaml is a config, NAME.want is its
// dump or its faults. Names begin with the row of REQUIREMENTS.md they prove.
func TestParse(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("find testdata/*.txtar: %v, %d files", err, len(archives))
	}
	for _, path := range archives {
		ar := readArchive(t, path)
		var out []archived
		for i, f := range ar.files {
			name, isInput := strings.CutSuffix(f.name, ".yaml")
			if !isInput {
				continue
			}
			got := answer(f.data)
			out = append(out, f, archived{name + ".want", []byte(got)})
			t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar")+"/"+name, func(t *testing.T) {
				if *update {
					return
				}
				if i+1 == len(ar.files) || ar.files[i+1].name != name+".want" {
					t.Fatalf("%s: %s.want does not follow %s; run go test -update", path, name, f.name)
				}
				if diff := cmp.Diff(string(ar.files[i+1].data), got); diff != "" {
					t.Errorf("parse %s: -want +got\n%s", f.name, diff)
				}
			})
		}
		if *update {
			ar.files = out
			ar.write(t, path)
		}
	}
}

func answer(data []byte) string {
	part, err := Parse("f.yaml", data)
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	if strings.HasPrefix(string(data), "# settings\n") {
		dumpSettings(&b, part.Settings)
	}
	for i := range part.Services {
		dumpService(&b, part.Services[i])
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func dumpSettings(b *strings.Builder, s *model.Settings) {
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		fmt.Fprintf(b, "%s %s\n", v.Type().Field(i).Name, jsonText(v.Field(i).Interface()))
	}
}

// dumpService is a line per service and one per part of it.
func dumpService(b *strings.Builder, s *model.Service) {
	fmt.Fprintf(b, "service %s %q", s.Name, s.Title)
	for _, vip := range s.VIPs() {
		fmt.Fprintf(b, " vip=%s", vip)
	}
	fmt.Fprintf(b, " internal=%s mode=%s drain=%s\n", s.Internal, s.Mode, s.Drain)
	for _, p := range s.Ports {
		fmt.Fprintf(b, "  port %s %d -> %d\n", p.Protocol, p.Service, p.Container)
	}
	for _, r := range s.Backends {
		fmt.Fprintf(b, "  backend %v weight=%d backup=%t\n", r.Addrs(), r.Weight, r.Backup)
	}
	line := func(name string, v any) {
		if !reflect.ValueOf(v).IsZero() {
			fmt.Fprintf(b, "  %s %s\n", name, jsonText(v))
		}
	}
	if s.Balance != (model.Balance{Affinity: "none", Policy: "maglev"}) {
		line("balance", s.Balance)
	}
	line("health", s.Health)
	line("allow", s.Allow)
	line("rateLimit", s.RateLimit)
	for _, n := range s.NodePorts {
		fmt.Fprintf(b, "  node port %d -> %d\n", n.Port, n.ServicePort)
	}
	for _, h := range s.HTTP {
		fmt.Fprintf(b, "  http %s free=%t tls=%t redirect=%t\n", h.Host, h.Free, h.TLS, h.Redirect)
		for _, p := range h.Paths {
			fmt.Fprintf(b, "    path %s\n", jsonText(p))
		}
	}
	line("tcp", s.TCPNames)
	line("workload", s.Workload)
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestContract parses the whole example of CONTRACT.md, made consistent: its
// ports exist, and the workload is another service's.
func TestContract(t *testing.T) {
	data, err := os.ReadFile("testdata/contract.yaml")
	if err != nil {
		t.Fatal(err)
	}
	part, err := Parse("contract.yaml", data)
	if err != nil {
		t.Fatalf("parse the contract's example:\n%v", err)
	}
	empty, err := Parse("empty.yaml", []byte("services: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	// Everything outside services is the default there, but for these.
	want := *empty.Settings
	want.Node.Interfaces = []string{"eth0"}
	want.Node.Addresses = part.Settings.Node.Addresses
	cgroup := "/sys/fs/cgroup"
	want.Node.Cgroup = &cgroup
	want.DNS = part.Settings.DNS
	want.TrustedProxies = part.Settings.TrustedProxies
	if !reflect.DeepEqual(want, *part.Settings) {
		t.Errorf("settings: want %s\ngot %s", jsonText(want), jsonText(part.Settings))
	}
	if len(want.Node.Addresses) != 1 || len(want.DNS.Upstream) != 1 || len(part.Services) != 2 {
		t.Errorf("got %d addresses, %d upstreams, %d services", len(want.Node.Addresses), len(want.DNS.Upstream), len(part.Services))
	}
}

// TestExamples: every example of the repository is valid.
func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(path, data); err != nil {
			t.Errorf("parse:\n%v", err)
		}
	}
}

// TestNilOrEmpty: an absent list and an empty one mean different things.
func TestNilOrEmpty(t *testing.T) {
	parse := func(yaml string) model.Node {
		t.Helper()
		p, err := Parse("f.yaml", []byte(yaml+"\nservices: []\n"))
		if err != nil {
			t.Fatal(err)
		}
		return p.Settings.Node
	}
	if n := parse(""); n.Interfaces != nil || n.Cgroup != nil {
		t.Errorf("absent: got interfaces %v, cgroup %v, want nil", n.Interfaces, n.Cgroup)
	}
	if n := parse("node: {interfaces: [], cgroup: ''}"); n.Interfaces == nil || len(n.Interfaces) != 0 || n.Cgroup == nil || *n.Cgroup != "" {
		t.Errorf("empty: got interfaces %#v, cgroup %v, want both there and empty", n.Interfaces, n.Cgroup)
	}
}

// TestAllErrorsAtOnce: errors come sorted and are all there.
func TestAllErrorsAtOnce(t *testing.T) {
	_, err := Parse("f.yaml", []byte("services:\n- {project: a, user: b, mode: x, drain: y, vip: z}\n- {project: a, user: b}\nnode: 5\nfoo: 1\n"))
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %T, want Errors", err)
	}
	if len(errs) != 6 {
		t.Errorf("got %d errors, want 6:\n%v", len(errs), err)
	}
	if !slices.IsSortedFunc(errs, func(a, b Error) int { return (a.Line-b.Line)*1000 + a.Col - b.Col }) {
		t.Errorf("errors are not sorted:\n%v", err)
	}
}

// TestBounds: what is too large, too deep or grows by aliases is refused fast.
func TestBounds(t *testing.T) {
	bomb := "services:\n- {project: a, user: b, allow: &a [" + strings.Repeat("10.0.0.1,", 5000) + "]}\n"
	for i := range 2000 {
		bomb += fmt.Sprintf("- {project: a%d, user: b, allow: *a}\n", i)
	}
	merges := "services:\n- &m0 {project: a, user: b}\n"
	for i := range 1000 {
		merges += fmt.Sprintf("- &m%d {<<: *m%d, user: b%d}\n", i+1, i, i)
	}
	for name, c := range map[string]struct{ yaml, want string }{
		"size":     {strings.Repeat("#", MaxSize+1), "f.yaml:1:1: the file is 16777217 bytes long, at most 16777216 are read"},
		"flow":     {"services: " + strings.Repeat("[", 100_000), "f.yaml:1:43: nests deeper"},
		"row":      {strings.Repeat("- ", 200_000), "nests deeper"},
		"keys":     {strings.Repeat("? ", 200_000), "nests deeper"},
		"anchors":  {"a: " + strings.Repeat("&a ", 200_000), "nests deeper"},
		"aliases":  {"a: " + strings.Repeat("*a ", 200_000), "nests deeper"},
		"tags":     {"a: " + strings.Repeat("!!str ", 200_000), "nests deeper"},
		"colons":   {strings.Repeat("a: ", 200_000), "nests deeper"},
		"levels":   {nested(3000), "nests deeper than 32 levels"},
		"indent":   {nested(60), "nests deeper than 32 levels"},
		"bomb":     {bomb, "aliases expand"},
		"merges":   {merges, "more than 16 merges"},
		"faults":   {"services:\n" + strings.Repeat("- 1\n", 5000), "more than 1000 faults"},
		"services": {"services: [" + strings.Repeat("1,", maxServices+1) + "]", "items, at most"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("f.yaml", []byte(c.yaml))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				got := fmt.Sprint(err)
				t.Errorf("got %.300s, want %s", got, c.want)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s, want less than 30s: something is quadratic", took)
			}
		})
	}
}

func nested(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

// TestManyServices: the size that is promised fits into the bounds.
func TestManyServices(t *testing.T) {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range 20_000 {
		fmt.Fprintf(&b, "- {project: p%d, user: u, replicas: [10.1.%d.%d]}\n", i, i/200, i%200+1)
	}
	part, err := Parse("f.yaml", []byte(b.String()))
	if err != nil {
		t.Fatalf("%.500s", err.Error())
	}
	if len(part.Services) != 20_000 {
		t.Errorf("got %d services, want 20000", len(part.Services))
	}
}

func TestSchema(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatalf("schema is no JSON: %v", err)
	}
	at := func(path ...string) any {
		var v any = s
		for _, p := range path {
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("schema has no %v", path)
			}
			v = m[p]
		}
		return v
	}
	node := []string{"properties", "node", "properties"}
	service := []string{"properties", "services", "items", "properties"}
	for _, c := range []struct {
		want any
		path []string
	}{
		{"https://json-schema.org/draft/2020-12/schema", []string{"$schema"}},
		{[]any{"services"}, []string{"required"}},
		{false, []string{"additionalProperties"}},
		{"auto", append(slices.Clone(node), "tc", "default")},
		{[]any{"auto", "tcx", "clsact"}, append(slices.Clone(node), "tc", "enum")},
		{"30s", append(slices.Clone(service), "drain", "default")},
		{"198.18.0.0/16", []string{"properties", "network", "properties", "services", "default"}},
		{"{prefix}-{project}-run-{user}", []string{"properties", "names", "properties", "internal", "default"}},
		{nil, append(slices.Clone(service), "vip", "default")},
		{float64(80), append(slices.Clone(service), "run", "properties", "servicePort", "default")},
	} {
		if got := at(c.path...); !reflect.DeepEqual(got, c.want) {
			t.Errorf("schema %s: got %v, want %v", strings.Join(c.path, "."), got, c.want)
		}
	}
	everyDescribed(t, s, "")
}

func everyDescribed(t *testing.T, v any, path string) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	if props, ok := m["properties"].(map[string]any); ok {
		for name, p := range props {
			if d, _ := p.(map[string]any)["description"].(string); !strings.HasSuffix(d, ".") {
				t.Errorf("schema %s.%s: description is %q, want a sentence", path, name, d)
			}
			everyDescribed(t, p, path+"."+name)
		}
	}
	everyDescribed(t, m["items"], path+"[]")
}

// FuzzParse: no input makes Parse panic, and an answer is either whole or has
// errors with positions.
func FuzzParse(f *testing.F) {
	archives, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range archives {
		for _, file := range readArchive(f, path).files {
			if strings.HasSuffix(file.name, ".yaml") {
				f.Add(file.data)
			}
		}
	}
	if contract, err := os.ReadFile("testdata/contract.yaml"); err == nil {
		f.Add(contract)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		part, err := Parse("f.yaml", data)
		var errs Errors
		if err != nil {
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("got %T %v, want Errors", err, err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Col < 1 || e.Problem == "" || strings.ContainsRune(e.Error(), '\n') {
					t.Errorf("fault without a position or a problem of one line: %q", e.Error())
				}
			}
			return
		}
		checkPart(t, part)
	})
}

func checkPart(t *testing.T, part source.Part) {
	if part.Settings == nil {
		t.Fatal("no settings")
	}
	if !slices.IsSortedFunc(part.Services, func(a, b *model.Service) int { return a.Name.Compare(b.Name) }) {
		t.Error("services are not sorted")
	}
	for i := range part.Services {
		s := part.Services[i]
		if len(s.Ports) == 0 || s.Internal == "" {
			t.Errorf("service %s: %d ports, internal name %q", s.Name, len(s.Ports), s.Internal)
		}
		if !slices.IsSortedFunc(s.Backends, model.Backend.Compare) {
			t.Errorf("service %s: backends are not sorted", s.Name)
		}
		for _, b := range s.Backends {
			if b.Weight == 0 || len(b.Addrs()) == 0 {
				t.Errorf("service %s: backend %+v", s.Name, b)
			}
		}
	}
}
