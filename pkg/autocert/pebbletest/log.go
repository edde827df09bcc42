// SPDX-License-Identifier: Apache-2.0

package pebbletest

import (
	"bytes"
	"sync"
)

// log keeps what a process writes.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the log.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all of it.
func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
