// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
)

func TestMain(m *testing.M) { nstest.Main(func() { goleak.VerifyTestMain(m) }) }

// TestA28Listeners: what the kernel tells of a namespace is what listens there.
func TestA28Listeners(t *testing.T) {
	ns, path := nstest.New(t), filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") })
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	open := func(network, address string) {
		t.Helper()
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { // a namespace has no address while lo is down
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			})
		}}
		ns.Do(t, func() error {
			l, err := lc.Listen(context.Background(), network, address)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		})
	}
	open("tcp4", "127.0.0.1:8090")
	open("tcp4", "0.0.0.0:8091")
	open("tcp", "[::]:9000")
	open("tcp6", "[::]:9001")
	open("tcp6", "[::1]:9002")
	if _, err := dumpListeners(path, unix.AF_INET, 10*time.Second); errors.Is(err, fs.ErrNotExist) {
		if os.Getenv("CI") != "" {
			t.Fatal("this kernel has no tcp_diag, which the machines of CI have")
		}
		t.Skip("this kernel is built without tcp_diag (CONFIG_INET_DIAG), as none of Debian's is; /proc is read instead")
	}
	have, err := listeners(0, path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := named(have), "127.0.0.1:8090, 0.0.0.0:8091, *:9000, [::]:9001, …"; got != want {
		t.Errorf("listeners %s, want %s", got, want)
	}
	if len(have) != 5 {
		t.Errorf("%d listeners: %v, want 5", len(have), have)
	}
	if _, err := listeners(0, path+".gone", time.Second); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a namespace that is gone: %v", err)
	}
}

func TestA28Instead(t *testing.T) {
	for _, tc := range []struct{ have, to, want string }{
		{"127.0.0.1:8090", "10.0.0.1:8090", "listens on 127.0.0.1:8090 only"},
		{"127.0.0.1:8090 ::1@8090", "10.0.0.1:8090", "listens on 127.0.0.1:8090, [::1]:8090 only"},
		{"::@9000", "10.0.0.1:8090", "listens on *:9000, the service expects 8090"},
		{"0.0.0.0:9000 127.0.0.1:8090", "10.0.0.1:8090", "listens on 127.0.0.1:8090 only"},
		{"0.0.0.0:8090", "[fd00::1]:8090", "listens on 0.0.0.0:8090 only, which does not take connections to fd00::1"},
		{"::@8090/6", "10.0.0.1:8090", "listens on [::]:8090 only"},
		{"10.0.0.2:8090", "10.0.0.1:8090", "listens on 10.0.0.2:8090 only"},
		{"", "10.0.0.1:8090", "listens on no TCP port, the service expects 8090"},
		{"::@8090", "10.0.0.1:8090", ""},
		{"::@8090/6", "[fd00::1]:8090", ""},
		{"10.0.0.1:8090 127.0.0.1:8090", "10.0.0.1:8090", ""},
	} {
		var have []listener
		for _, s := range strings.Fields(tc.have) {
			s, only6 := strings.CutSuffix(s, "/6")
			if addr, port, ok := strings.Cut(s, "@"); ok {
				s = "[" + addr + "]:" + port
			}
			have = append(have, listener{netip.MustParseAddrPort(s), only6})
		}
		got := instead(have, netip.MustParseAddrPort(tc.to))
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s for %s: %q, want %q", tc.have, tc.to, got, tc.want)
		}
	}
}

// TestA28LooksAreFew: many that ask at once cause one look, and no more
// replicas are looked at than may be.
func TestA28LooksAreFew(t *testing.T) {
	var l Looks
	var count atomic.Int32
	hold := make(chan struct{})
	look := func() ([]listener, error) {
		count.Add(1)
		<-hold
		return nil, nil
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for _, id := range []string{"a", "b", "c", "d"} {
				if l.begin(id, look) == nil {
					t.Errorf("%s is not looked at", id)
				}
			}
		})
	}
	wg.Wait()
	if l.begin("e", look) != nil {
		t.Error("a fifth look at once")
	}
	a := l.begin("a", look)
	close(hold)
	if a == nil {
		t.Fatal("what is under way is not waited for")
	}
	<-a.done
	if n := count.Load(); n > 4 {
		t.Errorf("%d looks, want 4", n)
	}
}

func FuzzParseListener(f *testing.F) {
	f.Add(make([]byte, diagMessageSize))
	b := make([]byte, diagMessageSize+8)
	b[0], b[1], b[diagMessageSize], b[diagMessageSize+2] = unix.AF_INET6, tcpListen, 5, diagV6Only
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) { parseListener(b) })
}
