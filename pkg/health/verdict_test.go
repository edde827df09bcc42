// SPDX-License-Identifier: Apache-2.0

package health

import (
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	tests := []struct {
		results    string // + passed, - failed
		rise, fall int
		want       string // after each: U unknown, + up, - down
	}{
		{"+", 2, 3, "+"},
		{"---", 2, 3, "UU-"},
		{"--+---", 2, 3, "UU+++-"},
		{"---+-++", 2, 3, "UU----+"},
		{"+-+-+-", 2, 2, "++++++"},
		{"-+-+", 1, 1, "-+-+"},
		{"+---++++-", 4, 3, "+++----++"},
	}
	for _, tt := range tests {
		v := verdict{up: true}
		got := ""
		for i, r := range tt.results {
			was := v.up
			if flipped := v.observe(r == '+', tt.rise, tt.fall, time.Unix(int64(i), 0)); flipped != (was != v.up) {
				t.Errorf("%s after %d: flipped %v", tt.results, i+1, flipped)
			} else if flipped && v.since.Unix() != int64(i) {
				t.Errorf("%s after %d: since %s", tt.results, i+1, v.since)
			}
			switch {
			case !v.known && v.up:
				got += "U"
			case v.up:
				got += "+"
			default:
				got += "-"
			}
		}
		if got != tt.want {
			t.Errorf("%s with rise %d, fall %d: %s, want %s", tt.results, tt.rise, tt.fall, got, tt.want)
		}
	}
}
