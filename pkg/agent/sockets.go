// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/fairlead-lb/fairlead/pkg/handover"
	"golang.org/x/sys/unix"
)

// sockets is conn.Sockets: those this agent listens on, to be given to a
// successor, and those a predecessor has left. Where a service manager has a
// file descriptor store, systemd holds them while no agent runs, so that
// clients wait and are not refused (sd_notify(3), sd_listen_fds(3)).
type sockets struct {
	notify string // address of the manager's socket; empty: there is none
	log    *slog.Logger

	mu   sync.Mutex
	here map[string]*os.File     // left by a predecessor, by fdName, and not taken
	open map[string]syscall.Conn // of this agent, by name; some may be closed by now
}

// firstFD is that of the first descriptor the manager passes.
const firstFD = 3

// newSockets takes what the manager passes out of the environment, so that no
// workload finds it there.
func newSockets(log *slog.Logger) *sockets {
	s := &sockets{notify: os.Getenv("NOTIFY_SOCKET"), log: log, here: map[string]*os.File{}, open: map[string]syscall.Conn{}}
	pid, n, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, key := range []string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(key)
	}
	count, err := strconv.Atoi(n)
	if pid != strconv.Itoa(os.Getpid()) || err != nil || count < 1 || count > 1024 {
		return s
	}
	all := strings.Split(names, ":")
	for i := range count {
		unix.CloseOnExec(firstFD + i)
		if i < len(all) {
			s.here[all[i]] = os.NewFile(uintptr(firstFD+i), all[i])
		}
	}
	return s
}

// fdName is a name as the manager takes it: without colons.
func fdName(name string) string { return strings.ReplaceAll(name, ":", "|") }

// Take gives a socket that a predecessor left.
func (s *sockets) Take(name string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.here[fdName(name)]
	delete(s.here, fdName(name))
	return f
}

// Keep notes an open socket, and has the manager keep it. One it has already it
// keeps once.
func (s *sockets) Keep(name string, c syscall.Conn) {
	s.note(name, c)
	if s.notify == "" {
		return
	}
	raw, err := c.SyscallConn() // Fd would have the socket block
	if err == nil {
		ctl := raw.Control(func(fd uintptr) {
			err = s.tell("FDSTORE=1\nFDNAME="+fdName(name)+"\nFDPOLL=0", unix.UnixRights(int(fd)))
		})
		if err == nil {
			err = ctl
		}
	}
	if err != nil {
		s.log.Warn("have the service manager keep a socket", "socket", name, "error", err)
	}
}

// note is Keep without the manager.
func (s *sockets) note(name string, c syscall.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[name] = c
}

// Drop has the manager close the socket.
func (s *sockets) Drop(name string) {
	s.mu.Lock()
	delete(s.open, name)
	s.mu.Unlock()
	s.forget(name)
}

func (s *sockets) forget(name string) {
	if s.notify == "" {
		return
	}
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME="+fdName(name), nil); err != nil {
		s.log.Warn("have the service manager drop a socket", "socket", name, "error", err)
	}
}

// listen is net.Listen for one purpose: on a predecessor's socket, if there is
// one, and for a successor.
func (s *sockets) listen(purpose string) func(network, address string) (net.Listener, error) {
	return func(network, address string) (l net.Listener, err error) {
		name := purpose + " " + address
		if f := s.Take(name); f != nil {
			l, err = net.FileListener(f)
			_ = f.Close()
		} else {
			l, err = net.Listen(network, address)
		}
		if err != nil {
			return nil, err
		}
		if c, ok := l.(syscall.Conn); ok {
			s.note(name, c)
		}
		return l, nil
	}
}

// copies are the sockets that are open, for a successor. The caller closes
// them.
func (s *sockets) copies() (names []string, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.open {
		f, err := handover.Dup(c)
		if err != nil { // closed
			delete(s.open, name)
			continue
		}
		names, files = append(names, name), append(files, f)
	}
	return names, files
}

// leave makes files a predecessor's, but for those that are open here.
func (s *sockets) leave(names []string, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range files {
		if c, ok := s.open[names[i]]; ok && alive(c) {
			_ = f.Close()
			continue
		}
		if old := s.here[fdName(names[i])]; old != nil {
			_ = old.Close()
		}
		s.here[fdName(names[i])] = f
	}
}

func alive(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil
}

// clear closes what a predecessor left and nobody has taken: its clients are to
// be refused, not to wait for ever.
func (s *sockets) clear() {
	s.mu.Lock()
	left := s.here
	s.here = map[string]*os.File{}
	s.mu.Unlock()
	for name, f := range left {
		_ = f.Close()
		s.forget(name)
	}
}

// successor tells the manager that another process is the service's main one.
func (s *sockets) successor(pid int) {
	if s.notify == "" || pid == 0 {
		return
	}
	if err := s.tell("MAINPID="+strconv.Itoa(pid), nil); err != nil {
		s.log.Warn("tell the service manager of the successor", "pid", pid, "error", err)
	}
}

// tell sends the manager a message.
func (s *sockets) tell(message string, rights []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, []byte(message), rights, &unix.SockaddrUnix{Name: s.notify}, 0); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
