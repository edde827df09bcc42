// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// plain shows a default as it is.
func plain[T any](t T) (any, bool) { return t, true }

// maxText bounds every string, so that no message and no metric label grows
// without end.
const maxText = 4096

// text is a string. A number or a bare true is taken as it is written: people
// do not quote a project named 42.
func text() codec[string] {
	return codec[string]{
		schema: func() schema { return schema{"type": []string{"string", "number", "boolean"}} },
		decode: func(d *decoder, v value) (string, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return "", false
			}
			s, _, ok := scalar(v.node)
			switch {
			case !ok:
				d.report(v.place, "%s", wantProblem(v.node, "text"))
			case len(s) > maxText:
				d.report(v.place, "text is %d bytes long, at most %d are taken", len(s), maxText)
			case strings.ContainsFunc(s, isControl):
				d.report(v.place, "%s holds a control character or a byte that is not UTF-8; remove it", quote(s))
			default:
				return s, true
			}
			return "", false
		},
		show: plain[string],
	}
}

// isControl leaves tab and newline: commands and environments have them.
func isControl(r rune) bool {
	return r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\n' && r != '\t'
}

// str is a string of one line with a check.
func str(want string, check func(string) error) codec[string] {
	return checked(text(), func(s string) error {
		if strings.ContainsAny(s, "\n\t") {
			return fmt.Errorf("%s spans lines or holds a tab, want %s", quote(s), want)
		}
		return check(s)
	}, nil)
}

func anything(string) error { return nil }

func nonEmpty(want string) func(string) error {
	return func(s string) error {
		if strings.TrimSpace(s) == "" {
			return fmt.Errorf("%s is empty, want %s", quote(s), want)
		}
		return nil
	}
}

const wantBool = "true or false"

// boolean is true or false, and nothing else that YAML 1.1 took for one.
func boolean() codec[bool] {
	return codec[bool]{
		schema: func() schema { return schema{"type": "boolean"} },
		decode: func(d *decoder, v value) (bool, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return false, false
			}
			if b, ok := v.node.(*ast.BoolNode); ok {
				return b.Value, true
			}
			d.report(v.place, "%s", wantProblem(v.node, wantBool))
			return false, false
		},
		show: plain[bool],
	}
}

// integer is a whole number between low and high, written in decimal.
func integer[T ~int | ~uint16 | ~uint32](low, high T) codec[T] {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	return codec[T]{
		schema: func() schema { return schema{"type": "integer", "minimum": low, "maximum": high} },
		decode: func(d *decoder, v value) (T, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return 0, false
			}
			s, isString, ok := scalar(v.node)
			n, err := decimal(s)
			switch {
			case !ok || isString && err != nil:
				d.report(v.place, "%s", wantProblem(v.node, want))
			case isString:
				d.report(v.place, "got the text %s, want %s without quotes", quote(s), want)
			case err != nil || n < int64(low) || n > int64(high):
				d.report(v.place, "got %s, want %s", s, want)
			default:
				return T(n), true
			}
			return 0, false
		},
		show: plain[T],
	}
}

// decimal reads a number without the leading zeros, underscores and prefixes
// that YAML versions disagree about.
func decimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && strconv.FormatInt(n, 10) != s {
		err = strconv.ErrSyntax
	}
	return n, err
}

// enum is one of the values.
func enum[T ~string](values ...T) codec[T] {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = string(v)
	}
	return codec[T]{
		schema: func() schema { return schema{"type": "string", "enum": names} },
		decode: func(d *decoder, v value) (T, bool) {
			s, ok := text().decode(d, v)
			if !ok {
				return "", false
			}
			if slices.Contains(names, s) {
				return T(s), true
			}
			v, _ = d.resolve(v)
			if near := nearest(s, names); near != "" {
				d.report(v.place, "got %s, want one of %s; did you mean %s?", quote(s), sentence(names), near)
			} else {
				d.report(v.place, "got %s, want one of %s", quote(s), sentence(names))
			}
			return "", false
		},
		show: plain[T],
	}
}

// duration is a Go duration between low and high.
func duration(low, high time.Duration) codec[time.Duration] {
	want := fmt.Sprintf("a duration from %s to %s such as 30s, 5m or 3h", short(low), short(high))
	return codec[time.Duration]{
		schema: func() schema {
			return schema{"type": []string{"string", "integer"}, "pattern": `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`, "maximum": 0}
		},
		decode: func(d *decoder, v value) (time.Duration, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return 0, false
			}
			s, _, ok := scalar(v.node)
			if !ok {
				d.report(v.place, "%s", wantProblem(v.node, want))
				return 0, false
			}
			dur, err := time.ParseDuration(s)
			switch _, numErr := strconv.ParseFloat(s, 64); {
			case err != nil && numErr == nil:
				d.report(v.place, "got %s without a unit, want %s; write %[1]ss for seconds", s, want)
			case err != nil || dur < low || dur > high:
				d.report(v.place, "got %s, want %s", quote(s), want)
			default:
				return dur, true
			}
			return 0, false
		},
		show: func(t time.Duration) (any, bool) { return short(t), true },
	}
}

// short is a duration without zero parts: 3h, not 3h0m0s.
func short(t time.Duration) string {
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// textMap is a map of names to text.
func textMap(checkKey func(string) error) codec[map[string]string] {
	return codec[map[string]string]{
		schema: func() schema { return schema{"type": "object", "additionalProperties": text().schema()} },
		decode: func(d *decoder, v value) (map[string]string, bool) {
			v, ok := d.resolve(v)
			if !ok {
				return nil, false
			}
			entries, ok := d.entries(v)
			if !ok {
				return nil, false
			}
			var m map[string]string
			for _, e := range entries {
				if err := checkKey(e.name); err != nil {
					d.report(e.key, "%s", err)
					continue
				}
				if isNull(e.value.node) {
					d.report(e.key, `has no value; give one, "" for an empty one`)
					continue
				}
				if s, ok := text().decode(d, e.value); ok {
					if m == nil {
						m = map[string]string{}
					}
					m[e.name] = s
				}
			}
			return m, true
		},
		show: func(map[string]string) (any, bool) { return nil, false },
	}
}

var errEnvName = errors.New("want letters, digits and '_', no digit first")

// envName checks the name of an environment variable (POSIX.1, section 8.1).
func envName(s string) error {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return fmt.Errorf("%s is no name of an environment variable: %w", quote(s), errEnvName)
		}
	}
	if s == "" {
		return fmt.Errorf("%s is no name of an environment variable: %w", quote(s), errEnvName)
	}
	return nil
}
