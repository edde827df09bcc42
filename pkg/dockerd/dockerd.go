// SPDX-License-Identifier: Apache-2.0

// Package dockerd is the connection to a Docker daemon: a client for its Engine
// API, its events with the whole list of containers after every reconnection,
// and its errors in words. It starts and stops nothing.
package dockerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// Daemon is one Docker daemon. The embedded client is safe for concurrent use.
type Daemon struct {
	*client.Client
	host string
}

// Dial makes a Daemon of a host such as unix:///var/run/docker.sock. It
// connects when it is first asked something. Close it.
func Dial(host string) (*Daemon, error) {
	c, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, fmt.Errorf("docker host %s: %w", host, err)
	}
	return &Daemon{Client: c, host: host}, nil
}

// Host is what Dial was given.
func (d *Daemon) Host() string { return d.host }

// Local tells whether the daemon is reached by a socket of this machine. What
// it runs may be in a virtual machine all the same.
func (d *Daemon) Local() bool { return strings.HasPrefix(d.host, "unix:") }

// Away tells whether an error means that the daemon did not answer, rather
// than that it refused.
func Away(err error) bool {
	switch {
	case err == nil:
		return false
	case client.IsErrConnectionFailed(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return true
	}
	return false
}

// Explain puts an error of the daemon into words, with what to do.
func (d *Daemon) Explain(err error) string {
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("the Docker daemon at %s does not let this user in: run fairlead as root", d.host)
	case strings.Contains(text, "no space left on device"):
		return fmt.Sprintf("the Docker daemon's disk is full (%s): free some, for instance with \"docker system prune\"", clip(text))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the Docker daemon at %s does not answer in time", d.host)
	case Away(err):
		return fmt.Sprintf("no Docker daemon answers at %s: start it, or correct docker.host in the config", d.host)
	}
	return clip(text)
}

// clip keeps a message of the daemon, which may hold anything, to one line of
// bounded length.
func clip(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	for i := range text {
		if i >= most {
			return text[:i] + "…"
		}
	}
	return text
}

// patience bounds one question to the daemon that needs no work of it.
const patience = 10 * time.Second

// Ask runs f with a bound on its time.
func Ask[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f(ctx)
}

// Missing tells whether an error means that the daemon has no such container
// or image.
func Missing(err error) bool { return errdefs.IsNotFound(err) }

// Conflict tells whether an error means that the name is taken.
func Conflict(err error) bool { return errdefs.IsConflict(err) }

// About is what a daemon tells of itself.
type About struct {
	Version      string
	CgroupDriver string // "cgroupfs" | "systemd" | "none"
	LogDriver    string // of containers that name none
}

// About asks the daemon.
func (d *Daemon) About(ctx context.Context) (About, error) {
	got, err := Ask(ctx, func(ctx context.Context) (client.SystemInfoResult, error) { return d.Info(ctx, client.InfoOptions{}) })
	if err != nil {
		return About{}, err
	}
	return About{got.Info.ServerVersion, got.Info.CgroupDriver, got.Info.LoggingDriver}, nil
}
