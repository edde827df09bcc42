// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Queues of an earlier version have room for the ports of four addresses.
func TestSmallPortQueuesAreTold(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	var log bytes.Buffer
	target.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	target.cfg.LocalPorts = func() (uint16, uint16, error) { return 1024, 65535, nil }
	first := netip.MustParseAddr("192.0.2.0")
	for n := 4; n <= 5; n++ {
		s := stateOfOne(uint64(n), "10.1.0.2")
		s.Services[0].Mode = model.ModeFullNAT
		s.Settings.Node.Sources = nil
		for a := first; len(s.Settings.Node.Sources) < n; a = a.Next() {
			s.Settings.Node.Sources = append(s.Settings.Node.Sources, a)
		}
		apply(t, target, s)
		if told := strings.Contains(log.String(), "not every source port"); told != (n > 4) {
			t.Errorf("with %d addresses told = %t:\n%s", n, told, log.String())
		}
	}
}
