// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Limits of a ClientHello. Record headers, and the empty space a client leaves
// in its records, count for the second.
const (
	helloLimit = 64 << 10
	wireLimit  = 128 << 10
)

// Why the first bytes of a connection are no ClientHello.
var (
	errNotTLS    = errors.New("no TLS")
	errMalformed = errors.New("malformed ClientHello")
	errTooLarge  = errors.New("ClientHello of more than 64 KiB")
)

// clientHello is what routing needs of it (RFC 8446, section 4.1.2).
type clientHello struct {
	name string // of server_name (RFC 6066), as it was sent; empty: none
}

// helloReader takes a ClientHello out of TLS records (RFC 8446, section 5.1),
// however they split it, as bytes come.
//
// crypto/tls could be made to tell the name too, by a handshake that is given
// up in GetConfigForClient. It refuses a name with a dot at its end, though,
// which row A26 asks for, and costs four times the time and memory. The fuzz test
// holds the two against each other.
type helloReader struct {
	used int    // bytes of whole records that msg has
	msg  []byte // handshake bytes of these
}

// feed looks at all bytes of the connection so far. nil, nil: more are needed.
func (r *helloReader) feed(all []byte) (*clientHello, error) {
	for {
		head := all[r.used:]
		if len(head) > 0 && head[0] != 22 || len(head) > 1 && head[1] != 3 {
			if r.used == 0 {
				return nil, errNotTLS
			}
			return nil, errMalformed
		}
		if len(head) < 5 {
			break
		}
		n := int(binary.BigEndian.Uint16(head[3:]))
		if n == 0 || n > 16<<10 {
			return nil, errMalformed
		}
		if len(head) < 5+n {
			break
		}
		msg := head[5 : 5+n] // nearly always whole
		if r.used > 0 {
			r.msg = append(r.msg, msg...)
			msg = r.msg
		}
		h, err := parseHello(msg)
		if r.used == 0 && h == nil {
			r.msg = bytes.Clone(msg)
		}
		r.used += 5 + n
		if h != nil || err != nil {
			return h, err
		}
	}
	if len(all) > wireLimit {
		return nil, errTooLarge
	}
	return nil, nil
}

// extServerName is server_name's number (IANA, TLS ExtensionType Values).
const extServerName = 0

// parseHello reads a ClientHello; nil, nil: it is not whole yet.
func parseHello(msg []byte) (*clientHello, error) {
	if msg[0] != 1 {
		return nil, errMalformed
	}
	if len(msg) < 4 {
		return nil, nil
	}
	n := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
	if n > helloLimit {
		return nil, errTooLarge
	}
	if len(msg) < 4+n {
		return nil, nil
	}
	s := cryptobyte.String(msg[4 : 4+n])
	var session, suites, compression, exts cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) {
		return nil, errMalformed
	}
	h := &clientHello{}
	if s.Empty() {
		return h, nil // of TLS 1.0, without extensions
	}
	if !s.ReadUint16LengthPrefixed(&exts) || !s.Empty() {
		return nil, errMalformed
	}
	for seen := false; !exts.Empty(); {
		var kind uint16
		var data cryptobyte.String
		if !exts.ReadUint16(&kind) || !exts.ReadUint16LengthPrefixed(&data) {
			return nil, errMalformed
		}
		if kind != extServerName {
			continue // the replica's concern
		}
		if seen || !h.serverName(data) {
			return nil, errMalformed
		}
		seen = true
	}
	return h, nil
}

// serverName reads the extension; false: it is malformed.
func (h *clientHello) serverName(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || list.Empty() || !data.Empty() {
		return false
	}
	for !list.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) || name.Empty() {
			return false
		}
		if kind != 0 { // host_name is the only kind there is
			continue
		}
		if h.name != "" {
			return false
		}
		h.name = string(name)
	}
	return true
}

// normal is the form names are compared in: without regard to case, and
// without the dot that ends a full name.
func normal(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }
