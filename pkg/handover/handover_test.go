// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("FAIRLEAD_TEST_PEER"); path != "" {
		peer(path)
		return
	}
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// talk is both ends of a conversation.
func talk(t *testing.T) (here, there *Conn) {
	t.Helper()
	l := listen(t)
	here, err := Dial(l.l.Addr().String(), patience)
	must(t, err)
	there, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { _, _ = here.Close(), there.Close() })
	return here, there
}

func listen(t *testing.T) *Listener {
	t.Helper()
	l, err := Listen(filepath.Join(t.TempDir(), "s"))
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// A listening socket goes from one end to the other, clients that wait in it
// included, and the sender's may be closed.
func TestSocketsArrive(t *testing.T) {
	here, there := talk(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f, err := Dup(tcp.(*net.TCPListener))
	must(t, err)
	must(t, here.Send(Message{Kind: Sockets, Names: []string{"http :80"}}, patience, f))
	must(t, f.Close())
	client, err := net.Dial("tcp", tcp.Addr().String())
	must(t, err)
	defer client.Close()
	must(t, tcp.Close())
	m, files, err := there.Receive(patience)
	must(t, err)
	if m.Kind != Sockets || !slices.Equal(m.Names, []string{"http :80"}) || len(files) != 1 {
		t.Fatalf("%+v with %d files", m, len(files))
	}
	if flags := control(t, files[0], unix.F_GETFD); flags&unix.FD_CLOEXEC == 0 {
		t.Error("the programs that this process starts would inherit the socket")
	}
	l, err := net.FileListener(files[0])
	must(t, err)
	defer l.Close()
	CloseFiles(files)
	c, err := l.Accept()
	must(t, err)
	defer c.Close()
	if c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("accepted %v, want %v", c.RemoteAddr(), client.LocalAddr())
	}
}

func control(t *testing.T, f *os.File, cmd int) (out int) {
	t.Helper()
	raw, err := f.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { out, err = unix.FcntlInt(fd, cmd, 0) }))
	must(t, err)
	return out
}

func TestRefusalsSilenceAndGoodbyes(t *testing.T) {
	here, there := talk(t)
	if _, _, err := there.Receive(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	must(t, here.Send(Message{Kind: Refuse, Reason: "not today"}, patience))
	var refused *RefusedError
	if _, _, err := there.Receive(patience); !errors.As(err, &refused) || refused.Reason != "not today" {
		t.Errorf("a refusal: %v", err)
	}
	there.Interrupt()
	for _, within := range []time.Duration{0, patience} { // whoever began to wait later, too
		begun := time.Now()
		if _, _, err := there.Receive(within); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) > patience/2 {
			t.Errorf("interrupted: %v after %v", err, time.Since(begun))
		}
	}
	there.Resume()
	must(t, here.Close())
	if _, _, err := there.Receive(0); !errors.Is(err, io.EOF) {
		t.Errorf("goodbye: %v", err)
	}
	if err := there.Send(Message{Kind: Ready}, patience); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("to nobody: %v", err)
	}
}

// What is no message is refused, and its files are closed.
func TestHostileMessages(t *testing.T) {
	here, there := talk(t)
	f, err := os.Open(os.DevNull)
	must(t, err)
	defer f.Close()
	many := make([]int, MaxFiles+1)
	for i := range many {
		many[i] = int(f.Fd())
	}
	good, err := json.Marshal(Message{Version: Version, Kind: Hello})
	must(t, err)
	files := countFiles(t)
	for name, c := range map[string]struct {
		body []byte
		fds  []int
		want string
	}{
		"too long":        {append(good, make([]byte, MaxMessage)...), nil, "more than"},
		"too many files":  {good, many, "more than"},
		"files of nobody": {good, many[:2], "2 files with 0 names"},
		"names of nobody": {[]byte(`{"version":1,"kind":"sockets","names":["a"]}`), nil, "0 files with 1 names"},
		"no JSON":         {[]byte("GET / HTTP/1.1\r\n\r\n"), many[:1], "read message"},
		"another version": {[]byte(`{"version":2,"kind":"hello"}`), many[:1], "it speaks version 2"},
	} {
		var rights []byte
		if len(c.fds) > 0 {
			rights = unix.UnixRights(c.fds...)
		}
		if _, _, err := here.c.WriteMsgUnix(c.body, rights, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m, got, err := there.Receive(patience); err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("%s: %+v, %d files, %v; want %q", name, m, len(got), err, c.want)
		}
	}
	if now := countFiles(t); now != files {
		t.Errorf("%d files are open, %d were", now, files)
	}
	if err := here.Send(Message{Kind: Refuse, Reason: strings.Repeat("x", MaxMessage)}, patience); err == nil {
		t.Error("a message is sent that nobody takes")
	}
}

func countFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all)
}

// The socket is for its owner alone, and so is the conversation.
func TestOthersAreKeptOut(t *testing.T) {
	l := listen(t)
	path := l.l.Addr().String()
	fi, err := os.Stat(path)
	must(t, err)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", fi.Mode())
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	must(t, os.Chmod(path, 0o666)) // as if it were not
	must(t, os.Chmod(filepath.Dir(path), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755))
	cmd := start(t, path, func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	if c, err := l.Accept(); err == nil || !strings.Contains(err.Error(), "is of user 65534, want 0") {
		t.Errorf("somebody else is heard: %v, %v", c, err)
	}
	_ = cmd.Process.Kill()
}

// start runs a process that connects and then waits. It is killed with the
// test.
func start(t *testing.T, path string, adjust func(*exec.Cmd)) *exec.Cmd {
	t.Helper()
	self := filepath.Join(filepath.Dir(path), "test")
	b, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(self, b, 0o755))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), "FAIRLEAD_TEST_PEER="+path)
	cmd.Stderr = os.Stderr
	adjust(cmd)
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return cmd
}

func peer(path string) {
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	defer c.Close()
	time.Sleep(time.Minute)
}

// The peer is held: its end is noticed, also when its id is somebody else's by
// then, and it can be ended.
func TestThePeerIsHeld(t *testing.T) {
	l := listen(t)
	cmd := start(t, l.l.Addr().String(), func(*exec.Cmd) {})
	c, err := l.Accept()
	must(t, err)
	defer c.Close()
	p := c.Peer()
	if p.PID != cmd.Process.Pid {
		t.Errorf("pid %d, want %d", p.PID, cmd.Process.Pid)
	}
	if p.Ended(20 * time.Millisecond) {
		t.Error("it has ended already")
	}
	must(t, p.Kill())
	if !p.Ended(patience) {
		t.Error("it lives on")
	}
	_ = cmd.Wait()
	f, err := c.File()
	must(t, err)
	defer f.Close()
	again, err := Adopt(f)
	must(t, err)
	defer again.Close()
	if !again.Peer().Ended(0) {
		t.Error("a conversation with a process that is no more: it lives")
	}
}

// FuzzParse: no message makes the reader fail, and one that it takes says what
// was written.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"kind":"hello","stateDir":"/var/lib/fairlead","netns":"net:[4026531840]"}`), 0)
	f.Add([]byte(`{"version":1,"kind":"yours","names":["lock file"],"troubled":["ingress"]}`), 0)
	f.Add([]byte(`{"version":1,"kind":"draining","connections":3,"until":"2026-11-22T02:00:00Z"}`), 0)
	f.Add([]byte(`{"version":1,"kind":"stop","budget":5000000000}`), unix.MSG_CTRUNC)
	f.Fuzz(func(t *testing.T, b []byte, flags int) {
		m, err := parse(b, flags)
		if err != nil {
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parse(out, 0); len(out) <= MaxMessage && (err != nil || again.Kind != m.Kind || again.Connections != m.Connections) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}
