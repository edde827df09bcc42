// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpand(t *testing.T) {
	env := map[string]string{"PORT": "8090", "A_B": "x y"}
	got := Expand([]string{"p", "$PORT", "${PORT}/${A_B}", ":$PORT,$PORTS", "$$ $1 $ ${", "$(PORT) ${NO}"}, env)
	want := []string{"p", "8090", "8090/x y", ":8090,$PORTS", "$$ $1 $ ${", "$(PORT) ${NO}"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := Expand(nil, env); got != nil {
		t.Errorf("of nothing: %q", got)
	}
	if diff := cmp.Diff([]string{"A_B=x y", "PORT=8090"}, List(env)); diff != "" {
		t.Error(diff)
	}
}
