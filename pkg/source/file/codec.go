// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// codec is one type of the config: how it is read and what the JSON Schema
// says of it. Every field of the config is declared with one, so that what is
// documented and what is accepted are the same.
type codec[T any] struct {
	schema func() schema
	// decode reports what is wrong to d and answers false then. It may still
	// return what could be read, so that later checks find more faults.
	decode func(d *decoder, v value) (T, bool)
	// show is T as a default in the schema; false: there is none to show.
	show func(T) (any, bool)
}

// field is one key of an object that is read into an S.
type field[S any] struct {
	name, doc string
	required  bool
	schema    func(base *S) schema
	decode    func(d *decoder, v value, into *S)
}

// opt declares a key that has a default: what the object's base holds.
func opt[S, T any](name, doc string, c codec[T], of func(*S) *T) field[S] {
	return field[S]{
		name: name,
		doc:  doc,
		schema: func(base *S) schema {
			s := c.schema()
			s["description"] = doc
			if def, ok := c.show(*of(base)); ok {
				s["default"] = def
			}
			return s
		},
		decode: func(d *decoder, v value, into *S) {
			if t, ok := c.decode(d, v); ok {
				*of(into) = t
			}
		},
	}
}

// req declares a key that must be there.
func req[S, T any](name, doc string, c codec[T], of func(*S) *T) field[S] {
	f := opt(name, doc, c, of)
	f.required = true
	return f
}

// object is a map with the given keys and no others; base holds the defaults.
func object[S any](base S, fields ...field[S]) codec[S] {
	return codec[S]{
		schema: func() schema { return objectSchema(base, fields) },
		decode: func(d *decoder, v value) (S, bool) {
			into := base
			ok := decodeObject(d, v, &into, fields)
			return into, ok
		},
		show: func(S) (any, bool) { return nil, false },
	}
}

func decodeObject[S any](d *decoder, v value, into *S, fields []field[S]) bool {
	v, ok := d.resolve(v)
	if !ok {
		return false
	}
	entries, ok := d.entries(v)
	if !ok {
		return false
	}
	for _, e := range entries {
		i := slices.IndexFunc(fields, func(f field[S]) bool { return f.name == e.name })
		if i < 0 {
			names := make([]string, len(fields))
			for i, f := range fields {
				names[i] = f.name
			}
			d.report(e.key, "%s", unknownKey(e.name, names))
			continue
		}
		if f := fields[i]; isNull(e.value.node) {
			d.report(e.key, "has no value; %s", nullRemedy(f.required))
		} else {
			f.decode(d, e.value, into)
		}
	}
	for _, f := range fields {
		given := slices.ContainsFunc(entries, func(e entry) bool { return e.name == f.name })
		if f.required && !given {
			d.report(v.child(f.name), "is missing; add it: %s", f.doc)
			ok = false
		}
	}
	return ok
}

// nullRemedy is what to do about a key with nothing after it. It does not mean
// the default: for a list that would be the opposite of what it looks like.
func nullRemedy(required bool) string {
	if required {
		return "give one"
	}
	return "give one, or remove the key to get the default"
}

// list is a sequence of T, nil when the key is absent and never nil when it
// is there. At most most items.
func list[T any](item codec[T], most int) codec[[]T] {
	return codec[[]T]{
		schema: func() schema { return schema{"type": "array", "items": item.schema(), "maxItems": most} },
		decode: func(d *decoder, v value) ([]T, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return nil, false
			}
			seq, ok := v.node.(*ast.SequenceNode)
			if !ok {
				d.report(v.place, "%s", wantProblem(v.node, "a list"))
				return nil, false
			}
			if len(seq.Values) > most {
				d.report(v.place, "has %d items, at most %d are taken", len(seq.Values), most)
				return nil, false
			}
			out := make([]T, 0, len(seq.Values))
			for i, n := range seq.Values {
				// A broken item is left out; the others are still checked.
				if t, ok := item.decode(d, at(v.index(i), n)); ok {
					out = append(out, t)
				}
			}
			return out, true
		},
		show: func(ts []T) (any, bool) {
			if ts == nil {
				return nil, false
			}
			shown := make([]any, 0, len(ts))
			for _, t := range ts {
				if s, ok := item.show(t); ok {
					shown = append(shown, s)
				}
			}
			return shown, true
		},
	}
}

// pointer is T, nil when absent.
func pointer[T any](c codec[T]) codec[*T] {
	return codec[*T]{
		schema: c.schema,
		decode: func(d *decoder, v value) (*T, bool) {
			t, ok := c.decode(d, v)
			return &t, ok
		},
		show: func(t *T) (any, bool) {
			if t == nil {
				return nil, false
			}
			return c.show(*t)
		},
	}
}

// located is a T that remembers where it stood, for checks that involve
// several fields. The zero place means the key is absent.
type located[T any] struct {
	place
	v T
	// broken: the key is there and its value was reported already.
	broken bool
}

func (l located[T]) given() bool { return l.line > 0 }

// usable tells that the key is there and could be read.
func (l located[T]) usable() bool { return l.given() && !l.broken }

// here is a located default.
func here[T any](v T) located[T] { return located[T]{v: v} }

func where[T any](c codec[T]) codec[located[T]] {
	return codec[located[T]]{
		schema: c.schema,
		decode: func(d *decoder, v value) (located[T], bool) {
			t, ok := c.decode(d, v)
			return located[T]{place: v.place, v: t, broken: !ok}, true
		},
		show: func(l located[T]) (any, bool) { return c.show(l.v) },
	}
}

// unset hides a default that is no constant from the schema.
func unset[T any](c codec[T]) codec[T] {
	c.show = func(T) (any, bool) { return nil, false }
	return c
}

// checked adds a check with the problem in words, and what the schema can say
// of it.
func checked[T any](c codec[T], check func(T) error, more schema) codec[T] {
	inner := c
	c.schema = func() schema {
		s := inner.schema()
		for k, v := range more {
			s[k] = v
		}
		return s
	}
	c.decode = func(d *decoder, v value) (T, bool) {
		t, ok := inner.decode(d, v)
		if !ok {
			return t, false
		}
		if err := check(t); err != nil {
			d.report(v.place, "%s", err)
			return t, false
		}
		return t, true
	}
	return c
}

// unknownKey is the message for a key that is not in names.
func unknownKey(name string, names []string) string {
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("unknown key %s; did you mean %s?", quote(name), near)
	}
	return fmt.Sprintf("unknown key %s; known here: %s", quote(name), sentence(names))
}
