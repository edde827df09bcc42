// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSockets(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:1F9A 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0
   2: 0000000000000000FFFF00000200420A:1F9A 0000000000000000FFFF00000100420A:D431 01 00000000:00000000 00:0
   3: junk
`
	var got []string
	for _, s := range parseSockets(table) {
		got = append(got, fmt.Sprint(s.local, " ", s.state))
	}
	want := []string{"127.0.0.1:8080 10", "[::1]:8090 10", "10.66.0.2:8090 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A\n")
	f.Fuzz(func(_ *testing.T, s string) { parseSockets(s) })
}
