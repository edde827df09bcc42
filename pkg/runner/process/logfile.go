// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// openLog opens a replica's log for its process. Every write goes to the end,
// so that rotateLog may cut the file while it is open.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// rotateLog copies a log that is larger than limit to path.1, replacing the
// one before, and empties it. The process keeps its file; what it writes
// between the copy and the cut is lost.
func rotateLog(path string, limit int64) error {
	st, err := os.Stat(path)
	if err != nil || st.Size() <= limit {
		return nil //nolint:nilerr // no log yet
	}
	src, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	tmp := path + ".tmp"
	dst, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err == nil {
		err = os.Rename(tmp, path+".1")
	}
	if err != nil {
		err = errors.Join(err, removeFile(tmp))
	}
	// Also when the copy failed: a full disk gets no better by a growing log.
	return errors.Join(err, src.Truncate(0))
}

// lastLine is the last line a process wrote after offset start, shortened and
// without control characters; "" when it wrote none.
func lastLine(path string, start int64) string {
	const tail = 4096
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	if start > st.Size() { // rotated since
		start = 0
	}
	b := make([]byte, min(tail, st.Size()-start))
	n, _ := f.ReadAt(b, st.Size()-int64(len(b)))
	text := strings.TrimRightFunc(string(b[:n]), unicode.IsSpace)
	return printable(text[strings.LastIndexByte(text, '\n')+1:], 200)
}

// printable replaces control characters and invalid bytes, and cuts to n.
func printable(s string, n int) string {
	var out []rune
	for _, c := range strings.TrimSpace(s) {
		if len(out) == n {
			return string(out) + "…"
		}
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			c = '·'
		}
		out = append(out, c)
	}
	return string(out)
}
