// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/admin"
)

// twoSamples are two seconds apart.
func twoSamples() (a, b sample) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	a = sample{at: at, status: fullStatus(), services: fullServices()}
	b = sample{at: at.Add(2 * time.Second), status: fullStatus(), services: fullServices()}
	web := &b.services[0].Ports[0]
	web.Connections += 25
	web.PacketsIn, web.PacketsOut = web.PacketsIn+24_000, web.PacketsOut+1_000
	web.BytesIn, web.BytesOut = web.BytesIn+500_000, web.BytesOut+312_500_000
	b.services[1].Ports[0].Connections += 3
	b.services[1].Ports[0].PacketsIn += 12
	a.services[1].Ports[0].BytesOut = 99 // smaller in b: the counter began anew
	cells := func(martian, refused uint64) []admin.Packets {
		return []admin.Packets{
			{Interface: "eth0", Direction: "in", Verdict: "drop", Reason: "martian", Count: martian},
			{Interface: "eth1", Direction: "in", Verdict: "drop", Reason: "martian", Count: martian},
			{Interface: "eth0", Direction: "in", Verdict: "drop", Reason: "fragment", Count: 7},
			{Interface: "eth0", Direction: "in", Verdict: "answer", Reason: "no_backend", Count: refused},
			{Interface: "eth0", Direction: "in", Verdict: "answer", Reason: "echo_answered", Count: refused},
			{Interface: "eth0", Direction: "in", Verdict: "forward", Reason: "forwarded", Count: refused},
		}
	}
	a.status.Packets, b.status.Packets = cells(100, 5), cells(103, 6)
	return a, b
}

func picture(v topView, rows int) string { return strings.Join(v.lines(rows), "\n") + "\n" }

func TestTop(t *testing.T) {
	a, b := twoSamples()
	b.status.Config.Error, b.status.Targets = "", nil
	b.status.Judge()
	v := topView{rates: between(a, b), status: b.status, order: orders[0], live: true, interval: 2 * time.Second}
	v.rates.sort(v.order)
	want := `fairlead is running: 2 services, 1 replica, all targets at generation 4
12.5k packets/s · 2.0 Mbit/s in · 1.2 Gbit/s out · 14 connections/s · 5 active

   SERVICE    CONN/S   ACTIVE    PKT/S            IN           OUT  REPLICAS
◐  shop/web       12        5    12.5k    2.0 Mbit/s    1.2 Gbit/s  1/2
○  shop/db       1.5        0      6.0       0 bit/s       0 bit/s  0/0

dropped  martian 3.0/s
refused  no_backend 0.5/s
every 2s, by packets · s sorts by something else · q ends
`
	if diff := cmp.Diff(want, picture(v, 0)); diff != "" {
		t.Errorf("picture (-want +got)\n%s", diff)
	}
	v.rates.sort(order{"name", func(s serviceRate) float64 { return float64(-len(s.Service)) }})
	if first := v.rates.Services[0].Service; first != "shop/db" {
		t.Errorf("sorted otherwise, %s is the first", first)
	}
}

// What does not fit is counted, and the footer stays.
func TestTopInFewRows(t *testing.T) {
	a, b := twoSamples()
	v := topView{rates: between(a, b), status: b.status, order: orders[0]}
	for range 20 {
		v.rates.Services = append(v.rates.Services, serviceRate{Service: "more/of-it"})
	}
	for _, rows := range []int{9, 12, 24} {
		lines := v.lines(rows)
		if len(lines) != rows {
			t.Errorf("%d lines in %d rows", len(lines), rows)
		}
		if !strings.HasPrefix(lines[len(lines)-1], "refused") {
			t.Errorf("the last of %d rows is %q", rows, lines[len(lines)-1])
		}
	}
	if got := strings.Join(v.lines(12), "\n"); !strings.Contains(got, "… and 18 services with less") {
		t.Errorf("12 rows:\n%s", got)
	}
}

func TestRatesOfNothing(t *testing.T) {
	a, _ := twoSamples()
	r := between(a, a)
	if r.Services == nil || r.Drops == nil || r.Refused == nil {
		t.Error("null where an array belongs")
	}
	for _, s := range r.Services {
		if s.Packets != 0 || s.Connections != 0 {
			t.Errorf("no time passed and %s has rates: %+v", s.Service, s)
		}
	}
	if sum := r.total(); sum.Active != 5 || sum.Ready != 1 || sum.Replicas != 2 {
		t.Errorf("total: %+v", sum)
	}
}

func TestRateUnits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.04: "0.0", 1.25: "1.2", 9.96: "10", 99: "99", 9999: "9999", 12500: "12.5k", 123456: "123k", 3.2e6: "3200k", 14.2e6: "14.2M"} {
		if got := perSecond(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0 bit/s", 999: "999 bit/s", 1000: "1.0 kbit/s", 99.96e6: "100 Mbit/s", 12.34e9: "12.3 Gbit/s", 5e18: "5000000 Tbit/s"} {
		if got := bitsOf(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// terminal opens a pseudo terminal of 24 rows; what is written to its slave
// can be read from master.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(filepath.Join("/dev/pts", strconv.Itoa(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	v, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *v
}

// On a terminal top draws, listens to keys, and gives the terminal back.
func TestTopOnATerminal(t *testing.T) {
	dir := t.TempDir()
	end, err := listen(dir, fullViews())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	client := admin.NewClient(dir)
	defer client.Close()
	master, slave := terminal(t)
	before := termios(t, slave)

	a := &app{out: slave, err: io.Discard, paint: paint{on: true}}
	done := make(chan error, 1)
	go func() { done <- a.topLive(t.Context(), client, leastInterval, slave, slave) }()
	var seen strings.Builder
	until := func(want string) {
		t.Helper()
		from := seen.Len()
		buf := make([]byte, 4096)
		_ = master.SetReadDeadline(time.Now().Add(10 * time.Second))
		for !strings.Contains(seen.String()[from:], want) {
			n, err := master.Read(buf)
			if err != nil {
				t.Fatalf("no %q: %v; seen:\n%q", want, err, seen.String())
			}
			seen.Write(buf[:n])
		}
	}
	until("q ends")
	if !strings.HasPrefix(seen.String(), screenEnter) {
		t.Errorf("it begins with %q", seen.String()[:20])
	}
	if raw := termios(t, slave); raw.Lflag&(unix.ECHO|unix.ICANON) != 0 || raw.Lflag&unix.ISIG == 0 {
		t.Errorf("local modes %#x: keys must come at once, unseen, and Ctrl-C must be a signal", raw.Lflag)
	}
	if _, err := master.WriteString("s"); err != nil {
		t.Fatal(err)
	}
	until("by bits")
	until("shop/web") // another look
	if _, err := master.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	until(screenLeave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after := termios(t, slave); after != before {
		t.Errorf("the terminal is left as %+v, was %+v", after, before)
	}
	for line := range strings.SplitSeq(seen.String(), "\n") {
		shown, _, _ := strings.Cut(line, eraseLine)
		if strings.Contains(line, "shop/") && width(shown) > 60 {
			t.Errorf("%d columns of 60: %q", width(shown), line)
		}
	}
}

func TestClip(t *testing.T) {
	p := paint{on: true}
	for _, c := range []struct{ in, want string }{
		{"short", "short"},
		{"exactly10!", "exactly10!"},
		{"a little too long", "a little …"},
		{"шире чем надо", "шире чем …"},
		{p.red("a little too long"), "\x1b[31ma little …\x1b[0m"},
		{p.red("a") + "bcdefghijkl", "\x1b[31ma\x1b[0mbcdefghi…"},
	} {
		if got := clip(c.in, 10); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}
