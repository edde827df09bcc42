// SPDX-License-Identifier: Apache-2.0

// Package dockertest runs a real Docker daemon for tests: in network, mount and
// PID namespaces of the test binary's own, so that nothing of it outlives the
// tests, however they end. Images need no registry: they hold one static
// program. Only tests import it.
package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/dockerd"
)

// Dockerd is a daemon that a test started.
type Dockerd struct {
	*dockerd.Daemon // its client
	Dir             string
	args            []string
	cmd             *exec.Cmd     // nil: it does not run
	ended           chan struct{} // closed when it has
	log             *os.File
}

// Bridge is the daemon's default network, in both families.
const (
	Bridge4 = "172.29.0.1/24"
	Bridge6 = "fd00:29::/64"
)

// Start starts a daemon in the calling thread's namespaces, with all it keeps
// below a temporary directory, its containers' cgroups below cgroup ("/NAME").
// It is stopped at the end of the test. enter, if given, is put before its
// command, such as nsenter.
func Start(t testing.TB, cgroup string, enter ...string) *Dockerd {
	t.Helper()
	path, err := exec.LookPath("dockerd")
	if err != nil {
		t.Fatal("dockerd is not installed: scripts/setup.sh test installs Debian's docker.io")
	}
	dir, err := os.MkdirTemp("", "fl-docker") // short: sockets have paths of 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := &Dockerd{Dir: dir}
	d.args = append(enter, path, "--data-root", d.path("data"), "--exec-root", d.path("exec"), "--host", "unix://"+d.path("sock"),
		"--pidfile", d.path("pid"), "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", cgroup, "--storage-driver", "overlay2",
		"--config-file", d.path("config.json"), "--bip", Bridge4, "--ipv6", "--fixed-cidr-v6", Bridge6, "--shutdown-timeout", "5")
	if d.Daemon, err = dockerd.Dial("unix://" + d.path("sock")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.path("config.json"), []byte("{}"), 0o600); err != nil { // not this machine's own
		t.Fatal(err)
	}
	if d.log, err = os.Create(d.path("log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop(t)
		_ = d.Close()
		_ = d.log.Close()
		unmountBelow(dir)
		if t.Failed() {
			text, _ := os.ReadFile(d.path("log"))
			t.Logf("dockerd: %s", text[max(0, len(text)-4000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove what dockerd kept: %v", err)
		}
	})
	d.Up(t)
	return d
}

func (d *Dockerd) path(name string) string { return filepath.Join(d.Dir, name) }

// Up starts a daemon that was stopped, with what it has kept.
func (d *Dockerd) Up(t testing.TB) {
	t.Helper()
	_ = os.Remove(d.path("pid")) // of one that was killed
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := d.cmd, make(chan struct{})
	d.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	end := time.Now().Add(60 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := d.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) || isClosed(ended) {
			text, _ := os.ReadFile(d.path("log"))
			t.Fatalf("dockerd does not answer: %v\n%s", err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop ends the daemon as a service manager does; its containers end with it.
func (d *Dockerd) Stop(t testing.TB) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.ended
		t.Error("dockerd did not end within 30 s after SIGTERM")
	}
	d.cmd = nil
}

// Kill ends the daemon alone; containers run on.
func (d *Dockerd) Kill(t testing.TB) {
	t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.ended
	d.cmd = nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Import makes an image that holds one static program as its entry point.
func (d *Dockerd) Import(t testing.TB, name, program string, changes ...string) {
	t.Helper()
	file, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	err = w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(file)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(file)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	answer, err := d.ImageImport(context.Background(), client.ImageImportSource{Source: &image, SourceName: "-"}, name,
		client.ImageImportOptions{Changes: append([]string{`ENTRYPOINT ["/program"]`}, changes...)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Close() }()
	if _, err := io.Copy(io.Discard, answer); err != nil {
		t.Fatal(err)
	}
}

// Names lists the containers that run, or all, by name without the slash.
func (d *Dockerd) Names(t testing.TB, all bool) []string {
	t.Helper()
	list, err := d.ContainerList(context.Background(), client.ContainerListOptions{All: all})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, c := range list.Items {
		names = append(names, c.Names[0][1:])
	}
	return names
}

// unmountBelow takes what a daemon that was killed left mounted out of the way.
func unmountBelow(dir string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) > 4 && bytes.HasPrefix(f[4], []byte(dir+"/")) {
			_ = unix.Unmount(string(f[4]), unix.MNT_DETACH)
		}
	}
}

// RemoveCgroups removes a cgroup ("/NAME") from every hierarchy, with those in
// it.
func RemoveCgroups(name string) error {
	dirs, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", name))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range append(dirs, filepath.Join("/sys/fs/cgroup", name)) {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		last := os.Remove(dir)
		if !errors.Is(last, unix.EBUSY) || time.Now().After(end) {
			return errors.Join(err, last)
		}
	}
}

// CgroupName is a name for the containers' cgroups of a process's tests.
func CgroupName(pid int) string { return fmt.Sprintf("/fairlead-test-%d", pid) }

var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), "fairlead") // Main removes it
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, "github.com/fairlead-lb/fairlead/cmd/fairlead")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// Program builds `fairlead` once, the static program of the images: `fairlead
// echo` is a server for them.
func Program(t testing.TB) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
