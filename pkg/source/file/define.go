// SPDX-License-Identifier: Apache-2.0

package file

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Definition is a service that is written elsewhere, in keys of the config
// without their nesting: "containerPort", "expose.http.host".
type Definition struct {
	Where string // for messages: "container web"
	Keys  map[string]string
}

// Defined is what became of a Definition.
type Defined struct {
	Service *model.Service // nil: it has faults
	Faults  []Fault
}

// Fault is one fault of a Definition.
type Fault struct {
	Key     string // empty: of the whole
	Problem string
}

// Define makes services of definitions, by the rules and the settings of the
// config in force, whose services come first. Where two definitions want the
// same, the earlier one has it. One with faults takes nothing from the others.
// Before there is a config it answers nil.
func (s *Source) Define(defs []Definition) []Defined {
	s.mu.Lock()
	good := s.good
	s.mu.Unlock()
	if good == nil {
		return nil
	}
	c, ok := s.reparse(good)
	if !ok {
		return nil
	}
	out := make([]Defined, len(defs))
	for { // again without those that have faults, so that what they claimed is free
		found := false
		b := newBuilder(&decoder{file: s.cfg.Path}, c)
		for i := range c.services {
			b.service(&c.services[i])
		}
		for i := range defs {
			if len(out[i].Faults) > 0 {
				continue
			}
			out[i] = b.define(defs[i])
			found = found || len(out[i].Faults) > 0
		}
		if !found {
			return out
		}
	}
}

// reparse reads the config in force once more, for what its Part does not hold.
// It is kept until another is in force.
func (s *Source) reparse(good []byte) (*config, bool) {
	s.defining.Lock()
	defer s.defining.Unlock()
	if s.definer != nil && &s.definerOf[0] == &good[0] {
		return s.definer, true
	}
	d := &decoder{file: s.cfg.Path}
	body, ok := d.parse(good)
	if !ok {
		return nil, false
	}
	c, _ := root().decode(d, value{place{position: position{1, 1}}, body})
	s.definer, s.definerOf = &c, good
	return s.definer, true
}

// define makes one service and takes its names, ports and addresses.
func (b *builder) define(def Definition) Defined {
	d := &decoder{file: def.Where, elsewhere: true}
	text, fault := nest(def.Keys)
	if fault != nil {
		return Defined{Faults: []Fault{*fault}}
	}
	body, ok := d.parse(text)
	if !ok {
		return Defined{Faults: faultsOf(d)}
	}
	raw, ok := serviceCodec().decode(d, value{place{position: position{1, 1}}, body})
	if !ok || len(d.errs) > 0 {
		return Defined{Faults: faultsOf(d)}
	}
	file, ports := b.d, b.ports
	b.d, b.ports = d, nil
	svc := b.service(&raw)
	b.checkNodePorts()
	b.d, b.ports = file, ports
	if len(d.errs) > 0 {
		return Defined{Faults: faultsOf(d)}
	}
	return Defined{Service: svc}
}

func faultsOf(d *decoder) []Fault {
	var faults []Fault
	for _, e := range d.errs {
		faults = append(faults, Fault{flatKey(e.Field), e.Problem})
	}
	return faults
}

// shorthands are keys that a Definition has without their nesting.
var shorthands = []string{"containerPort", "servicePort", "protocol"}

var index = regexp.MustCompile(`\[[0-9]+\]`)

// flatKey is the key of a Definition for a path of the config.
func flatKey(path string) string {
	path = index.ReplaceAllString(path, "")
	path = strings.TrimPrefix(path, "run.")
	return strings.Replace(path, "expose.http.paths.", "expose.http.", 1)
}

// bare is a value that YAML reads as a number or a truth value.
var bare = regexp.MustCompile(`^(0|[1-9][0-9]{0,9}|true|false)$`)

// nest writes keys as a service of the config.
func nest(keys map[string]string) ([]byte, *Fault) {
	tree := map[string]any{}
	exposed := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		text := keys[key]
		var leaf any = text
		switch {
		case key == "project" || key == "user" || strings.HasSuffix(key, ".host"):
		case key == "allow" || key == "health.status":
			list := []any{}
			for item := range strings.SplitSeq(text, ",") {
				list = append(list, typed(strings.TrimSpace(item)))
			}
			leaf = list
		case (key == "expose.http" || key == "expose.tcp") && text == "true":
			leaf = map[string]any{}
		default:
			leaf = typed(text)
		}
		path := strings.Split(key, ".")
		into := tree
		switch {
		case slices.Contains(shorthands, key):
			path = []string{"run", key}
		case path[0] == "expose" && len(path) > 1:
			into, path = exposed, path[1:]
		case slices.Contains([]string{"run", "replicas", "workload", "expose"}, path[0]):
			return nil, &Fault{key, "is not for containers, which are the replicas themselves"}
		}
		if !set(into, path, leaf) {
			return nil, &Fault{key, "has a value, and so has a key below it; remove one of them"}
		}
	}
	if len(exposed) > 0 {
		tree["expose"] = exposures(exposed)
	}
	text, err := json.Marshal(tree) // which is YAML, too
	if err != nil {
		return nil, &Fault{"", err.Error()}
	}
	return text, nil
}

func typed(text string) any {
	if bare.MatchString(text) {
		return json.RawMessage(text)
	}
	return text
}

// set puts a value at a path; false: something else is in the way.
func set(tree map[string]any, path []string, leaf any) bool {
	for len(path) > 1 {
		next, there := tree[path[0]]
		if !there {
			next = map[string]any{}
			tree[path[0]] = next
		}
		below, ok := next.(map[string]any)
		if !ok {
			return false
		}
		tree, path = below, path[1:]
	}
	_, isMap := leaf.(map[string]any)
	if _, there := tree[path[0]]; there {
		return isMap
	}
	tree[path[0]] = leaf
	return true
}

// exposures makes list items of what is exposed: one of each kind.
func exposures(exposed map[string]any) []any {
	var items []any
	for _, kind := range slices.Sorted(maps.Keys(exposed)) {
		item := exposed[kind]
		if kind == "port" {
			item = nodePortOf(item)
		}
		if h, ok := item.(map[string]any); ok && kind == "http" {
			item = withPath(h)
		}
		items = append(items, map[string]any{kind: item})
	}
	return items
}

// nodePortOf lets expose.port be the number alone.
func nodePortOf(item any) any {
	if _, isMap := item.(map[string]any); isMap {
		return item
	}
	return map[string]any{"port": item}
}

// withPath moves what is said of a path into the only item of paths.
func withPath(h map[string]any) map[string]any {
	path := map[string]any{}
	for _, key := range []string{"path", "servicePort", "websocket", "stripPrefix", "rewrite", "backendTLS"} {
		if v, ok := h[key]; ok {
			path[key] = v
			delete(h, key)
		}
	}
	if len(path) > 0 {
		h["paths"] = []any{path}
	}
	return h
}

// String is "KEY: PROBLEM".
func (f Fault) String() string {
	if f.Key == "" {
		return f.Problem
	}
	return fmt.Sprintf("%s: %s", f.Key, f.Problem)
}
