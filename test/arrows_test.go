// SPDX-License-Identifier: Apache-2.0

// Package test holds what is proved of the module as a whole: here, that
// packages import along DESIGN.md's table only.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fairlead-lb/fairlead/"

// all in a list of arrows stands for every package of the module.
const all = "*"

// arrows is the table of DESIGN.md: who may import whom. A package that is not
// in it may not exist. Names are relative to pkg/.
var arrows = map[string][]string{
	"model":          {},
	"names":          {"model"},
	"source":         {"model"},
	"source/file":    {"source", "model", "names"},
	"source/docker":  {"source", "model", "names", "dockerd"},
	"source/kube":    {"source", "model", "names"},
	"reconcile":      {"model"},
	"maglev":         {},
	"bpf":            {},
	"nexthop":        {},
	"ipam":           {"model"},
	"echo":           {},
	"dockerd":        {},
	"attach":         {"model", "reconcile", "bpf", "nexthop"}, // it is a Target
	"dataplane":      {"model", "reconcile", "maglev", "bpf", "nexthop"},
	"health":         {"model", "source"},
	"conn":           {"bpf"},
	"tcproute":       {"model", "reconcile", "conn"},
	"http1":          {},
	"ingress":        {"model", "reconcile", "conn", "http1"},
	"autocert":       {"model", "reconcile", "autocert/dns01"},
	"autocert/dns01": {},
	"domain":         {"model", "names", "source"}, // source: it publishes the hosts that are confirmed
	"dnsserver":      {"model", "reconcile"},
	"activator":      {"model", "reconcile", "conn", "source"}, // source: it publishes the replicas that are ready
	"standby":        {"model", "reconcile", "conn"},
	"runner/listen":  {"model"},
	"runner/rollout": {"model"},
	"runner/turns":   {"model"},
	"token":          {},
	"environment":    {"activator", "model", "token"},
	"runner/process": {"activator", "model", "ipam", "environment", "runner/listen", "runner/rollout", "runner/turns"},
	"runner/docker":  {"activator", "model", "environment", "dockerd", "runner/listen", "runner/rollout"},
	"runner/kube":    {"activator", "model", "environment"},
	"admin":          {"model", "reconcile", "source", "activator", "dataplane", "webserver"}, // read-only views of what these report
	"metrics":        {"model", "reconcile", "source", "activator", "dataplane", "webserver"},
	"dashboard":      {"model", "reconcile", "source", "activator", "dataplane", "webserver"},
	"webserver":      {},
	"handover":       {},
	"agent":          {all},
}

// keepers names the only packages that may import a library that reaches into
// the kernel or a cluster. Tests and benchmarks may import all of them.
var keepers = map[string][]string{
	"github.com/cilium/ebpf":          {"bpf", "attach"},
	"github.com/florianl/go-tc":       {"attach"},
	"github.com/vishvananda/":         {"attach", "nexthop", "runner/process"},
	"github.com/mdlayher/":            {"attach", "nexthop", "runner/process", "runner/listen"},
	"github.com/jsimonetti/rtnetlink": {"attach", "nexthop", "runner/process"},
	"github.com/moby/":                {"dockerd", "source/docker", "runner/docker"},
	"k8s.io/":                         {"source/kube", "runner/kube"},
	"sigs.k8s.io/":                    {"source/kube", "runner/kube"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestArrows(t *testing.T) {
	for _, p := range violations(goList(t)) {
		t.Error(p)
	}
}

// TestArrowsChecker shows that the checker sees every kind of violation.
func TestArrowsChecker(t *testing.T) {
	tests := []struct {
		name  string
		graph pkg
		want  string // part of the one violation; empty: none
	}{
		{"along the table", pkg{module + "pkg/dataplane", []string{"fmt", module + "pkg/maglev", module + "pkg/bpf"}}, ""},
		{"target to target", pkg{module + "pkg/dataplane", []string{module + "pkg/activator"}}, "pkg/dataplane imports pkg/activator"},
		{"target to source", pkg{module + "pkg/activator", []string{module + "pkg/source/file"}}, "pkg/activator imports pkg/source/file"},
		{"upwards", pkg{module + "pkg/model", []string{module + "pkg/names"}}, "pkg/model imports pkg/names"},
		{"agent knows all", pkg{module + "pkg/agent", []string{module + "pkg/dataplane", module + "pkg/source/file"}}, ""},
		{"agent elsewhere", pkg{module + "pkg/admin", []string{module + "pkg/agent"}}, "pkg/admin imports pkg/agent"},
		{"agent from bench", pkg{module + "bench/netns", []string{module + "pkg/agent"}}, "bench/netns imports pkg/agent"},
		{"cmd to agent", pkg{module + "cmd/fairlead", []string{module + "pkg/agent", "github.com/spf13/cobra"}}, ""},
		{"unknown package", pkg{module + "pkg/util", nil}, "pkg/util is not in the table"},
		{"program imported", pkg{module + "pkg/agent", []string{module + "test/netns/lab"}}, "pkg/agent imports test/netns/lab"},
		{"test help", pkg{module + "pkg/nexthop/nstest", []string{"github.com/vishvananda/netlink"}}, ""},
		{"test help imported", pkg{module + "pkg/nexthop", []string{module + "pkg/nexthop/nstest"}}, "pkg/nexthop imports pkg/nexthop/nstest"},
		{"ebpf in its package", pkg{module + "pkg/bpf", []string{"github.com/cilium/ebpf/link"}}, ""},
		{"ebpf elsewhere", pkg{module + "pkg/dataplane", []string{"github.com/cilium/ebpf"}}, "pkg/dataplane imports github.com/cilium/ebpf"},
		{"netlink in cmd", pkg{module + "cmd/fairlead", []string{"github.com/vishvananda/netlink"}}, "cmd/fairlead imports github.com/vishvananda/netlink"},
		{"netlink in a test", pkg{module + "test/netns/lab", []string{"github.com/vishvananda/netlink"}}, ""},
		{"ebpf in a bench", pkg{module + "bench/packet", []string{"github.com/cilium/ebpf", module + "pkg/bpf"}}, ""},
		{"client-go elsewhere", pkg{module + "pkg/source/file", []string{"k8s.io/client-go/rest"}}, "pkg/source/file imports k8s.io/client-go/rest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := violations([]pkg{tt.graph})
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("allowed imports refused: %q", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("got %q, want one violation with %q", got, tt.want)
			}
		})
	}
}

// violations lists in words every import the rules do not allow.
func violations(pkgs []pkg) []string {
	var found []string
	for _, p := range pkgs {
		from := strings.TrimPrefix(p.ImportPath, module)
		if name, inPkg := strings.CutPrefix(from, "pkg/"); inPkg && !testOnly(from) {
			if _, known := arrows[name]; !known {
				found = append(found, fmt.Sprintf("%s is not in the table of DESIGN.md: add it to arrows with what it may import", from))
				continue
			}
		}
		for _, to := range p.Imports {
			if why := refused(from, to); why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", from, strings.TrimPrefix(to, module), why))
			}
		}
	}
	return found
}

// refused says why package from (relative to the module) may not import to
// (in full); empty: it may.
func refused(from, to string) string {
	name, inPkg := strings.CutPrefix(from, "pkg/")
	free := strings.HasPrefix(from+"/", "test/") || strings.HasPrefix(from, "bench/") || testOnly(from)
	target, ours := strings.CutPrefix(to, module)
	if !ours {
		for prefix, allowed := range keepers {
			if strings.HasPrefix(to, prefix) && !free && !(inPkg && slices.Contains(allowed, name)) {
				return fmt.Sprintf("only pkg/{%s} may", strings.Join(allowed, ","))
			}
		}
		return ""
	}
	targetName, targetInPkg := strings.CutPrefix(target, "pkg/")
	switch {
	case targetName == "agent" && !strings.HasPrefix(from, "cmd/"):
		return "only cmd may know the agent"
	case testOnly(target) && !free:
		return "it is for tests only"
	case inPkg && !targetInPkg:
		return "packages import nothing outside pkg"
	case inPkg && !free && !slices.Contains(arrows[name], all) && !slices.Contains(arrows[name], targetName):
		return fmt.Sprintf("the table allows it %v", arrows[name])
	}
	return ""
}

// testOnly tells whether a package is help for tests, like net/http/httptest.
func testOnly(path string) bool { return strings.HasSuffix(path, "test") && path != "test" }

// goList asks the go command for the packages of the module. Imports of test
// files are not among them: tests may look anywhere.
func goList(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list named %d packages, want the whole module", len(pkgs))
	}
	return pkgs
}
