// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// The first messages of a PostgreSQL client: length, code (PostgreSQL
// documentation, 55.2.10 to 55.2.12 and 55.7).
const (
	pgCancel  = 1234<<16 | 5678
	pgSSL     = 1234<<16 | 5679
	pgGSS     = 1234<<16 | 5680
	pgHead    = 8
	pgStartup = 10000 // of a startup packet at most, as in the server
	pgKeyMost = 256   // of a cancel key (protocol 3.2)

	alpnPostgres = "postgresql"
)

var sslRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

// head reads a first message's length and code.
func (in *input) head() (length int, code uint32, err error) {
	if err := in.need(pgHead); err != nil {
		return 0, 0, err
	}
	return int(binary.BigEndian.Uint32(in.buf)), binary.BigEndian.Uint32(in.buf[4:]), nil
}

// negotiate answers what a client asks before TLS, each request once, until a
// ClientHello or a CancelRequest comes, which it returns. A client may begin
// with the ClientHello at once, and need not wait for the answers.
func (in *input) negotiate(w io.Writer) (cancel []byte, _ *refusal) {
	for gss := false; ; {
		if err := in.need(1); err != nil {
			return nil, ended(err)
		}
		if in.buf[0] == 22 { // no length begins so: it would be over 350 MB
			return nil, nil
		}
		length, code, err := in.head()
		switch {
		case err != nil:
			return nil, ended(err)
		case code == pgSSL && length == pgHead:
			in.take(pgHead)
			if _, err := w.Write([]byte{'S'}); err != nil {
				return nil, ended(err)
			}
			if err := in.need(1); err != nil {
				return nil, ended(err)
			}
			if in.buf[0] != 22 { // the client would take any answer for TLS
				return nil, &refusal{result: Malformed, cause: errors.New("no TLS after SSLRequest")}
			}
			return nil, nil
		case code == pgGSS && length == pgHead && !gss:
			gss = true
			in.take(pgHead)
			if _, err := w.Write([]byte{'N'}); err != nil {
				return nil, ended(err)
			}
		case code == pgCancel:
			return in.cancelRequest(length)
		case (code>>16 == 3 || code>>16 == 2) && length >= pgHead && length <= pgStartup:
			return nil, noTLS(Postgres)
		default:
			return nil, malformed(fmt.Errorf("message of length %d and code %#x", length, code))
		}
	}
}

// cancelRequest reads one whole.
func (in *input) cancelRequest(length int) ([]byte, *refusal) {
	if length < pgHead+8 || length > pgHead+4+pgKeyMost {
		return nil, &refusal{result: Malformed, cause: fmt.Errorf("CancelRequest of length %d", length)}
	}
	if err := in.need(length); err != nil {
		return nil, ended(err)
	}
	return in.take(length), nil
}

// requestTLS asks a replica for TLS, after a header for it. Exactly one byte is
// read: what an attacker adds before TLS begins is then taken for TLS, and the
// handshake fails (CVE-2021-23222).
func requestTLS(c net.Conn, header []byte) error {
	if _, err := c.Write(append(header[:len(header):len(header)], sslRequest...)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("read the answer to SSLRequest: %w", err)
	}
	switch answer[0] {
	case 'S':
		return nil
	case 'N':
		return errors.New("has no TLS: set ssl = on there, or tls: terminate here")
	case 'E':
		return errors.New("refuses the connection before TLS")
	}
	return fmt.Errorf("answers SSLRequest with %#x", answer[0])
}

// keyWatch finds the BackendKeyData in what a server says until it is ready
// for queries: the key by which a CancelRequest will name this connection.
type keyWatch struct {
	found func(key string)
	head  []byte // of the message under way, less than 5 bytes
	body  []byte // of BackendKeyData, so far
	left  int    // of the message under way
	kind  byte
	over  bool
}

// Messages of a server (PostgreSQL documentation, 55.7).
const (
	pgKeyData  = 'K'
	pgReady    = 'Z'
	pgErrorMsg = 'E'
)

// see follows the stream.
func (k *keyWatch) see(p []byte) {
	for len(p) > 0 && !k.over {
		if k.left == 0 {
			n := min(5-len(k.head), len(p))
			k.head = append(k.head, p[:n]...)
			p = p[n:]
			if len(k.head) == 5 {
				k.begin()
			}
			continue
		}
		n := min(k.left, len(p))
		if k.kind == pgKeyData {
			k.body = append(k.body, p[:n]...)
		}
		p = p[n:]
		if k.left -= n; k.left == 0 && k.kind == pgKeyData {
			k.found(string(k.body))
			k.over = true
		}
	}
}

// begin looks at the head of a message.
func (k *keyWatch) begin() {
	k.kind, k.left = k.head[0], int(binary.BigEndian.Uint32(k.head[1:]))-4
	k.head = k.head[:0]
	switch {
	case k.left < 0, k.kind == pgReady, k.kind == pgErrorMsg, k.kind == pgKeyData && (k.left < 8 || k.left > 4+pgKeyMost):
		k.over = true
	}
}
