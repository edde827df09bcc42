// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"errors"
	"io"
	"os"
)

// input is what a client has sent and nobody has consumed.
type input struct {
	r   io.Reader
	buf []byte
}

// fill reads more, at least a byte.
func (in *input) fill() error {
	if cap(in.buf)-len(in.buf) < 1024 {
		in.buf = append(make([]byte, 0, 2*cap(in.buf)+2048), in.buf...)
	}
	n, err := in.r.Read(in.buf[len(in.buf):cap(in.buf)])
	in.buf = in.buf[:len(in.buf)+n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// need reads until there are n bytes.
func (in *input) need(n int) error {
	for len(in.buf) < n {
		if err := in.fill(); err != nil {
			return err
		}
	}
	return nil
}

// take consumes n bytes that are there.
func (in *input) take(n int) []byte {
	b := in.buf[:n:n]
	in.buf = in.buf[n:]
	return b
}

// ended is the refusal of a client that stopped talking.
func ended(err error) *refusal {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{result: TimedOut}
	}
	return &refusal{result: Gone, cause: err}
}

// hello reads a ClientHello, which stays in buf.
func (in *input) hello() (*clientHello, *refusal) {
	var r helloReader
	for {
		h, err := r.feed(in.buf)
		switch {
		case h != nil:
			return h, nil
		case errors.Is(err, errNotTLS):
			return nil, &refusal{result: NoTLS}
		case err != nil:
			return nil, malformed(err)
		}
		if err := in.fill(); err != nil {
			return nil, ended(err)
		}
	}
}
