// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sockets is ingress.Sockets by the service manager's file descriptor store:
// systemd holds listening sockets while one agent ends and the next begins, so
// that clients wait and are not refused (sd_notify(3), sd_listen_fds(3)).
// Without such a manager it does nothing.
type sockets struct {
	notify string // address of the manager's socket; empty: there is none
	log    *slog.Logger

	mu   sync.Mutex
	here map[string]*os.File // that the manager gave us
}

// firstFD is that of the first descriptor the manager passes.
const firstFD = 3

// newSockets takes what the manager passes out of the environment, so that no
// workload finds it there.
func newSockets(log *slog.Logger) *sockets {
	s := &sockets{notify: os.Getenv("NOTIFY_SOCKET"), log: log, here: map[string]*os.File{}}
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

// Take gives a socket that the manager has kept.
func (s *sockets) Take(name string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.here[fdName(name)]
	delete(s.here, fdName(name))
	return f
}

// Keep has the manager keep the socket. One it has already it keeps once.
func (s *sockets) Keep(name string, f *os.File) {
	defer f.Close()
	if s.notify == "" {
		return
	}
	raw, err := f.SyscallConn() // Fd would have the socket block
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

// Drop has the manager close the socket.
func (s *sockets) Drop(name string) {
	if s.notify == "" {
		return
	}
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME="+fdName(name), nil); err != nil {
		s.log.Warn("have the service manager drop a socket", "socket", name, "error", err)
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
