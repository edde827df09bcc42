// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

const console = `SeaBIOS
@@vm begin packet
=== RUN   TestA
=== RUN   TestA/xdp
    forward_test.go:33: test runs of XDP with an interface (Linux 5.15)
=== RUN   TestA/tc
--- PASS: TestA (1.50s)
    --- SKIP: TestA/xdp (0.00s)
    --- PASS: TestA/tc (1.40s)
=== RUN   TestB
    b_test.go:7: wrong byte
--- FAIL: TestB (0.10s)
FAIL
@@vm end packet 1 12
@@vm begin doctor
✓ kernel 5.10
@@vm end doctor 0 1
@@vm done
`

func parse(s string) (*result, *parser) {
	r := &result{release: "5.10"}
	p := &parser{result: r}
	for l := range strings.Lines(s) {
		p.line(l)
	}
	return r, p
}

func TestConsole(t *testing.T) {
	r, p := parse(console)
	if !p.done || r.ok() || len(r.suites) != 2 {
		t.Fatalf("done %v, ok %v, %d suites", p.done, r.ok(), len(r.suites))
	}
	s := r.suites[0]
	if s.passed != 2 || len(s.failed) != 1 || s.failed[0].name != "TestB" || len(s.failed[0].lines) == 0 ||
		s.skipped["test runs of XDP with an interface (Linux 5.15)"] != 1 || s.broken != "" {
		t.Errorf("packet: %+v", s)
	}
	if out := r.suites[1].output; len(out) != 1 || !strings.Contains(out[0], "5.10") {
		t.Errorf("doctor: %q", out)
	}
	var b bytes.Buffer
	table(&b, []result{*r})
	if want := "| 5.10 | packet | 2 | 1 | 1: test runs of XDP"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, b.String())
	}
}

// What does not come to its end, or runs nothing, has not passed.
func TestConsoleNeverPassesByAccident(t *testing.T) {
	for name, s := range map[string]string{
		"nothing at all": "SeaBIOS\n",
		"cut":            "@@vm begin bpf\n=== RUN   TestA\n",
		"no test":        "@@vm begin bpf\nPASS\n@@vm end bpf 0 1\n@@vm done\n",
		"died":           "@@vm begin bpf\n--- PASS: TestA (0.00s)\npanic: x\n@@vm end bpf 1 1\n@@vm done\n",
		"kernel's fault": "@@vm begin bpf\n--- PASS: TestA (0.00s)\n[   12.3] BUG: unable to handle\n@@vm end bpf 0 1\n@@vm done\n",
		"guest's":        "@@vm problem mount /proc\n@@vm done\n",
	} {
		r, p := parse(s)
		if !p.done {
			p.cut("stopped")
		}
		if r.ok() {
			t.Errorf("%s: passed", name)
		}
	}
}

func TestCPIO(t *testing.T) {
	var b bytes.Buffer
	c := &cpio{w: &b, dirs: map[string]bool{}}
	c.file("/t/deep/x", 0o755, []byte("abc"))
	c.link("bin", "usr/bin")
	c.entry("TRAILER!!!", 0, nil)
	if c.err != nil || b.Len()%4 != 0 {
		t.Fatalf("%v, %d bytes", c.err, b.Len())
	}
	var names []string
	for rest := b.Bytes(); len(rest) > 0; {
		var size, name int
		hex(t, rest[54:62], &size)
		hex(t, rest[94:102], &name)
		names = append(names, string(rest[110:110+name-1]))
		rest = rest[(110+name+3)/4*4+(size+3)/4*4:]
	}
	if got := strings.Join(names, " "); got != "t t/deep t/deep/x bin TRAILER!!!" {
		t.Errorf("entries %q", got)
	}
}

func hex(t *testing.T, b []byte, n *int) {
	t.Helper()
	for _, c := range b {
		*n = *n*16 + strings.IndexByte("0123456789ABCDEF", c)
	}
}
