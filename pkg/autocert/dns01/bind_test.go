// SPDX-License-Identifier: Apache-2.0

package dns01

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/autocert/bindtest"
)

// The zone, its name servers and their addresses are what the server says.
func TestZoneAndNameServersOfTheServer(t *testing.T) {
	s := bindtest.New(t, bindtest.Config{Zone: "fairlead.example"})
	u := &updates{Config{Server: s.Addr, KeyFile: s.KeyFile}}
	const name = "_acme-challenge.db-eu.fairlead.example"
	if zone, err := u.zone(t.Context(), name); err != nil || zone != "fairlead.example." {
		t.Errorf("zone of %s: %q, %v", name, zone, err)
	}
	got, err := u.nameServers(t.Context(), name)
	if want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("name servers: %v, %v, want %v", got, err, want)
	}
	if zone, err := u.zone(t.Context(), "_acme-challenge.example.org"); err == nil {
		t.Errorf("a name of another zone is of %q", zone)
	}
}

// A record is added beside those of other agents, and removed without them; to
// probe changes nothing, and no other key may do either.
func TestRecordsOfSeveralAgents(t *testing.T) {
	s := bindtest.New(t, bindtest.Config{Zone: "fairlead.example"})
	u := &updates{Config{Server: s.Addr, KeyFile: s.KeyFile}}
	const name = "_acme-challenge.fairlead.example"
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(u.probe(t.Context(), name))
	ok(u.add(t.Context(), name, "one"))
	ok(u.add(t.Context(), name, "two"))
	ok(u.probe(t.Context(), name))
	got := s.TXT(name)
	if slices.Sort(got); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("records %q, want both", got)
	}
	ok(await(t.Context(), record{name, "two"}, []netip.AddrPort{s.Addr}, time.Second))
	ok(u.remove(t.Context(), name, "one"))
	if got := s.TXT(name); !slices.Equal(got, []string{"two"}) {
		t.Errorf("records %q, want that of the other agent", got)
	}
	unsigned := &updates{Config{Server: s.Addr}}
	if err := unsigned.add(t.Context(), name, "three"); err == nil {
		t.Error("an update without a key was taken")
	}
}

// A server that takes connections and says nothing, or something else, is an
// error in words within a few seconds.
func TestServerThatIsNone(t *testing.T) {
	for name, answer := range map[string]string{"silent": "", "HTTP": "HTTP/1.1 400 Bad Request\r\n\r\n", "huge": "\xff\xff", "one byte": "\x00"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					_, _ = io.WriteString(c, answer)
				}
			}()
			u := &updates{Config{Server: l.Addr().(*net.TCPAddr).AddrPort()}}
			begun := time.Now()
			err = u.add(t.Context(), "_acme-challenge.fairlead.example", "value")
			var p *Problem
			if !errors.As(err, &p) || !strings.Contains(p.Text, "does not answer") || time.Since(begun) > 3*exchangeTimeout {
				t.Errorf("%v after %s", err, time.Since(begun))
			}
		})
	}
}
