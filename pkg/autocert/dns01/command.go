// SPDX-License-Identifier: Apache-2.0

package dns01

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// commandTimeout bounds one call.
const commandTimeout = time.Minute

// command has a program write the records: one for each DNS provider that
// takes no updates. It is called as lego's provider "exec" calls its own.
type command struct{ argv []string }

func (c *command) add(ctx context.Context, name, value string) error {
	return c.call(ctx, "present", name, value)
}

func (c *command) remove(ctx context.Context, name, value string) error {
	return c.call(ctx, "cleanup", name, value)
}

// probe finds out whether the program is there; a call might change something.
func (c *command) probe(context.Context, string) error {
	if _, err := exec.LookPath(c.argv[0]); err != nil {
		return problem("acme.dns01.command: %v", err)
	}
	return nil
}

// nameServers is nothing: the program returns when the record can be seen, or
// the config names them.
func (c *command) nameServers(context.Context, string) ([]netip.AddrPort, error) { return nil, nil }

func (c *command) call(ctx context.Context, verb, name, value string) error {
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, c.argv[0], append(c.argv[1:len(c.argv):len(c.argv)], verb, name+".", value)...)
	out := &tail{most: 400}
	cmd.Stdout, cmd.Stderr = out, out
	// What it has started ends with it, and holds nobody up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return problem("acme.dns01.command %s %s took longer than %s%s", c.argv[0], verb, commandTimeout, out.said())
	}
	return problem("acme.dns01.command %s %s: %v%s", c.argv[0], verb, err, out.said())
}

// tail keeps the end of what a program says.
type tail struct {
	most int
	b    []byte
}

// Write takes all of it.
func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-t.most):]
	return len(p), nil
}

func (t *tail) said() string {
	words := strings.FieldsFunc(strings.ToValidUTF8(string(t.b), ""), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
	if len(words) == 0 {
		return ""
	}
	return "; it says: " + strings.Join(words, " ")
}
