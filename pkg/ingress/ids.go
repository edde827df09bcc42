// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
)

// appendUUID appends a random UUID (RFC 9562, version 4). The generator is
// ChaCha8, seeded by the system.
func appendUUID(b []byte) []byte {
	var raw [16]byte
	binary.LittleEndian.PutUint64(raw[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(raw[8:], rand.Uint64())
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	b = hex.AppendEncode(b, raw[:4])
	b = hex.AppendEncode(append(b, '-'), raw[4:6])
	b = hex.AppendEncode(append(b, '-'), raw[6:8])
	b = hex.AppendEncode(append(b, '-'), raw[8:10])
	return hex.AppendEncode(append(b, '-'), raw[10:])
}

// uuidLen is the length of a UUID in text.
const uuidLen = 36

// appendTrace appends a traceparent of a new trace (W3C Trace Context).
func appendTrace(b []byte) []byte {
	var raw [24]byte
	for i := 0; i < len(raw); i += 8 {
		binary.LittleEndian.PutUint64(raw[i:], rand.Uint64()|1) // never all zero
	}
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, raw[:16])
	b = hex.AppendEncode(append(b, '-'), raw[16:])
	return append(b, "-01"...)
}

// saneID tells whether a trusted proxy's request id can be passed on and put
// into a log.
func saneID(id []byte) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for _, c := range id {
		if c <= 0x20 || c >= 0x7f || c == '"' || c == '<' || c == '\\' {
			return false
		}
	}
	return true
}
