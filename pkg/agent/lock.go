// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/handover"
	"golang.org/x/sys/unix"
)

// abstractName is bound in the agent's network namespace: two agents with
// different run directories would still fight over its interfaces.
const abstractName = "@fairlead"

// HeldError says that another agent runs.
type HeldError struct {
	PID    int // 0: unknown
	RunDir string
}

// Error names the other agent and what to do.
func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another fairlead agent runs on this host (run directory %s): stop it first", e.RunDir)
	}
	return fmt.Sprintf("another fairlead agent runs on this host: pid %d, run directory %s: stop it first, with kill %d", e.PID, e.RunDir, e.PID)
}

// lock keeps a second agent away: from the run directory by flock, from the
// network namespace by an abstract Unix socket. The kernel drops both with the
// process, however it ends.
type lock struct {
	file *os.File
	l    net.Listener // nil: somebody else's name, see acquire
	wg   sync.WaitGroup
}

// acquire takes both locks, or returns a *HeldError. note, if not empty, says
// what is odd and does not stop the agent.
func acquire(runDir, name string) (k *lock, note string, err error) {
	k = &lock{}
	// The name first: a second agent leaves no run directory behind.
	k.l, err = net.Listen("unix", name)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		held, uid := holder(name)
		if uid == 0 || uid == os.Geteuid() || uid < 0 {
			return nil, "", held
		}
		// Anybody may bind an abstract name: that must not keep root from starting.
		note = fmt.Sprintf("abstract socket %s belongs to pid %d of uid %d, which is no fairlead agent: a second agent in this network namespace would go unnoticed", name, held.PID, uid)
	case err != nil:
		return nil, "", fmt.Errorf("listen on abstract socket %s: %w", name, err)
	default:
		k.wg.Go(func() { tell(k.l, runDir) })
	}
	if k.file, err = lockFile(runDir); err != nil {
		k.release()
		return nil, "", err
	}
	return k, note, nil
}

// acquireSoon is acquire, with patience for a holder that is just ending: a
// killed agent holds its locks until the kernel has taken it apart.
func acquireSoon(runDir, name string, patience time.Duration) (k *lock, note string, err error) {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		k, note, err = acquire(runDir, name)
		if held := (*HeldError)(nil); !errors.As(err, &held) || time.Now().After(end) {
			return k, note, err
		}
	}
}

func lockFile(runDir string) (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", asRoot(err))
	}
	path := filepath.Join(runDir, "fairlead.lock")
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", asRoot(err))
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			defer f.Close()
			return nil, &HeldError{PID: readPID(f), RunDir: runDir}
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !current(f, path) { // removed by a detach meanwhile: the lock is on nothing
			_ = f.Close()
			continue
		}
		if err := writePID(f); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("write lock: %w", err)
		}
		return f, nil
	}
}

// asRoot adds what to do to an error of the first thing that needs root.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: fairlead needs root, so try with sudo", err)
	}
	return err
}

func current(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

func readPID(f *os.File) int {
	b, _ := io.ReadAll(io.LimitReader(f, 32))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// tell answers a second agent with the run directory, until the listener is
// closed.
func tell(l net.Listener, runDir string) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors, which passes
			continue
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c, runDir+"\n")
		_ = c.Close()
	}
}

// holder asks who has the name; uid is -1 when the kernel does not tell.
func holder(name string) (*HeldError, int) {
	held := &HeldError{RunDir: "unknown"}
	c, err := net.DialTimeout("unix", name, time.Second)
	if err != nil {
		return held, -1
	}
	defer c.Close()
	uid := -1
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				held.PID, uid = int(cred.Pid), int(cred.Uid)
			}
		})
	}
	_ = c.SetDeadline(time.Now().Add(time.Second))
	b, _ := io.ReadAll(io.LimitReader(c, 4096))
	if dir := strings.TrimSpace(string(b)); dir != "" {
		held.RunDir = dir
	}
	return held, uid
}

// Names of the lock's files in a handover.
const (
	lockFileName = "lock file"
	lockNameName = "lock name"
)

// copies are the locks, for a successor: it holds them as long as one copy is
// open, wherever. The caller closes them.
func (k *lock) copies() (names []string, files []*os.File, err error) {
	f, err := handover.Dup(k.file)
	if err != nil {
		return nil, nil, fmt.Errorf("copy lock: %w", err)
	}
	names, files = []string{lockFileName}, []*os.File{f}
	if c, ok := k.l.(syscall.Conn); ok {
		l, err := handover.Dup(c)
		if err != nil {
			_ = f.Close()
			return nil, nil, fmt.Errorf("copy lock: %w", err)
		}
		names, files = append(names, lockNameName), append(files, l)
	}
	return names, files, nil
}

// adoptLock takes over a predecessor's locks. The files are the lock's from
// then on; name may be nil, see acquire.
func adoptLock(runDir string, file, name *os.File) (*lock, error) {
	k := &lock{file: file}
	if name != nil {
		l, err := net.FileListener(name)
		_ = name.Close()
		if err != nil {
			k.release()
			return nil, fmt.Errorf("take lock over: %w", err)
		}
		k.l = l
		k.wg.Go(func() { tell(k.l, runDir) })
	}
	if err := k.mine(); err != nil {
		k.release()
		return nil, err
	}
	return k, nil
}

// mine says that this process holds the lock, to those who ask.
func (k *lock) mine() error {
	if err := writePID(k.file); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	c, ok := k.l.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err == nil {
		// The kernel names to those who connect whoever listened last.
		ctl := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), lockQueue) })
		err = errors.Join(ctl, err)
	}
	if err != nil {
		return fmt.Errorf("take lock over: %w", err)
	}
	return nil
}

// lockQueue bounds the agents that ask at one time.
const lockQueue = 16

// release drops both. The file stays: removing it would race with an agent
// that has just opened it.
func (k *lock) release() {
	if k.l != nil {
		_ = k.l.Close()
	}
	k.wg.Wait()
	if k.file != nil {
		_ = k.file.Close()
	}
}
