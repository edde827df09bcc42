// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// words tells a person why a check failed.
func words(err error, to netip.AddrPort, q *question) string {
	var heard sign
	if errors.As(err, &heard) {
		return fmt.Sprintf("%s: %s", to, heard)
	}
	var before said
	if errors.As(err, &before) {
		return string(before)
	}
	var s *stage
	if !errors.As(err, &s) {
		return fmt.Sprintf("check of %s: %s", to, cause(err))
	}
	if s.asked {
		return askWords(s.err, to, q)
	}
	switch {
	case timedOut(s.err):
		return fmt.Sprintf("no connection to %s within %s", to, q.Timeout)
	case errors.Is(s.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection refused on %s", to)
	case errors.Is(s.err, syscall.ECONNRESET):
		return fmt.Sprintf("connection reset by %s", to)
	case errors.Is(s.err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("host %s is unreachable", to.Addr())
	case errors.Is(s.err, syscall.ENETUNREACH):
		return fmt.Sprintf("no route to %s", to.Addr())
	}
	return fmt.Sprintf("connect to %s: %s", to, cause(s.err))
}

func askWords(err error, to netip.AddrPort, q *question) string {
	var code status
	switch {
	case errors.As(err, &code):
		text := http.StatusText(int(code)) // not the replica's own words
		if text != "" {
			text = " " + text
		}
		return fmt.Sprintf("%s answered GET %s with %d%s, wanted %s", to, q.target, code, text, q.wanted())
	case timedOut(err):
		return fmt.Sprintf("%s did not answer GET %s within %s", to, q.target, q.Timeout)
	case errors.Is(err, errTooLong):
		return fmt.Sprintf("%s answered GET %s with a %s", to, q.target, errTooLong)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Sprintf("%s reset the connection instead of answering GET %s", to, q.target)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("%s closed the connection without an answer to GET %s", to, q.target)
	}
	return fmt.Sprintf("%s answered GET %s with something that is not HTTP: %s", to, q.target, cause(err))
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// cause is the inside of a network error, without the addresses that are said
// already, and not longer than a line: it may quote what a replica sent.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	const line = 120
	if s := err.Error(); len(s) > line {
		return strings.ToValidUTF8(s[:line], "") + "…"
	}
	return err.Error()
}

// reason sums up a check for a person; empty: it is up and passes.
func (k *check) reason() string {
	if k.up && (k.row == 0 || k.ok) {
		if !k.known {
			return "not checked yet"
		}
		return ""
	}
	last := "failed before its check was changed"
	if k.err != nil {
		last = words(k.err, k.to, k.ask)
	}
	switch {
	case k.up:
		return fmt.Sprintf("%s (%d in a row, down at %d)", last, k.row, k.ask.Fall)
	case k.row > 0 && k.ok:
		return fmt.Sprintf("answers again (%d of %d) after: %s", k.row, k.ask.Rise, last)
	case k.row == 0:
		return last
	}
	return fmt.Sprintf("%s (%d in a row)", last, k.row)
}

// news is a line for the log, written when no lock is held.
type news struct {
	level slog.Level
	text  string
	args  []any
}

func (n news) log(to *slog.Logger) { to.Log(context.Background(), n.level, n.text, n.args...) }

// tell reports that a replica went down or came back. One that gets no new
// connections anyway, as one that is drained, may go without a warning.
func (c *Checker) tell(k *check, held time.Duration) {
	args := []any{"service", k.svc.model.Name.String(), "replica", k.to.String()}
	if k.up {
		args = append(args, "down", held.Round(time.Millisecond).String())
		c.news = append(c.news, news{slog.LevelInfo, "replica passes its health check again", args})
		return
	}
	level := slog.LevelWarn
	if k.idle {
		level = slog.LevelInfo
	}
	c.news = append(c.news, news{level, "replica fails its health check", append(args, "reason", k.reason())})
}

func (c *Checker) tellLastResort(svc *service, before string) {
	name := svc.model.Name.String()
	switch {
	case before == "" && svc.lastResort != "":
		c.stats.LastResorts++
		c.news = append(c.news, news{slog.LevelWarn, "service is at its last resort", []any{"service", name, "reason", svc.lastResort}})
	case before != "" && svc.lastResort == "":
		c.news = append(c.news, news{slog.LevelInfo, "service has left its last resort", []any{"service", name}})
	}
}

// strain is this host's want of what a check needs.
type strain struct {
	err  error
	last time.Time
}

// spell is how long a strain is spoken of after its last sign.
const spell = time.Minute

func (s strain) now(now time.Time) bool { return s.err != nil && now.Sub(s.last) < spell }

func (c *Checker) strained(err error, now time.Time) {
	c.stats.Inconclusive++
	if !c.strain.now(now) {
		c.news = append(c.news, news{slog.LevelError, "health checks cannot be made; replicas keep their last verdict", []any{"error", cause(err)}})
		c.notify()
	}
	c.strain = strain{err: err, last: now}
}
