// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// ANSI sequences, as every terminal of today and tmux understand them
// (ECMA-48; xterm's alternate screen).
const (
	screenEnter = "\x1b[?1049h\x1b[?25l" // alternate screen, no cursor
	screenLeave = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// screen is a terminal that is drawn on again and again. Close gives it back
// as it was.
type screen struct {
	in, out *os.File
	before  *unix.Termios // of in; nil: it is no terminal
}

// openScreen takes the terminal: keys come at once and are not shown. Ctrl-C
// stays a signal; Ctrl-Z does nothing, because it would leave the terminal so.
func openScreen(in, out *os.File) (*screen, error) {
	s := &screen{in: in, out: out}
	if before, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS); err == nil {
		raw := *before
		raw.Lflag &^= unix.ICANON | unix.ECHO
		raw.Cc[unix.VSUSP] = 0
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 0, 1 // a read waits a tenth of a second
		if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &raw); err != nil {
			return nil, fmt.Errorf("set up terminal: %w", err)
		}
		s.before = before
	}
	if _, err := s.out.WriteString(screenEnter); err != nil {
		return nil, fmt.Errorf("write to terminal: %w", err)
	}
	return s, nil
}

func (s *screen) close() {
	_, _ = s.out.WriteString(screenLeave)
	if s.before != nil {
		_ = unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, s.before)
	}
}

// size is in characters.
func (s *screen) size() (columns, rows int) {
	w, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// draw replaces what is shown, in one write so that nothing flickers.
func (s *screen) draw(lines []string) error {
	columns, rows := s.size()
	var b strings.Builder
	b.WriteString(screenHome)
	for i, l := range lines[:min(len(lines), rows)] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(clip(l, columns) + eraseLine)
	}
	b.WriteString(eraseBelow)
	if _, err := s.out.WriteString(b.String()); err != nil {
		return fmt.Errorf("write to terminal: %w", err)
	}
	return nil
}

// keys gives what is typed to press until ctx ends.
func (s *screen) keys(ctx context.Context, press func(byte)) {
	if s.before == nil {
		return
	}
	var buf [16]byte
	for ctx.Err() == nil {
		n, err := unix.Read(int(s.in.Fd()), buf[:])
		if err != nil && err != unix.EINTR && err != unix.EAGAIN {
			return // the terminal is gone
		}
		for _, k := range buf[:max(n, 0)] {
			press(k)
		}
	}
}

// clip cuts a line to the columns there are; colours end with it.
func clip(s string, columns int) string {
	if width(s) <= columns {
		return s
	}
	var b strings.Builder
	coloured := false
	for n := 0; len(s) > 0; {
		if strings.HasPrefix(s, "\x1b[") {
			if end := strings.IndexByte(s, 'm'); end > 0 {
				b.WriteString(s[:end+1])
				coloured = s[:end+1] != "\x1b[0m"
				s = s[end+1:]
				continue
			}
		}
		if n == columns-1 {
			b.WriteString("…")
			break
		}
		_, size := utf8.DecodeRuneInString(s)
		b.WriteString(s[:size])
		s = s[size:]
		n++
	}
	if coloured {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}
