// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is what happened on one kernel.
type result struct {
	release string
	suites  []*suiteResult
	problem string // of the machine itself
}

type suiteResult struct {
	name    string
	passed  int
	failed  []failure
	skipped map[string]int // by reason
	broken  string         // not "": it ended without having run all
	took    time.Duration
	output  []string // of what is no Go test
}

type failure struct {
	name  string
	lines []string
}

func (s *suiteResult) reasons() []string { return slices.Sorted(maps.Keys(s.skipped)) }

func (r *result) ok() bool {
	return r.problem == "" && len(r.suites) > 0 && !slices.ContainsFunc(r.suites, func(s *suiteResult) bool {
		return len(s.failed) > 0 || s.broken != ""
	})
}

// write shows one kernel's result to a person.
func (r *result) write(w io.Writer) {
	for _, s := range r.suites {
		fmt.Fprintf(w, "%-8s passed %d, failed %d, skipped %d, %v\n", s.name, s.passed, len(s.failed), sum(s.skipped), s.took)
		for _, why := range s.reasons() {
			fmt.Fprintf(w, "  skipped %d: %s\n", s.skipped[why], why)
		}
		for _, f := range s.failed {
			fmt.Fprintf(w, "  FAILED %s\n", f.name)
			for _, l := range f.lines {
				fmt.Fprintf(w, "    %.300s\n", l)
			}
		}
		for _, l := range s.output {
			fmt.Fprintf(w, "  %s\n", l)
		}
		if s.broken != "" {
			fmt.Fprintf(w, "  BROKEN: %s\n", s.broken)
		}
	}
	if r.problem != "" {
		fmt.Fprintln(w, "PROBLEM:", r.problem)
	}
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// parser reads the guest's console: what guest.go says, and between that the
// output of Go tests with -v.
type parser struct {
	result *result
	now    *suiteResult
	test   bool
	name   string              // of the test that speaks
	lines  map[string][]string // what each test said
	done   bool
}

var (
	verdictRE = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+)s\)`)
	speakRE   = regexp.MustCompile(`^=== (?:RUN|NAME|CONT) +(\S+)`)
	logRE     = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)
	// What a kernel says when it found a fault in itself.
	faultRE = regexp.MustCompile(`^\[ *[0-9.]+\] .*(BUG: |Oops|Kernel panic|WARNING: CPU|general protection|soft lockup)`)
)

func (p *parser) line(l string) {
	l = strings.TrimRight(l, "\r\n")
	if at := strings.Index(l, mark); at >= 0 {
		p.marked(strings.Fields(l[at+len(mark):]))
		return
	}
	if faultRE.MatchString(l) {
		p.result.problem = "kernel: " + l
	}
	if p.now == nil {
		return
	}
	if m := verdictRE.FindStringSubmatch(l); m != nil {
		p.verdict(m[2], m[3])
		return
	}
	if m := speakRE.FindStringSubmatch(l); m != nil {
		p.name = m[1]
		return
	}
	said := append(p.lines[p.name], l)
	p.lines[p.name] = said[max(0, len(said)-60):]
	if !p.test {
		p.now.output = append(p.now.output, l)
	}
}

func (p *parser) verdict(what, name string) {
	switch what {
	case "PASS":
		p.now.passed++
	case "FAIL":
		p.now.failed = append(p.now.failed, failure{name, p.lines[name]})
	case "SKIP":
		why := "no reason given by " + name
		for _, l := range p.lines[name] {
			if m := logRE.FindStringSubmatch(l); m != nil {
				why = m[1]
			}
		}
		p.now.skipped[why]++
	}
	delete(p.lines, name)
	p.name = ""
}

func (p *parser) marked(f []string) {
	switch {
	case len(f) == 0:
	case f[0] == "begin" && len(f) == 2:
		p.now = &suiteResult{name: f[1], skipped: map[string]int{}}
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == f[1] })
		p.test = i >= 0 && suites[i].test
		p.result.suites = append(p.result.suites, p.now)
		p.name, p.lines = "", map[string][]string{}
	case f[0] == "end" && len(f) == 4 && p.now != nil:
		code, _ := strconv.Atoi(f[2])
		seconds, _ := strconv.Atoi(f[3])
		p.now.took = time.Duration(seconds) * time.Second
		if code != 0 && len(p.now.failed) == 0 {
			p.now.broken = "it ended with an error: " + strings.Join(p.last(10), " / ")
		}
		if p.test && code == 0 && p.now.passed+sum(p.now.skipped) == 0 {
			p.now.broken = "no test ran"
		}
		p.now = nil
	case f[0] == "problem":
		p.result.problem = strings.Join(f[1:], " ")
	case f[0] == "done":
		p.done = true
	}
}

// cut notes that the machine did not come to its end.
func (p *parser) cut(why string) {
	if p.now != nil {
		p.now.broken = why
		p.now.failed = append(p.now.failed, failure{"what was under way: " + p.name, p.last(20)})
		return
	}
	p.result.problem = why
}

// last are the newest lines of the test that speaks.
func (p *parser) last(n int) []string {
	said := p.lines[p.name]
	return said[max(0, len(said)-n):]
}
