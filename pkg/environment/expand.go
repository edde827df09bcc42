// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// List is the variables as execve(2) takes them, sorted.
func List(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

var variable = regexp.MustCompile(`\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))`)

// Expand replaces $NAME and ${NAME} of the environment; others stay as they
// are, for the shell that the command may be. Of no arguments it makes none.
func Expand(args []string, env map[string]string) []string {
	var out []string
	for _, arg := range args {
		out = append(out, variable.ReplaceAllStringFunc(arg, func(m string) string {
			if v, ok := env[strings.Trim(m, "${}")]; ok {
				return v
			}
			return m
		}))
	}
	return out
}
