// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/handover"
	"golang.org/x/sys/unix"
)

// The service manager keeps a listening socket, a client connects while there
// is no agent, and the next process, started as systemd does it, answers.
func TestSocketsOutliveTheProcess(t *testing.T) {
	if os.Getenv("FAIRLEAD_TEST_SUCCESSOR") != "" {
		nextProcess(t)
		return
	}
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	_ = manager.SetDeadline(time.Now().Add(20 * time.Second))
	t.Setenv("NOTIFY_SOCKET", path)
	s := newSockets(slog.New(slog.DiscardHandler))
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("workloads would find the manager's socket in their environment")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Keep("http :80", l.(*net.TCPListener))
	message, rights := make([]byte, 256), make([]byte, 256)
	n, m, _, _, err := manager.ReadMsgUnix(message, rights)
	if err != nil {
		t.Fatal(err)
	}
	if want := "FDSTORE=1\nFDNAME=http |80\nFDPOLL=0"; string(message[:n]) != want {
		t.Errorf("the manager is told %q, want %q", message[:n], want)
	}
	held := received(t, rights[:m])
	defer held.Close()
	_ = l.Close()
	c, err := net.Dial("tcp", l.Addr().String()) // nobody accepts: it waits
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestSocketsOutliveTheProcess$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "FAIRLEAD_TEST_SUCCESSOR=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=http |80")
	cmd.ExtraFiles = []*os.File{held}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	s.Drop("http :80")
	if n, _, _, _, err = manager.ReadMsgUnix(message, rights); err != nil || string(message[:n]) != "FDSTOREREMOVE=1\nFDNAME=http |80" {
		t.Errorf("the manager is told %q, %v", message[:n], err)
	}
}

// nextProcess answers one connection of the socket it was given.
func nextProcess(t *testing.T) {
	f := newSockets(slog.New(slog.DiscardHandler)).Take("http :80")
	if f == nil {
		t.Fatal("no socket")
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "hello")
	_ = c.Close()
}

func received(t *testing.T, rights []byte) *os.File {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "kept")
}

func TestWithoutAManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	s := newSockets(slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.Keep("x", l.(*net.TCPListener))
	names, files := s.copies()
	if len(names) != 1 || names[0] != "x" || len(files) != 1 {
		t.Errorf("a successor gets %q", names)
	}
	handover.CloseFiles(files)
	s.Drop("x")
	if s.Take("x") != nil {
		t.Error("a socket from nowhere")
	}
}
