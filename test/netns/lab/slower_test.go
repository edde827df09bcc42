// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
	"time"
)

// What is no number above 0 changes nothing.
func TestSlower(t *testing.T) {
	for value, want := range map[string]time.Duration{"": time.Second, "4": 4 * time.Second, "0": time.Second, "-1": time.Second, "x": time.Second} {
		t.Setenv("FAIRLEAD_TEST_SLOWER", value)
		if got := Patience(time.Second); got != want {
			t.Errorf("FAIRLEAD_TEST_SLOWER=%q: a second is %v, want %v", value, got, want)
		}
	}
}
